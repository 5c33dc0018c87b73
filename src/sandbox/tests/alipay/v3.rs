//! Tests of Alipay's v3 protocol.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::app::{Fixture, Reply};
use crate::keygen::SandboxProvider;

const PRECREATE: &str = "/v3/alipay/trade/precreate";

/// A request of which tests can change each part.
struct Sent {
    verb: &'static str,
    target: String,
    body: String,
    who: String,
    authorization: Option<String>,
    headers: Vec<(&'static str, String)>,
}

impl Sent {
    fn new(fixture: &Fixture, target: &str, content: &Value) -> Self {
        let mut headers = vec![("content-type", "application/json".to_owned()), ("alipay-request-id", "1".to_owned())];
        if let Some(sn) = fixture.app.account.get("certificates") {
            headers.push(("alipay-root-cert-sn", sn["alipay_root_cert_sn"].as_str().unwrap().to_owned()));
        }
        let who = fixture.app.who(Timestamp::now().as_millisecond());
        let (target, body) = (target.to_owned(), content.to_string());
        Self { verb: "POST", target, body, who, authorization: None, headers }
    }

    async fn by(self, fixture: &Fixture) -> Reply {
        let signed = || fixture.app.authorization(&self.who, self.verb, &self.target, &self.body);
        let authorization = self.authorization.clone().unwrap_or_else(signed);
        let mut request = Request::builder().method(self.verb).uri(&self.target).header("host", "127.0.0.1");
        for (name, value) in
            self.headers.iter().chain([&("authorization", authorization)]).filter(|it| !it.1.is_empty())
        {
            request = request.header(*name, value);
        }
        fixture.app.send_v3(request.body(Full::new(Bytes::from(self.body))).unwrap()).await.unwrap()
    }
}

async fn fixture() -> Fixture {
    Fixture::with(SandboxProvider::ALIPAY_V3, |_| {}).await
}

#[tokio::test]
async fn trade_lifecycle_in_v3_protocol_equals_form_protocol() {
    let fixture = fixture().await;
    let ask = async |path: &str, content: Value| Sent::new(&fixture, path, &content).by(&fixture).await;
    let mut order = fixture.app.order("order_1");
    order["notify_url"] = json!("http://127.0.0.1:1/n");
    let made = ask(PRECREATE, order).await;
    assert!(made.status == 200 && made.is_signature_valid && made.object.get("code").is_none(), "{made:?}");
    assert!(made.object["qr_code"].as_str().unwrap().starts_with("https://qr.alipay.com/"), "{made:?}");
    let unknown = ask("/v3/alipay/trade/query", json!({"out_trade_no": "order_1"})).await;
    assert_eq!(
        (unknown.status, unknown.code(), unknown.is_signature_valid),
        (400, "ACQ.TRADE_NOT_EXIST", true),
        "{unknown:?}"
    );
    fixture.pay("order_1").await;
    let paid = ask("/v3/alipay/trade/query", json!({"out_trade_no": "order_1"})).await;
    assert_eq!((&paid.object["trade_status"], &paid.object["total_amount"]), (&json!("TRADE_SUCCESS"), &json!("1.00")));
    let refund = json!({"out_trade_no": "order_1", "refund_amount": "0.30", "out_request_no": "r_1"});
    assert_eq!(ask("/v3/alipay/trade/refund", refund.clone()).await.object["fund_change"], "Y");
    assert_eq!(ask("/v3/alipay/trade/refund", refund).await.object["fund_change"], "N");
    let asked = json!({"out_trade_no": "order_1", "out_request_no": "r_1"});
    let refunded = ask("/v3/alipay/trade/fastpay/refund/query", asked).await;
    assert_eq!(refunded.object["refund_status"], "REFUND_SUCCESS", "{refunded:?}");
    let mut scanned = fixture.app.order("order_2");
    (scanned["scene"], scanned["auth_code"]) = (json!("bar_code"), json!("280000000000000008"));
    let typing = ask("/v3/alipay/trade/pay", scanned).await;
    assert!(typing.is_signature_valid && [200, 202].contains(&typing.status), "{typing:?}");
}

#[tokio::test]
async fn request_with_invalid_signature_is_rejected_unsigned() {
    let fixture = fixture().await;
    let order = fixture.app.order("order_1");
    let good = || Sent::new(&fixture, PRECREATE, &order);
    let with = |name: &'static str, value: &str| {
        let mut sent = good();
        sent.headers.retain(|(known, _)| *known != name);
        sent.headers.push((name, value.to_owned()));
        sent
    };
    let by = |who: String| Sent { who, ..good() };
    let signed = || fixture.app.authorization(&good().who, "POST", PRECREATE, &order.to_string());
    let old = fixture.app.who(Timestamp::now().as_millisecond() - 16 * 60 * 1000);
    let dearer = order.to_string().replace("1.00", "9.00");
    for (sent, code) in [
        (Sent { authorization: Some(String::new()), ..good() }, "missing-signature"),
        (Sent { authorization: Some(signed().replace(",sign=", ",sign=AAAA")), ..good() }, "invalid-signature"),
        (Sent { authorization: Some(signed()), body: dearer, ..good() }, "invalid-signature"),
        (
            Sent { authorization: Some(signed()), target: "/v3/alipay/trade/create".into(), ..good() },
            "invalid-signature",
        ),
        (by(old), "invalid-timestamp"),
        (by(good().who.replace("timestamp=", "timestamp=x")), "invalid-timestamp"),
        (by(good().who.replace("nonce=0123456789abcdef", "nonce=1")), "invalid-nonce"),
        (by(good().who.replace("app_cert_sn=", "app_cert_sn=0")), "invalid-app-cert-sn"),
        (by(good().who.replace("app_id=", "app_id=9")), "invalid-app-id"),
        (by(good().who + ",surprise=1"), "missing-signature"),
        (with("alipay-root-cert-sn", "0"), "invalid-alipay-root-cert-sn"),
        (with("alipay-request-id", ""), "missing-request-id"),
        (with("content-type", "text/plain"), "invalid-content-type"),
        (with("alipay-app-auth-token", "t"), "invalid-signature"),
        (Sent { target: "/v3/alipay/trade/dance".into(), ..good() }, "invalid-method"),
        (Sent { target: "/v3/alipay/trade/page/pay".into(), ..good() }, "invalid-method"),
        (Sent { verb: "PUT", ..good() }, "invalid-method"),
    ] {
        let reply = sent.by(&fixture).await;
        assert!(reply.status >= 400 && !reply.is_signature_valid, "{reply:?}");
        assert_eq!(reply.code(), code, "{reply:?}");
    }
    assert_eq!(fixture.simulator.control_get("/orders").await, json!([]));
    let strange = Sent::new(&fixture, PRECREATE, &json!({"out_trade_no": "order_1", "surprise": 1})).by(&fixture).await;
    assert_eq!((strange.status, strange.code(), strange.is_signature_valid), (400, "ACQ.INVALID_PARAMETER", true));
}
