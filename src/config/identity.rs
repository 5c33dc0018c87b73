//! Certificates with their keys: parsed, matched with each other, and checked against the current time.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tollgate_plugins::secret::Secret;
use tollgate_plugins::settings::Settings;
use tollgate_plugins::signer::certificate::Certificate;
use tollgate_plugins::signer::key_file::{FileError, KeyFile, Password};
use x509_parser::extensions::ExtendedKeyUsage;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::key_file;
use super::now::Now;
use super::pair::{Authority, Identity, Pair, anchors, is_of_version_1};
use super::secret::{self, Plain};
use super::toml_file::TomlFile;

/// Reads the files of `cert` and `key` of a table, decrypted with its `password`.
pub(super) fn read(source: &TomlFile, table: &mut Settings<'_>, now: Now, plain: Plain) -> Option<Arc<Pair>> {
    let cert = source.required_file(table, "cert");
    let key = source.required_file(table, "key");
    let password = secret::optional(source, table, "password", plain);
    let opened = |key, file: Option<Arc<_>>| {
        file.and_then(|file| key_file::with_password(source, table, key, &file, password.as_ref()))
    };
    let (cert, key) = (opened("cert", cert), opened("key", key));
    let files: Vec<&KeyFile> = [&cert, &key].into_iter().flatten().map(AsRef::as_ref).collect();
    if files.len() == 2 {
        key_file::report_needless_password(table, password.as_ref(), &files);
    }
    let pair = match (cert.as_deref(), key.as_deref()) {
        (Some(cert), Some(key)) => {
            let (shown, secret) = (cert.to_pem(), key.to_pem());
            let contents = [shown.expose(), secret.expose()];
            source
                .known()
                .pairs
                .get_or_build(&contents, || pair(table, Some(cert), Some(key)).map(Arc::new).ok_or(()))
                .ok()
        }
        // If one file is unreadable, errors in the other are still reported.
        (cert, key) => pair(table, cert, key).map(Arc::new),
    }?;
    let leaf = pair.certificates.first()?;
    leaf.in_force(now.0).map_err(|message| table.problem("cert", message, None)).ok()?;
    if leaf.is_authority && !leaf.is_self_issued() {
        let message = "this is a CA certificate; use a certificate that was issued to this machine";
        let advice = "name the certificate that this CA issued: some peers reject a CA certificate here";
        table.problems().note(table.span_of("cert"), message, Some(advice.to_owned()));
    }
    if let Some(next) = pair.certificates.get(1)
        && (!leaf.names_as_issuer(next) || leaf.is_signed_by(next) == Some(false))
    {
        let message = "the certificates in this file are not a chain: the second did not issue the first";
        let advice = "add the issuer's certificate; peers cannot use any other";
        table.problems().note(table.span_of("cert"), message, Some(advice.to_owned()));
    }
    Some(pair)
}

fn pair(table: &Settings<'_>, cert: Option<&KeyFile>, key: Option<&KeyFile>) -> Option<Pair> {
    if let (Some(cert), Some(key)) = (cert, key)
        && (cert.certificates().is_err() && cert.private_key().is_ok())
        && (key.certificates().is_ok() && key.private_key().is_err())
    {
        let message = "`cert` and `key` are swapped: this is the private key, and `key` is the certificate";
        table.problem("cert", message, Some("swap the two".to_owned()));
        return None;
    }
    let certificates =
        cert.and_then(|file| file.certificates().map_err(|error| key_file::report(table, "cert", error)).ok());
    let key = key.and_then(|file| file.private_key().map_err(|error| key_file::report(table, "key", error)).ok());
    let (certificates, key) = certificates.zip(key)?;
    let certificates = in_order(certificates, |one| key.public_key().is_some() && one.public_key == key.public_key());
    let der = PrivateKeyDer::try_from(key.der()).ok().map(|der| der.clone_key());
    let chain = certificates.iter().map(|one| CertificateDer::from(one.der.clone())).collect();
    match der.map(|der| CertifiedKey::from_der(chain, der, &default_provider())) {
        Some(Ok(_)) => {
            let is_for = |usage: fn(&ExtendedKeyUsage<'_>) -> bool| {
                certificates.first().is_some_and(|leaf| has_usage(&leaf.der, usage))
            };
            let is_for_servers = is_for(|usage| usage.server_auth);
            let is_for_clients = is_for(|usage| usage.client_auth);
            let shown = certificates.iter().map(|one| one.der.clone()).collect();
            let identity = Identity { certificates: shown, key: Secret::new(key.der()) };
            Some(Pair { identity, certificates, is_for_servers, is_for_clients })
        }
        Some(Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch))) => {
            let suggestion = "the two files must belong to one key pair".to_owned();
            table.problem("key", "this key does not belong to the certificate in `cert`", Some(suggestion));
            None
        }
        _ if certificates.first().is_some_and(|leaf| is_of_version_1(&leaf.der)) => {
            let message = "this certificate is X.509 version 1, which TLS rejects";
            let suggestion =
                "reissue it with extensions: `openssl x509 -req … -copy_extensions copyall`, or `-extfile`";
            table.problem("cert", message, Some(suggestion.to_owned()));
            None
        }
        _ => {
            let message = "this key, or the certificate in `cert`, is of a type that TLS does not support here";
            let suggestion =
                format!("this is a key for {}; use RSA with at least 2048 bits, P-256 or P-384", key.algorithm());
            table.problem("key", message, Some(suggestion));
            None
        }
    }
}

/// Orders a chain as TLS requires: the leaf, then each issuer. Files contain them in any order.
fn in_order(certificates: &[Certificate], is_leaf: impl Fn(&Certificate) -> bool) -> Vec<Certificate> {
    let mut rest = certificates.to_vec();
    let mut ordered = Vec::with_capacity(rest.len());
    let mut next = rest.iter().position(is_leaf).or((!rest.is_empty()).then_some(0));
    while let Some(index) = next {
        let current = rest.remove(index);
        next = rest.iter().position(|other| current.names_as_issuer(other));
        ordered.push(current);
    }
    ordered.append(&mut rest);
    ordered
}

/// Returns whether the extended key usage permits a usage. A certificate without the extension permits all.
fn has_usage(der: &[u8], usage: fn(&ExtendedKeyUsage<'_>) -> bool) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return false };
    match certificate.extended_key_usage() {
        Ok(Some(found)) => usage(found.value) || found.value.any,
        Ok(None) => true,
        Err(_) => false,
    }
}

/// Reads authority certificates from the file of an optional key; `None` if the key is missing or invalid.
pub(super) fn authorities(
    source: &TomlFile,
    table: &mut Settings<'_>,
    key: &'static str,
    now: Now,
) -> Option<Arc<[Authority]>> {
    let file = source.optional_file(table, key)?;
    let read = || -> Result<Arc<[Authority]>, FileError> {
        let authority = |one: &Certificate| Authority { der: one.der.clone(), certificate: one.clone() };
        Ok(KeyFile::read(file.expose(), Password::Unsupported)?.certificates()?.iter().map(authority).collect())
    };
    let found = source.known().authorities.get_or_build(&[file.expose()], read);
    let found = found.map_err(|error| key_file::report(table, key, error)).ok()?;
    if !report_non_authorities(table, key, &found) {
        return None;
    }
    // A bundle may contain expired certificates. It is rejected only if all are expired.
    if !found.iter().any(|authority| authority.certificate.in_force(now.0).is_ok()) {
        table.problem(key, "every certificate in this file is expired or not yet valid", None);
        return None;
    }
    Some(found)
}

/// Reports certificates that are not CA certificates. Returns whether a usable one remains.
fn report_non_authorities(table: &Settings<'_>, key: &'static str, found: &[Authority]) -> bool {
    let leaves: Vec<&Certificate> = found.iter().filter(|one| !one.is_anchor()).map(|one| &one.certificate).collect();
    let self_signed = found.iter().find(|one| one.is_anchor() && !one.may_sign()).map(|one| &one.certificate);
    let (message, advice) = match (leaves.as_slice(), self_signed) {
        ([], None) => return true,
        ([], Some(one)) => (
            format!("`{}` in this file is self-signed and not a CA certificate", printable(&one.common_name)),
            "it is trusted as it is; with a CA certificate (basicConstraints CA:TRUE) the peer can renew its own without a change here"
                .to_owned(),
        ),
        ([leaf, ..], _) => (
            format!("`{}` in this file is not a CA certificate: it may not sign others", printable(&leaf.common_name)),
            format!("name the certificate of its issuer, `{}`", printable(&leaf.issuer_name)),
        ),
    };
    let has_anchor = leaves.len() < found.len();
    if has_anchor {
        table.problems().note(table.span_of(key), message, Some(advice));
    } else {
        table.problem(key, message, Some(advice));
    }
    has_anchor
}

/// Shortens a name for a message. The file may contain anything.
fn printable(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(64).collect()
}

/// Reads authority certificates and returns their trust anchors as DER.
pub(super) fn authorities_der(
    source: &TomlFile,
    table: &mut Settings<'_>,
    key: &'static str,
    now: Now,
) -> Option<Vec<Vec<u8>>> {
    Some(anchors(&authorities(source, table, key, now)?))
}

/// Reads revocation lists as DER from the file of an optional key; empty if the key is missing or invalid.
pub(super) fn revocation_lists(source: &TomlFile, table: &mut Settings<'_>, key: &'static str) -> Vec<Vec<u8>> {
    let Some(file) = source.optional_file(table, key) else { return Vec::new() };
    let Some(file) = key_file::plain(source, table, key, file.expose()) else { return Vec::new() };
    let lists = file.revocation_lists().map_err(|error| key_file::report(table, key, error));
    lists.map(<[_]>::to_vec).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use std::path::Path;

    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    /// Returns a self-signed certificate for these years, and its key.
    pub(crate) fn pair(years: std::ops::Range<i32>) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".into()]).unwrap();
        params.not_before = date_time_ymd(years.start, 1, 1);
        params.not_after = date_time_ymd(years.end, 1, 1);
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn diagnostics(cert: &str, key: &str) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("cert.pem"), cert).unwrap();
        std::fs::write(dir.path().join("key.pem"), key).unwrap();
        let text = "cert = \"cert.pem\"\nkey = \"key.pem\"\nca = \"cert.pem\"\n";
        let source = TomlFile::with_text(&dir.path().join("x.toml"), text.into());
        let (_, diagnostics) = source.read(|mut root| {
            read(&source, &mut root, Now::for_test(), Plain::Allowed);
            authorities(&source, &mut root, "ca", Now::for_test());
        });
        assert!(Path::new(&dir.path()).exists());
        diagnostics.into_iter().map(|diagnostic| format!("{}: {}", diagnostic.line, diagnostic.message)).collect()
    }

    #[test]
    fn matching_valid_pair_is_accepted() {
        let (cert, key) = pair(2020..2090);
        assert_eq!(diagnostics(&cert, &key), [""; 0]);
    }

    #[test]
    fn mismatched_or_expired_pair_is_rejected() {
        let (cert, key) = pair(2020..2090);
        let (_, other) = pair(2020..2090);
        assert_eq!(diagnostics(&cert, &other), ["2: this key does not belong to the certificate in `cert`"]);
        let (ended, its_key) = pair(2020..2021);
        let printed = diagnostics(&ended, &its_key);
        assert!(printed[0].starts_with("1: this certificate ended on 2021-01-01"), "{printed:?}");
        assert!(printed[1].starts_with("3: every certificate in this file is expired or not yet valid"), "{printed:?}");
        let (early, its_key) = pair(2080..2090);
        assert!(diagnostics(&early, &its_key)[0].starts_with("1: this certificate begins only on"));
        assert!(diagnostics(&key, &key)[0].starts_with("1: this file has no certificate in it: this is a private key"));
        assert!(diagnostics(&key, &cert)[0].starts_with("1: `cert` and `key` are swapped"));
        assert!(diagnostics(&cert, &cert)[0].starts_with("2: this file has no private key in it"));
        let cut = &cert[..cert.len() / 2];
        assert!(
            diagnostics(cut, &key)[0].starts_with("1: the PEM that begins in line 1 is cut off"),
            "{:?}",
            diagnostics(cut, &key)
        );
    }
}
