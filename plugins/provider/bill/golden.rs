//! Golden files of bills: a day and a kind produce a request; an answer produces a file or a link.
//!
//! The files are in the folder `bills` beside the golden files of operations.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::Source;
use super::super::golden::report::{Report, is_updated};
use super::super::golden::{self, GoldenFixture, Message, request_json};
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
    let (folder, mut report) = (golden::folder(fixture.folder).join("bills"), Report::default());
    for needed in needed {
        let file = folder.join(format!("{needed}.json"));
        if !file.exists() {
            report.fail(&file, "the file is missing; write `about`, `day`, `kind` and `answer`");
        }
    }
    for file in std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
        let read = serde_json::from_slice(&std::fs::read(&file).unwrap());
        let mut golden: Golden = read.unwrap_or_else(|why| panic!("{}: {why}", file.display()));
        let is_updated = is_updated(&file);
        if is_updated && !golden.answer.unsigned {
            (fixture.sign)(&mut golden.answer);
        }
        let (request, found) = encode_and_decode(fixture, &golden);
        if is_updated {
            (golden.request, golden.found) = (Some(request), Some(found));
            std::fs::write(&file, serde_json::to_string_pretty(&golden).unwrap() + "\n").unwrap();
        } else {
            report.compare(&file, "request", golden.request.as_ref(), Some(&request));
            report.compare(&file, "found", golden.found.as_ref(), Some(&found));
        }
    }
    report.assert_empty();
}

fn encode_and_decode(fixture: &GoldenFixture<'_>, golden: &Golden) -> (Value, Value) {
    let bills = fixture.provider.bills().unwrap();
    let kind = bills.kinds().iter().find(|kind| **kind == golden.kind).unwrap();
    let bill = BillRequest { day: golden.day, kind };
    let signed = |request| fixture.signed(request).unwrap();
    let request = signed(fixture.with(|with| bills.bill_request(&bill, with)).unwrap());
    let found = match bills.decode_bill(&bill, answer(fixture, &golden.answer)) {
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
