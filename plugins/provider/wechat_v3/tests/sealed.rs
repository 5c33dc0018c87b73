//! Encrypted content: notifications and the published certificates.

use crate::payment::Refunded;

use super::*;

#[test]
fn published_content_is_decrypted_and_altered_byte_is_rejected() {
    let vector = &vectors()["aead"];
    let read = |ciphertext: &str, aad: Value, nonce: &str| -> Sealed {
        serde_json::from_value(
            json!({"algorithm": "AEAD_AES_256_GCM", "nonce": nonce, "associated_data": aad, "ciphertext": ciphertext}),
        )
        .unwrap()
    };
    let key = provider().merchant.api_key;
    let ciphertext = vector["ciphertext_b64"].as_str().unwrap();
    let nonce = vector["nonce"].as_str().unwrap();
    assert_eq!(read(ciphertext, vector["associated_data"].clone(), nonce).open(&key).unwrap(), b"message");
    assert!(read(ciphertext, Value::Null, nonce).open(&key).is_err());
    for bad in ["", "short", "thirteen-char"] {
        assert_eq!(read(ciphertext, json!("associatedData"), bad).open(&key), Err("the nonce does not have 12 bytes"));
    }
    let bytes = STANDARD.decode(ciphertext).unwrap();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert!(read(&STANDARD.encode(changed), json!("associatedData"), nonce).open(&key).is_err(), "byte {at}");
    }
    let empty = sealed(b"x", "");
    for aad in [json!(""), Value::Null] {
        let one: Sealed = serde_json::from_value(with(empty.clone(), "/associated_data", aad)).unwrap();
        assert_eq!(one.open(&key).unwrap(), b"x");
    }
    let one: Sealed = serde_json::from_value(without(empty, "associated_data")).unwrap();
    assert_eq!(one.open(&key).unwrap(), b"x");
}

#[test]
fn published_list_of_certificates_is_decoded() {
    let vector = &vectors()["certificates_response"];
    let text = vector["response_json"].as_str().unwrap();
    let list: Value = serde_json::from_str(text).unwrap();
    let entry: Sealed = serde_json::from_value(list["data"][0]["encrypt_certificate"].clone()).unwrap();
    let digest = hex::encode(Sha256::digest(entry.open(&provider().merchant.api_key).unwrap()));
    assert_eq!(digest, vector["decrypted_pem_sha256"].as_str().unwrap());

    let keys = provider().merchant.unseal(text.as_bytes(), NOW).unwrap();
    assert_eq!(keys[0].id, vector["serial"].as_str().unwrap());
    assert_eq!(
        keys[0].not_after,
        Some("2028-09-17T23:15:58+08:00".parse::<jiff::Timestamp>().unwrap().as_second() as u64)
    );

    let result = |text: &str, now| provider().merchant.unseal(text.as_bytes(), now).err().unwrap().why;
    assert!(result(&text.replace("5DEA10EF", "5DEA10EE"), NOW).contains("a serial number that differs"));
    assert!(result(text, keys[0].not_after.unwrap() + 1).contains("valid now"));
    assert!(result(text, NOW - 100_000_000).contains("valid now"));
    assert!(result(r#"{"data":[]}"#, NOW).contains("valid now"));
    assert!(result("{}", NOW).contains("unknown format"));
    let fake = |plain: &[u8]| {
        json!({"data": [{"serial_no": "1", "encrypt_certificate": sealed(plain, "certificate")}]}).to_string()
    };
    assert!(result(&fake(b"hello"), NOW).contains("PEM"));
    assert!(
        result(&fake(b"-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n"), NOW)
            .contains("cannot be parsed")
    );
    let unsigned =
        provider().merchant.read(&Response::new(Bytes::copy_from_slice(text.as_bytes())), &Keyring::default(), NOW);
    assert!(unsigned.err().unwrap().why.contains("it carries no signature"), "encryption alone is not enough");
    let strange = json!({"data": [{"serial_no": "1", "encrypt_certificate": with(sealed(b"x", "y"), "/nonce", json!("000000000000"))}]});
    let strange = provider().merchant.unseal(strange.to_string().as_bytes(), NOW).err().unwrap();
    assert!(strange.why.contains("our APIv3 key") && strange.advice.contains("`keys.api_v3`"), "{strange:?}");
}

#[test]
fn refused_list_of_certificates_reports_code_and_advice() {
    for (status, body, code, advice) in [
        (
            404,
            r#"{"code":"RESOURCE_NOT_EXISTS","message":"无可用的平台证书，请在商户平台-API安全申请使用微信支付公钥"}"#,
            Some("RESOURCE_NOT_EXISTS"),
            "PUB_KEY_ID_…",
        ),
        (
            404,
            r#"{"code":"RESOURCENOTEXISTS","message":""}"#,
            Some("RESOURCENOTEXISTS"),
            "has no platform certificates",
        ),
        (401, r#"{"code":"SIGN_ERROR","message":"错误的签名"}"#, Some("SIGN_ERROR"), "`keys.sign`"),
        (401, "<html>", None, "`keys.sign`"),
        (500, r#"{"code":"SYSTEM_ERROR","message":"系统异常"}"#, Some("SYSTEM_ERROR"), "retries automatically"),
        (502, "<html>", None, "retries automatically"),
    ] {
        let mut answer = Response::new(Bytes::from_static(body.as_bytes()));
        *answer.status_mut() = StatusCode::from_u16(status).unwrap();
        let refused = provider().merchant.read(&answer, &Keyring::default(), NOW).err().unwrap();
        assert_eq!(refused.provider_error.as_ref().map(|error| error.code.as_str()), code, "{body}");
        assert!(refused.advice.contains(advice), "{body}: {}", refused.advice);
        assert!(
            refused.why.contains(&status.to_string()) && code.is_none_or(|code| refused.why.contains(code)),
            "{refused}"
        );
    }
}

#[test]
fn notification_for_another_account_or_of_unknown_type_is_rejected() {
    let event = |kind: &str, original: &str, plain: &Value| {
        let body = envelope(kind, original, plain.to_string().as_bytes()).to_string();
        provider().decode_notification(verified(body))
    };
    let paid = order_state("SUCCESS");
    let known = event("TRANSACTION.SUCCESS", "transaction", &paid).unwrap();
    assert_eq!(known.id, format!("TRANSACTION.SUCCESS:{NUMBER}:42"));
    assert!(is_mismatch(&event("TRANSACTION.SUCCESS", "transaction", &with(paid.clone(), "/mchid", json!("1")))));
    assert!(is_mismatch(&event("TRANSACTION.SUCCESS", "transaction", &with(paid.clone(), "/appid", json!("1")))));
    for (kind, original) in [("REFUND.SUCCESS", "transaction"), ("TRANSACTION.SUCCESS", "refund"), ("X", "x"), ("", "")]
    {
        assert_eq!(event(kind, original, &paid).unwrap_err().code(), "unclear");
    }
    // A rejected notification is repeated for a day, so unclear content is accepted and settled by a query.
    let nameless = event("TRANSACTION.SUCCESS", "transaction", &without(paid.clone(), "transaction_id")).unwrap();
    let unpriced = event("TRANSACTION.SUCCESS", "transaction", &without(paid, "amount")).unwrap();
    let new = event("TRANSACTION.NEW", "transaction", &order_state("NEW")).unwrap();
    for asked in [nameless, unpriced, new] {
        assert_eq!((asked.order_number.as_str(), asked.outcome), (NUMBER, None), "{}", asked.id);
    }

    let notice = |status: &str| {
        json!({"mchid": "1234567891", "out_trade_no": NUMBER, "refund_id": "50", "out_refund_no": "R1",
               "refund_status": status, "amount": {"total": 6800, "refund": 300}})
    };
    for (refund_status, status) in [
        ("SUCCESS", Status::Succeeded),
        ("CLOSED", Status::Failed),
        ("ABNORMAL", Status::Pending),
        ("PROCESSING", Status::Pending),
    ] {
        let known = event(&format!("REFUND.{refund_status}"), "refund", &notice(refund_status)).unwrap();
        let outcome = known.outcome.unwrap();
        assert_eq!((outcome.status, outcome.amount), (status, Some(cny(300))));
        assert_eq!(known.refund_number.as_deref(), Some("R1"));
        let elsewhere = match refund_status {
            "SUCCESS" => Refunded::Part(cny(300)),
            "CLOSED" => Refunded::Failed,
            "ABNORMAL" => Refunded::Abnormal,
            _ => Refunded::Open,
        };
        assert_eq!(known.refunded, Some(elsewhere), "{refund_status}: it counts should the refund be none of ours");
    }
    assert!(is_mismatch(&event("REFUND.SUCCESS", "refund", &with(notice("SUCCESS"), "/mchid", json!("1")))));
    let new = event("REFUND.NEW", "refund", &notice("NEW")).unwrap();
    assert_eq!((new.outcome, new.amount, new.refunded), (None, Some(cny(300)), Some(Refunded::Open)));
}

/// Notifications of other products arrive if a merchant uses one address for all. Their format is unknown to the
/// gateway.
#[test]
fn notification_of_another_product_is_rejected_with_event_type() {
    for (event_type, original) in [
        ("MCHTRANSFER.BATCH.FINISHED", "mch_payment"),
        ("PROFITSHARING", "profitsharing"),
        ("COUPON.USE", "coupon"),
        ("TRANSACTION.SUCCESS", "combine-transaction"),
        ("PAYSCORE.USER_PAID", "payscore"),
    ] {
        let body = envelope(event_type, original, b"{}").to_string();
        let error = provider().decode_notification(verified(body)).unwrap_err();
        assert_eq!(error.code(), "unclear");
        assert!(error.to_string().contains(&format!("`{event_type}`")), "{error}");
    }
    let body = envelope(&"茶\n\u{1b}[31mX".repeat(100), "x", b"{}").to_string();
    let result = provider().decode_notification(verified(body)).unwrap_err().to_string();
    assert!(result.len() < 300 && !result.contains('\n') && !result.contains('\u{1b}'), "{result}");
}

/// WeChat Pay does not notify failed payments. If it did, a query would show whether the payer may have been charged.
#[test]
fn notified_pay_error_triggers_query() {
    let body =
        envelope("TRANSACTION.SUCCESS", "transaction", order_state("PAYERROR").to_string().as_bytes()).to_string();
    assert_eq!(provider().decode_notification(verified(body)).unwrap().outcome, None);
}

#[test]
fn acknowledgement_has_documented_format() {
    let taken = provider().acknowledge(true);
    assert_eq!((taken.status(), taken.body().len()), (StatusCode::NO_CONTENT, 0));
    let refused = provider().acknowledge(false);
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    let body: Value = serde_json::from_slice(refused.body()).unwrap();
    assert_eq!(body["code"], "FAIL");
}
