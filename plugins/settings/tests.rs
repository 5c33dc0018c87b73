use std::time::Duration;

use super::*;

fn problems_of(text: &str, read: impl Fn(&mut Settings<'_>)) -> Vec<String> {
    let table = DeTable::parse(text).unwrap();
    let problems = Problems::default();
    let mut settings = Settings::root(&table, &problems);
    read(&mut settings);
    drop(settings);
    problems
        .into_vec()
        .into_iter()
        .map(|p| format!("{}|{}|{}", &text[p.span], p.message, p.suggestion.unwrap_or_default()))
        .collect()
}

#[test]
fn every_settings_error_is_reported_with_its_position() {
    let text = "rate = \"x\"\nbase = 5\nmaxx = 3\n[inner]\nodd = 1\n";
    let found = problems_of(text, |settings| {
        let _: Option<u64> = settings.optional("rate");
        let _: Option<Duration> = settings.optional("base");
        let _: Option<u64> = settings.required("max");
        let _ = settings.section("inner");
    });
    assert_eq!(found.len(), 5, "{found:#?}");
    assert!(found[0].contains("`max` is missing"), "{found:?}");
    assert!(found[1].starts_with("\"x\"|`rate` must be a whole number"), "{found:?}");
    assert!(found[2].starts_with("5|`base` must be a duration"), "{found:?}");
    assert!(found[3].starts_with("maxx|unknown key `maxx`|did you mean `max`?"), "{found:?}");
    assert!(found[4].starts_with("odd|unknown key `inner.odd`"), "{found:?}");
}

#[test]
fn wrong_list_item_is_reported_at_its_own_position() {
    let found = problems_of("list = [1, \"x\", 3]\nother = 5\n", |settings| {
        assert_eq!(settings.items::<u64>("list"), [(8..9, 1), (16..17, 3)]);
        assert!(settings.items::<u64>("other").is_empty() && settings.items::<u64>("missing").is_empty());
    });
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("\"x\"|an item of `list` must be a whole number"), "{found:?}");
    assert!(found[1].starts_with("5|`other` must be a list in brackets"), "{found:?}");
}

#[test]
fn table_of_strings_accepts_arbitrary_keys_and_rejects_numbers() {
    let found = problems_of("[notes]\ntier = \"gold\"\nlevel = 5\n", |settings| {
        assert_eq!(settings.texts("notes"), [("tier".to_owned(), "gold".to_owned())]);
        assert!(settings.texts("missing").is_empty());
    });
    assert_eq!(found, ["5|`notes.level` must be a text in quotes, not the number 5|"]);
}

#[test]
fn ignore_rest_suppresses_unknown_key_reports() {
    let found = problems_of("[inner]\nodd = 1\n", |settings| {
        settings.section("inner").unwrap().ignore_rest();
    });
    assert!(found.is_empty(), "{found:?}");
}
