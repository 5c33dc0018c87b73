//! `[keys]` of a channel: the signing key, the provider's verification keys, and the provider's secrets.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use tollgate_plugins::provider::inspect::{Facts, Finding, IdOf, Location, Severity, Sign, Verify};
use tollgate_plugins::provider::{Need, ProviderSpec, Secrets};
use tollgate_plugins::registry::ALGORITHMS;
use tollgate_plugins::secret::Secret;
use tollgate_plugins::settings::{Problems, Settings};
use tollgate_plugins::signer::certificate::Certificate;
use tollgate_plugins::signer::key_file::{KeyFile, PublicKey, write_pem};
use tollgate_plugins::signer::{Algorithm, Key, Keyring, Signer};

use super::key_file;
use super::secret::{self, Plain};
use super::toml_file::{TomlFile, suggest};

/// The parsed `[keys]` table.
pub(super) struct Keys {
    /// Signer; `None` if it is missing or invalid.
    pub(super) signer: Option<Arc<dyn Signer>>,
    /// Name of the signer's algorithm.
    pub(super) algorithm: Option<&'static str>,
    /// Verification keys of the provider.
    pub(super) verify: Keyring,
    /// Secrets of the provider's [`ProviderSpec`].
    pub(super) secrets: Secrets,
    /// Contents of the files, for cross-checks.
    files: Files,
}

/// Contents of the files, and the position of each reference.
#[derive(Default)]
struct Files {
    sign: Option<(Arc<KeyFile>, String)>,
    verify: Vec<Verify>,
    certificates: Vec<(&'static str, Vec<Certificate>)>,
    places: HashMap<Location, Range<usize>>,
}

/// Other parts of the channel's file that the keys are checked against.
pub(super) struct KeyContext<'a> {
    /// Certificates of `[mtls]`.
    pub(super) mtls: &'a [Certificate],
    pub(super) account: &'a [(String, String)],
    pub(super) hosts: &'a [String],
    pub(super) now: i64,
}

/// Reads the table as the provider requires it.
pub(super) fn read(
    source: &TomlFile,
    mut table: Settings<'_>,
    row: &ProviderSpec,
    plain: Plain,
    key_context: &KeyContext<'_>,
) -> Keys {
    let mut files = Files::default();
    let sign = match row.sign {
        Need::Required(advice) => table.required_section_as("sign", advice),
        Need::Optional => table.section("sign"),
        Need::Nothing => None,
    };
    let (algorithm, signer) = match sign {
        Some(sign) => signer(source, sign, row, plain, &mut files),
        None if matches!(row.sign, Need::Required(_)) => (None, None),
        None => (None, Some(tollgate_plugins::signer::none())),
    };
    let verify = match row.verify {
        Need::Nothing => Keyring::default(),
        _ => verify(source, &mut table, row, algorithm, key_context, &mut files),
    };
    let mut secrets = Secrets::new();
    for field in row.secrets {
        let is_chain = row.inspection.certificates.contains(&field.name);
        let is_file = is_chain || row.inspection.authorities.contains(&field.name);
        let secret = match field.need {
            _ if is_file => certificate_file(source, &mut table, field.name, plain, is_chain, &mut files),
            Need::Required(advice) => secret::required_as(source, &mut table, field.name, plain, advice),
            _ => secret::optional(source, &mut table, field.name, plain),
        };
        let Some(secret) = secret else { continue };
        match (field.check)(secret.expose()) {
            Ok(()) => drop(secrets.insert(field.name, secret)),
            Err(message) => table.problem(field.name, message, None),
        }
    }
    Keys { signer, algorithm: algorithm.map(|algorithm| algorithm.name), verify, secrets, files }
}

impl Keys {
    /// Cross-checks files and ids. `place` returns the positions outside of `[keys]`.
    pub(super) fn inspect(
        &self,
        row: &ProviderSpec,
        key_context: &KeyContext<'_>,
        problems: &Problems,
        place: impl Fn(Location) -> Range<usize>,
    ) {
        let files = &self.files;
        let own_key = files.sign.as_ref().and_then(|(file, _)| file.private_key().ok()?.public_key());
        let sign = files.sign.as_ref().map(|(file, id)| Sign {
            algorithm: self.algorithm.unwrap_or_default(),
            id,
            public_key: own_key.as_ref(),
            certificates: file.all_certificates(),
        });
        let KeyContext { mtls, account, hosts, now } = *key_context;
        let facts = Facts { now, account, hosts, sign, verify: &files.verify, mtls, secrets: &files.certificates };
        for Finding { location: at, severity, message, suggestion } in (row.inspection.run)(&facts) {
            let span = files.places.get(&at).cloned().unwrap_or_else(|| place(at));
            match severity {
                Severity::Error => {
                    if !matches!(at, Location::Hosts | Location::Account(_) | Location::Mtls) {
                        problems.mark_wrong_keys();
                    }
                    problems.push(span, message, suggestion);
                }
                Severity::Note => problems.note(span, message, suggestion),
            }
        }
    }

    /// Returns the expiry of all certificates in the files, with the name of each.
    pub(super) fn ends(&self) -> Vec<(String, i64)> {
        let sign = self.files.sign.iter().flat_map(|(file, _)| file.all_certificates().first());
        let sign = sign.map(|leaf| ("sign".to_owned(), leaf.not_after));
        let verify = self.verify.iter().filter_map(|key| Some((key.id.clone(), i64::try_from(key.not_after?).ok()?)));
        let others = self.files.certificates.iter().flat_map(|(name, all)| {
            let name_of = |index: usize| if index == 0 { (*name).to_owned() } else { format!("{name} {}", index + 1) };
            all.iter().enumerate().map(move |(index, one)| (name_of(index), one.not_after)).collect::<Vec<_>>()
        });
        sign.chain(verify).chain(others).collect()
    }
}

fn signer(
    source: &TomlFile,
    mut sign: Settings<'_>,
    row: &ProviderSpec,
    plain: Plain,
    files: &mut Files,
) -> (Option<&'static Algorithm>, Option<Arc<dyn Signer>>) {
    let name: Option<String> = sign.required("algorithm");
    sign.choices("algorithm", row.algorithms.iter().copied());
    let algorithm = name.and_then(|name| {
        let served = ALGORITHMS.iter().filter(|algorithm| row.algorithms.contains(&algorithm.name));
        let found = served.clone().find(|algorithm| algorithm.name == name);
        if found.is_none() {
            let message = format!("{} supports no algorithm `{name}`", row.name);
            sign.problem("algorithm", message, suggest(&name, served.map(|algorithm| algorithm.name)));
        }
        found
    });
    let named = source.required_file(&mut sign, "file");
    let password = secret::optional(source, &mut sign, "password", plain);
    files.places.insert(Location::SignFile, sign.span_of("file"));
    files.places.insert(Location::SignId, sign.span_of("id"));
    let file = named.and_then(|file| key_file::with_password(source, &sign, "file", &file, password.as_ref()));
    if let Some(file) = &file {
        key_file::report_needless_password(&sign, password.as_ref(), &[file]);
    }
    let file = file.filter(|file| is_matching_pair(&sign, file));
    // If the file is unreadable, it is unknown whether the id may be missing.
    let id = match &file {
        Some(file) => key_id(&mut sign, row, file, IdOf::Sign),
        None => {
            check_visible(&mut sign);
            None
        }
    };
    let (Some(id), Some(algorithm), Some(file)) = (id, algorithm, file) else { return (algorithm, None) };
    let pem = file.to_pem();
    let contents = [algorithm.name.as_bytes(), id.as_bytes(), pem.expose()];
    let signer = source.known().signers.get_or_build(&contents, || (algorithm.signer)(&id, pem.expose()));
    let signer = signer.map_err(|error| sign.problem("file", error.0, None)).ok();
    files.sign = Some((file, id));
    (Some(algorithm), signer)
}

/// Checks that the file has one private key, and that the first certificate beside it belongs to the key.
fn is_matching_pair(sign: &Settings<'_>, file: &KeyFile) -> bool {
    let key = match file.private_key() {
        Ok(key) => key,
        Err(error) => {
            key_file::report(sign, "file", error);
            return false;
        }
    };
    let leaf = file.all_certificates().first();
    let is_another = leaf.is_some_and(|leaf| key.public_key().is_some() && leaf.public_key != key.public_key());
    if is_another {
        let message = "the private key in this file does not belong to the certificate beside it";
        sign.problem("file", message, Some("use the key's own certificate, or remove the certificate".to_owned()));
    }
    !is_another
}

fn verify(
    source: &TomlFile,
    table: &mut Settings<'_>,
    row: &ProviderSpec,
    algorithm: Option<&Algorithm>,
    key_context: &KeyContext<'_>,
    files: &mut Files,
) -> Keyring {
    let mut keys: Vec<Key> = Vec::new();
    if let Need::Required(advice) = row.verify
        && !table.has("verify")
    {
        table.problem("verify", "`keys.verify` is missing", Some(format!("add `verify = …`: {advice}")));
    }
    for mut entry in table.sections("verify") {
        let named = source.required_file(&mut entry, "file");
        let file = named.and_then(|file| key_file::plain(source, &entry, "file", file.expose()));
        let public = file
            .as_ref()
            .and_then(|file| file.public_key().cloned().map_err(|error| key_file::report(&entry, "file", error)).ok());
        let (Some(file), Some(public)) = (file, public) else {
            check_visible(&mut entry);
            continue;
        };
        if let Some(what) = own_key(&public, file.all_certificates(), key_context, files) {
            let message = format!("this is {what}; the provider's key is required, which signs its responses");
            entry.problem("file", message, Some(row.inspection.verify_from.to_owned()));
            check_visible(&mut entry);
            continue;
        }
        let whose = if file.all_certificates().is_empty() { IdOf::BareKey } else { IdOf::Certificate };
        let has_id = entry.has("id");
        let id = key_id(&mut entry, row, &file, whose);
        let (Some(id), Some(algorithm)) = (id, algorithm) else { continue };
        if keys.iter().any(|key| key.id == id) {
            entry.problem("id", format!("the key id `{id}` is listed twice"), None);
        }
        let pem = file.to_pem();
        let contents = [algorithm.name.as_bytes(), pem.expose()];
        match source.known().verifiers.get_or_build(&contents, || (algorithm.verifier)(pem.expose())) {
            // An expired certificate may be configured beside its successor. It is ignored, but must not make a restart at night
            // fail.
            Ok(verifier) => {
                let leaf = file.all_certificates().first();
                if let Some(leaf) = leaf.filter(|leaf| leaf.not_before > key_context.now) {
                    let message = leaf.in_force(key_context.now).err().unwrap_or_default();
                    let advice = "it is trusted already, in case this machine's clock is slow";
                    entry.problems().note(entry.span_of("file"), message, Some(advice.to_owned()));
                }
                let not_after = leaf.and_then(|leaf| u64::try_from(leaf.not_after).ok());
                keys.push(Key { id: id.clone(), verifier, not_after });
            }
            Err(error) => entry.problem("file", error.0, None),
        }
        files.places.insert(Location::VerifyFile(files.verify.len()), entry.span_of("file"));
        let certificates = file.all_certificates().to_vec();
        files.verify.push(Verify { id, has_id, public_key: public, certificates });
    }
    Keyring::new(keys)
}

/// Describes the key if it is the account's own key or certificate.
fn own_key(
    public: &PublicKey,
    certificates: &[Certificate],
    key_context: &KeyContext<'_>,
    files: &Files,
) -> Option<&'static str> {
    let signs = files.sign.as_ref().and_then(|(file, _)| file.private_key().ok()?.public_key());
    let is_signer = signs.as_ref() == Some(public);
    let is_shown = key_context.mtls.first().is_some_and(|leaf| leaf.public_key.as_ref() == Some(public));
    match (is_signer || is_shown, certificates.is_empty()) {
        (true, false) => Some("the account's own certificate"),
        (true, true) => Some("the account's own public key"),
        (false, _) => None,
    }
}

/// Reads a certificate file configured as a secret, as unencrypted PEM.
fn certificate_file(
    source: &TomlFile,
    table: &mut Settings<'_>,
    name: &'static str,
    plain: Plain,
    is_chain: bool,
    files: &mut Files,
) -> Option<Secret> {
    let content = secret::optional_content(source, table, name, plain)?;
    files.places.insert(Location::Secret(name), table.span_of(name));
    let file = key_file::plain(source, table, name, content.expose())?;
    let certificates = if is_chain { file.certificates() } else { file.authorities() };
    let certificates = certificates.map_err(|error| key_file::report(table, name, error)).ok()?;
    files.certificates.push((name, certificates.to_vec()));
    // A private key in the same file is left out.
    let text: String = certificates.iter().map(|one| write_pem("CERTIFICATE", &one.der).to_string()).collect();
    Some(Secret::new(text))
}

/// Returns the key id: computed by the provider from the key, else as configured.
fn key_id(table: &mut Settings<'_>, row: &ProviderSpec, file: &KeyFile, whose: IdOf) -> Option<String> {
    let known = (row.key_id)(file.to_pem().expose());
    let id: String = match (known.is_some() && !table.has("id"), table.has("id")) {
        (true, _) => return known,
        (false, true) => table.optional("id")?,
        (false, false) if whose == IdOf::BareKey && !row.inspection.verify_from.is_empty() => {
            table.required_as("id", row.inspection.verify_from)?
        }
        (false, false) => table.required("id")?,
    };
    let id = match (row.inspection.id)(whose, &id) {
        Ok(id) => id,
        Err(Finding { message, suggestion, .. }) => {
            table.problem("id", message, suggestion);
            return None;
        }
    };
    let is_certificate = !file.all_certificates().is_empty();
    if let Some(known) = known.filter(|_| is_certificate)
        && !bare(&known).eq_ignore_ascii_case(bare(&id))
    {
        let message = format!("`id` is not this certificate's serial number, which is `{known}`");
        table.problem("id", message, Some("remove `id`, or name the right file".to_owned()));
    }
    is_visible(table, &id).then_some(id)
}

/// Checks the id of a key that cannot be read.
fn check_visible(table: &mut Settings<'_>) {
    if let Some(id) = table.optional::<String>("id") {
        is_visible(table, &id);
    }
}

fn is_visible(table: &Settings<'_>, id: &str) -> bool {
    let fits = (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"');
    if !fits {
        table.problem("id", "`id` must be 1 to 128 visible characters without spaces and quotes", None);
    }
    fits
}

/// Strips leading zeros: serial numbers are written with and without them.
fn bare(number: &str) -> &str {
    number.trim_start_matches('0')
}
