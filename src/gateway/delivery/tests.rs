mod many_merchants;

use super::*;

#[test]
fn name_of_the_cluster_is_unknown_after_an_error_and_never_changes() {
    let cluster = OnceLock::new();
    assert!(!learn(&cluster, Err(LedgerError::Closed)));
    assert_eq!(cluster.get(), None);
    assert!(learn(&cluster, Ok(Some("7".to_owned()))) && learn(&cluster, Ok(None)));
    assert_eq!(cluster.get().map(String::as_str), Some("7"));
}
