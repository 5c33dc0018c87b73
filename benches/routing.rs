//! What finding a payment's route costs with 10, 1,000 and 100,000 routes.
//!
//! `cargo bench --bench routing`. The ratios count, not the numbers.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use tollgate::routing::{Condition, Question, Route, Routes};
use tollgate_plugins::payment::{Currency, Method, Money};

const CALLS: u32 = 200_000;

fn main() {
    let mut first = None;
    for count in [10usize, 1_000, 100_000] {
        let routes = Routes::from((0..count).map(route).collect::<Vec<_>>());
        let merchants: Vec<String> = (0..count.min(64)).map(|number| merchant(number * count / 64)).collect();
        let each = measured(&routes, &merchants);
        let base = *first.get_or_insert(each);
        println!("{count:>7} routes   {each:>10?} a lookup   {:.2} x", each.as_secs_f64() / base.as_secs_f64());
    }
}

fn merchant(number: usize) -> String {
    format!("merchant-{number}")
}

/// As many merchants as routes, and the last one takes whatever is left.
fn route(number: usize) -> Route {
    let wanted = Condition {
        merchant: Some(merchant(number)),
        method: Method::parse("wechat.native"),
        below: Some(1_000_000),
        ..Condition::default()
    };
    Route { wanted, to: vec![("main".to_owned(), 1)], fallback: Vec::new() }
}

fn measured(routes: &Routes, merchants: &[String]) -> Duration {
    let method = Method::parse("wechat.native").unwrap();
    let mut rounds: Vec<Duration> = (0..9)
        .map(|_| {
            let start = Instant::now();
            for merchant in merchants.iter().cycle().take(CALLS as usize) {
                let question = Question {
                    merchant,
                    method,
                    amount: Money { value: 888, currency: Currency::CNY },
                    metadata: None,
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
