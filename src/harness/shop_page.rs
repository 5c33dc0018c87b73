//! A shop's page for one payment: the QR code, and a status that changes by itself. The browser watches the payment at
//! the gateway with the token that the shop got for it. The shop's own server is not involved any more.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use qrcode::QrCode;
use qrcode::render::svg::Color;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::http_client::{json_bytes, send_json};
use crate::merchant::{MerchantKey, provider_number};

/// The page. Upper-case words in double braces are filled in.
const PAGE: &str = include_str!("shop_page/page.html");

/// A running page server. Dropping it closes the listener.
#[derive(Debug)]
pub struct ShopPage {
    address: SocketAddr,
    task: JoinHandle<()>,
}

/// The shop behind the page.
#[derive(Clone, Debug)]
pub struct Shop {
    /// Name of the merchant, as its file is named.
    pub merchant: String,
    /// Key with which the shop signs.
    pub key: MerchantKey,
    /// Address of the gateway.
    pub gateway: SocketAddr,
    /// Control address of the sandbox, which plays the payer.
    pub sandbox: SocketAddr,
}

impl ShopPage {
    /// Opens the page on a free port. Each visit makes an order; `prefix` begins its id.
    pub async fn open(shop: Shop, prefix: &str) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let server = Arc::new(Server { shop, prefix: prefix.to_owned(), orders: AtomicU32::new(0) });
        Ok(Self { address, task: tokio::spawn(accept(listener, server)) })
    }

    /// URL of the page.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }
}

impl Drop for ShopPage {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Server {
    shop: Shop,
    prefix: String,
    orders: AtomicU32,
}

async fn accept(listener: TcpListener, server: Arc<Server>) {
    while let Ok((stream, _)) = listener.accept().await {
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&server), request));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(server: Arc<Server>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path();
    let (status, kind, body) = match (request.method(), path.strip_prefix("/pay/")) {
        (&Method::GET, None) if path == "/" => match server.page().await {
            Ok(page) => (StatusCode::OK, "text/html; charset=utf-8", page),
            Err(error) => (StatusCode::BAD_GATEWAY, "text/plain; charset=utf-8", error),
        },
        (&Method::POST, Some(order)) => match server.pay(order).await {
            Ok(()) => (StatusCode::NO_CONTENT, "text/plain", String::new()),
            Err(error) => (StatusCode::BAD_GATEWAY, "text/plain; charset=utf-8", error),
        },
        _ => (StatusCode::NOT_FOUND, "text/plain", "There is only the page `/`.".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

impl Server {
    /// Makes an order and returns its page. All values are the shop's own or of the gateway's alphabet, so that none
    /// needs escaping.
    async fn page(&self) -> Result<String, String> {
        let number = self.orders.fetch_add(1, Ordering::Relaxed) + 1;
        let order = format!("{}-{number}", self.prefix);
        let body = json!({"order_id": order, "amount": {"value": 888, "currency": "CNY"}, "description": "龙井茶 Longjing tea", "method": "wechat.native"});
        let Shop { key, gateway, .. } = &self.shop;
        let headers = [("idempotency-key", order.as_str())];
        let answer = key.send(*gateway, "POST", "/v1/payments", &headers, &json_bytes(&body)).await?;
        let payment = answer.json();
        let (Some(link), Some(token)) = (payment["action"]["data"].as_str(), payment["watch"].as_str()) else {
            return Err(format!("the gateway answered {}: {payment}", answer.status));
        };
        let code = QrCode::new(link).map_err(|error| error.to_string())?;
        let image = code.render::<Color<'_>>().min_dimensions(240, 240).build();
        let image = image.split_once("?>").map_or(image.as_str(), |(_, image)| image);
        let stream = format!("http://{gateway}/v1/payments/{order}/events?watch={token}");
        Ok(PAGE.replace("{{ORDER}}", &order).replace("{{STREAM}}", &stream).replace("{{QR}}", image))
    }

    /// Pays an order of this page, as the payer's phone would.
    async fn pay(&self, order: &str) -> Result<(), String> {
        let number = provider_number(&[&self.shop.merchant, order]);
        let url = format!("http://{}/orders/{number}/pay", self.shop.sandbox);
        match send_json("POST", &url, &json!({})).await? {
            (200, _) => Ok(()),
            (status, body) => Err(format!("the sandbox answered {status}: {body}")),
        }
    }
}
