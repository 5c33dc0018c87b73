//! Routing table with an index, so that a lookup does not take longer with many routes.

use std::collections::HashMap;
use std::sync::Arc;

use tollgate_config::{DoublePayment, Question, Route, RouteRules};
use tollgate_plugins::payment::Method;

/// Routes in the order of the file.
#[derive(Debug, Default)]
pub struct Routes {
    rules: Arc<RouteRules>,
    /// Positions of the routes by required merchant and method.
    index: HashMap<(Option<String>, Option<Method>), Positions>,
}

/// Positions in the list of routes, in order.
#[derive(Debug, Default)]
struct Positions {
    /// Positions of routes without required metadata.
    without_metadata: Vec<usize>,
    /// Positions of the other routes by their first required metadata entry, which distinguishes the shops of one merchant.
    by_metadata: HashMap<(String, String), Vec<usize>>,
}

impl From<Vec<Route>> for Routes {
    fn from(rules: Vec<Route>) -> Self {
        Self::new(Arc::new(RouteRules { rules, ..RouteRules::default() }))
    }
}

impl Routes {
    /// Returns the rules with their index.
    pub fn new(rules: Arc<RouteRules>) -> Self {
        let mut index: HashMap<_, Positions> = HashMap::new();
        for (position, Route { wanted, .. }) in rules.rules.iter().enumerate() {
            let positions = index.entry((wanted.merchant.clone(), wanted.method)).or_default();
            match wanted.metadata.first() {
                None => positions.without_metadata.push(position),
                Some(note) => positions.by_metadata.entry(note.clone()).or_default().push(position),
            }
        }
        Self { rules, index }
    }

    /// Returns how money that arrives on an abandoned channel is handled.
    pub fn double_payment(&self) -> DoublePayment {
        self.rules.double_payment
    }

    /// Returns the number of routes.
    pub fn len(&self) -> usize {
        self.rules.rules.len()
    }

    /// Returns whether there are no routes.
    pub fn is_empty(&self) -> bool {
        self.rules.rules.is_empty()
    }

    /// Iterates over the routes in order.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.rules.rules.iter()
    }

    /// Iterates in order over the routes whose merchant, method and first metadata entry do not exclude the payment.
    pub fn candidates(&self, question: &Question<'_>) -> impl Iterator<Item = &Route> {
        self.positions(question).filter_map(|position| self.rules.rules.get(position))
    }

    /// Like [`Routes::candidates`], but returns positions.
    pub fn positions(&self, question: &Question<'_>) -> impl Iterator<Item = usize> {
        let merchant = || Some(question.merchant.to_owned());
        let keys =
            [(merchant(), Some(question.method)), (merchant(), None), (None, Some(question.method)), (None, None)];
        let mut lists: Vec<&[usize]> = Vec::with_capacity(keys.len());
        for positions in keys.iter().filter_map(|key| self.index.get(key)) {
            lists.push(&positions.without_metadata);
            if positions.by_metadata.is_empty() {
                continue;
            }
            let notes =
                question.metadata.into_iter().flatten().filter_map(|(name, value)| Some((name, value.as_str()?)));
            let by_metadata =
                notes.filter_map(|(name, text)| positions.by_metadata.get(&(name.clone(), text.to_owned())));
            lists.extend(by_metadata.map(Vec::as_slice));
        }
        std::iter::from_fn(move || {
            let list = lists.iter_mut().filter(|list| !list.is_empty()).min_by_key(|list| list.first().copied())?;
            let (position, rest) = list.split_first()?;
            *list = rest;
            Some(*position)
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;
    use serde_json::{Map, Value};
    use tollgate_config::Condition;
    use tollgate_plugins::payment::{Currency, Money};

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
        fn index_finds_the_same_routes_as_a_full_scan(
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
