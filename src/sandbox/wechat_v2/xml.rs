//! Parser and writer of flat XML. Document types, custom entities, attributes and nesting are rejected.

use std::collections::BTreeMap;

use quick_xml::Reader;
use quick_xml::events::{BytesRef, BytesStart, Event};

/// Fields of a message by name. Empty fields are left out.
pub(super) type Fields = BTreeMap<String, String>;

/// Parses `<xml>` with its fields. Returns a description of the error.
pub(super) fn read(text: &str) -> Result<Fields, String> {
    // As expat does: a message with an illegal character is not XML.
    if let Some(character) = text.chars().find(|character| !is_char(*character)) {
        return Err(format!("U+{:04X} is not an XML character", u32::from(character)));
    }
    let mut reader = Reader::from_str(text);
    let mut position = Position::Before;
    let mut fields = Fields::new();
    loop {
        position = match (position, reader.read_event().map_err(|error| error.to_string())?) {
            (Position::After, Event::Eof) => break,
            (Position::Before, Event::Decl(_)) => Position::Before,
            (Position::Before, Event::Start(tag)) if name(&tag)? == "xml" => Position::Root,
            (Position::Root, Event::Start(tag)) => Position::Field(name(&tag)?, String::new()),
            (Position::Root, Event::Empty(tag)) => {
                add(&mut fields, name(&tag)?, String::new())?;
                Position::Root
            }
            (Position::Root, Event::End(_)) => Position::After,
            (Position::Field(name, value), Event::End(_)) => {
                add(&mut fields, name, value)?;
                Position::Root
            }
            (Position::Field(_, _), Event::Text(text)) if text.contains("]]>") => {
                return Err("]]> ends no section".to_owned());
            }
            (Position::Field(name, value), Event::Text(text)) => Position::Field(name, value + &text.xml10_content()),
            (Position::Field(name, value), Event::CData(text)) => Position::Field(name, value + &text.xml10_content()),
            (Position::Field(name, mut value), Event::GeneralRef(reference)) => {
                value.push(referred(&reference)?);
                Position::Field(name, value)
            }
            (position, Event::Text(text)) if text.trim().is_empty() => position,
            (_, event) => return Err(format!("unexpected content: {event:?}")),
        };
    }
    fields.retain(|_, value| !value.is_empty());
    Ok(fields)
}

enum Position {
    Before,
    Root,
    Field(String, String),
    After,
}

/// Returns whether the character matches the production `Char` of XML 1.0.
fn is_char(character: char) -> bool {
    matches!(character, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

fn name(tag: &BytesStart<'_>) -> Result<String, String> {
    if !tag.attributes_raw().trim().is_empty() {
        return Err("attributes mean nothing here".to_owned());
    }
    let name = tag.name().as_ref().to_owned();
    let is_begin = |character: &char| character.is_alphabetic() || *character == '_';
    let is_inside = |character: char| character.is_alphanumeric() || "_-.".contains(character);
    match name.chars().next().filter(is_begin).is_some() && name.chars().all(is_inside) {
        true => Ok(name),
        false => Err(format!("`{name}` is no name")),
    }
}

fn add(fields: &mut Fields, name: String, value: String) -> Result<(), String> {
    match fields.insert(name.clone(), value) {
        Some(_) => Err(format!("<{name}> is there twice")),
        None => Ok(()),
    }
}

fn referred(reference: &BytesRef<'_>) -> Result<char, String> {
    if let Some(character) = reference.resolve_char_ref().map_err(|error| error.to_string())? {
        let refused = || format!("U+{:04X} is not an XML character", u32::from(character));
        return Some(character).filter(|character| is_char(*character)).ok_or_else(refused);
    }
    match &*reference.xml10_content() {
        "lt" => Ok('<'),
        "gt" => Ok('>'),
        "amp" => Ok('&'),
        "quot" => Ok('"'),
        "apos" => Ok('\''),
        other => Err(format!("the entity `{other}` is not one of XML's own")),
    }
}

/// Writes XML as the platform does: CDATA for texts, plain numbers, one line per field.
pub(super) fn write(root: &str, fields: &Fields) -> String {
    let lines = fields.iter().map(|(name, value)| match value.bytes().all(|byte| byte.is_ascii_digit()) {
        true => format!("<{name}>{value}</{name}>\n"),
        false => format!("<{name}><![CDATA[{}]]></{name}>\n", value.replace("]]>", "]]]]><![CDATA[>")),
    });
    format!("<{root}>{}</{root}>", lines.collect::<String>())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn flat_xml_is_parsed_and_other_xml_is_rejected() {
        let good = "<?xml version=\"1.0\"?>\n<xml> <a><![CDATA[<茶>&amp;]]></a>\n<b>1 &lt;&#x8336;&amp;amp;</b><c/><d></d></xml>\n";
        let fields = read(good).unwrap();
        assert_eq!(fields, [("a", "<茶>&amp;"), ("b", "1 <茶&amp;")].map(|(a, b)| (a.into(), b.into())).into());
        assert_eq!(read(&write("xml", &fields)).unwrap(), fields);
        assert_eq!(read("<xml><a><![CDATA[1\r\n2\r3]]></a></xml>").unwrap()["a"], "1\n2\n3", "line ends");
        let hard: Fields = [("a".to_owned(), "x]]>y".to_owned())].into();
        assert_eq!(read(&write("xml", &hard)).unwrap(), hard);
        for wrong in [
            "",
            "<xml>",
            "<xml></xml><xml></xml>",
            "<xml><a>1</b></xml>",
            "<xml><a>1</a><a>2</a></xml>",
            "<xml><a><b>1</b></a></xml>",
            "<xml><a x=\"1\">1</a></xml>",
            "<xml>text</xml>",
            "<root><a>1</a></root>",
            "<xml><a>&e;</a></xml>",
            "<!DOCTYPE xml [<!ENTITY e \"x\">]><xml><a>&e;</a></xml>",
            "<!DOCTYPE xml SYSTEM \"http://127.0.0.1/\"><xml><a>1</a></xml>",
            "<xml><a>1</a></xml>tail",
            "<xml><?php?><a>1</a></xml>",
            "{\"a\": 1}",
            "<xml><a><![CDATA[\u{0}]]></a></xml>",
            "<xml><a>\u{1b}</a></xml>",
            "<xml><a><![CDATA[\u{fffe}]]></a></xml>",
            "<xml><a>&#0;</a></xml>",
            "<xml><a>&#x1b;</a></xml>",
            "<xml><a>]]></a></xml>",
            "<xml><1a>1</1a></xml>",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
