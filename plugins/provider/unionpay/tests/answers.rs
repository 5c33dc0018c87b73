//! Decoding of answers, and rejection of answers about another order.

use super::*;

const WRITES: [&str; 4] = ["app", "qr", "barcode", "refund"];

fn write(name: &str) -> (Operation, Fields) {
    match name {
        "refund" => {
            let about = with(with(answer_fields("00"), "orderId", REFUND_NUMBER), "txnAmt", "300");
            (Operation::Refund(refund()), with(about, "txnType", "04"))
        }
        method => {
            let about = with(with(answer_fields("00"), "tn", "6281"), "qrCode", "https://qr.95516.com/1");
            (Operation::Pay(pay(method)), with(about, "txnType", "01"))
        }
    }
}

fn queried(orig: &str) -> Fields {
    with(with(answer_fields("00"), "origRespCode", orig), "queryId", QUERY_ID)
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

/// The official codes by class, written a second time. `codes.rs` sorts them by cause.
const DECLINED: &str = "01 10 13 14 30-33 36 38 40 41 43 44 60-69 71-73 76-82 84-96 98";
/// UnionPay's own failures.
const SYSTEM_ERROR: &str = "03 04 06 99";
/// Accepted and still processed.
const ACCEPTED: &str = "05 70 83";
/// The payer was debited, or the order is in another state.
const OTHER_STATE: &str = "12 35 42 45 46 74 75";
const LATER: &str = "02 37 39";
/// Codes that no list contains.
const UNLISTED: &str = "07 08 09 15 29 47 59 97 A5 a6 B1 0 000 6A 8A 3４";

/// For each code: its class, whether a breaker counts it, and whether the same request may be sent again.
type Row = (&'static str, fn(&str) -> Error, bool, bool);

fn unclear(code: &str) -> Error {
    Error::Unclear { why: format!("answer code {code}"), provider_error: Some(provider_error(code)) }
}

const WRITE_ROWS: [Row; 7] = [
    (DECLINED, |code| Error::Declined(provider_error(code)), false, false),
    ("11", |code| Error::Unauthorized(provider_error(code)), true, true),
    (SYSTEM_ERROR, unclear, true, false),
    (UNLISTED, |code| Error::UnlistedRefusal(provider_error(code)), false, false),
    (LATER, |code| Error::ProviderBusy(provider_error(code)), false, true),
    (OTHER_STATE, |code| Error::Conflict(provider_error(code)), false, false),
    ("34", |code| Error::NotFound(provider_error(code)), false, false),
];

#[test]
fn every_listed_code_has_exactly_one_class() {
    let classes = [DECLINED, SYSTEM_ERROR, ACCEPTED, OTHER_STATE, LATER, "00 A6 11 34"];
    let mut expected: Vec<String> = classes.into_iter().flat_map(codes).collect();
    let mut listed: Vec<&str> = super::super::codes::CODES.iter().map(|(code, ..)| *code).collect();
    expected.sort();
    listed.sort_unstable();
    assert_eq!(listed, expected);
    listed.dedup();
    assert_eq!(listed.len(), expected.len(), "no code is there twice");
}

#[test]
fn every_code_is_classified_for_each_write() {
    for (text, make, is_failure, is_repeatable) in WRITE_ROWS {
        for code in codes(text) {
            for name in WRITES {
                // The merchant's balance is too low: the refund can be repeated once the balance suffices.
                let is_short = name == "refund" && code == "90";
                let expected = if is_short { Error::ProviderBusy(provider_error(&code)) } else { make(&code) };
                let (operation, answer) = write(name);
                let error = decode(&operation, &with(answer, "respCode", &code)).unwrap_err();
                assert_eq!(error, expected, "{name} {code}");
                assert_eq!(error.is_channel_failure(), is_failure, "{name} {code}");
                assert_eq!(error.provably_not_executed(), is_repeatable || is_short, "{name} {code}");
                assert_eq!(
                    error.provider_error(),
                    Some(&provider_error(&code)),
                    "the error contains the code: {name} {code}"
                );
            }
        }
    }
}

#[test]
fn unsigned_answer_is_trusted_only_if_it_rejects_our_signature() {
    let query = Operation::Query(order("qr"));
    let refusal_code = |operation: &Operation, status: u16, body: &str| {
        provider().decode_unsigned_error(operation, http::StatusCode::from_u16(status).unwrap(), body.as_bytes()).code()
    };
    let operations = [write("qr").0, write("refund").0, query];
    for operation in &operations {
        let wrong = "merId=777290058110048&respCode=11&respMsg=验证签名失败";
        assert_eq!(refusal_code(operation, 200, wrong), "unauthorized");
        assert_eq!(refusal_code(operation, 502, wrong), "unclear");
        let signed = format!("{wrong}&signature=AAAA");
        assert_eq!(refusal_code(operation, 200, &signed), "unauthorized", "verified by the shared key");
        for code in ["00", "01", "10", "34", "12", ""] {
            assert_eq!(refusal_code(operation, 200, &format!("respCode={code}&respMsg=x")), "unclear", "{code}");
        }
        for body in ["", "<html>", "respCode", "respCode=11&respCode=00"] {
            assert_eq!(refusal_code(operation, 200, body), "unclear", "{body}");
        }
    }
}

#[test]
fn accepted_payment_or_refund_is_pending() {
    for code in ["00", "A6", "05", "70", "83"] {
        for name in WRITES {
            let (operation, answer) = write(name);
            let outcome = decode(&operation, &with(answer, "respCode", code));
            if ["app", "qr"].contains(&name) && codes(ACCEPTED).iter().any(|accepted| accepted == code) {
                let asks = matches!(outcome, Err(Error::Conflict(_)));
                assert!(asks, "the answer contains nothing to show the payer: {name} {code}");
                continue;
            }
            assert_eq!(outcome.unwrap().status, Status::Pending, "{name} {code}");
        }
    }
    let outcome = |name| decode(&write(name).0, &write(name).1).unwrap();
    assert_eq!(outcome("qr").action, Some(NextAction::Qr { data: "https://qr.95516.com/1".to_owned() }));
    let Some(NextAction::App { params }) = outcome("app").action else { panic!("no parameters") };
    assert_eq!(params.into_iter().collect::<Vec<_>>(), [("tn".to_owned(), "6281".to_owned())]);
    assert_eq!(outcome("barcode").action, None);
    for (name, missing) in [("app", "tn"), ("qr", "qrCode")] {
        let (operation, answer) = write(name);
        assert!(is_unclear(&decode(&operation, &with(answer, missing, ""))), "{name}");
    }
}

#[test]
fn reversal_closes_scanned_payment() {
    let close = Operation::Close(order("barcode"));
    let answer = |code: &str| with(answer_fields(code), "txnType", "99");
    assert_eq!(decode(&close, &answer("46")).unwrap().status, Status::Closed, "reversed before");
    for accepted in ["00", "A6"] {
        assert!(matches!(decode(&close, &answer(accepted)), Err(Error::Conflict(_))), "only accepted: {accepted}");
    }
    for (text, class) in [
        (ACCEPTED, "conflict"),
        ("12 35 42 45 74 75", "conflict"),
        ("34", "not_found"),
        (DECLINED, "declined"),
        (SYSTEM_ERROR, "unclear"),
        (LATER, "provider_busy"),
        ("11", "unauthorized"),
        (UNLISTED, "unlisted_refusal"),
    ] {
        for code in codes(text) {
            assert_eq!(decode(&close, &answer(&code)).unwrap_err().code(), class, "{code}");
        }
    }
}

#[test]
fn refused_query_leaves_trade_unchanged() {
    let refund_said = |code: &str| with(with(answer_fields(code), "orderId", REFUND_NUMBER), "txnAmt", "300");
    for (text, class) in [
        (DECLINED, "unlisted_refusal"),
        (SYSTEM_ERROR, "unclear"),
        (ACCEPTED, "conflict"),
        (UNLISTED, "unlisted_refusal"),
        (OTHER_STATE, "unlisted_refusal"),
        (LATER, "provider_busy"),
        ("11", "unauthorized"),
        ("34", "not_found"),
    ] {
        for code in codes(text) {
            for method in ["page", "barcode"] {
                let answer = with(answer_fields(&code), "origRespCode", "00");
                let answer_fields = decode_at(&Operation::Query(order(method)), &answer, ORDERED.unsigned_abs());
                assert_eq!(answer_fields.unwrap_err().code(), class, "{code}");
            }
            let answer = refund_said(&code);
            assert_eq!(decode(&Operation::QueryRefund(refund()), &answer).unwrap_err().code(), class, "{code}");
        }
    }
}

#[test]
fn every_trade_code_is_decoded() {
    const FAILED: &str = "01 02 10 11 13 14 30-33 35 36 38-41 43-46 60-69 71-73 76-82 84-96 98";
    let refunded = |orig: &str| with(with(queried(orig), "orderId", REFUND_NUMBER), "txnAmt", "300");
    for (text, status) in [
        ("00 A6 42 74 75", Status::Succeeded),
        ("03 04 05 06 12 37 70 83 99", Status::Pending),
        (FAILED, Status::Failed),
    ] {
        for code in codes(text) {
            let outcome = decode(&Operation::Query(order("barcode")), &queried(&code)).unwrap();
            assert_eq!((outcome.status, outcome.amount), (status, Some(cny(6800))), "{code}");
            assert_eq!(outcome.provider_id.as_deref(), Some(QUERY_ID));
            let reason =
                (status == Status::Failed).then(|| ProviderError { message: String::new(), ..provider_error(&code) });
            assert_eq!(outcome.reason, reason, "the outcome contains the code: {code}");
            assert_eq!(outcome.needs_review.is_some(), status == Status::Succeeded && code != "00", "{code}");
            let outcome = decode(&Operation::QueryRefund(refund()), &refunded(&code));
            if ["42", "74", "75"].contains(&code.as_str()) {
                assert!(matches!(outcome, Err(Error::Conflict(_))), "a debit does not describe the refund: {code}");
                continue;
            }
            let outcome = outcome.unwrap();
            assert_eq!((outcome.status, outcome.amount), (status, Some(cny(300))), "{code}");
        }
    }
    for method in ["page", "app", "qr", "barcode"] {
        let query = Operation::Query(order(method));
        let early = |code: &str| decode_at(&query, &queried(code), ORDERED.unsigned_abs());
        for code in codes(UNLISTED) {
            assert!(matches!(early(&code), Err(Error::UnlistedRefusal(_))), "{code}");
        }
        assert!(is_unclear(&early("")), "without a code");
        assert!(matches!(decode_at(&query, &queried("34"), ORDERED.unsigned_abs()), Err(Error::NotFound(_))));
        assert!(is_unclear(&decode(&query, &with(queried("00"), "txnAmt", ""))), "paid, without an amount");
    }
}

/// A failure before the payTimeout is not final, because the payer may try another card. After the payTimeout
/// UnionPay's answer is final.
#[test]
fn failure_is_final_only_after_pay_timeout() {
    let deadline = u64::try_from(ORDERED).unwrap() + 7200;
    let failed = |deadline| with(queried("61"), "reqReserved", deadline);
    for method in ["page", "app", "qr"] {
        let status = |answer: &Fields, now| decode_at(&Operation::Query(order(method)), answer, now).unwrap().status;
        for echoed in ["20250101020000", "", "x", "20250101", "20251301020000", "2025010102000０"] {
            assert_eq!(status(&failed(echoed), deadline - 1), Status::Pending, "{echoed}");
            assert_eq!(
                status(&failed(echoed), deadline + 600),
                Status::Pending,
                "margin for clock differences: {echoed}"
            );
            assert_eq!(status(&failed(echoed), deadline + 601), Status::Failed, "{echoed}");
        }
        let longer = failed("20250101030000");
        assert_eq!(status(&longer, deadline + 601), Status::Pending, "the order was created with another expiry");
        assert_eq!(status(&queried("00"), deadline - 1), Status::Succeeded);
    }
    let barcode = decode_at(&Operation::Query(order("barcode")), &queried("61"), deadline - 1).unwrap();
    assert_eq!(barcode.status, Status::Failed, "a scanned payment is not retried");
}

#[test]
fn order_without_success_ends_after_pay_timeout() {
    const OPEN: &str = "03 04 06 12 37 83 99";
    let ordered = u64::try_from(ORDERED).unwrap();
    for method in ["page", "app", "qr", "barcode"] {
        let own_end = Order { expires_at: jiff::Timestamp::from_second(ORDERED + 900).ok(), ..order(method) };
        for (order, end) in [(order(method), ordered + 7200), (own_end, ordered + 900)] {
            let query = Operation::Query(order);
            for unpaid in [answer_fields("34"), queried("34"), queried("05"), queried("70")] {
                let open = decode_at(&query, &unpaid, end + 600);
                assert!(
                    matches!(open, Err(Error::NotFound(_)) | Ok(Outcome { status: Status::Pending, .. })),
                    "{open:?}"
                );
                let closed = Ok(Outcome::of(Status::Closed));
                assert_eq!(decode_at(&query, &unpaid, end + 601) == closed, method != "barcode", "{method} {unpaid:?}");
            }
            for text in [OPEN, UNLISTED] {
                for code in codes(text) {
                    let at = |now| decode_at(&query, &queried(&code), now).map(|outcome| outcome.status);
                    let early = at(end + 600);
                    let is_open = matches!(early, Ok(Status::Pending) | Err(Error::UnlistedRefusal(_)));
                    assert!(is_open, "{method} {code}: {early:?}");
                    let late = at(end + 601);
                    assert_eq!(late == Ok(Status::Failed), method != "barcode", "{method} {code}: {late:?}");
                    assert!(method != "barcode" || late == early, "a scanned payment is reversed: {code}");
                }
            }
            for paid in codes("00 A6 42 74 75") {
                assert_eq!(
                    decode_at(&query, &queried(&paid), end + 86400).unwrap().status,
                    Status::Succeeded,
                    "{paid}"
                );
            }
            let nameless = with(answer_fields("34"), "txnTime", "");
            assert!(matches!(decode_at(&query, &nameless, end + 601), Err(Error::NotFound(_))));
        }
    }
}

#[test]
fn refund_pending_for_a_week_needs_manual_review() {
    let answer = |code: &str| with(with(queried(code), "orderId", REFUND_NUMBER), "txnAmt", "300");
    let week = u64::try_from(ORDERED).unwrap() + 7 * 86400;
    for code in codes("03 04 05 06 12 37 70 83 99") {
        let at = |now| decode_at(&Operation::QueryRefund(refund()), &answer(code.as_str()), now).unwrap();
        assert_eq!((at(week).status, at(week).needs_review), (Status::Pending, None), "{code}");
        assert_eq!(at(week + 1).status, Status::Pending, "{code}");
        assert!(at(week + 1).needs_review.is_some(), "{code}");
    }
    let done = decode_at(&Operation::QueryRefund(refund()), &answer("00"), week + 1).unwrap();
    assert_eq!((done.status, done.needs_review), (Status::Succeeded, None));
}

#[test]
fn answer_about_another_order_is_rejected() {
    for operation in operations() {
        let right = match &operation {
            Operation::Refund(_) | Operation::QueryRefund(_) => {
                with(with(queried("00"), "orderId", REFUND_NUMBER), "txnAmt", "300")
            }
            _ => with(with(queried("00"), "tn", "1"), "qrCode", "1"),
        };
        let is_page = matches!(&operation, Operation::Pay(pay) if pay.order.method.as_str() == "unionpay.page");
        // UnionPay only accepts a reversal.
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
fn trace_time_after_new_year_is_in_next_year() {
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
fn unsigned_or_incomplete_answer_is_unclear() {
    for operation in operations() {
        for status in [301, 400, 403, 404, 429, 500, 503] {
            let status = StatusCode::from_u16(status).unwrap();
            assert!(matches!(
                provider().decode_unsigned_error(&operation, status, b"respCode=36"),
                Error::Unclear { .. }
            ));
            let reply = Verified::assertion(Bytes::from(answer_body(answer_fields("36"))), "k");
            assert!(is_unclear(&signing(|with| provider().decode(&operation, status, reply, with))));
        }
    }
}
