//! The two forms of a message: what comes as a notification is a form; what comes as an answer looks like one but is not
//! escaped, and a value in brackets may hold `&` and `=`.

use super::super::form::Fields;

/// Reads an answer. `None` when it is no UTF-8, a bracket stays open, or a name comes twice.
pub(super) fn read_answer(body: &[u8]) -> Option<Fields> {
    let mut fields = Fields::new();
    let mut rest = std::str::from_utf8(body).ok()?.trim_end_matches(['\r', '\n']);
    while !rest.is_empty() {
        let (name, value) = rest.split_once('=')?;
        let (value, after) = first_value(value)?;
        if name.is_empty() || name.contains('&') || fields.insert(name.to_owned(), value.to_owned()).is_some() {
            return None;
        }
        rest = after;
    }
    Some(fields)
}

/// A value up to the next `&` outside brackets, and what comes after it. Only brackets of the kind that opened count.
fn first_value(text: &str) -> Option<(&str, &str)> {
    let mut open: Option<(char, char)> = None;
    let mut depth = 0usize;
    for (place, character) in text.char_indices() {
        match (open, character) {
            (None, '&') => return Some((text.get(..place)?, text.get(place + 1..)?)),
            (None, '{') => (open, depth) = (Some(('{', '}')), 1),
            (None, '[') => (open, depth) = (Some(('[', ']')), 1),
            (Some((begin, _)), _) if character == begin => depth += 1,
            (Some((_, end)), _) if character == end => {
                depth -= 1;
                if depth == 0 {
                    open = None;
                }
            }
            _ => {}
        }
    }
    open.is_none().then_some((text, ""))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn brackets_hold_what_would_divide() {
        let read = |text: &str| read_answer(text.as_bytes());
        let fields = read("reqReserved={a=1&b=[x&y]}&respMsg=成功[0000000]&c=a%2B+b").unwrap();
        assert_eq!(fields["reqReserved"], "{a=1&b=[x&y]}");
        assert_eq!(fields["respMsg"], "成功[0000000]");
        assert_eq!(fields["c"], "a%2B+b", "nothing is escaped");
        for bad in ["a", "a=1&a=2", "a={1&b=2", "=1", "a=1&b", "\u{0}"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100), text in "[a=&{}\\[\\]é]{0,40}") {
            let _ = read_answer(&bytes);
            let _ = read_answer(text.as_bytes());
        }
    }
}
