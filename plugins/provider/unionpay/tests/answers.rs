//! What each word of an answer means, and that another order's answer is refused.

use super::*;

const WRITES: [&str; 4] = ["app", "qr", "barcode", "refund"];

fn write(name: &str) -> (Operation, Fields) {
    match name {
        "refund" => {
            let about = with(with(said("00"), "orderId", REFUND_NUMBER), "txnAmt", "300");
            (Operation::Refund(refund()), with(about, "txnType", "04"))
        }
        method => {
            let about = with(with(said("00"), "tn", "6281"), "qrCode", "https://qr.95516.com/1");
            (Operation::Pay(pay(method)), with(about, "txnType", "01"))
        }
    }
}

fn queried(orig: &str) -> Fields {
    with(with(said("00"), "origRespCode", orig), "queryId", QUERY_ID)
}

fn codes(text: &str) -> Vec<String> {
    let expand = |part: &str| match part.split_once('-') {
        Some((first, last)) => {
            let (first, last): (u8, u8) = (first.parse().unwrap(), last.parse().unwrap());
            (first..=last).map(|code| format!("{code:02}")).collect()
        }
        None => vec![part.to_owned()],
    };
    text.split(' ').flat_map(expand).collect()
}

const DECLINED: &str = "01 10 13 14 30-33 36 38 40 41 43 44 60-69 71-73 76-82 84-98";
const UNCLEAR: &str = "03 04 06 42 74 75 99";
/// Taken on, and going on by itself.
const ACCEPTED: &str = "05 70 83";
const UNKNOWN: &str = "07 08 09 15 29 47 59 A5 a6 B1 0 000 6A 8A 3４";

#[test]
fn every_code_of_a_write_has_its_class() {
    type Make = fn(Word) -> Error;
    let unclear: Make =
        |word| Error::Unclear { why: format!("it answered with the code {}", word.code), word: Some(word) };
    let rows: [(&str, Make); 7] = [
        (DECLINED, Error::Declined),
        ("11", Error::Unauthorized),
        (UNCLEAR, unclear),
        (UNKNOWN, unclear),
        ("02 37 39", Error::Busy),
        ("12 35 45 46", Error::Conflict),
        ("34", Error::Absent),
    ];
    for (text, make) in rows {
        for code in codes(text) {
            for name in WRITES {
                let (operation, answer) = write(name);
                assert_eq!(
                    decode(&operation, &with(answer, "respCode", &code)),
                    Err(make(word(&code))),
                    "{name} {code}"
                );
            }
        }
    }
}

#[test]
fn without_a_signature_only_the_word_about_ours_is_believed() {
    let query = Operation::Query(order("qr"));
    let said = |operation: &Operation, status: u16, body: &str| {
        provider().refusal(operation, http::StatusCode::from_u16(status).unwrap(), body.as_bytes()).code()
    };
    let operations = [write("qr").0, write("refund").0, query];
    for operation in &operations {
        let wrong = "merId=777290058110048&respCode=11&respMsg=验证签名失败";
        assert_eq!(said(operation, 200, wrong), "unauthorized");
        assert_eq!(said(operation, 502, wrong), "unclear");
        let signed = format!("{wrong}&signature=AAAA");
        assert_eq!(said(operation, 200, &signed), "unauthorized", "by the key of both sides, which ours is not");
        for code in ["00", "01", "10", "34", "12", ""] {
            assert_eq!(said(operation, 200, &format!("respCode={code}&respMsg=x")), "unclear", "{code}");
        }
        for body in ["", "<html>", "respCode", "respCode=11&respCode=00"] {
            assert_eq!(said(operation, 200, body), "unclear", "{body}");
        }
    }
}

#[test]
fn a_write_that_was_taken_is_pending_and_no_more() {
    for code in ["00", "A6", "05", "70", "83"] {
        for name in WRITES {
            let (operation, answer) = write(name);
            let outcome = decode(&operation, &with(answer, "respCode", code));
            if ["app", "qr"].contains(&name) && codes(ACCEPTED).iter().any(|accepted| accepted == code) {
                assert!(is_unclear(&outcome), "there is nothing yet that the payer could be shown: {name} {code}");
                continue;
            }
            assert_eq!(outcome.unwrap().status, Status::Pending, "{name} {code}");
        }
    }
    let outcome = |name| decode(&write(name).0, &write(name).1).unwrap();
    assert_eq!(outcome("qr").action, Some(Action::Qr { data: "https://qr.95516.com/1".to_owned() }));
    let Some(Action::App { params }) = outcome("app").action else { panic!("no parameters") };
    assert_eq!(params.into_iter().collect::<Vec<_>>(), [("tn".to_owned(), "6281".to_owned())]);
    assert_eq!(outcome("barcode").action, None);
    for (name, missing) in [("app", "tn"), ("qr", "qrCode")] {
        let (operation, answer) = write(name);
        assert!(is_unclear(&decode(&operation, &with(answer, missing, ""))), "{name}");
    }
}

#[test]
fn a_reversal_ends_what_was_scanned() {
    let close = Operation::Close(order("barcode"));
    let answer = |code: &str| with(said(code), "txnType", "99");
    assert_eq!(decode(&close, &answer("46")).unwrap().status, Status::Closed, "said before");
    for accepted in ["00", "A6"] {
        assert!(matches!(decode(&close, &answer(accepted)), Err(Error::Conflict(_))), "only taken on: {accepted}");
    }
    for (code, class) in [
        ("05", "unclear"),
        ("12", "conflict"),
        ("34", "absent"),
        ("35", "conflict"),
        ("45", "conflict"),
        ("36", "declined"),
    ] {
        assert_eq!(decode(&close, &answer(code)).unwrap_err().code(), class, "{code}");
    }
}

#[test]
fn a_question_that_is_not_answered_says_nothing_of_the_trade() {
    let refund_said = |code: &str| with(with(said(code), "orderId", REFUND_NUMBER), "txnAmt", "300");
    for (text, class) in [
        (DECLINED, "unclear"),
        (UNCLEAR, "unclear"),
        (ACCEPTED, "unclear"),
        (UNKNOWN, "unclear"),
        ("12 35 45 46", "unclear"),
        ("02 37 39", "provider_busy"),
        ("34", "absent"),
    ] {
        for code in codes(text) {
            for method in ["page", "barcode"] {
                let answer = with(said(&code), "origRespCode", "00");
                let said = decode_at(&Operation::Query(order(method)), &answer, ORDERED.unsigned_abs());
                assert_eq!(said.unwrap_err().code(), class, "{code}");
            }
            let answer = refund_said(&code);
            assert_eq!(decode(&Operation::QueryRefund(refund()), &answer).unwrap_err().code(), class, "{code}");
        }
    }
}

#[test]
fn every_word_about_a_trade_has_its_meaning() {
    const FAILED: &str = "01 02 10 11 13 14 30-33 35 36 38-41 43-46 60-69 71-73 76-82 84-98";
    let refunded = |orig: &str| with(with(queried(orig), "orderId", REFUND_NUMBER), "txnAmt", "300");
    for (text, status) in
        [("00 A6 42 74 75", Status::Succeeded), ("03 04 05 06 37 70 83 99", Status::Pending), (FAILED, Status::Failed)]
    {
        for code in codes(text) {
            let outcome = decode(&Operation::Query(order("barcode")), &queried(&code)).unwrap();
            assert_eq!((outcome.status, outcome.amount), (status, Some(cny(6800))), "{code}");
            assert_eq!(outcome.provider_id.as_deref(), Some(QUERY_ID));
            assert_eq!(outcome.needs_person.is_some(), status == Status::Succeeded && code != "00", "{code}");
            let outcome = decode(&Operation::QueryRefund(refund()), &refunded(&code));
            if ["42", "74", "75"].contains(&code.as_str()) {
                assert!(is_unclear(&outcome), "a debit is no word of a refund: {code}");
                continue;
            }
            let outcome = outcome.unwrap();
            assert_eq!((outcome.status, outcome.amount), (status, Some(cny(300))), "{code}");
        }
    }
    for method in ["page", "app", "qr", "barcode"] {
        let query = Operation::Query(order(method));
        for code in codes(UNKNOWN).iter().map(String::as_str).chain(["12", ""]) {
            assert!(is_unclear(&decode(&query, &queried(code))), "{code}");
        }
        assert!(matches!(decode_at(&query, &queried("34"), ORDERED.unsigned_abs()), Err(Error::Absent(_))));
        assert!(is_unclear(&decode(&query, &with(queried("00"), "txnAmt", ""))), "paid, but how much?");
    }
}

/// Until its time has passed the payer may try another card; after that UnionPay's word is the last.
#[test]
fn a_failure_counts_when_the_payments_time_has_passed() {
    let deadline = u64::try_from(ORDERED).unwrap() + 7200;
    let failed = |deadline| with(queried("61"), "reqReserved", deadline);
    for method in ["page", "app", "qr"] {
        let status = |answer: &Fields, now| decode_at(&Operation::Query(order(method)), answer, now).unwrap().status;
        assert_eq!(status(&failed("20250101020000"), deadline - 1), Status::Pending);
        assert_eq!(status(&failed("20250101020000"), deadline + 600), Status::Pending, "clocks differ");
        assert_eq!(status(&failed("20250101020000"), deadline + 601), Status::Failed);
        for unreadable in ["", "x", "20250101", "20251301020000", "2025010102000０"] {
            assert_eq!(status(&failed(unreadable), deadline + 86400), Status::Pending, "{unreadable}");
        }
        assert_eq!(status(&queried("00"), deadline - 1), Status::Succeeded);
    }
    let barcode = decode_at(&Operation::Query(order("barcode")), &queried("61"), deadline - 1).unwrap();
    assert_eq!(barcode.status, Status::Failed, "nobody tries again at a till");
}

#[test]
fn what_nobody_went_on_with_is_closed_when_its_time_has_passed() {
    let ordered = u64::try_from(ORDERED).unwrap();
    for method in ["page", "app", "qr", "barcode"] {
        let own_end = Order { expires_at: jiff::Timestamp::from_second(ORDERED + 900).ok(), ..order(method) };
        for (order, end) in [(order(method), ordered + 7200), (own_end, ordered + 900)] {
            let query = Operation::Query(order);
            for unpaid in [said("34"), queried("34"), queried("05"), queried("70")] {
                let open = decode_at(&query, &unpaid, end + 600);
                assert!(
                    matches!(open, Err(Error::Absent(_)) | Ok(Outcome { status: Status::Pending, .. })),
                    "{open:?}"
                );
                let closed = Ok(Outcome::of(Status::Closed));
                assert_eq!(decode_at(&query, &unpaid, end + 601) == closed, method != "barcode", "{method} {unpaid:?}");
            }
            for working in ["03", "04", "06", "37", "83", "99"] {
                let outcome = decode_at(&query, &queried(working), end + 86400).unwrap();
                assert_eq!(outcome.status, Status::Pending, "its bank may still be at it: {working}");
            }
            let nameless = with(said("34"), "txnTime", "");
            assert!(matches!(decode_at(&query, &nameless, end + 601), Err(Error::Absent(_))));
        }
    }
}

#[test]
fn another_orders_answer_is_refused() {
    for operation in operations() {
        let right = match &operation {
            Operation::Refund(_) | Operation::QueryRefund(_) => {
                with(with(queried("00"), "orderId", REFUND_NUMBER), "txnAmt", "300")
            }
            _ => with(with(queried("00"), "tn", "1"), "qrCode", "1"),
        };
        let is_page = matches!(&operation, Operation::Pay(pay) if pay.order.method.as_str() == "unionpay.page");
        // A reversal is only taken on by it.
        let is_answered = !is_page && !matches!(operation, Operation::Close(_));
        assert_eq!(decode(&operation, &right).is_ok(), is_answered, "{operation:?}");
        for (name, other) in [
            ("merId", "777290058110049"),
            ("orderId", "1123456789abcdef0123456789abcdef"),
            ("txnTime", "20250101000001"),
            ("txnAmt", "6801"),
            ("txnAmt", "-6800"),
            ("txnAmt", "68.00"),
            ("txnAmt", "99999999999999999999"),
            ("currencyCode", "840"),
            ("txnType", "31"),
        ] {
            for code in ["00", "05", "36"] {
                let wrong = with(with(right.clone(), name, other), "respCode", code);
                assert!(is_mismatch(&decode(&operation, &wrong)), "{name} {code} {operation:?}");
            }
        }
        for name in ["merId", "orderId", "txnTime", "respCode"] {
            assert!(is_unclear(&decode(&operation, &with(right.clone(), name, ""))), "{name} {operation:?}");
        }
    }
    let other = with(with(with(queried("00"), "orderId", REFUND_NUMBER), "txnAmt", "300"), "origQryId", "1");
    assert!(is_mismatch(&decode(&Operation::QueryRefund(refund()), &other)));
}

#[test]
fn money_moved_in_the_year_that_comes_next() {
    let mut eve = order("barcode");
    eve.created_at = jiff::Timestamp::from_second(ORDERED - 60).unwrap();
    for (text, expected) in [
        ("1231235959", Some("2024-12-31T15:59:59Z")),
        ("0101000010", Some("2024-12-31T16:00:10Z")),
        ("1231000000", Some("2024-12-30T16:00:00Z")),
        ("0230000000", None),
        ("x", None),
        ("", None),
    ] {
        let answer = with(with(queried("00"), "txnTime", "20241231235900"), "traceTime", text);
        let outcome = decode(&Operation::Query(eve.clone()), &answer).unwrap();
        assert_eq!(outcome.at.map(|at| at.to_string()).as_deref(), expected, "{text}");
    }
}

#[test]
fn nothing_is_concluded_without_a_signature_or_a_status() {
    for operation in operations() {
        for status in [301, 400, 403, 404, 429, 500, 503] {
            let status = StatusCode::from_u16(status).unwrap();
            assert!(matches!(provider().refusal(&operation, status, b"respCode=36"), Error::Unclear { .. }));
            let reply = Verified::vouch(Bytes::from(answer_body(said("36"))), "k");
            assert!(is_unclear(&signing(|with| provider().decode(&operation, status, reply, with))));
        }
    }
}
