//! Shutdown without lost requests, signal handlers, and HTTP/2 over mTLS.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::json;
use tokio::net::TcpStream;

use crate::harness::{SHOP, World, WorldOptions, payment_body, signed_request, until};

#[tokio::test]
async fn sigterm_finishes_in_flight_requests_then_exits() {
    let mut world = World::new().await;
    world.inject_fault(json!({"operation": "create", "fault": "delay", "delay_ms": 1000})).await;
    let listen = world.gateway.listen;
    let request = tokio::spawn(async move {
        signed_request(listen, &SHOP, "POST", "/v1/payments", Some("k"), &payment_body("o-1")).await
    });
    until("the sandbox has the order", || async {
        let seen = world.provider_order("o-1").await;
        (seen["executions"]["create"] == 1).then_some(()).ok_or(seen)
    })
    .await;
    world.gateway.signal("TERM");
    let answer = request.await.unwrap();
    assert_eq!(answer.status, 201, "{:?}", answer.body);
    assert_eq!(world.gateway.wait_exit().await, 0);
    world.start().await;
    assert_eq!(world.payment("o-1").await["status"], "pending", "the outcome was recorded before the exit");
}

#[tokio::test]
async fn sigterm_exits_idle_process_before_shutdown_timeout() {
    // The shutdown timeout of 10 minutes is longer than the test's limit: an exit in time did not wait for it.
    let mut world = World::with(WorldOptions { server: "shutdown_timeout = \"10m\"", ..WorldOptions::default() }).await;
    world.gateway.signal("TERM");
    assert_eq!(world.gateway.wait_exit().await, 0);
}

#[tokio::test]
async fn ready_gateway_has_installed_signal_handlers() {
    let mut world = World::new().await;
    for start in 0..20 {
        for (signal, name) in [(1, "HUP"), (2, "INT"), (15, "TERM")] {
            assert!(world.gateway.handles_signal(signal), "{name} at start {start}");
        }
        world.gateway.kill();
        world.start().await;
    }
}

#[tokio::test]
async fn http2_over_mtls_rejects_client_without_certificate() {
    let edit = |_: &Path, _| {};
    let server = "tls = { cert = \"channels/main/server.pem\", key = \"channels/main/server_key.pem\", client_ca = \"channels/main/ca.pem\" }";
    let world = World::with(WorldOptions { edit, server, ..WorldOptions::default() }).await;
    let keys = world.conf().join("channels/main");
    let with = h2_status(&world, client(&keys, true)).await;
    assert_eq!(with, Ok(401), "a request over mTLS is still authenticated");
    let without = h2_status(&world, client(&keys, false)).await;
    assert!(without.is_err(), "{without:?}");
}

fn client(keys: &Path, with_certificate: bool) -> rustls::ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(keys.join("ca.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let mut config = if with_certificate {
        let certificate = CertificateDer::from_pem_file(keys.join("apiclient_cert.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(keys.join("apiclient_key.pem")).unwrap();
        builder.with_client_auth_cert(vec![certificate], key).unwrap()
    } else {
        builder.with_no_client_auth()
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

async fn h2_status(world: &World, config: rustls::ClientConfig) -> Result<u16, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let stream = TcpStream::connect(world.gateway.listen).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    // The listener uses the sandbox's certificate.
    let name = ServerName::from(world.sandbox.address().ip());
    let stream = connector.connect(name, stream).await.map_err(|error| text(&error))?;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| text(&error))?;
    tokio::spawn(connection);
    let uri = format!("https://{}/v1/payments/o-1", world.gateway.listen);
    let request = Request::get(uri).body(Full::new(Bytes::new())).unwrap();
    let answer = sender.send_request(request).await.map_err(|error| text(&error))?;
    let status = answer.status().as_u16();
    answer.into_body().collect().await.map_err(|error| text(&error))?;
    Ok(status)
}
