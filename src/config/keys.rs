//! `[keys]` of a channel: whose signature goes out, whose is believed, and the provider's own secrets.

use std::sync::Arc;

use tollgate_plugins::provider::{Need, Row, Secrets};
use tollgate_plugins::secret::Secret;
use tollgate_plugins::settings::Settings;
use tollgate_plugins::signer::{ALGORITHMS, Algorithm, Key, Keyring, Signer};

use super::identity;
use super::origin::Content;
use super::pfx;
use super::secret::{self, Plain};
use super::source::{Source, suggest};

/// What came of the table.
pub(super) struct Keys {
    /// Nothing when it is missing or wrong.
    pub(super) signer: Option<Arc<dyn Signer>>,
    /// The name of the signer's algorithm.
    pub(super) algorithm: Option<&'static str>,
    /// The provider's keys.
    pub(super) verify: Keyring,
    /// The secrets of the provider's [`Row`].
    pub(super) secrets: Secrets,
}

/// Reads the table as the provider wants it.
pub(super) fn read(source: &Source, mut table: Settings<'_>, row: &Row, plain: Plain) -> Keys {
    let sign = match row.sign {
        Need::Required(advice) => table.required_section_as("sign", advice),
        Need::Optional => table.section("sign"),
        Need::Nothing => None,
    };
    let (algorithm, signer) = match sign {
        Some(sign) => signer(source, sign, row, plain),
        None if matches!(row.sign, Need::Required(_)) => (None, None),
        None => (None, Some(tollgate_plugins::signer::none())),
    };
    let verify = match row.verify {
        Need::Nothing => Keyring::default(),
        _ => verify(source, &mut table, row, algorithm),
    };
    let mut secrets = Secrets::new();
    for field in row.secrets {
        let secret = match field.need {
            Need::Required(advice) => secret::required_as(source, &mut table, field.name, plain, advice),
            _ => secret::optional(source, &mut table, field.name, plain),
        };
        let Some(secret) = secret else { continue };
        match (field.check)(secret.expose()) {
            Ok(()) => drop(secrets.insert(field.name, secret)),
            Err(message) => table.problem(field.name, message, None),
        }
    }
    Keys { signer, algorithm: algorithm.map(|algorithm| algorithm.name), verify, secrets }
}

fn signer(
    source: &Source,
    mut sign: Settings<'_>,
    row: &Row,
    plain: Plain,
) -> (Option<&'static Algorithm>, Option<Arc<dyn Signer>>) {
    let name: Option<String> = sign.required("algorithm");
    sign.choices("algorithm", row.algorithms.iter().copied());
    let algorithm = name.and_then(|name| {
        let served = ALGORITHMS.iter().filter(|algorithm| row.algorithms.contains(&algorithm.name));
        let found = served.clone().find(|algorithm| algorithm.name == name);
        if found.is_none() {
            let message = format!("{} knows no algorithm `{name}`", row.name);
            sign.problem("algorithm", message, suggest(&name, served.map(|algorithm| algorithm.name)));
        }
        found
    });
    let file = source.required_file(&mut sign, "file");
    let password = secret::optional(source, &mut sign, "password", plain);
    let file = file.and_then(|file| opened(&sign, &file, password.as_ref()));
    let id = key_id(&mut sign, row, file.as_ref().map(Secret::expose));
    let (Some(id), Some(algorithm), Some(file)) = (id, algorithm, file) else { return (algorithm, None) };
    let contents = [algorithm.name.as_bytes(), id.as_bytes(), file.expose()];
    let signer = source.known().signers.take(&contents, || (algorithm.signer)(&id, file.expose()));
    let signer = signer.map_err(|error| sign.problem("file", error.0, None)).ok();
    (Some(algorithm), signer)
}

/// A PFX file as PEM; any other as it is.
fn opened(sign: &Settings<'_>, file: &Content, password: Option<&Secret>) -> Option<Secret> {
    let (key, message, suggestion) = match (pfx::is_one(file.expose()), password) {
        (false, None) => return Some(Secret::new(file.expose())),
        (false, Some(_)) => ("password", "only a PFX file is opened with a password", "remove `password`"),
        (true, None) => {
            ("file", "this is a PFX file, and its password is missing", "add password = \"env:…\" beside `file`")
        }
        (true, Some(password)) => match pfx::to_pem(file.expose(), password) {
            Ok(file) => return Some(file),
            Err(why) => ("file", why, "try `openssl pkcs12 -in FILE -noout` with the same password"),
        },
    };
    sign.problem(key, message, Some(suggestion.to_owned()));
    None
}

fn verify(source: &Source, table: &mut Settings<'_>, row: &Row, algorithm: Option<&Algorithm>) -> Keyring {
    let mut keys: Vec<Key> = Vec::new();
    if let Need::Required(advice) = row.verify
        && !table.has("verify")
    {
        table.problem("verify", "`keys.verify` is missing", Some(format!("add `verify = …`: {advice}")));
    }
    for mut entry in table.sections("verify") {
        let file = source.required_file(&mut entry, "file");
        let id = key_id(&mut entry, row, file.as_deref().map(Content::expose));
        let (Some(id), Some(file), Some(algorithm)) = (id, file, algorithm) else { continue };
        if keys.iter().any(|key| key.id == id) {
            entry.problem("id", format!("the key id `{id}` stands here twice"), None);
        }
        let contents = [algorithm.name.as_bytes(), file.expose()];
        match source.known().verifiers.take(&contents, || (algorithm.verifier)(file.expose())) {
            // One that has ended may still stand here beside its successor: it is believed no more, but a restart at
            // night must not fail because of it.
            Ok(verifier) => {
                let not_after = identity::end_of_first(file.expose()).and_then(|end| u64::try_from(end).ok());
                keys.push(Key { id, verifier, not_after });
            }
            Err(error) => entry.problem("file", error.0, None),
        }
    }
    Keyring::new(keys)
}

/// As the provider works it out from the key itself, or else as the file says.
fn key_id(table: &mut Settings<'_>, row: &Row, file: Option<&[u8]>) -> Option<String> {
    let known = file.and_then(row.key_id);
    let id: String = match (known.is_some() && !table.has("id"), table.has("id")) {
        (true, _) => return known,
        (false, true) => table.optional("id")?,
        (false, false) => table.required("id")?,
    };
    let is_certificate =
        file.is_some_and(|file| str::from_utf8(file).is_ok_and(|text| text.contains("BEGIN CERTIFICATE")));
    if let Some(known) = known.filter(|_| is_certificate)
        && !bare(&known).eq_ignore_ascii_case(bare(&id))
    {
        let message = format!("`id` is not this certificate's number, which is `{known}`");
        table.problem("id", message, Some("take `id` away, or name the right file".to_owned()));
    }
    if id.is_empty() || id.len() > 128 || !id.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"') {
        table.problem("id", "`id` must be 1 to 128 visible characters without spaces and quotes", None);
        return None;
    }
    Some(id)
}

/// Some write a serial number with leading zeros, some without.
fn bare(number: &str) -> &str {
    number.trim_start_matches('0')
}
