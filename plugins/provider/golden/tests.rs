//! The golden files' own test: a file that nobody wrote yet says what to do, and errors are compared as outcomes are.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// Provider without signatures: a refund cannot be encoded, and every answer is declined.
struct Fake;

impl Provider for Fake {
    fn encode(&self, operation: &Operation, _: Signing<'_>) -> Result<Encoded, Error> {
        match operation {
            Operation::Refund(_) => Err(Error::Unsupported("no refunds".to_owned())),
            _ => Ok(Encoded::Send(Request::new(Bytes::from_static(b"sent")))),
        }
    }
    fn sign(&self, _: &mut Request<Bytes>, _: Signing<'_>) -> Result<(), Error> {
        Ok(())
    }
    fn verify(&self, _: Source, _: &HeaderMap, body: Bytes, _: &Keyring, _: u64) -> Result<Verified, BadSignature> {
        if body.is_empty() { Err(BadSignature::Missing) } else { Ok(Verified::assertion(body, "k")) }
    }
    fn decode(&self, _: &Operation, _: StatusCode, reply: Verified, _: Signing<'_>) -> Result<Outcome, Error> {
        Err(Error::Mismatch(String::from_utf8(reply.bytes().to_vec()).unwrap()))
    }
    fn decode_unsigned_error(&self, _: &Operation, status: StatusCode, _: &[u8]) -> Error {
        Error::unclear(format!("unsigned {}", status.as_u16()))
    }
    fn decode_notification(&self, _: Verified) -> Result<Event, Error> {
        Err(Error::Mismatch("another account".to_owned()))
    }
    fn describe(&self, _: &Verified) -> Described {
        Described::default()
    }
    fn acknowledge(&self, _: bool) -> Response<Bytes> {
        Response::new(Bytes::new())
    }
    fn account(&self) -> &str {
        "fake"
    }
    fn can_verify(&self, _: &Keyring, _: u64) -> bool {
        true
    }
}

/// Writes the file into a folder of its own and returns the differences that the check reports.
fn report(text: &str) -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("golden-{}-{number}", std::process::id())).join("tests/golden/fake");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("one.json"), text).unwrap();
    let (signer, keys) = (crate::signer::none(), Keyring::default());
    let name = folder.to_str().unwrap();
    let fixture =
        GoldenFixture { folder: name, provider: &Fake, signer: &*signer, keys: &keys, now: NOW, sign: &|_| {} };
    let report = fixture.check(&["one", "two"], |_| false).text();
    std::fs::remove_dir_all(folder.ancestors().nth(3).unwrap()).unwrap();
    report
}

fn query(answer: &str, result: &str) -> String {
    let operation = r#"{"kind":"query","number":"n","method":"sandbox.qr","amount":{"value":1,"currency":"CNY"}}"#;
    let request = r#"{"body":"sent","headers":{},"method":"GET","uri":"/"}"#;
    format!(r#"{{"about":"x","operation":{operation},"answer":{answer},"request":{request}{result}}}"#)
}

const COMMAND: &str = "UPDATE_GOLDEN=tests/golden/fake/one.json cargo test -p tollgate-plugins golden";

#[test]
fn unwritten_or_missing_golden_file_names_itself_and_the_command_that_writes_it() {
    let unwritten = report(&query(r#"{"status":200,"body":"b"}"#, ""));
    assert!(unwritten.contains("tests/golden/fake/one.json: `error` is missing"), "{unwritten}");
    assert!(unwritten.contains(COMMAND), "{unwritten}");
    assert!(unwritten.contains("tests/golden/fake/two.json: the file is missing; write `about`"), "{unwritten}");
    let unsigned = report(&query(r#"{"status":200}"#, ""));
    assert!(unsigned.contains("one.json: the provider's message is rejected: it carries no signature"), "{unsigned}");
    assert!(unsigned.contains(COMMAND), "{unsigned}");
    for (text, missing) in [
        (query(r#"{"body":"b"}"#, ""), "`answer.status` is missing"),
        (query(r#"{"status":200}"#, "").replace("query", "refund"), "`operation.refund` is missing"),
        (query(r#"{"status":200}"#, "").replace("query", "pay"), "`operation.description` is missing"),
        (query(r#"{"status":200}"#, "").replace("query", "void"), "there are pay, query, close, refund, query_refund"),
        (r#"{"about":"x"}"#.to_owned(), "the file has neither `operation` nor `notification`"),
    ] {
        assert!(report(&text).contains(missing), "{text}: {}", report(&text));
    }
}

#[test]
fn golden_error_of_answer_notification_and_encoding_is_compared() {
    let is_one_right = |text: &str| !report(text).contains("one.json");
    let error = |code: &str, message: &str| {
        let text = Error::Mismatch(message.to_owned()).to_string();
        let text = if code == "mismatch" { text } else { message.to_owned() };
        format!(r#","error":{{"code":"{code}","message":"{text}"}}"#)
    };
    let signed = r#"{"status":200,"body":"b"}"#;
    assert!(is_one_right(&query(signed, &error("mismatch", "b"))));
    let json = r#"{"status":200,"body":{"n": 1}}"#;
    assert!(is_one_right(&query(json, &error("mismatch", r#"{\"n\":1}"#))), "{}", report(&query(json, "")));
    let differs = report(&query(signed, &error("mismatch", "c")));
    assert!(differs.contains("`error` differs") && differs.contains("computed: {"), "{differs}");
    assert!(report(&query(signed, r#","outcome":{}"#)).contains("`outcome` is written, but the code computes none"));

    let why = Error::unclear("unsigned 500").to_string();
    assert!(is_one_right(&query(r#"{"status":500,"unsigned":true,"body":"<html>"}"#, &error("unclear", &why))));

    let notification = |error: &str| format!(r#"{{"about":"x","notification":{{"body":"b"}}{error}}}"#);
    assert!(is_one_right(&notification(&error("mismatch", "another account"))));
    assert!(!is_one_right(&notification("")));

    let refund = r#"{"kind":"refund","number":"n","method":"sandbox.qr","amount":{"value":1,"currency":"CNY"},
                     "refund":{"number":"r","amount":{"value":1,"currency":"CNY"},"reason":null,"notify_url":"u"}}"#;
    let why = Error::Unsupported("no refunds".to_owned()).to_string();
    let encoded = |error: &str| format!(r#"{{"about":"x","operation":{refund}{error}}}"#);
    assert!(is_one_right(&encoded(&error("unsupported_by_provider", &why))));
    assert!(!is_one_right(&encoded("")));
}
