//! Signs requests as a merchant does: for `tollgate sign`, the demo and the tests.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clap::{Args, ValueEnum};
use sha2::{Digest, Sha256};

use crate::access::hmac_headers::message;
use crate::clock::stamp;
use crate::output::say;

/// What `tollgate sign` takes.
#[derive(Args)]
pub struct SignArgs {
    /// The key's id, as in the merchant's file
    #[arg(long)]
    key: String,
    /// The key's secret: env:NAME, file:PATH or plain:TEXT
    #[arg(long)]
    secret: String,
    /// The body: text, or @FILE
    #[arg(long, default_value = "")]
    data: String,
    /// Which scheme
    #[arg(long, value_enum, default_value = "plain")]
    scheme: Scheme,
    /// As in POST
    method: String,
    /// The whole URL, as curl will get it
    url: String,
}

/// The two ways to say the same.
#[derive(Clone, Copy, ValueEnum)]
enum Scheme {
    /// x-tollgate-* headers
    Plain,
    /// HTTP message signatures
    Rfc9421,
}

/// What a signature is made of beside the request.
pub struct Credentials<'a> {
    /// The key's id.
    pub key_id: &'a str,
    /// The key.
    pub secret: &'a [u8],
    /// Unix seconds.
    pub created: u64,
    /// Never used twice.
    pub nonce: &'a str,
}

/// Header names and values.
pub type Headers = Vec<(&'static str, String)>;

/// Signs by the plain scheme.
pub fn plain(with: &Credentials<'_>, method: &str, path_and_query: &str, body: &[u8]) -> Headers {
    let timestamp = with.created.to_string();
    let tag = tag(with.secret, &message(method, path_and_query, &timestamp, with.nonce, body));
    vec![
        ("x-tollgate-key", with.key_id.to_owned()),
        ("x-tollgate-timestamp", timestamp),
        ("x-tollgate-nonce", with.nonce.to_owned()),
        ("x-tollgate-signature", hex::encode(tag.as_ref())),
    ]
}

/// Signs by RFC 9421 over `@method`, `@path`, `@query` and, with a body, `content-digest`.
pub fn rfc9421(with: &Credentials<'_>, method: &str, path_and_query: &str, body: &[u8]) -> Headers {
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
        with.created, with.nonce, with.key_id
    );
    base.push_str(&format!("\"@signature-params\": {parameters}"));
    headers.push(("signature-input", format!("sig1={parameters}")));
    headers.push(("signature", format!("sig1=:{}:", BASE64_STANDARD.encode(tag(with.secret, base.as_bytes())))));
    headers
}

/// Prints the headers, one a line, as `curl -H @-` reads them.
pub fn run(arguments: SignArgs) -> Result<(), String> {
    let url: http::Uri = arguments.url.parse().map_err(|_| format!("`{}` is no URL", arguments.url))?;
    let target = url.path_and_query().map_or("/", |target| target.as_str());
    let secret = secret(&arguments.secret)?;
    let body = match arguments.data.strip_prefix('@') {
        Some(path) => std::fs::read(path).map_err(|error| format!("{path}: {error}"))?,
        None => arguments.data.into_bytes(),
    };
    let stamp = stamp();
    let with = Credentials { key_id: &arguments.key, secret: &secret, created: stamp.unix_time, nonce: &stamp.nonce };
    let method = arguments.method.to_ascii_uppercase();
    let headers = match arguments.scheme {
        Scheme::Plain => plain(&with, &method, target, &body),
        Scheme::Rfc9421 => rfc9421(&with, &method, target, &body),
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

fn tag(secret: &[u8], message: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message)
}
