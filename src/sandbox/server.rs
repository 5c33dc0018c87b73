//! The provider listener: TCP ▶ TLS with client certificates ▶ HTTP/1.1 or HTTP/2, and scripted cuts of connections.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

use super::account::TlsFiles;
use super::context::SandboxContext;
use super::fault::FaultKind;
use super::keys::serial_of;
use super::listener::accept;
use super::registry::provider_of_path;
use super::response_action::ResponseAction;

/// Dispatches a request by path: each protocol has its own. `identity` is the serial number of the connection's
/// client certificate.
async fn serve(context: Arc<SandboxContext>, identity: Option<String>, request: Request<Incoming>) -> ResponseAction {
    match request.uri().path() {
        // Answers a plain reachability check.
        "/" if request.method() == http::Method::GET => {
            let mut page = Response::new(Full::from("There is nothing here.\n"));
            *page.status_mut() = http::StatusCode::NOT_FOUND;
            ResponseAction::Answer(page)
        }
        path => provider_of_path(path).serve(context, identity, request).await,
    }
}

/// TLS acceptors for normal and for rejected handshakes.
pub(super) struct Tls {
    normal: TlsAcceptor,
    /// Requests a client certificate and rejects every one.
    rejecting: TlsAcceptor,
}

impl Tls {
    /// Loads the certificate files.
    pub(super) fn read(files: &TlsFiles, require_client_certificate: bool) -> io::Result<Self> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(&files.ca).map_err(io::Error::other)? {
            roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let verifier = if require_client_certificate { verifier } else { verifier.allow_unauthenticated() };
        let verifier = verifier.build().map_err(io::Error::other)?;
        let rejecting = Arc::new(RejectAllCertificates(verifier.clone()));
        Ok(Self {
            normal: acceptor(files, provider.clone(), verifier)?,
            rejecting: acceptor(files, provider, rejecting)?,
        })
    }
}

fn acceptor(
    files: &TlsFiles,
    provider: Arc<CryptoProvider>,
    verifier: Arc<dyn ClientCertVerifier>,
) -> io::Result<TlsAcceptor> {
    let chain = CertificateDer::pem_file_iter(&files.certificate).map_err(io::Error::other)?;
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_file(&files.private_key).map_err(io::Error::other)?;
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(io::Error::other)?.with_client_cert_verifier(verifier);
    let mut config = config.with_single_cert(chain, key).map_err(io::Error::other)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Session resumption is off: a resumed session presents no certificate, and the sandbox checks one per
    // connection.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves connections until the sandbox stops.
pub(super) async fn run(context: Arc<SandboxContext>, listener: TcpListener, tls: Tls) {
    loop {
        let stream = accept(&listener).await;
        let fault = context.script.lock().for_connection();
        if fault == Some(FaultKind::RefuseConnection) {
            context.state.lock().stats.refused_connections += 1;
            continue;
        }
        let refuse = fault == Some(FaultKind::RefuseClientCertificate);
        let acceptor = if refuse { &tls.rejecting } else { &tls.normal };
        context.spawn(connection(context.clone(), acceptor.clone(), stream));
    }
}

async fn connection(context: Arc<SandboxContext>, acceptor: TlsAcceptor, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let stream = match acceptor.accept(stream).into_fallible().await {
        Ok(stream) => stream,
        Err((_, mut stream)) => {
            context.state.lock().stats.refused_handshakes += 1;
            // Read to the end before closing: a close with unread bytes resets the connection, and a reset can
            // overtake the TLS alert.
            let _ = stream.shutdown().await;
            let mut nowhere = tokio::io::sink();
            let rest = tokio::io::copy(&mut stream, &mut nowhere);
            let _ = tokio::time::timeout(Duration::from_millis(500), rest).await;
            return;
        }
    };
    context.state.lock().stats.handshakes += 1;
    let certificates = stream.get_ref().1.peer_certificates();
    let identity = certificates.and_then(|chain| chain.first()).and_then(|certificate| serial_of(certificate));
    let cut = Arc::new(Notify::new());
    let cutting = cut.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let is_h2 = request.version() == http::Version::HTTP_2;
        let verdict = serve(context.clone(), identity.clone(), request);
        let cut = cutting.clone();
        async move {
            match verdict.await {
                ResponseAction::Answer(response) => Ok(response),
                // hyper uses this error as the reason of the reset.
                ResponseAction::Refuse if is_h2 => Err(h2::Error::from(h2::Reason::REFUSED_STREAM)),
                ResponseAction::Cut | ResponseAction::Refuse => {
                    cut.notify_one();
                    std::future::pending().await
                }
            }
        }
    });
    let http = auto::Builder::new(TokioExecutor::new());
    tokio::select! {
        _ = http.serve_connection(TokioIo::new(stream), service) => {}
        // Dropping the connection cuts it: the peer sees the end of the TCP stream without HTTP or TLS closure.
        () = cut.notified() => {}
    }
}

/// Verifier that requests client certificates and rejects all of them.
#[derive(Debug)]
struct RejectAllCertificates(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for RejectAllCertificates {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Err(CertificateError::Revoked.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
