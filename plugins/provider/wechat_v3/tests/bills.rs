//! Download links of bills.

use super::super::super::bill::{self, Answer, BillReply, BillRequest, Bills, TRADE};
use super::super::super::golden::{GoldenFixture, Message};
use super::super::golden::*;
use super::*;

const LOCATION: &str = r#"{"download_url":"https://api.mch.weixin.qq.com/v3/billdownload/file?token=x","hash_type":"SHA1","hash_value":"79bb0f45fc4c42234a918000b2668d689e2bde04"}"#;

fn read(body: &str, change: impl FnOnce(&mut Message)) -> Result<BillReply, Error> {
    let mut message = Message { status: Some(200), body: body.to_owned(), ..Message::default() };
    sign_if_unsigned(&mut message);
    change(&mut message);
    let body = Bytes::from(message.body.clone());
    let checked = provider().verify(Source::Answer, &message.header_map(), body.clone(), &keyring(), NOW);
    let status = StatusCode::from_u16(message.status.unwrap()).unwrap();
    let bill = BillRequest { day: jiff::civil::date(2023, 11, 13), kind: TRADE };
    provider().decode_bill(&bill, Answer { status, body, checked })
}

#[test]
fn golden_files_of_bills_match() {
    let provider = provider();
    let (signer, keys) = (merchant_signer(), keyring());
    let fixture = GoldenFixture {
        folder: "wechat-v3",
        provider: &provider,
        signer: &*signer,
        keys: &keys,
        now: NOW,
        sign: &|message| {
            if message.status == Some(200) {
                sign_if_unsigned(message);
            }
        },
    };
    bill::golden::check_golden_files(&fixture, &["trade", "funds_fees", "trade-absent", "trade-being-made"]);
}

#[test]
fn bill_link_without_signature_or_hash_is_rejected() {
    assert!(matches!(read(LOCATION, |_| {}), Ok(BillReply::Link(_))));
    let unclear = |result| matches!(result, Err(Error::Unclear { .. }));
    assert!(unclear(read(LOCATION, |message| message.headers.clear())), "unsigned");
    assert!(unclear(read(LOCATION, |message| message.body = LOCATION.replace("79bb", "79bc"))), "another hash");
    assert!(unclear(read(&LOCATION.replace("SHA1", "MD5"), |_| {})), "another kind of hash");
    assert!(unclear(read(&LOCATION.replace("79bb", ""), |_| {})), "half a hash");
    assert!(unclear(read("{}", |_| {})), "nothing");
}

#[test]
fn every_bill_kind_has_its_own_parameters() {
    let provider = provider();
    let uri = |kind| {
        let bill = BillRequest { day: jiff::civil::date(2023, 1, 2), kind };
        signing(|with| provider.bill_request(&bill, with)).unwrap().uri().to_string()
    };
    let uris: std::collections::BTreeSet<_> = provider.kinds().iter().map(|kind| uri(kind)).collect();
    assert_eq!(uris.len(), provider.kinds().len());
    assert!(uris.contains("/v3/bill/fundflowbill?bill_date=2023-01-02&account_type=OPERATION"), "{uris:?}");
}
