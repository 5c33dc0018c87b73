//! The listener: TCP ▶ TLS with client certificates ▶ HTTP/1.1 or HTTP/2, and the cutting of connections.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
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
use super::fault::Kind;
use super::keys::serial_of;
use super::{Shared, accept, alipay, unionpay, wechat_v2, wechat_v3};

/// What becomes of a request.
pub(super) enum Verdict {
    Answer(Response<Full<Bytes>>),
    /// The connection is closed without a word.
    Cut,
    /// The stream is reset, as one that was not processed.
    Refuse,
}

/// No request of any interface here is nearly as long.
pub(super) const LONGEST_BODY: usize = 1 << 20;

/// Counts a cut.
pub(super) fn cut(shared: &Shared) -> Verdict {
    shared.books.lock().stats.cuts += 1;
    Verdict::Cut
}

/// What the script wants instead of reading on.
pub(super) fn unread(shared: &Shared, operation: &str, number: Option<&str>) -> Option<Verdict> {
    let kind = shared.script.lock().for_head(operation, number)?;
    Some(if kind == Kind::RefuseStream { Verdict::Refuse } else { cut(shared) })
}

/// Each provider's dialect has paths of its own. `identity` is the serial number of the connection's client certificate.
async fn serve(shared: Arc<Shared>, identity: Option<String>, request: Request<Incoming>) -> Verdict {
    match request.uri().path() {
        // Whoever only looks whether somebody is there.
        "/" if request.method() == http::Method::GET => {
            let mut page = Response::new(Full::from("There is nothing here.\n"));
            *page.status_mut() = http::StatusCode::NOT_FOUND;
            Verdict::Answer(page)
        }
        "/gateway.do" => alipay::serve(shared, request).await,
        path if path.starts_with(alipay::v3::PATHS) => alipay::v3::serve(shared, request).await,
        path if wechat_v2::is_path(path) => wechat_v2::serve(shared, identity, request).await,
        path if path.starts_with("/gateway/api/") || path == unionpay::FILES => unionpay::serve(shared, request).await,
        alipay::bills::PATH => alipay::bills::serve(shared, request).await,
        _ => wechat_v3::serve(shared, identity, request).await,
    }
}

/// Both ways to shake hands.
pub(super) struct Tls {
    usual: TlsAcceptor,
    /// Asks for a client certificate and refuses every one.
    refusing: TlsAcceptor,
}

impl Tls {
    /// Reads the files.
    pub(super) fn read(files: &TlsFiles, require_client_certificate: bool) -> io::Result<Self> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(&files.ca).map_err(io::Error::other)? {
            roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let verifier = if require_client_certificate { verifier } else { verifier.allow_unauthenticated() };
        let verifier = verifier.build().map_err(io::Error::other)?;
        let refusing = Arc::new(Refusing(verifier.clone()));
        Ok(Self { usual: acceptor(files, provider.clone(), verifier)?, refusing: acceptor(files, provider, refusing)? })
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
    // A resumed session would show no certificate again, and each connection's is to be seen.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves until the sandbox stops.
pub(super) async fn run(shared: Arc<Shared>, listener: TcpListener, tls: Tls) {
    loop {
        let stream = accept(&listener).await;
        let fault = shared.script.lock().for_connection();
        if fault == Some(Kind::RefuseConnection) {
            shared.books.lock().stats.refused_connections += 1;
            continue;
        }
        let refuse = fault == Some(Kind::RefuseClientCertificate);
        let acceptor = if refuse { &tls.refusing } else { &tls.usual };
        shared.spawn(connection(shared.clone(), acceptor.clone(), stream));
    }
}

async fn connection(shared: Arc<Shared>, acceptor: TlsAcceptor, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let stream = match acceptor.accept(stream).into_fallible().await {
        Ok(stream) => stream,
        Err((_, mut stream)) => {
            shared.books.lock().stats.refused_handshakes += 1;
            // Closing with unread bytes resets the connection, and a reset can overtake the alert.
            let _ = stream.shutdown().await;
            let mut nowhere = tokio::io::sink();
            let rest = tokio::io::copy(&mut stream, &mut nowhere);
            let _ = tokio::time::timeout(Duration::from_millis(500), rest).await;
            return;
        }
    };
    shared.books.lock().stats.handshakes += 1;
    let certificates = stream.get_ref().1.peer_certificates();
    let identity = certificates.and_then(|chain| chain.first()).and_then(|certificate| serial_of(certificate));
    let cut = Arc::new(Notify::new());
    let cutting = cut.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let is_h2 = request.version() == http::Version::HTTP_2;
        let verdict = serve(shared.clone(), identity.clone(), request);
        let cut = cutting.clone();
        async move {
            match verdict.await {
                Verdict::Answer(response) => Ok(response),
                // It becomes the reset's reason.
                Verdict::Refuse if is_h2 => Err(h2::Error::from(h2::Reason::REFUSED_STREAM)),
                Verdict::Cut | Verdict::Refuse => {
                    cut.notify_one();
                    std::future::pending().await
                }
            }
        }
    });
    let http = auto::Builder::new(TokioExecutor::new());
    tokio::select! {
        _ = http.serve_connection(TokioIo::new(stream), service) => {}
        // Dropping the connection is the cut: the other side sees its end without a word of HTTP or TLS.
        () = cut.notified() => {}
    }
}

/// Asks as usual, and refuses whatever comes.
#[derive(Debug)]
struct Refusing(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Refusing {
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
