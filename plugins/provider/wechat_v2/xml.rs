//! Flat XML: one root, whose children are names with text.
//!
//! The API uses nothing else, so nothing else is accepted: no document type, no entities but XML's five, no attributes,
//! no nested children, no duplicated names.

use std::collections::BTreeMap;

use quick_xml::Reader;
use quick_xml::events::Event;

/// Fields of a message, sorted by the bytes of their names. They are signed in this order.
pub(super) type Fields = BTreeMap<String, String>;

/// Maximum number of fields; no message has nearly as many.
const MAX_FIELDS: usize = 256;

/// Writes `<xml>…</xml>` with values as CDATA, as in all of WeChat Pay's examples.
pub(super) fn write(fields: &Fields) -> String {
    let mut text = "<xml>".to_owned();
    for (name, value) in fields {
        // The end marker of a CDATA section cannot occur inside one, so it is split over two sections.
        let value = value.replace("]]>", "]]]]><![CDATA[>");
        text.push_str(&format!("<{name}><![CDATA[{value}]]></{name}>"));
    }
    text + "</xml>"
}

/// Parses a message whose root has this name. Returns `None` if it is not flat XML.
pub(super) fn read(root: &str, message: &[u8]) -> Option<Fields> {
    let mut reader = Reader::from_str(std::str::from_utf8(message).ok()?);
    let mut fields = Fields::new();
    let mut open: Vec<String> = Vec::new();
    let mut text = String::new();
    let mut is_closed = false;
    loop {
        match reader.read_event().ok()? {
            Event::Start(start) if !is_closed && start.attributes().next().is_none() => {
                let name = start.name().as_ref().to_owned();
                if open.is_empty() && name != root || open.len() == 2 {
                    return None;
                }
                if open.len() == 1 && !is_blank(&text) {
                    return None;
                }
                text.clear();
                open.push(name);
            }
            Event::Empty(empty) if open.len() == 1 && empty.attributes().next().is_none() => {
                let name = empty.name().as_ref().to_owned();
                insert(&mut fields, name, String::new())?;
            }
            Event::End(_) => {
                let name = open.pop()?;
                if open.is_empty() {
                    is_closed = true;
                    if !is_blank(&text) {
                        return None;
                    }
                } else {
                    insert(&mut fields, name, std::mem::take(&mut text))?;
                }
            }
            Event::Text(part) => {
                let part: &str = &part;
                if open.is_empty() && !is_blank(part) {
                    return None;
                }
                text.push_str(part);
            }
            Event::CData(part) if open.len() == 2 => text.push_str(&part),
            Event::GeneralRef(reference) if open.len() == 2 => {
                let character = match reference.resolve_char_ref().ok()? {
                    Some(character) => character,
                    None => predefined_entity(&reference)?,
                };
                text.push(character);
            }
            Event::Decl(_) if open.is_empty() && !is_closed => {}
            Event::Eof => return is_closed.then_some(fields),
            _ => return None,
        }
    }
}

fn insert(fields: &mut Fields, name: String, value: String) -> Option<()> {
    let is_new = fields.len() < MAX_FIELDS && fields.insert(name, value).is_none();
    is_new.then_some(())
}

fn is_blank(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_whitespace())
}

fn predefined_entity(entity: &str) -> Option<char> {
    match entity {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::merchant_account::is_transmittable;
    use super::*;

    #[test]
    fn xml_that_is_not_flat_is_rejected() {
        let good = "<?xml version=\"1.0\"?>\n<xml>\n<a><![CDATA[1<2]]></a> <b>x &amp; y&#33;</b><c/><d></d></xml>\n";
        let expected = [("a", "1<2"), ("b", "x & y!"), ("c", ""), ("d", "")];
        let expected: Fields = expected.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        assert_eq!(read("xml", good.as_bytes()), Some(expected));
        for bad in [
            "",
            "<xml>",
            "<xml><a>1</xml>",
            "<xml><a>1</a><a>2</a></xml>",
            "<xml><a><b>1</b></a></xml>",
            "<xml><a x=\"1\">1</a></xml>",
            "<xml>text<a>1</a></xml>",
            "<xml><a>1</a>text</xml>",
            "<xml><a>&other;</a></xml>",
            "<!DOCTYPE xml [<!ENTITY e SYSTEM \"file:///etc/passwd\">]><xml><a>&e;</a></xml>",
            "<!DOCTYPE xml><xml><a>1</a></xml>",
            "<xml><!-- no --><a>1</a></xml>",
            "<xml><a>1</a></xml><xml></xml>",
            "<root><a>1</a></root>",
        ] {
            assert_eq!(read("xml", bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        /// roxmltree is strict, and normalizes line ends as the standard requires.
        #[test]
        fn written_xml_is_parsed_equally_by_another_parser(
            fields in proptest::collection::btree_map("[a-z_]{1,8}", "([ -~]|\\PC|[\u{0}-\u{ffff}]|\r\n|]]>|&#13;){0,12}", 0..6)
        ) {
            let is_transmittable = fields.values().flat_map(|value| value.chars()).all(is_transmittable);
            let text = write(&fields);
            let read = roxmltree::Document::parse(&text).ok().map(|document| {
                let field = |node: roxmltree::Node<'_, '_>| {
                    let value: String = node.children().filter_map(|part| part.text()).collect();
                    (node.tag_name().name().to_owned(), value)
                };
                document.root_element().children().map(field).collect::<Fields>()
            });
            // Some control characters that XML allows are rejected too.
            prop_assert!(!is_transmittable || read == Some(fields));
        }

        #[test]
        fn written_xml_is_parsed_back(fields in proptest::collection::btree_map("[a-z_]{1,8}", "[^\r\u{0}-\u{1f}]{0,12}", 0..6)) {
            prop_assert_eq!(read("xml", write(&fields).as_bytes()), Some(fields));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "[<>a-c!\\[\\]&;/ ]{0,60}") {
            let _ = read("xml", &bytes);
            let _ = read("a", text.as_bytes());
        }
    }
}
