//! Watching a payment: server-sent events and WebSocket on `GET /v1/payments/{order_id}/events`.

mod reader;
mod websocket;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tollgate_harness::http_client::send;
use tollgate_harness::merchant::MerchantKey;
use tollgate_harness::shop_page::{Shop, ShopPage};
use tungstenite::WebSocket;
use tungstenite::protocol::frame::coding::CloseCode;

use self::reader::{Reader, SseEvent};
use crate::harness::{OTHER, SHOP, World, WorldOptions, payment_body, signed_headers, signed_request, until};
use crate::server::Server;

/// Creates a payment. Returns its watch token.
async fn create(world: &World, order: &str) -> String {
    let answer = world.create(order, order).await;
    assert_eq!(answer.status, 201, "{:?}", answer.body);
    answer.json()["watch"].as_str().unwrap().to_owned()
}

fn status(status: &str, version: u64) -> SseEvent {
    let data = json!({"status": status, "version": version});
    SseEvent { id: version, kind: format!("payment.{status}"), data }
}

#[tokio::test]
async fn stream_shows_present_state_then_changes_and_ends_at_a_final_one() {
    let world = World::new().await;
    let token = create(&world, "o").await;
    let mut payer = Reader::with_token(world.gateway.listen, "o", &token, None).await;
    let mut merchant = Reader::signed(world.gateway.listen, "o").await;
    for reader in [&payer, &merchant] {
        assert_eq!(reader.status, 200);
        for (name, value) in
            [("content-type", "text/event-stream"), ("cache-control", "no-store"), ("x-accel-buffering", "no")]
        {
            assert_eq!(reader.headers[name], value);
        }
        assert!(reader.headers.contains_key("x-request-id"));
    }
    assert_eq!(payer.headers["access-control-allow-origin"], "*", "the page comes from the shop");
    assert!(!merchant.headers.contains_key("access-control-allow-origin"));
    let pending = payer.next().await.unwrap();
    assert_eq!(pending, status("pending", pending.id), "a payer sees status and version only");
    let seen = merchant.next().await.unwrap();
    assert_eq!((seen.id, &seen.data["order_id"]), (pending.id, &json!("o")));
    world.pay("o").await;
    let paid = payer.next().await.unwrap();
    assert_eq!(paid, status("succeeded", paid.id));
    assert!(paid.id > pending.id);
    assert_eq!(payer.next().await, None, "the stream ends");
    assert!(payer.raw.starts_with("retry: 2000\n\n"), "{}", payer.raw);
    let seen = merchant.next().await.unwrap();
    assert_eq!(seen.data, world.payment("o").await);
    assert_eq!(merchant.next().await, None);
    world.until_metric("tollgate_streams{kind=\"sse\"} 0").await;
    world.until_metric("tollgate_streams_total{end=\"complete\",kind=\"sse\"} 2").await;
}

#[tokio::test]
async fn secret_of_the_tokens_is_made_by_the_first_payment_and_by_no_rejected_request() {
    let server = Server::start(&[]);
    let ledger = format!("kind = \"postgres\"\nurl = \"plain:{}\"", server.url);
    let world = World::with(WorldOptions { ledger: Some(ledger), ..WorldOptions::default() }).await;
    let (client, connection) = tokio_postgres::connect(&server.url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let secrets = async || {
        let count = "SELECT count(*) FROM tollgate_records WHERE space = 12 AND key = '\\x03'";
        client.query_one(count, &[]).await.unwrap().get::<_, i64>(0)
    };
    let mut body = payment_body("o");
    body["channel"] = "missing".into();
    let rejected = world.signed_request("POST", "/v1/payments", Some("k"), &body).await;
    assert_eq!((rejected.status, rejected.json()["code"].as_str()), (400, Some("unknown_channel")));
    assert_eq!(secrets().await, 0);
    create(&world, "o").await;
    assert_eq!(secrets().await, 1);
}

#[tokio::test]
async fn last_event_id_resumes_and_a_finished_payment_ends_reconnects() {
    let world = World::new().await;
    let token = create(&world, "o").await;
    let listen = world.gateway.listen;
    let first = Reader::with_token(listen, "o", &token, None).await.next().await.unwrap();
    let mut resumed = Reader::with_token(listen, "o", &token, Some(&first.id.to_string())).await;
    world.pay("o").await;
    let paid = resumed.next().await.unwrap();
    assert_eq!(paid.kind, "payment.succeeded", "the known state was not repeated");
    assert_eq!(resumed.next().await, None);
    let mut late = Reader::with_token(listen, "o", &token, Some(&first.id.to_string())).await;
    assert_eq!((late.next().await, late.next().await), (Some(paid.clone()), None));
    let done = Reader::with_token(listen, "o", &token, Some(&paid.id.to_string())).await;
    assert_eq!(done.status, 204, "an EventSource stops here");
    let mut unread = Reader::with_token(listen, "o", &token, Some("x")).await;
    assert_eq!(unread.next().await, Some(paid), "an id that is no version is ignored");
}

#[tokio::test]
async fn token_is_the_same_in_every_response_and_opens_its_payment_only() {
    let world = World::new().await;
    let token = create(&world, "o").await;
    for key in ["o", "another-key"] {
        assert_eq!(world.create("o", key).await.json()["watch"], token.as_str(), "{key}");
    }
    assert_eq!(world.payment("o").await["watch"], Value::Null);
    create(&world, "p").await;
    let listen = world.gateway.listen;
    let mut forged = token.clone().into_bytes();
    forged[50] = if forged[50] == b'A' { b'B' } else { b'A' };
    let forged = String::from_utf8(forged).unwrap();
    for (order, token) in [("p", token.as_str()), ("o", &forged), ("o", ""), ("o", "x"), ("none", &token)] {
        let refused = Reader::with_token(listen, order, token, None).await;
        assert_eq!(refused.status, 401, "{order} {token}");
        assert_eq!(refused.json().await["code"], "unauthorized");
    }
    // The token opens nothing else.
    for target in ["/v1/payments/o", "/v1/payments/o/timeline", "/v1/events"] {
        let refused = Reader::open(listen, &format!("{target}?watch={token}"), &[]).await;
        assert_eq!(refused.status, 401, "{target}");
    }
    let target = "/v1/payments/o/events";
    let foreign = Reader::open(listen, target, &signed_headers(&OTHER, "GET", target, b"")).await;
    assert_eq!(foreign.status, 404);
    assert_eq!(Reader::open(listen, target, &[]).await.status, 401);
    let post = signed_request(listen, &SHOP, "POST", target, Some("k"), &Value::Null).await;
    assert_eq!(post.status, 405);
}

#[tokio::test]
async fn ninth_stream_of_a_payment_is_refused_until_one_is_closed() {
    let world = World::new().await;
    let token = create(&world, "o").await;
    let other_token = create(&world, "p").await;
    let listen = world.gateway.listen;
    let mut readers = Vec::new();
    for _ in 0..8 {
        let mut reader = Reader::with_token(listen, "o", &token, None).await;
        reader.next().await.unwrap();
        readers.push(reader);
    }
    let refused = Reader::with_token(listen, "o", &token, None).await;
    assert_eq!((refused.status, refused.headers["retry-after"].to_str().unwrap()), (429, "5"));
    assert_eq!(refused.json().await["code"], "rate_limited");
    assert_eq!(Reader::with_token(listen, "p", &other_token, None).await.status, 200);
    // Streams use no permits of requests.
    world.until_metric("tollgate_requests_in_flight 0").await;
    readers.pop();
    until("a closed stream frees its place", || async {
        let reader = Reader::with_token(listen, "o", &token, None).await;
        if reader.status == 200 { Ok(()) } else { Err(reader.status) }
    })
    .await;
}

#[tokio::test]
async fn idle_stream_gets_comments_as_heartbeat() {
    let world = World::new().await;
    let token = create(&world, "o").await;
    let mut reader = Reader::with_token(world.gateway.listen, "o", &token, None).await;
    reader.next().await.unwrap();
    while !reader.raw.ends_with("\n:\n\n") {
        reader.receive().await;
    }
}

#[tokio::test]
async fn shutdown_ends_streams_cleanly_and_at_once() {
    // The shutdown timeout is longer than the test's limit: an exit in time did not wait for the stream.
    let mut world = World::with(WorldOptions { server: "shutdown_timeout = \"10m\"", ..WorldOptions::default() }).await;
    let token = create(&world, "o").await;
    let mut reader = Reader::with_token(world.gateway.listen, "o", &token, None).await;
    let pending = reader.next().await.unwrap();
    world.gateway.signal("TERM");
    assert_eq!(reader.next().await, None);
    assert_eq!(world.gateway.wait_exit().await, 0);
    // The page reconnects to the next process, with the same token.
    world.start().await;
    let mut reader = Reader::with_token(world.gateway.listen, "o", &token, Some(&pending.id.to_string())).await;
    world.pay("o").await;
    assert_eq!(reader.next().await.unwrap().kind, "payment.succeeded");
}

#[tokio::test]
async fn change_on_one_gateway_reaches_streams_of_both_kinds_on_another() {
    let server = Server::start(&[]);
    let ledger = format!("kind = \"postgres\"\nurl = \"plain:{}\"", server.url);
    let world = World::with(WorldOptions { ledger: Some(ledger), ..WorldOptions::default() }).await;
    let other = world.start_another("other").await;
    let token = create(&world, "o").await;
    let mut reader = Reader::with_token(other.listen, "o", &token, None).await;
    assert_eq!(reader.next().await.unwrap().kind, "payment.pending");
    let (to, target) = (other.listen, format!("/v1/payments/o/events?watch={token}"));
    let socket = websocket::blocking(move || pending_websocket(websocket::tcp(to), to, &target)).await;
    // The provider notifies the first gateway.
    world.pay("o").await;
    assert_eq!(reader.next().await.unwrap().kind, "payment.succeeded");
    assert_eq!(reader.next().await, None);
    websocket::blocking(move || assert_ends_with(socket, "succeeded")).await;
    let again = signed_request(other.listen, &SHOP, "POST", "/v1/payments", Some("o"), &payment_body("o")).await;
    assert_eq!(again.json()["watch"], token.as_str());
}

#[tokio::test]
async fn streams_of_both_kinds_run_over_tls() {
    let server = "tls = { cert = \"channels/main/server.pem\", key = \"channels/main/server_key.pem\" }";
    let mut world = World::new().await;
    let token = create(&world, "o").await;
    world.gateway.kill();
    let file = world.conf().join("tollgate.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replacen("[server]", &format!("[server]\n{server}"), 1)).unwrap();
    world.start().await;
    let target = format!("/v1/payments/o/events?watch={token}");
    let mut http1 = Reader::over_http1(tls(&world, b"http/1.1").await, &target, &[]).await;
    let mut http2 = Reader::over_http2(tls(&world, b"h2").await, &target, &[]).await;
    for reader in [&mut http1, &mut http2] {
        assert_eq!(reader.status, 200);
        assert_eq!(reader.next().await.unwrap().kind, "payment.pending");
    }
    // A reader that resets its stream frees it.
    world.until_metric("tollgate_streams{kind=\"sse\"} 2").await;
    drop(http2);
    world.until_metric("tollgate_streams{kind=\"sse\"} 1").await;
    let mut http2 = Reader::over_http2(tls(&world, b"h2").await, &target, &[]).await;
    assert_eq!(http2.next().await.unwrap().kind, "payment.pending");
    let (to, name) = (world.gateway.listen, ServerName::from(world.sandbox.address().ip()));
    let connection = ClientConnection::new(tls_settings(&world, b"http/1.1"), name).unwrap();
    let over_tls = move || pending_websocket(StreamOwned::new(connection, websocket::tcp(to)), to, &target);
    let socket = websocket::blocking(over_tls).await;
    // The sandbox cannot notify a gateway with TLS here, so the merchant asks for the state.
    let close = "/v1/payments/o/close";
    let mut headers = signed_headers(&SHOP, "POST", close, b"");
    headers.push(("idempotency-key", "c".to_owned()));
    let closed = post(tls(&world, b"http/1.1").await, close, &headers).await;
    assert_eq!(closed, 200);
    for reader in [&mut http1, &mut http2] {
        assert_eq!(reader.next().await.unwrap().kind, "payment.closed");
        assert_eq!(reader.next().await, None);
    }
    websocket::blocking(move || assert_ends_with(socket, "closed")).await;
}

/// Opens a WebSocket and reads its first state, `pending`.
fn pending_websocket<S: Read + Write>(stream: S, to: SocketAddr, target: &str) -> WebSocket<S> {
    let mut socket = websocket::connect_over(stream, to, target, "");
    assert_eq!(websocket::next(&mut socket).unwrap()["status"], "pending");
    socket
}

/// Asserts that the next state of a WebSocket is this one, and the last.
fn assert_ends_with<S: Read + Write>(mut socket: WebSocket<S>, status: &str) {
    assert_eq!(websocket::next(&mut socket).unwrap()["status"], status);
    assert_eq!(websocket::next(&mut socket), Err(CloseCode::Normal));
}

async fn post(stream: TlsStream<TcpStream>, target: &str, headers: &[(&'static str, String)]) -> u16 {
    let url = target.parse().unwrap();
    tollgate_harness::http_client::exchange(stream, "localhost", "POST", &url, headers, b"").await.unwrap().status
}

async fn tls(world: &World, protocol: &[u8]) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(world.gateway.listen).await.unwrap();
    let name = ServerName::from(world.sandbox.address().ip());
    tokio_rustls::TlsConnector::from(tls_settings(world, protocol)).connect(name, stream).await.unwrap()
}

/// TLS settings that trust the gateway's certificate and offer one protocol.
fn tls_settings(world: &World, protocol: &[u8]) -> Arc<ClientConfig> {
    let keys: &Path = &world.conf().join("channels/main");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(keys.join("ca.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    Arc::new(config)
}

/// The page watches at the gateway only, so the shop's server need not know what happens.
#[tokio::test]
async fn shop_page_turns_to_paid_after_a_restart_of_the_gateway() {
    let mut world = World::new().await;
    let shop = Shop {
        merchant: "shop".to_owned(),
        key: MerchantKey::fixed(SHOP.key, SHOP.secret),
        gateway: world.gateway.listen,
        sandbox: world.sandbox.control_address(),
    };
    let page = ShopPage::open(shop, "page").await.unwrap();
    let html = send("GET", &page.url(), &[], b"").await.unwrap();
    assert_eq!((html.status, html.headers["content-type"].to_str().unwrap()), (200, "text/html; charset=utf-8"));
    let html = String::from_utf8(html.body.to_vec()).unwrap();
    assert!(html.contains("<svg") && html.contains("new EventSource") && !html.contains("{{"), "{html}");
    let (_, stream) = html.split_once("data-stream=\"").unwrap();
    let (stream, _) = stream.split_once('"').unwrap();
    let listen = world.gateway.listen;
    let target = stream.strip_prefix(&format!("http://{listen}")).unwrap();
    let mut reader = Reader::open(listen, target, &[]).await;
    assert_eq!(reader.next().await.unwrap().kind, "payment.pending");
    world.gateway.kill();
    assert!(reader.try_next().await.is_err(), "the stream breaks off");
    world.start().await;
    let mut reader = Reader::open(listen, target, &[]).await;
    assert_eq!(reader.next().await.unwrap().kind, "payment.pending");
    let paid = send("POST", &format!("{}pay/page-1", page.url()), &[], b"").await.unwrap();
    assert_eq!(paid.status, 204);
    assert_eq!(reader.next().await.unwrap().kind, "payment.succeeded");
    assert_eq!(reader.next().await, None);
}
