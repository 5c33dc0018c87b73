//! One test for each promise about idempotency and money safety. Retention of keys is tested in the ledger's unit tests,
//! which have a fake clock. Payments on two channels are in `duplicate_payment.rs`, reversals of scanned codes in
//! `providers/scanned_codes.rs`.

use serde_json::{Value, json};

use crate::harness::{Answer, OTHER, SHOP, World, payment_body, send, signed_headers, signed_request};
use crate::stores::Stores;

fn code(answer: &Answer) -> (u16, String) {
    (answer.status, answer.json()["code"].as_str().unwrap_or_default().to_owned())
}

async fn creations(world: &World, order: &str) -> Value {
    world.provider_order(order).await["arrivals"]["create"].clone()
}

mod idempotency {
    use super::*;

    #[tokio::test]
    async fn post_without_valid_idempotency_key_is_400() {
        let world = World::new().await;
        let long = "k".repeat(256);
        for key in [None, Some(""), Some("a b"), Some(long.as_str())] {
            let answer = world.signed_request("POST", "/v1/payments", key, &payment_body("o-1")).await;
            assert_eq!(answer.status, 400, "{key:?}: {:?}", answer.body);
            assert!(answer.json()["detail"].as_str().unwrap().contains("Idempotency-Key"), "{:?}", answer.body);
        }
        assert_eq!(world.create("o-1", &long[1..]).await.status, 201);
    }

    #[tokio::test]
    async fn idempotency_key_scope_is_merchant_method_and_path() {
        let world = World::new().await;
        assert_eq!(world.create("o-1", "k").await.status, 201);
        let theirs =
            signed_request(world.gateway.listen, &OTHER, "POST", "/v1/payments", Some("k"), &payment_body("o-1")).await;
        assert_eq!((theirs.status, theirs.is_replayed()), (201, false), "another merchant");
        let closed = world.signed_request("POST", "/v1/payments/o-1/close", Some("k"), &Value::Null).await;
        assert_eq!((closed.status, closed.is_replayed()), (200, false), "another path");
    }

    #[tokio::test]
    async fn same_key_with_different_body_is_422() {
        let world = World::new().await;
        world.create("o-1", "k").await;
        // The fingerprint is computed over the body as received, not over its meaning.
        let spaced = format!("{} ", payment_body("o-1"));
        let mut headers = signed_headers(&SHOP, "POST", "/v1/payments", spaced.as_bytes());
        headers.push(("idempotency-key", "k".to_owned()));
        let url = format!("http://{}/v1/payments", world.gateway.listen);
        let answer = send("POST", &url, &headers, spaced.as_bytes()).await.unwrap();
        assert_eq!(code(&answer), (422, "idempotency_key_reused".to_owned()));
    }

    #[tokio::test]
    async fn request_in_progress_is_409_with_retry_after() {
        let world = World::new().await;
        world.inject_fault(json!({"operation": "create", "fault": "delay", "delay_ms": 1500})).await;
        let (first, second) = tokio::join!(world.create("o-1", "k"), world.create("o-1", "k"));
        let (done, running) = if first.status == 201 { (first, second) } else { (second, first) };
        assert_eq!((done.status, code(&running)), (201, (409, "request_in_progress".to_owned())));
        assert!(running.headers.contains_key("retry-after"));
    }

    #[tokio::test]
    async fn finished_and_declined_requests_are_replayed() {
        let world = World::new().await;
        let decline = json!({"operation": "create", "fault": "status", "status": 400, "code": "PARAM_ERROR"});
        world.inject_fault(decline).await;
        for (order, status) in [("declined", 402), ("created", 201)] {
            let first = world.create(order, order).await;
            let again = world.create(order, order).await;
            assert_eq!((first.status, again.status), (status, status), "{:?}", first.body);
            assert_eq!(first.body, again.body);
            assert_eq!((first.is_replayed(), again.is_replayed()), (false, true));
            assert_eq!(creations(&world, order).await, 1);
        }
    }

    #[tokio::test]
    async fn request_rejected_before_claim_does_not_consume_key() {
        let world = World::new().await;
        let url = format!("http://{}/v1/payments", world.gateway.listen);
        let key = ("idempotency-key", "k".to_owned());
        let denied = send("POST", &url, std::slice::from_ref(&key), payment_body("o-1").to_string().as_bytes()).await;
        assert_eq!(denied.unwrap().status, 401);
        let malformed = world.signed_request("POST", "/v1/payments", Some("k"), &json!({"order_id": "o-1"})).await;
        assert_eq!(malformed.status, 400, "{:?}", malformed.body);
        let created = world.create("o-1", "k").await;
        assert_eq!((created.status, created.is_replayed()), (201, false));
    }

    #[tokio::test]
    async fn rate_limited_request_does_not_consume_key() {
        let world = World::new().await;
        let file = world.conf().join("merchants/shop.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("limit = {{ rate = 1, burst = 1 }}\n{text}")).unwrap();
        assert_eq!(world.reload().await.status, 200);
        let mut number = 0;
        let limited = loop {
            number += 1;
            let order = format!("o-{number}");
            let answer = world.create(&order, &order).await;
            match answer.status {
                429 => break order,
                status => assert_eq!((status, number < 100), (201, true), "{:?}", answer.body),
            }
        };
        let created = crate::harness::until("the rate limit admits the request", || async {
            let answer = world.create(&limited, &limited).await;
            if answer.status == 429 { Err("limited") } else { Ok(answer) }
        })
        .await;
        assert_eq!((created.status, created.is_replayed()), (201, false));
    }

    #[tokio::test]
    async fn not_sent_releases_claim_and_same_key_retries() {
        let world = World::new().await;
        world.inject_fault(json!({"operation": "*", "fault": "refuse_connection", "times": 3})).await;
        let refused = world.create("o-1", "k").await;
        assert_eq!(code(&refused), (503, "provider_unreachable".to_owned()));
        assert_eq!(refused.json()["retryable"], "same_key");
        let again = world.create("o-1", "k").await;
        assert_eq!((again.status, again.is_replayed()), (201, false));
    }

    #[tokio::test]
    async fn unknown_is_202_and_repeat_returns_current_state_without_resending() {
        let world = World::new().await;
        world.inject_fault(json!({"operation": "create", "fault": "cut_after"})).await;
        let unknown = world.create("o-1", "k").await;
        assert_eq!((unknown.status, &unknown.json()["status"]), (202, &json!("unknown")));
        world.until_status("o-1", "pending").await;
        // Only the resolver repeats the identical create, to recover the lost action.
        crate::idempotency::until_payable(&world, "o-1").await;
        let sent = creations(&world, "o-1").await;
        let present = world.create("o-1", "k").await;
        assert_eq!((present.status, &present.json()["status"]), (201, &json!("pending")));
        assert_eq!(creations(&world, "o-1").await, sent);
        world.assert_created_once("o-1").await;
    }

    #[tokio::test]
    async fn same_order_with_another_key_is_same_payment_or_id_conflict() {
        let world = World::new().await;
        world.create("o-1", "k-1").await;
        let same = world.create("o-1", "k-2").await;
        assert_eq!((same.status, &same.json()["order_id"]), (201, &json!("o-1")));
        let mut other = payment_body("o-1");
        other["amount"]["value"] = 1001.into();
        let refused = world.signed_request("POST", "/v1/payments", Some("k-3"), &other).await;
        assert_eq!(code(&refused), (422, "id_conflict".to_owned()));
        assert_eq!(creations(&world, "o-1").await, 1);
    }

    #[tokio::test]
    async fn claim_is_durable_before_send_and_orphan_is_resolved_by_query() {
        let mut world = World::new().await;
        world.inject_fault(json!({"operation": "create", "fault": "delay", "delay_ms": 60000})).await;
        let listen = world.gateway.listen;
        let asking = tokio::spawn(async move {
            crate::harness::try_signed_request(
                listen,
                &SHOP,
                "POST",
                "/v1/payments",
                Some("k"),
                payment_body("o-1").to_string().as_bytes(),
            )
            .await
        });
        crate::harness::until("the request reached the provider", || async {
            let seen = world.provider_order("o-1").await;
            if seen["arrivals"]["create"] == 1 { Ok(()) } else { Err(seen) }
        })
        .await;
        world.gateway.kill();
        assert!(asking.await.unwrap().is_err());
        world.start().await;
        assert!(world.until_decided("o-1", "k").await.is_replayed());
        world.until_status("o-1", "pending").await;
        assert_eq!(world.create("o-1", "k").await.status, 201);
        world.assert_created_once("o-1").await;
    }
}

mod money_safety {
    use super::*;

    #[tokio::test]
    async fn unverifiable_response_is_unknown_until_query_resolves_it() {
        let world = World::new().await;
        for fault in ["cut_unread", "cut_after", "wrong_signature", "unsigned", "stale", "garbage"] {
            // Only the first create of this order fails; the one that recovers the lost `action` succeeds. A connection that is cut before
            // the body was read has no order number.
            let number = (fault != "cut_unread").then(|| World::provider_order_no(fault));
            world.inject_fault(json!({"operation": "create", "fault": fault, "number": number})).await;
            let payment = world.create(fault, fault).await.json();
            assert_eq!(
                (&payment["status"], &payment["money_state"]),
                (&json!("unknown"), &json!("unknown")),
                "{fault}"
            );
            assert_eq!(payment["action"], Value::Null, "{fault}");
        }
        for fault in ["cut_after", "wrong_signature", "unsigned", "stale", "garbage"] {
            assert_eq!(world.until_status(fault, "pending").await["money_state"], "not_moved", "{fault}");
        }
    }

    #[tokio::test]
    async fn not_found_counts_only_after_grace_period_and_twice() {
        let world = World::new().await;
        world.inject_fault(json!({"operation": "create", "fault": "cut_before"})).await;
        let start = std::time::Instant::now();
        world.create("o-1", "k").await;
        let failed = world.until_status("o-1", "failed").await;
        // The grace period of the channel is 2 s; an earlier failure would be a guess.
        assert!(start.elapsed().as_secs() >= 2, "not found was accepted before the grace period ended");
        assert_eq!(failed["money_state"], "not_moved");
        assert!(
            world.provider_order("o-1").await["arrivals"]["query"].as_u64().unwrap() >= 2,
            "the provider was queried at least twice"
        );
    }

    #[tokio::test]
    async fn amount_or_account_mismatch_is_rejected_and_published() {
        let world = World::new().await;
        for (order, tamper) in [("amount", "amount"), ("account", "account")] {
            world.create(order, order).await;
            let path = format!("/orders/{}", World::provider_order_no(order));
            world.sandbox_control("POST", &format!("{path}/pay"), json!({"notify": false})).await;
            world.sandbox_control("POST", &format!("{path}/notify"), json!({"tamper": tamper})).await;
        }
        world.receiver.until("amount", "payment.mismatch").await;
        for order in ["amount", "account"] {
            let events = world.receiver.events_of(order);
            assert!(!events.iter().any(|event| event.json()["type"] == "payment.succeeded"), "{order}");
        }
        world
            .inject_fault(
                json!({"operation": "query", "fault": "other_amount", "number": World::provider_order_no("amount")}),
            )
            .await;
        let asked = world.signed_request("GET", "/v1/payments/amount", None, &Value::Null).await.json();
        assert_ne!(asked["status"], "succeeded", "a query response with another amount is rejected");
    }

    #[tokio::test]
    async fn interrupted_close_is_retried_until_closed() {
        let world = World::new().await;
        world.create("o-1", "k").await;
        world.inject_fault(json!({"operation": "close", "fault": "cut_before"})).await;
        let unclear = world.signed_request("POST", "/v1/payments/o-1/close", Some("c"), &Value::Null).await;
        assert_eq!((unclear.status, &unclear.json()["status"]), (202, &json!("pending")), "{:?}", unclear.body);
        world.receiver.until("o-1", "payment.closed").await;
        let seen = world.provider_order("o-1").await;
        assert_eq!((&seen["state"], &seen["arrivals"]["close"]), (&json!("CLOSED"), &json!(2)), "{seen}");
    }

    #[tokio::test]
    async fn long_unknown_payment_is_escalated_to_manual_review() {
        // The escalation uses the gateway's own clock, which shared stores ignore.
        if Stores::are_shared() {
            return;
        }
        let mut world = World::new().await;
        world.inject_fault(json!({"operation": "query", "fault": "garbage", "times": 1000})).await;
        world.inject_fault(json!({"operation": "create", "fault": "cut_after"})).await;
        assert_eq!(world.create("o-1", "k").await.status, 202);
        let first = world.receiver.until("o-1", "payment.unknown").await;
        world.gateway.kill();
        world.gateway.clock_ahead = 25 * 3600;
        world.start().await;
        world.until_metric("tollgate_manual_review_total{channel=\"main\"} 1").await;
        crate::harness::until("a second payment.unknown is delivered", || async {
            let repeats =
                world.receiver.events_of("o-1").into_iter().filter(|event| event.json()["type"] == "payment.unknown");
            let ids: Vec<String> = repeats.map(|event| event.id).filter(|id| *id != first.id).collect();
            if ids.is_empty() { Err(world.explain_json("o-1").await) } else { Ok(()) }
        })
        .await;
        let timeline = world.explain_json("o-1").await;
        for what in
            ["\"status\":\"unknown\"", "\"needs_review\":true", "\"what\":\"manual_review\"", "\"operation\":\"query\""]
        {
            assert!(timeline.contains(what), "{what}: {timeline}");
        }
    }

    #[tokio::test]
    async fn missing_notification_is_detected_without_status_query() {
        if Stores::are_shared() {
            return;
        }
        let mut world = World::new().await;
        world.create("o-1", "k").await;
        world.gateway.kill();
        let path = format!("/orders/{}/pay", World::provider_order_no("o-1"));
        world.sandbox_control("POST", &path, json!({"notify": false})).await;
        // The provider's usual time is 5 minutes. The clock is moved by less, because a signature may be at most 5 minutes old.
        world.gateway.clock_ahead = 285;
        world.start().await;
        world.receiver.until("o-1", "payment.succeeded").await;
    }

    #[tokio::test]
    async fn status_query_finds_payment_without_notification() {
        let world = World::new().await;
        world.create("o-1", "k").await;
        let path = format!("/orders/{}/pay", World::provider_order_no("o-1"));
        world.sandbox_control("POST", &path, json!({"notify": false})).await;
        world.until_status("o-1", "succeeded").await;
        world.receiver.until("o-1", "payment.succeeded").await;
    }
}
