//! Client of the running gateway's admin port, for `tollgate rollback` and `tollgate explain`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tollgate_config::{Process, ServerTls};

/// Sends a request to the admin port of the gateway with this configuration. Returns status and body.
pub(crate) async fn ask(process: &Process, method: &str, target: &str) -> Result<(u16, Value), String> {
    let address = reachable_address(process.admin_listen);
    let headers: Vec<_> = process.admin_token.iter().map(|token| ("authorization", token.header())).collect();
    let stream = TcpStream::connect(address).await.map_err(|error| format!("cannot reach {address}: {error}"))?;
    let Some(tls) = &process.admin_tls else {
        return exchange(stream, address, method, target, &headers).await;
    };
    let name = ServerName::from(address.ip());
    let stream = TlsConnector::from(config(tls)?).connect(name, stream).await;
    let stream = stream.map_err(|error| {
        let advice = "after a change of the file, send the gateway SIGHUP: a reload serves the new certificate";
        format!("the admin port at {address} does not present the certificate of `admin.tls`: {error}; {advice}")
    })?;
    exchange(stream, address, method, target, &headers).await.map_err(|error| match &tls.client_ca {
        Some(_) => {
            format!("{error}; it requires a certificate issued by `admin.tls.client_ca`: use curl with --cert and --key, as in `curl -X {method} …{target}`")
        }
        None => error,
    })
}

/// Sends one request over the connection. Returns the status and the body: JSON, or a JSON string if the body is another text.
async fn exchange<S>(
    stream: S,
    to: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&'static str, String)],
) -> Result<(u16, Value), String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let broken = |error: hyper::Error| format!("the connection to {to} broke: {error}");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(target).header("host", to.to_string());
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(broken)?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.map_err(broken)?.to_bytes();
    let text = || Value::from(String::from_utf8_lossy(&body).into_owned());
    Ok((status, serde_json::from_slice(&body).unwrap_or_else(|_| text())))
}

/// Returns the address to connect to: the loopback address if the gateway listens on all addresses.
fn reachable_address(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

fn config(tls: &ServerTls) -> Result<Arc<ClientConfig>, String> {
    let certificate_error = |error: &dyn std::fmt::Display| format!("admin.tls.cert: {error}");
    let expected =
        tls.identity.certificates.first().ok_or_else(|| certificate_error(&"the file contains no certificate"))?;
    let expected = CertificateDer::from(expected.clone());
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(PinnedCertificate { expected, provider: Arc::clone(&provider) });
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| certificate_error(&error))?;
    Ok(Arc::new(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()))
}

/// Accepts exactly the configured certificate, so that no authority is needed.
#[derive(Debug)]
struct PinnedCertificate {
    expected: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedCertificate {
    fn verify_server_cert(
        &self,
        presented: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match *presented == self.expected {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        presented: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, presented, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        presented: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, presented, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
