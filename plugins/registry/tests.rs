//! Consistency of the tables.

use std::collections::BTreeMap;

use super::*;

#[test]
fn scanned_methods_are_those_of_the_registrations_and_agree_between_providers() {
    let scanned: BTreeSet<_> = Method::all().filter(Method::is_scanned).map(|method| method.as_str()).collect();
    assert_eq!(scanned, BTreeSet::from(["alipay.barcode", "unionpay.barcode", "wechat.codepay"]));
    let mut by_name = BTreeMap::new();
    for method in Method::all() {
        let first = *by_name.entry(method.as_str()).or_insert(method);
        assert_eq!(first, method, "two providers disagree whether `{method}` is scanned");
        assert_eq!(Method::parse(method.as_str()), Some(method));
    }
}

#[test]
fn method_lists_of_a_registration_name_its_own_methods_and_never_repeat_a_scanned_create() {
    for spec in PROVIDERS {
        for name in spec.scanned.iter().chain(spec.repeats_create) {
            assert!(spec.methods.contains(name), "{}: `{name}` is not in `methods`", spec.name);
        }
        for name in spec.repeats_create {
            assert!(!spec.scanned.contains(name), "{}: a repeated create of `{name}` would pay twice", spec.name);
        }
        for name in spec.methods {
            let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'.' || byte == b'_';
            assert!(name.bytes().all(is_word) && name.split('.').count() == 2, "{}: `{name}`", spec.name);
        }
        for algorithm in spec.algorithms {
            assert!(ALGORITHMS.iter().any(|known| known.name == *algorithm), "{}: `{algorithm}`", spec.name);
        }
    }
}

#[test]
fn names_of_providers_filters_and_algorithms_are_unique() {
    let providers: Vec<_> = PROVIDERS.iter().map(|spec| spec.name).collect();
    let filters: Vec<_> = FILTERS.iter().map(|spec| spec.name).collect();
    let algorithms: Vec<_> = ALGORITHMS.iter().map(|algorithm| algorithm.name).collect();
    for names in [providers, filters, algorithms] {
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{names:?}");
    }
}
