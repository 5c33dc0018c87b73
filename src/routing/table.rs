//! All routes, with an index, so that finding one does not take longer where there are many.

use std::collections::HashMap;

use tollgate_plugins::payment::Method;

use super::{DoublePayment, Question, Route};

/// The routes in the order of the file.
#[derive(Debug, Default)]
pub struct Routes {
    /// What becomes of money on two channels.
    pub double_payment: DoublePayment,
    routes: Vec<Route>,
    /// Places in `routes` by the merchant and the method that they want, in order.
    index: HashMap<(Option<String>, Option<Method>), Vec<usize>>,
}

impl From<Vec<Route>> for Routes {
    fn from(routes: Vec<Route>) -> Self {
        let mut index: HashMap<_, Vec<usize>> = HashMap::new();
        for (place, route) in routes.iter().enumerate() {
            index.entry((route.wanted.merchant.clone(), route.wanted.method)).or_default().push(place);
        }
        Self { double_payment: DoublePayment::default(), routes, index }
    }
}

impl Routes {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter()
    }

    /// Those that want this merchant and method, or say nothing of them; in order.
    pub fn candidates(&self, question: &Question<'_>) -> impl Iterator<Item = &Route> {
        let merchant = || Some(question.merchant.to_owned());
        let keys =
            [(merchant(), Some(question.method)), (merchant(), None), (None, Some(question.method)), (None, None)];
        let mut lists = keys.map(|key| self.index.get(&key).map(Vec::as_slice).unwrap_or_default());
        std::iter::from_fn(move || {
            let list = lists.iter_mut().filter(|list| !list.is_empty()).min_by_key(|list| list.first().copied())?;
            let (place, rest) = list.split_first()?;
            *list = rest;
            self.routes.get(*place)
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;
    use tollgate_plugins::payment::{Currency, Money};

    use super::super::Condition;
    use super::*;

    const MERCHANTS: [&str; 2] = ["bakery", "shop"];
    const METHODS: [&str; 2] = ["wechat.native", "alipay.qr"];

    fn some_route() -> impl Strategy<Value = Condition> {
        (0..3usize, 0..3usize, proptest::option::of(0..100u64)).prop_map(|(merchant, method, below)| Condition {
            merchant: MERCHANTS.get(merchant).map(|name| (*name).to_owned()),
            method: METHODS.get(method).and_then(|name| Method::parse(name)),
            below,
            ..Condition::default()
        })
    }

    proptest! {
        #[test]
        fn the_index_finds_what_a_walk_over_all_finds(
            conditions in proptest::collection::vec(some_route(), 0..20),
            merchant in 0..2usize,
            method in 0..2usize,
            value in 0..100u64,
        ) {
            let routes = conditions.into_iter().enumerate().map(|(count, wanted)| {
                Route { wanted, to: vec![(count.to_string(), 1)], ..Route::default() }
            });
            let routes = Routes::from(routes.collect::<Vec<_>>());
            let question = Question {
                merchant: MERCHANTS[merchant],
                method: Method::parse(METHODS[method]).unwrap(),
                amount: Money { value, currency: Currency::CNY },
                metadata: None,
                pinned: None,
                number: "",
                at: Timestamp::UNIX_EPOCH,
            };
            let name = |route: &&Route| route.to[0].0.clone();
            let walked: Vec<_> = routes.iter().filter(|route| route.wanted.matches(&question)).map(|r| name(&r)).collect();
            let found = routes.candidates(&question).filter(|route| route.wanted.matches(&question));
            prop_assert_eq!(found.map(|r| name(&r)).collect::<Vec<_>>(), walked);
        }
    }
}
