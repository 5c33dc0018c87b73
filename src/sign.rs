//! Signs requests like a merchant, for `tollgate sign`, the demo and the tests.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clap::{Args, ValueEnum};
use sha2::{Digest, Sha256};

use crate::access::hmac_headers::message;
use crate::clock::stamp;
use crate::output::say;

/// Arguments of `tollgate sign`.
#[derive(Args)]
pub struct SignArgs {
    /// Id of the key in the merchant's file
    #[arg(long)]
    key: String,
    /// Secret of the key: env:NAME, file:PATH or plain:TEXT
    #[arg(long)]
    secret: String,
    /// Body: text, or @FILE
    #[arg(long, default_value = "")]
    data: String,
    /// Signature scheme
    #[arg(long, value_enum, default_value = "plain")]
    scheme: Scheme,
    /// HTTP method, such as POST
    method: String,
    /// URL of the request, as given to curl
    url: String,
}

/// The signature schemes.
#[derive(Clone, Copy, ValueEnum)]
enum Scheme {
    /// x-tollgate-* headers with an HMAC
    Plain,
    /// HTTP message signatures (RFC 9421)
    Rfc9421,
}

/// The inputs of a signature besides the request.
pub struct Credentials<'a> {
    /// Id of the key.
    pub key_id: &'a str,
    /// Secret of the key.
    pub secret: &'a [u8],
    /// Time of the signature in Unix seconds.
    pub created: u64,
    /// Nonce, used once.
    pub nonce: &'a str,
}

/// Header names and values.
pub type Headers = Vec<(&'static str, String)>;

/// Signs with the x-tollgate-* scheme.
pub fn plain(credentials: &Credentials<'_>, method: &str, path_and_query: &str, body: &[u8]) -> Headers {
    let timestamp = credentials.created.to_string();
    let hmac_tag = hmac_tag(credentials.secret, &message(method, path_and_query, &timestamp, credentials.nonce, body));
    vec![
        ("x-tollgate-key", credentials.key_id.to_owned()),
        ("x-tollgate-timestamp", timestamp),
        ("x-tollgate-nonce", credentials.nonce.to_owned()),
        ("x-tollgate-signature", hex::encode(hmac_tag.as_ref())),
    ]
}

/// Signs with RFC 9421 over `@method`, `@path`, `@query` and, if there is a body, `content-digest`.
pub fn rfc9421(credentials: &Credentials<'_>, method: &str, path_and_query: &str, body: &[u8]) -> Headers {
    let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
    let mut base = format!("\"@method\": {method}\n\"@path\": {path}\n\"@query\": ?{query}\n");
    let mut covered = r#""@method" "@path" "@query""#.to_owned();
    let mut headers = Headers::new();
    if !body.is_empty() {
        let digest = format!("sha-256=:{}:", BASE64_STANDARD.encode(Sha256::digest(body)));
        base.push_str(&format!("\"content-digest\": {digest}\n"));
        covered.push_str(r#" "content-digest""#);
        headers.push(("content-digest", digest));
    }
    let parameters = format!(
        "({covered});created={};nonce=\"{}\";keyid=\"{}\";alg=\"hmac-sha256\"",
        credentials.created, credentials.nonce, credentials.key_id
    );
    base.push_str(&format!("\"@signature-params\": {parameters}"));
    headers.push(("signature-input", format!("sig1={parameters}")));
    headers.push((
        "signature",
        format!("sig1=:{}:", BASE64_STANDARD.encode(hmac_tag(credentials.secret, base.as_bytes()))),
    ));
    headers
}

/// Prints the headers, one per line, for `curl -H @-`.
pub fn run(arguments: SignArgs) -> Result<(), String> {
    let url: http::Uri = arguments.url.parse().map_err(|_| format!("`{}` is no URL", arguments.url))?;
    let target = url.path_and_query().map_or("/", |target| target.as_str());
    let secret = secret(&arguments.secret)?;
    let body = match arguments.data.strip_prefix('@') {
        Some(path) => std::fs::read(path).map_err(|error| format!("{path}: {error}"))?,
        None => arguments.data.into_bytes(),
    };
    let stamp = stamp();
    let credentials =
        Credentials { key_id: &arguments.key, secret: &secret, created: stamp.unix_time, nonce: &stamp.nonce };
    let method = arguments.method.to_ascii_uppercase();
    let headers = match arguments.scheme {
        Scheme::Plain => plain(&credentials, &method, target, &body),
        Scheme::Rfc9421 => rfc9421(&credentials, &method, target, &body),
    };
    for (name, value) in headers {
        say!("{name}: {value}");
    }
    Ok(())
}

fn secret(source: &str) -> Result<Vec<u8>, String> {
    match source.split_once(':') {
        Some(("env", name)) => std::env::var(name)
            .map(String::into_bytes)
            .map_err(|_| format!("the environment has no `{name}`; export it")),
        Some(("file", path)) => {
            let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
            Ok(text.trim_end_matches(['\r', '\n']).as_bytes().to_vec())
        }
        Some(("plain", text)) => Ok(text.as_bytes().to_vec()),
        _ => Err("give --secret as env:NAME, file:PATH or plain:TEXT".to_owned()),
    }
}

fn hmac_tag(secret: &[u8], message: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message)
}
