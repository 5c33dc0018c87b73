//! What finding a payment's route costs with 10, 1,000 and 100,000 routes.
//!
//! `cargo bench --bench routing`. Compare the ratios, not the numbers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs, unreachable_pub)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use tollgate_gateway::routing::{Condition, Question, Route, Routes};
use tollgate_plugins::payment::{Currency, Method, Money};

const CALLS: u32 = 200_000;

fn main() {
    for (what, by_shop) in
        [("a merchant each", false), ("a shop of one merchant each, by its number in the metadata", true)]
    {
        println!("{what}");
        let mut first = None;
        for count in [10usize, 1_000, 100_000] {
            let routes = Routes::from((0..count).map(|number| route(number, by_shop)).collect::<Vec<_>>());
            let asked: Vec<usize> = (0..count.min(64)).map(|number| number * count / 64).collect();
            let each = measured(&routes, &asked, by_shop);
            let base = *first.get_or_insert(each);
            println!("{count:>7} routes   {each:>10?} a lookup   {:.2} x", each.as_secs_f64() / base.as_secs_f64());
        }
    }
}

fn merchant(number: usize) -> String {
    format!("merchant-{number}")
}

fn route(number: usize, by_shop: bool) -> Route {
    let wanted = Condition {
        merchant: Some(merchant(if by_shop { 0 } else { number })),
        metadata: by_shop.then(|| ("shop".to_owned(), number.to_string())).into_iter().collect(),
        method: Method::parse("wechat.native"),
        below: Some(1_000_000),
        ..Condition::default()
    };
    Route { wanted, to: vec![("main".to_owned(), 1)], ..Route::default() }
}

fn measured(routes: &Routes, asked: &[usize], by_shop: bool) -> Duration {
    let asked = asked.iter().map(|number| {
        let notes =
            [("till", "7".to_owned()), ("shop", number.to_string())].map(|(name, text)| (name.to_owned(), text.into()));
        (merchant(if by_shop { 0 } else { *number }), notes.into_iter().collect::<serde_json::Map<_, _>>())
    });
    let asked: Vec<_> = asked.collect();
    let method = Method::parse("wechat.native").unwrap();
    let mut rounds: Vec<Duration> = (0..9)
        .map(|_| {
            let start = Instant::now();
            for (merchant, metadata) in asked.iter().cycle().take(CALLS as usize) {
                let question = Question {
                    merchant,
                    method,
                    amount: Money { value: 888, currency: Currency::CNY },
                    metadata: Some(metadata),
                    pinned: None,
                    number: "0123456789abcdef0123456789abcdef",
                    at: jiff::Timestamp::UNIX_EPOCH,
                };
                black_box(routes.candidates(&question).find(|route| route.wanted.matches(&question)));
            }
            start.elapsed() / CALLS
        })
        .collect();
    rounds.sort();
    rounds[rounds.len() / 2]
}
