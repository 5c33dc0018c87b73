//! Golden files of bills: a day and a kind produce a request; an answer produces a file or a link.
//!
//! The files are in the folder `bills` beside the golden files of operations.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::golden::{GoldenFixture, Message, request_json};
use super::super::{Source, Stamp};
use super::*;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Golden {
    about: String,
    day: Date,
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<Value>,
    answer: Message,
    #[serde(skip_serializing_if = "Option::is_none")]
    found: Option<Value>,
}

/// Checks every golden bill file of a provider. With `UPDATE_GOLDEN=1` it rewrites the request and the result instead.
pub(in super::super) fn check_golden_files(fixture: &GoldenFixture<'_>, needed: &[&str]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(fixture.folder).join("bills");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut seen = Vec::new();
    for path in std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
        let mut golden: Golden = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        if update {
            (fixture.sign)(&mut golden.answer);
        }
        let (request, found) = encode_and_decode(fixture, &golden);
        if update {
            (golden.request, golden.found) = (Some(request), Some(found));
            std::fs::write(&path, serde_json::to_string_pretty(&golden).unwrap() + "\n").unwrap();
        } else {
            assert_eq!(Some(request), golden.request, "request of {}", path.display());
            assert_eq!(Some(found), golden.found, "result of {}", path.display());
        }
        seen.push(path.file_stem().unwrap().to_string_lossy().into_owned());
    }
    for needed in needed {
        assert!(seen.iter().any(|name| name == needed), "{needed} is missing");
    }
}

fn encode_and_decode(fixture: &GoldenFixture<'_>, golden: &Golden) -> (Value, Value) {
    let bills = fixture.provider.bills().unwrap();
    let kind = bills.kinds().iter().find(|kind| **kind == golden.kind).unwrap();
    let wanted = BillRequest { day: golden.day, kind };
    let stamp = Stamp { unix_time: fixture.now, nonce: "593BEC0C930BF1AFEB40B4A08C8FB242".to_owned() };
    let with = Signing { signer: fixture.signer, keys: fixture.keys, stamp: &stamp };
    let signed = |mut request: Request<Bytes>| {
        fixture.provider.sign(&mut request, with).unwrap();
        request_json(&request)
    };
    let request = signed(bills.bill_request(&wanted, with).unwrap());
    let found = match bills.decode_bill(&wanted, answer(fixture, &golden.answer)) {
        Ok(BillReply::File(BillFile { content, form, proof })) => {
            json!({"file": {"form": form.extension(), "proof": proof.as_str(), "content": content.escape_ascii().to_string()}})
        }
        Ok(BillReply::Link(link)) => {
            let target: PathAndQuery = link.url.parse::<Uri>().unwrap().into_parts().path_and_query.unwrap();
            let next = link.request(target);
            let next = if link.is_signed { signed(next) } else { request_json(&next) };
            let (url, sha1) = (&link.url, link.sha1.map(hex::encode));
            json!({"link": {"url": url, "sha1": sha1, "form": link.form.extension(), "request": next}})
        }
        Err(error) => json!({"error": {"code": error.code(), "message": error.to_string()}}),
    };
    (request, found)
}

/// Converts a golden answer to the form in which the gateway passes it to the provider.
pub(in super::super) fn answer(fixture: &GoldenFixture<'_>, message: &Message) -> Answer {
    let body = Bytes::from(message.body.clone());
    let checked =
        fixture.provider.verify(Source::Answer, &message.header_map(), body.clone(), fixture.keys, fixture.now);
    Answer { status: StatusCode::from_u16(message.status.unwrap()).unwrap(), body, checked }
}
