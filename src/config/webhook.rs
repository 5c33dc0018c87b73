//! Webhook: `webhook` of a merchant, or a sink of the operator with `kind = "webhook"`.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use ipnet::IpNet;
use tollgate_plugins::secret::Secret;
use tollgate_plugins::settings::Settings;

use super::address::Address;
use super::destination::refused_address;
use super::secret::{self, Plain, SecretText};
use super::toml_file::TomlFile;

/// Lengths that Standard Webhooks allows.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// Base64 with optional padding, which people often lose when copying.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// URL that events are posted to.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// `https://…`, or `http://…` on loopback.
    pub url: String,
    /// Raw key bytes, decoded from `whsec_…`. Every key signs, so receivers can rotate.
    pub secrets: Vec<Secret>,
}

impl PartialEq for Webhook {
    fn eq(&self, other: &Self) -> bool {
        let secrets = |webhook: &Self| webhook.secrets.iter().map(|it| it.expose().to_vec()).collect::<Vec<_>>();
        self.url == other.url && secrets(self) == secrets(other)
    }
}

impl Eq for Webhook {}

/// Reads `url` and `secrets` of a table. `name` is the table's name in messages.
pub(super) fn read(
    source: &TomlFile,
    section: &mut Settings<'_>,
    name: &str,
    plain: Plain,
    allowed: Option<&[IpNet]>,
) -> Option<Webhook> {
    let url: Option<String> = section.required("url");
    if let Some(url) = &url {
        let error = match Address::parse(url) {
            Ok(address) if !address.tls && !address.is_loopback() => Some("must start with https://"),
            Ok(address) => {
                if let Some((message, advice)) = refused_address(&address.host, allowed) {
                    section.problem("url", format!("`{name}.url` {message}"), Some(advice));
                }
                None
            }
            Err(error) => Some(error),
        };
        if let Some(error) = error {
            section.problem("url", format!("`{name}.url` {error}"), None);
        }
    }
    let before = section.problems().len();
    let mut secrets = Vec::new();
    for (place, text) in section.items::<SecretText>("secrets") {
        let Some(secret) = secret::resolve(source, section, place.clone(), &text, plain) else { continue };
        match key(&secret) {
            Ok(key) => secrets.push(key),
            Err(message) => {
                let suggestion = Some("make one with `tollgate keygen`".to_owned());
                section.problems().push(place, message, suggestion);
            }
        }
    }
    let is_wrong = section.problems().len() > before;
    if !section.has("secrets") || (secrets.is_empty() && !is_wrong) {
        section.problem("secrets", format!("`{name}.secrets` must have at least one secret"), None);
    }
    Some(Webhook { url: url?, secrets })
}

fn key(secret: &Secret) -> Result<Secret, &'static str> {
    let error = "a webhook secret must be `whsec_` and 24 to 64 bytes in base64";
    let encoded = secret.expose().strip_prefix(b"whsec_").ok_or(error)?;
    let key = Secret::new(BASE64.decode(encoded).map_err(|_| error)?);
    if SECRET_BYTES.contains(&key.expose().len()) { Ok(key) } else { Err(error) }
}
