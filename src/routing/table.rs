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
    /// By the merchant and the method that they want.
    index: HashMap<(Option<String>, Option<Method>), Places>,
}

/// Places in the list of routes, in order.
#[derive(Debug, Default)]
struct Places {
    /// Of those that want nothing of the metadata.
    plain: Vec<usize>,
    /// Of the others, by the first note that they want: shops of one merchant are told apart by one.
    noted: HashMap<(String, String), Vec<usize>>,
}

impl From<Vec<Route>> for Routes {
    fn from(routes: Vec<Route>) -> Self {
        let mut index: HashMap<_, Places> = HashMap::new();
        for (place, Route { wanted, .. }) in routes.iter().enumerate() {
            let places = index.entry((wanted.merchant.clone(), wanted.method)).or_default();
            match wanted.metadata.first() {
                None => places.plain.push(place),
                Some(note) => places.noted.entry(note.clone()).or_default().push(place),
            }
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

    /// Those that want this merchant, this method and one of these notes, or say nothing of them; in order.
    pub fn candidates(&self, question: &Question<'_>) -> impl Iterator<Item = &Route> {
        self.places(question).filter_map(|place| self.routes.get(place))
    }

    /// The same, by their places.
    pub(super) fn places(&self, question: &Question<'_>) -> impl Iterator<Item = usize> {
        let merchant = || Some(question.merchant.to_owned());
        let keys =
            [(merchant(), Some(question.method)), (merchant(), None), (None, Some(question.method)), (None, None)];
        let mut lists: Vec<&[usize]> = Vec::with_capacity(keys.len());
        for places in keys.iter().filter_map(|key| self.index.get(key)) {
            lists.push(&places.plain);
            if places.noted.is_empty() {
                continue;
            }
            let notes =
                question.metadata.into_iter().flatten().filter_map(|(name, value)| Some((name, value.as_str()?)));
            let noted = notes.filter_map(|(name, text)| places.noted.get(&(name.clone(), text.to_owned())));
            lists.extend(noted.map(Vec::as_slice));
        }
        std::iter::from_fn(move || {
            let list = lists.iter_mut().filter(|list| !list.is_empty()).min_by_key(|list| list.first().copied())?;
            let (place, rest) = list.split_first()?;
            *list = rest;
            Some(*place)
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;
    use serde_json::{Map, Value};
    use tollgate_plugins::payment::{Currency, Money};

    use super::super::Condition;
    use super::*;

    const MERCHANTS: [&str; 2] = ["bakery", "shop"];
    const NOTES: [&str; 2] = ["tier", "gold"];
    const METHODS: [&str; 2] = ["wechat.native", "alipay.qr"];

    fn some_route() -> impl Strategy<Value = Condition> {
        let notes = proptest::collection::vec((0..2usize, 0..2usize), 0..3);
        (0..3usize, 0..3usize, proptest::option::of(0..100u64), notes).prop_map(|(merchant, method, below, notes)| {
            Condition {
                metadata: notes
                    .into_iter()
                    .map(|(name, text)| (NOTES[name].to_owned(), NOTES[text].to_owned()))
                    .collect(),
                merchant: MERCHANTS.get(merchant).map(|name| (*name).to_owned()),
                method: METHODS.get(method).and_then(|name| Method::parse(name)),
                below,
                ..Condition::default()
            }
        })
    }

    proptest! {
        #[test]
        fn the_index_finds_what_a_walk_over_all_finds(
            conditions in proptest::collection::vec(some_route(), 0..20),
            merchant in 0..2usize,
            method in 0..2usize,
            value in 0..100u64,
            notes in proptest::collection::vec(proptest::option::of(0..2usize), 2),
        ) {
            let notes = NOTES.iter().zip(notes).filter_map(|(name, text)| Some(((*name).to_owned(), Value::from(NOTES[text?]))));
            let metadata: Map<String, Value> = notes.collect();
            let routes = conditions.into_iter().enumerate().map(|(count, wanted)| {
                Route { wanted, to: vec![(count.to_string(), 1)], ..Route::default() }
            });
            let routes = Routes::from(routes.collect::<Vec<_>>());
            let question = Question {
                merchant: MERCHANTS[merchant],
                method: Method::parse(METHODS[method]).unwrap(),
                amount: Money { value, currency: Currency::CNY },
                metadata: Some(&metadata),
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
