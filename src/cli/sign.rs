//! `tollgate sign`: signs a request like a merchant, and prints the headers.

use clap::{Args, ValueEnum};
use tollgate_gateway::clock::stamp;
use tollgate_merchant::{Credentials, plain, rfc9421};

use crate::output::say;

/// Arguments of `tollgate sign`.
#[derive(Args)]
pub(super) struct SignArgs {
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

/// Prints the headers, one per line, for `curl -H @-`.
pub(super) fn run(arguments: SignArgs) -> Result<(), String> {
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
