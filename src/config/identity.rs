//! Certificates and their keys: read, held against each other, and against today.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use tollgate_plugins::secret::Secret;
use tollgate_plugins::settings::Settings;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

use super::Identity;
use super::origin::Content;
use super::source::Source;

/// Unix seconds: when the configuration is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now(pub(super) i64);

impl Now {
    /// By the machine's clock.
    pub(super) fn read() -> Self {
        Self(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() as i64))
    }

    /// Some moment in 2026.
    #[cfg(test)]
    pub(super) fn for_test() -> Self {
        Self(1_780_000_000)
    }
}

/// A certificate with the key that belongs to it.
pub(super) struct Pair {
    pub(super) identity: Identity,
    leaf: Validity,
    is_for_servers: bool,
}

impl Pair {
    /// Whether callers believe it of a server, as far as its extended key usage goes.
    pub(super) fn is_for_servers(&self) -> bool {
        self.is_for_servers
    }

    /// When the certificate ends, in unix seconds.
    pub(super) fn not_after(&self) -> i64 {
        self.leaf.not_after
    }
}

/// One certificate of an authority.
pub(super) struct Authority {
    pub(super) der: Vec<u8>,
    validity: Validity,
}

/// Reads the files that `cert` and `key` of a table name.
pub(super) fn read(source: &Source, table: &mut Settings<'_>, now: Now) -> Option<Arc<Pair>> {
    let cert = source.required_file(table, "cert");
    let key = source.required_file(table, "key");
    let pair = match (cert.as_deref(), key.as_deref()) {
        (Some(cert), Some(key)) => {
            let contents = [cert.expose(), key.expose()];
            source.known().pairs.take(&contents, || pair(table, Some(cert), Some(key)).map(Arc::new).ok_or(())).ok()
        }
        // What can be said of the other one is said.
        (cert, key) => pair(table, cert, key).map(Arc::new),
    }?;
    pair.leaf.in_force(now).map_err(|message| table.problem("cert", message, None)).ok()?;
    Some(pair)
}

fn pair(table: &Settings<'_>, cert: Option<&Content>, key: Option<&Content>) -> Option<Pair> {
    let certificates =
        cert.and_then(|file| certificates(file.expose()).map_err(|message| table.problem("cert", message, None)).ok());
    let key = key.and_then(|file| {
        let message = "this file has no private key in it (PEM: PKCS#8, PKCS#1 or SEC1)";
        PrivateKeyDer::from_pem_slice(file.expose()).map_err(|_| table.problem("key", message, None)).ok()
    });
    let (certificates, key) = certificates.zip(key)?;
    let leaf = Validity::of(certificates.first()?).map_err(|message| table.problem("cert", message, None)).ok()?;
    let is_for_servers = certificates.first().is_some_and(|der| is_for_servers(der));
    let secret = Secret::new(key.secret_der());
    let chain = certificates.iter().map(|der| CertificateDer::from(der.clone())).collect();
    match CertifiedKey::from_der(chain, key, &default_provider()) {
        Ok(_) => Some(Pair { identity: Identity { certificates, key: secret }, leaf, is_for_servers }),
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            let suggestion = "the two files must be of one pair".to_owned();
            table.problem("key", "this key does not belong to the certificate in `cert`", Some(suggestion));
            None
        }
        Err(_) => {
            table.problem("key", "this key, or the certificate in `cert`, is of a kind that TLS cannot use here", None);
            None
        }
    }
}

/// Without the extension a certificate is for everything.
fn is_for_servers(der: &[u8]) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return false };
    match certificate.extended_key_usage() {
        Ok(Some(usage)) => usage.value.server_auth || usage.value.any,
        Ok(None) => true,
        Err(_) => false,
    }
}

/// Reads the certificates of authorities from the file that a key names; `None` when the key is missing or wrong.
pub(super) fn authorities(
    source: &Source,
    table: &mut Settings<'_>,
    key: &'static str,
    now: Now,
) -> Option<Arc<[Authority]>> {
    let file = source.optional_file(table, key)?;
    let read = || -> Result<Arc<[Authority]>, String> {
        let authority = |der: Vec<u8>| Validity::of(&der).map(|validity| Authority { der, validity });
        certificates(file.expose())?.into_iter().map(authority).collect()
    };
    let found = source.known().authorities.take(&[file.expose()], read).and_then(|found| {
        // A bundle may hold some that have ended; nothing is believed only when all have.
        match found.iter().any(|authority| authority.validity.in_force(now).is_ok()) {
            true => Ok(found),
            false => Err("every certificate in this file is outside its time".to_owned()),
        }
    });
    found.map_err(|message| table.problem(key, message, None)).ok()
}

/// The same, only their bytes.
pub(super) fn authorities_der(
    source: &Source,
    table: &mut Settings<'_>,
    key: &'static str,
    now: Now,
) -> Option<Vec<Vec<u8>>> {
    let found = authorities(source, table, key, now)?;
    Some(found.iter().map(|authority| authority.der.clone()).collect())
}

/// Reads the revocation lists (PEM) in the file that a key names, as DER; none when the key is missing or wrong.
pub(super) fn revocation_lists(source: &Source, table: &mut Settings<'_>, key: &'static str) -> Vec<Vec<u8>> {
    let Some(file) = source.optional_file(table, key) else { return Vec::new() };
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(file.expose()).collect();
    match lists {
        Ok(lists) if !lists.is_empty() => lists.iter().map(|list| list.to_vec()).collect(),
        _ => {
            table.problem(key, "this file has no revocation list in it (PEM, -----BEGIN X509 CRL-----)", None);
            Vec::new()
        }
    }
}

/// When the first certificate in a file ends; `None` when there is none in it (it may hold a bare key).
pub(super) fn end_of_first(file: &[u8]) -> Option<i64> {
    let der = CertificateDer::from_pem_slice(file).ok()?;
    X509Certificate::from_der(&der).ok().map(|(_, certificate)| certificate.validity().not_after.timestamp())
}

fn certificates(file: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(file).map(|item| item.map(|certificate| certificate.to_vec())).collect();
    let found = found.map_err(|_| "this file is damaged: a PEM block in it cannot be read".to_owned())?;
    if found.is_empty() {
        return Err("this file has no certificate in it (PEM, -----BEGIN CERTIFICATE-----)".to_owned());
    }
    match found.iter().position(|der| X509Certificate::from_der(der).is_err()) {
        None => Ok(found),
        Some(index) => Err(format!("certificate {} in this file is damaged", index + 1)),
    }
}

/// From when to when a certificate counts, in unix seconds.
struct Validity {
    not_before: i64,
    not_after: i64,
}

impl Validity {
    fn of(der: &[u8]) -> Result<Self, String> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| "this certificate is damaged".to_owned())?;
        let validity = certificate.validity();
        Ok(Self { not_before: validity.not_before.timestamp(), not_after: validity.not_after.timestamp() })
    }

    fn in_force(&self, Now(now): Now) -> Result<(), String> {
        let day = |seconds: i64| {
            let time = ASN1Time::from_timestamp(seconds).ok().and_then(|time| time.to_rfc2822().ok());
            time.unwrap_or_else(|| seconds.to_string())
        };
        if self.not_after < now {
            return Err(format!("this certificate ended on {}", day(self.not_after)));
        }
        if self.not_before > now {
            return Err(format!("this certificate begins only on {}", day(self.not_before)));
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use std::path::Path;

    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    /// A self-signed certificate for these years, and its key.
    pub(in crate::config) fn pair(years: std::ops::Range<i32>) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".into()]).unwrap();
        params.not_before = date_time_ymd(years.start, 1, 1);
        params.not_after = date_time_ymd(years.end, 1, 1);
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn mistakes(cert: &str, key: &str) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("cert.pem"), cert).unwrap();
        std::fs::write(dir.path().join("key.pem"), key).unwrap();
        let text = "cert = \"cert.pem\"\nkey = \"key.pem\"\nca = \"cert.pem\"\n";
        let source = Source::with_text(&dir.path().join("x.toml"), text.into());
        let (_, mistakes) = source.read(|mut root| {
            read(&source, &mut root, Now::for_test());
            authorities(&source, &mut root, "ca", Now::for_test());
        });
        assert!(Path::new(&dir.path()).exists());
        mistakes.into_iter().map(|mistake| format!("{}: {}", mistake.line, mistake.message)).collect()
    }

    #[test]
    fn a_pair_that_belongs_together_and_is_in_force_is_taken() {
        let (cert, key) = pair(2020..2090);
        assert_eq!(mistakes(&cert, &key), [""; 0]);
        assert!(end_of_first(cert.as_bytes()).unwrap() > Now::for_test().0);
        assert_eq!(end_of_first(key.as_bytes()), None);
    }

    #[test]
    fn what_does_not_belong_together_or_is_out_of_time_is_refused() {
        let (cert, key) = pair(2020..2090);
        let (_, other) = pair(2020..2090);
        assert_eq!(mistakes(&cert, &other), ["2: this key does not belong to the certificate in `cert`"]);
        let (ended, its_key) = pair(2020..2021);
        let said = mistakes(&ended, &its_key);
        assert!(said[0].starts_with("1: this certificate ended on Fri, 01 Jan 2021"), "{said:?}");
        assert!(said[1].starts_with("3: every certificate in this file is outside its time"), "{said:?}");
        let (early, its_key) = pair(2080..2090);
        assert!(mistakes(&early, &its_key)[0].starts_with("1: this certificate begins only on"));
        assert!(mistakes(&key, &key)[0].starts_with("1: this file has no certificate in it"));
        assert!(mistakes(&cert, &cert)[0].starts_with("2: this file has no private key in it"));
        let cut = &cert[..cert.len() / 2];
        assert!(mistakes(cut, &key)[0].starts_with("1: this file is damaged"), "{:?}", mistakes(cut, &key));
    }
}
