//! How `tollgate rollback` and `tollgate explain` talk to the gateway that runs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::config::{Process, ServerTls};
use crate::harness::http_client::exchange;

/// Asks the admin port of the gateway with this configuration, with its token; gives status and body.
pub(crate) async fn ask(process: &Process, method: &str, target: &str) -> Result<(u16, Value), String> {
    let to = reachable(process.admin_listen);
    let headers: Vec<_> = process.admin_token.iter().map(|token| ("authorization", token.header())).collect();
    let stream = TcpStream::connect(to).await.map_err(|error| format!("cannot reach {to}: {error}"))?;
    let Some(tls) = &process.admin_tls else {
        return exchange(stream, to, method, target, &headers, String::new()).await;
    };
    let name = ServerName::from(to.ip());
    let stream = TlsConnector::from(config(tls)?).connect(name, stream).await;
    let stream = stream.map_err(|error| {
        let advice = "after a change of the file, send the gateway SIGHUP: a reload serves the new certificate";
        format!("the admin port at {to} does not show the certificate that `admin.tls` names: {error}; {advice}")
    })?;
    exchange(stream, to, method, target, &headers, String::new()).await.map_err(|error| match &tls.client_ca {
        Some(_) => {
            format!("{error}; it wants a certificate of `admin.tls.client_ca`: use curl with --cert and --key, as in `curl -X {method} …{target}`")
        }
        None => error,
    })
}

/// Who listens everywhere listens here too.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

fn config(tls: &ServerTls) -> Result<Arc<ClientConfig>, String> {
    let cannot = |error: &dyn std::fmt::Display| format!("admin.tls.cert: {error}");
    let expected = tls.identity.certificates.first().ok_or_else(|| cannot(&"no certificate is in it"))?;
    let expected = CertificateDer::from(expected.clone());
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(Pinned { expected, provider: Arc::clone(&provider) });
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| cannot(&error))?;
    Ok(Arc::new(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()))
}

/// The certificate is known to the byte, so nobody needs to vouch for it.
#[derive(Debug)]
struct Pinned {
    expected: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match *shown == self.expected {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, shown, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, shown, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
