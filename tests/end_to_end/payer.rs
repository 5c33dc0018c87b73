//! The payer's browser and phone: opens an action that the provider does not know yet.

use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tollgate_harness::http_client::exchange;

use crate::harness::World;

const FORM: &str = "application/x-www-form-urlencoded;charset=utf-8";

impl World {
    /// Opens a signed link, form or order string at the provider, as the payer's device does. Returns the page.
    pub async fn open(&self, action: &Value) -> String {
        let text = |field: &str| action[field].as_str().unwrap_or_else(|| panic!("no {field} in {action}"));
        match text("type") {
            "redirect" => self.browse("GET", text("url"), String::new()).await,
            "form" => {
                let fields = action["fields"].as_object().unwrap();
                let pairs = fields
                    .iter()
                    .map(|(name, value)| format!("{}={}", encoded(name), encoded(value.as_str().unwrap())));
                self.browse("POST", text("url"), pairs.collect::<Vec<_>>().join("&")).await
            }
            "app" => {
                let url = format!("https://{}/gateway.do", self.sandbox.address());
                self.browse("POST", &url, action["params"]["orderStr"].as_str().unwrap().to_owned()).await
            }
            other => panic!("a device does not open {other}"),
        }
    }

    async fn browse(&self, method: &str, url: &str, body: String) -> String {
        let uri: http::Uri = url.parse().unwrap();
        let address = self.sandbox.address();
        assert_eq!(uri.authority().unwrap().as_str(), address.to_string(), "the action leads to another host");
        let stream = TcpStream::connect(address).await.unwrap();
        let connector = TlsConnector::from(trusting(&self.conf().join("channels/main/ca.pem")));
        let stream = connector.connect(ServerName::from(address.ip()), stream).await.unwrap();
        let headers = [("content-type", FORM.to_owned())];
        let page = exchange(stream, &address.to_string(), method, &uri, &headers, body.as_bytes()).await.unwrap();
        let (status, page) = (page.status, String::from_utf8_lossy(&page.body).into_owned());
        assert_eq!(status, 200, "{page}");
        page
    }
}

fn trusting(authority: &Path) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(config.with_root_certificates(roots).with_no_client_auth())
}

fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}
