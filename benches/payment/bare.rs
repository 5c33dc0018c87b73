//! Bare Pingora proxy as a process of its own: forwards requests over the same mutual TLS and does nothing else.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use async_trait::async_trait;
use pingora::proxy::{ProxyHttp, Session, http_proxy_service};
use pingora::server::Server;
use pingora::server::configuration::ServerConf;
use pingora::upstreams::peer::HttpPeer;
use pingora::utils::tls::{CertKey, WrappedX509, parse_x509};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::stage::{Process, Stage, until_open};

/// Argument that makes the bench binary this proxy: `WORD LISTEN UPSTREAM ACCOUNT_DIRECTORY`.
pub const ARGUMENT: &str = "--bare-proxy";

pub async fn start(stage: &Stage) -> Process {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([ARGUMENT, &stage.bare.to_string(), &stage.provider.to_string()]).arg(&stage.account);
    let process = Process(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    until_open(stage.bare).await;
    process
}

pub fn serve(arguments: &[String]) -> ! {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let [listen, upstream, account] = arguments else { panic!("three arguments") };
    let account = PathBuf::from(account);
    let der = |file: &str| CertificateDer::from_pem_file(account.join(file)).unwrap().to_vec();
    let key = PrivateKeyDer::from_pem_file(account.join("apiclient_key.pem")).unwrap().secret_der().to_vec();
    let authority: Arc<[WrappedX509]> = vec![WrappedX509::new(der("ca.pem"), parse_x509)].into();
    let mut peer = HttpPeer::new(upstream.as_str(), true, "127.0.0.1".to_owned());
    peer.client_cert_key = Some(Arc::new(CertKey::new(vec![der("apiclient_cert.pem")], key)));
    peer.options.ca = Some(authority);
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let mut server = Server::new_with_opt_and_conf(None, ServerConf { threads, ..ServerConf::default() });
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, Bare { peer, host: upstream.clone() });
    service.add_tcp(listen);
    server.add_service(service);
    server.run_forever()
}

struct Bare {
    peer: HttpPeer,
    host: String,
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) -> Self::CTX {}

    async fn upstream_peer(&self, _: &mut Session, (): &mut Self::CTX) -> pingora::Result<Box<HttpPeer>> {
        Ok(Box::new(self.peer.clone()))
    }

    async fn upstream_request_filter(
        &self,
        _: &mut Session,
        request: &mut pingora::http::RequestHeader,
        (): &mut Self::CTX,
    ) -> pingora::Result<()> {
        request.insert_header("host", &self.host)
    }
}
