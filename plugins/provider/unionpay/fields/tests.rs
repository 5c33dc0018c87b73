use super::*;

fn of_form(text: &str) -> Option<Message<'_>> {
    Message::read(Codec::Form, Source::Notification, text.as_bytes())
}

fn map<'a>(fields: &'a Message<'_>) -> Vec<(&'a str, &'a str)> {
    fields.pairs().collect()
}

#[test]
fn separator_inside_brackets_belongs_to_the_value() {
    let vector = "accessType=0&bizType=000201&reqReserved={a=1&b=[x&y]}&respCode=00&respMsg=成功[0000000]&signMethod=01&version=5.1.0";
    let fields = Message::of_answer(vector).unwrap();
    assert_eq!(fields.get("reqReserved"), Some("{a=1&b=[x&y]}"));
    assert_eq!(fields.get("respMsg"), Some("成功[0000000]"));
    assert_eq!(fields.signed_text(), vector);
    for (text, expected) in [
        ("a=1+%2B&b=", vec![("a", "1+%2B"), ("b", "")]),
        ("a=b=c", vec![("a", "b=c")]),
        ("a={x&b=[y}&c=]&d=1", vec![("a", "{x&b=[y}"), ("c", "]"), ("d", "1")]),
        ("a={x}&b=1", vec![("a", "{x}"), ("b", "1")]),
        ("a={x&b=1", vec![("a", "{x&b=1")]),
        ("a=[{x]&b=}", vec![("a", "[{x]"), ("b", "}")]),
    ] {
        assert_eq!(map(&Message::of_answer(text).unwrap()), expected, "{text}");
    }
    for bad in ["", "a", "=1", "a=1&", "a=1&b", "&a=1", "a=1&&b=2", "b=1&a={", "a=1&a=1", "a=1&=2"] {
        assert_eq!(Message::of_answer(bad), None, "{bad}");
    }
}

#[test]
fn json_must_be_an_object_of_strings() {
    let read = |text: &'static str| Message::read(Codec::Json, Source::Answer, text.as_bytes());
    assert_eq!(map(&read(r#"{"b":"2","a":"1{&x}"}"#).unwrap()), [("a", "1{&x}"), ("b", "2")]);
    for bad in [
        "",
        "{",
        "[]",
        r#"{"a":1}"#,
        r#"{"a":null}"#,
        r#"{"a":{}}"#,
        r#"{"a":"1","a":"1"}"#,
        r#"{"":"1"}"#,
        r#"{"a=b":"1"}"#,
    ] {
        assert_eq!(read(bad), None, "{bad}");
    }
    let read_notification = |text: &'static str| Message::read(Codec::Json, Source::Notification, text.as_bytes());
    assert_eq!(read_notification(r#"{"a":"1"}"#), read_notification("a=1"));
    assert_eq!(Message::read(Codec::Form, Source::Notification, br#"{"a":"1"}"#), None);
    assert_eq!(read(r#"{"b":"2","a":"1"}"#).unwrap().write(Codec::Json).unwrap(), br#"{"a":"1","b":"2"}"#);
}

#[test]
fn signed_fields_are_sorted_by_bytes_without_empty_values() {
    let fields = of_form("orderId=1&orderDesc=2&Zero=3&empty=&signature=x").unwrap();
    assert_eq!(fields.signed_text(), "Zero=3&orderDesc=2&orderId=1");
    let trimmed = of_form("a=+1+&b=++").unwrap().trimmed();
    assert_eq!(map(&trimmed), [("a", "1")]);
}

#[test]
fn ambiguous_text_is_detected() {
    for (form, is_clear) in [
        ("a=1&b=2", true),
        ("a=1%26b%3D2", false),
        ("a=%7B1%26b%3D2%7D", true),
        ("a=%7B1%26b%3D2", true),
        ("a=%7B&b=2", false),
        ("a=1%26&b=2", false),
        ("a=x%3Dy", true),
        ("a%26b=1", false),
        ("a%3Db=1", false),
    ] {
        assert_eq!(of_form(form).is_some(), is_clear, "{form}");
    }
}

proptest::proptest! {
    /// Parsing the signed text again yields the same fields exactly if the text is unambiguous.
    #[test]
    fn unambiguous_text_is_parsed_back(pairs in proptest::collection::btree_map("[ab&={]{0,3}", "[a&={}\\[\\]]{0,6}", 1..4)) {
        let fields = Fields::from(pairs);
        let mut signed = fields.clone();
        signed.fields.to_mut().retain(|field| !field.value.is_empty());
        let text = fields.signed_text();
        let again = Message::of_answer(&text);
        if !signed.fields.is_empty() {
            proptest::prop_assert_eq!(fields.is_unambiguous(), again == Some(signed));
        }
    }
    #[test]
    fn ambiguous_answer_is_rejected(text in "[ab]=[ab&={}\\[\\]]{0,16}") {
        if let Some(message) = Message::of_answer(&text) {
            proptest::prop_assert!(message.is_unambiguous());
        }
    }
}
