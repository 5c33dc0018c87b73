//! RFC 9421 HTTP message signatures with `hmac-sha256`, and RFC 9530 digests of the body.

use http::HeaderMap;
use sfv::{BareItem, Dictionary, FieldType, InnerList, List, ListEntry, Parser};
use sha2::{Digest, Sha256, Sha512};

use super::{Denied, Head, SignatureParameters, SignedRequest, is_nonce};

/// Checks that one of the signatures has a key id and a time in the window, whoever signed it.
pub(super) fn plausible(
    head: &Head<'_>,
    is_in_window: impl Fn(&SignatureParameters) -> Result<(), Denied>,
) -> Result<(), Denied> {
    let inputs = dictionary(head.headers, "signature-input")?;
    let mut result = Err(Denied::Malformed("signature-input"));
    for (_, entry) in &inputs {
        let ListEntry::InnerList(input) = entry else { continue };
        result = parameters(input).and_then(|parameters| is_in_window(&parameters));
        if result.is_ok() {
            break;
        }
    }
    result
}

/// Parses the first signature with a known key. A proxy may have added a signature of its own.
pub(super) fn read(head: &Head<'_>, body: &[u8], is_known: impl Fn(&str) -> bool) -> Result<SignedRequest, Denied> {
    // Checked first, because its duration depends on the body's size: nothing before it may depend on the key id.
    if head.headers.contains_key("content-digest") {
        check_digest(head.headers, body)?;
    }
    let inputs = dictionary(head.headers, "signature-input")?;
    let signatures = dictionary(head.headers, "signature")?;
    let (label, input) = choose(&inputs, is_known)?;
    let Some(ListEntry::Item(signature)) = signatures.get(label) else { return Err(Denied::Malformed("signature")) };
    let BareItem::ByteSequence(signature) = &signature.bare_item else { return Err(Denied::Malformed("signature")) };

    let components = components(input)?;
    let covered = |name: &str| components.contains(&name);
    let target = covered("@target-uri") || (covered("@path") && covered("@query"));
    if !covered("@method") || !target {
        return Err(Denied::Malformed("components"));
    }
    if !body.is_empty() && !covered("content-digest") {
        return Err(Denied::Malformed("content-digest"));
    }
    if input.params.contains_key("alg") && text(input, "alg") != Some("hmac-sha256") {
        return Err(Denied::Malformed("alg"));
    }
    let SignatureParameters { key_id, created, expires } = parameters(input)?;
    let nonce = text(input, "nonce").filter(|text| is_nonce(text)).ok_or(Denied::Malformed("nonce"))?.to_owned();
    let message = base(head, &components, input)?;
    Ok(SignedRequest { key_id, created, expires, nonce, message: message.into_bytes(), signature: signature.clone() })
}

fn choose(inputs: &Dictionary, is_known: impl Fn(&str) -> bool) -> Result<(&str, &InnerList), Denied> {
    let ours = |entry: &ListEntry| match entry {
        ListEntry::InnerList(input) => {
            matches!(input.params.get("keyid"), Some(BareItem::String(id)) if is_known(id.as_str()))
        }
        ListEntry::Item(_) => false,
    };
    let choose = inputs.iter().find(|(_, entry)| ours(entry)).or_else(|| inputs.iter().next());
    let (label, input) = choose.ok_or(Denied::Malformed("signature-input"))?;
    let ListEntry::InnerList(input) = input else { return Err(Denied::Malformed("signature-input")) };
    Ok((label.as_str(), input))
}

fn parameters(input: &InnerList) -> Result<SignatureParameters, Denied> {
    let time = |name: &str| match input.params.get(name) {
        Some(BareItem::Integer(time)) => u64::try_from(i64::from(*time)).ok(),
        _ => None,
    };
    let created = time("created").ok_or(Denied::Malformed("created"))?;
    let expires = time("expires");
    if input.params.contains_key("expires") && expires.is_none() {
        return Err(Denied::Malformed("expires"));
    }
    let key_id = text(input, "keyid").ok_or(Denied::Malformed("keyid"))?.to_owned();
    Ok(SignatureParameters { key_id, created, expires })
}

fn text<'a>(input: &'a InnerList, name: &str) -> Option<&'a str> {
    match input.params.get(name) {
        Some(BareItem::String(text)) => Some(text.as_str()),
        _ => None,
    }
}

/// Returns the names of the covered components. Component parameters are not supported; such components are rejected,
/// because they must not count as covered.
fn components(input: &InnerList) -> Result<Vec<&str>, Denied> {
    let mut names = Vec::new();
    for item in &input.items {
        match &item.bare_item {
            BareItem::String(name) if item.params.is_empty() && !names.contains(&name.as_str()) => {
                names.push(name.as_str())
            }
            _ => return Err(Denied::Malformed("components")),
        }
    }
    Ok(names)
}

/// Builds the signature base (RFC 9421, section 2.5).
fn base(head: &Head<'_>, components: &[&str], input: &InnerList) -> Result<String, Denied> {
    let mut base = String::new();
    for name in components {
        base.push_str(&format!("\"{name}\": {}\n", value(head, name)?));
    }
    let parameters: List = vec![ListEntry::InnerList(input.clone())];
    let parameters = parameters.serialize().ok_or(Denied::Malformed("signature-input"))?;
    base.push_str(&format!("\"@signature-params\": {parameters}"));
    Ok(base)
}

fn value(head: &Head<'_>, name: &str) -> Result<String, Denied> {
    let (path, query) = head.path_and_query.split_once('?').unwrap_or((head.path_and_query, ""));
    Ok(match name {
        "@method" => head.method.to_owned(),
        "@target-uri" => format!("{}://{}{}", head.scheme, head.authority, head.path_and_query),
        "@path" => path.to_owned(),
        "@query" => format!("?{query}"),
        "@authority" => head.authority.to_ascii_lowercase(),
        "@scheme" => head.scheme.to_owned(),
        "@request-target" => head.path_and_query.to_owned(),
        _ if name.starts_with('@') || name.bytes().any(|byte| byte.is_ascii_uppercase()) => {
            return Err(Denied::Malformed("components"));
        }
        _ => joined(head.headers, name)?,
    })
}

/// Combines all values of a header (RFC 9421, section 2.1).
fn joined(headers: &HeaderMap, name: &str) -> Result<String, Denied> {
    let values: Result<Vec<&str>, _> =
        headers.get_all(name).iter().map(|value| value.to_str().map(str::trim)).collect();
    let values = values.map_err(|_| Denied::Malformed("header"))?;
    if values.is_empty() { Err(Denied::Malformed("components")) } else { Ok(values.join(", ")) }
}

fn dictionary(headers: &HeaderMap, name: &str) -> Result<Dictionary, Denied> {
    Parser::new(&joined(headers, name)?).parse().map_err(|_| Denied::Malformed("structured field"))
}

fn check_digest(headers: &HeaderMap, body: &[u8]) -> Result<(), Denied> {
    let digests = dictionary(headers, "content-digest").map_err(|_| Denied::WrongDigest)?;
    let mut checked = false;
    for (algorithm, value) in &digests {
        let expected = match algorithm.as_str() {
            "sha-256" => Sha256::digest(body).to_vec(),
            "sha-512" => Sha512::digest(body).to_vec(),
            _ => continue,
        };
        let ListEntry::Item(value) = value else { return Err(Denied::WrongDigest) };
        if value.bare_item != BareItem::ByteSequence(expected) {
            return Err(Denied::WrongDigest);
        }
        checked = true;
    }
    if checked { Ok(()) } else { Err(Denied::WrongDigest) }
}
