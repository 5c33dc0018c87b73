//! Flat XML, and nothing else that is XML: no document types, no entities of one's own, no attributes, no nesting.

use std::collections::BTreeMap;

use quick_xml::Reader;
use quick_xml::events::{BytesRef, BytesStart, Event};

/// What a message says, by name; what is empty is not there.
pub(super) type Fields = BTreeMap<String, String>;

/// Reads `<xml>` with its fields; says what is wrong with it.
pub(super) fn read(text: &str) -> Result<Fields, String> {
    let mut reader = Reader::from_str(text);
    let mut place = Place::Before;
    let mut fields = Fields::new();
    loop {
        place = match (place, reader.read_event().map_err(|error| error.to_string())?) {
            (Place::After, Event::Eof) => break,
            (Place::Before, Event::Decl(_)) => Place::Before,
            (Place::Before, Event::Start(tag)) if name(&tag)? == "xml" => Place::Root,
            (Place::Root, Event::Start(tag)) => Place::Field(name(&tag)?, String::new()),
            (Place::Root, Event::Empty(tag)) => {
                add(&mut fields, name(&tag)?, String::new())?;
                Place::Root
            }
            (Place::Root, Event::End(_)) => Place::After,
            (Place::Field(name, value), Event::End(_)) => {
                add(&mut fields, name, value)?;
                Place::Root
            }
            (Place::Field(name, value), Event::Text(text)) => Place::Field(name, value + &text.xml10_content()),
            (Place::Field(name, value), Event::CData(text)) => Place::Field(name, value + &text.xml10_content()),
            (Place::Field(name, mut value), Event::GeneralRef(reference)) => {
                value.push(referred(&reference)?);
                Place::Field(name, value)
            }
            (place, Event::Text(text)) if text.trim().is_empty() => place,
            (_, event) => return Err(format!("out of place: {event:?}")),
        };
    }
    fields.retain(|_, value| !value.is_empty());
    Ok(fields)
}

enum Place {
    Before,
    Root,
    Field(String, String),
    After,
}

fn name(tag: &BytesStart<'_>) -> Result<String, String> {
    if !tag.attributes_raw().trim().is_empty() {
        return Err("attributes mean nothing here".to_owned());
    }
    Ok(tag.name().as_ref().to_owned())
}

fn add(fields: &mut Fields, name: String, value: String) -> Result<(), String> {
    match fields.insert(name.clone(), value) {
        Some(_) => Err(format!("<{name}> is there twice")),
        None => Ok(()),
    }
}

fn referred(reference: &BytesRef<'_>) -> Result<char, String> {
    if let Some(character) = reference.resolve_char_ref().map_err(|error| error.to_string())? {
        return Ok(character);
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

/// Writes as the platform does: texts in CDATA, numbers without, a line for each.
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
    fn only_flat_xml_is_read() {
        let good = "<?xml version=\"1.0\"?>\n<xml> <a><![CDATA[<茶>&amp;]]></a>\n<b>1 &lt;&#x8336;&amp;amp;</b><c/><d></d></xml>\n";
        let fields = read(good).unwrap();
        assert_eq!(fields, [("a", "<茶>&amp;"), ("b", "1 <茶&amp;")].map(|(a, b)| (a.into(), b.into())).into());
        assert_eq!(read(&write("xml", &fields)).unwrap(), fields);
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
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
