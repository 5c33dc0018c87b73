//! Certificates: what Alipay calls their serial numbers (MD5 over the issuer's name and the serial number in decimal), and the
//! download of Alipay's next one.
//!
//! Alipay renews its certificate and then names the new number in answers and notifications. The certificate of that number is
//! downloaded. It vouches for itself: its chain must lead to a configured root, and it must be Alipay's own by its name, because
//! merchants have certificates under the same root.

use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response};
use md5::{Digest, Md5};
use serde::Deserialize;
use sha2::Sha256;
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::super::form::Fields;
use super::super::{NoKeys, PublishedKeys};
use super::account::Protocol;
use super::{Alipay, request, v3};
use crate::error::ProviderError;
use crate::signer::{Key, Keyring, rsa};

/// The interface (应用支付宝公钥证书下载) and the member that its answer stands under.
const DOWNLOAD: &str = "alipay.open.app.alipaycert.download";
const DOWNLOADED: &str = "alipay_open_app_alipaycert_download_response";
/// How the common name of each certificate of Alipay's own begins; the merchant's PID follows. Merchants' certificates begin with
/// their PID.
const OWNER: &str = "支付宝(中国)网络技术有限公司-";
const UNIT: &str = "Alipay";
/// `sha256WithRSAEncryption`.
const SHA256_WITH_RSA: &str = "1.2.840.113549.1.1.11";
/// Certificates between Alipay's own and the root; there is one today.
const MAX_BETWEEN: usize = 4;
const DOWNLOAD_IT: &str = "download alipayCertPublicKey_RSA2.crt from open.alipay.com and put it in the channel's `keys.verify`, \
                           beside the present one";

/// The arc of all signature algorithms with RSA; Alipay's bundle has roots of other algorithms too, which do not count.
const RSA: &str = "1.2.840.113549.1.1.";

/// `app_cert_sn`, and `alipay_cert_sn` of Alipay's own: that of the file's first certificate.
pub(super) fn app_number(file: &[u8]) -> Option<String> {
    numbers(file).into_iter().next().map(|(number, _)| number)
}

/// `alipay_root_cert_sn`: those of the bundle's RSA certificates, in the file's order.
pub(super) fn root_number(file: &[u8]) -> Option<String> {
    let numbers: Vec<_> = numbers(file).into_iter().filter(|(_, is_rsa)| *is_rsa).map(|(number, _)| number).collect();
    (!numbers.is_empty()).then(|| numbers.join("_"))
}

/// Certificates have their number. Bare keys have none, and Alipay never names them: a public one goes by its fingerprint,
/// and the account's own by this name.
pub(super) fn key_id(file: &[u8]) -> Option<String> {
    app_number(file).or_else(|| {
        let is_public = rsa::verifier(file).is_ok();
        Some(if is_public { hex::encode(&Sha256::digest(file)[..8]) } else { "app".to_owned() })
    })
}

pub(super) fn check_app(file: &[u8]) -> Result<(), String> {
    app_number(file).map(drop).ok_or_else(|| {
        "the app certificate must be a PEM file: download appCertPublicKey_….crt from open.alipay.com".to_owned()
    })
}

pub(super) fn check_root(file: &[u8]) -> Result<(), String> {
    root_number(file).map(drop).ok_or_else(|| {
        "the root certificates must be a PEM file with RSA certificates: download alipayRootCert.crt from open.alipay.com"
            .to_owned()
    })
}

/// The number of each certificate that can be read, and whether it is signed with RSA. One that cannot be read does not
/// spoil the others: the bundle has some of algorithms that few readers know.
fn numbers(file: &[u8]) -> Vec<(String, bool)> {
    let blocks = Pem::iter_from_buffer(file).map_while(Result::ok);
    blocks.filter_map(|block| number(&block.contents)).collect()
}

fn number(der: &[u8]) -> Option<(String, bool)> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let mut parts = Vec::new();
    for attribute in certificate.issuer().iter_attributes() {
        let name = oid2abbrev(attribute.attr_type(), oid_registry());
        let name = name.map_or_else(|_| attribute.attr_type().to_id_string(), str::to_owned);
        parts.push(format!("{name}={}", attribute.as_str().ok()?));
    }
    // The last part of the name comes first.
    parts.reverse();
    let text = parts.join(",") + &certificate.tbs_certificate.serial.to_string();
    let is_rsa = certificate.signature_algorithm.algorithm.to_id_string().starts_with(RSA);
    Some((hex::encode(Md5::digest(text)), is_rsa))
}

/// The bundle's RSA certificates that may sign others, as DER.
pub(super) fn roots(file: &[u8]) -> Vec<Vec<u8>> {
    let blocks = Pem::iter_from_buffer(file).map_while(Result::ok).map(|block| block.contents);
    blocks.filter(|der| certificate(der).is_some_and(|certificate| is_authority(&certificate))).collect()
}

impl PublishedKeys for Alipay {
    fn request(&self, key_id: Option<&str>) -> Option<Request<Bytes>> {
        let number = key_id.filter(|number| number.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        let field = |name: &str, value: String| Fields::from([(name.to_owned(), value)]);
        match self.account.protocol {
            Protocol::Form => {
                let mut params = field("method", DOWNLOAD.to_owned());
                // Never encrypted, whatever the account says.
                params.insert("biz_content".to_owned(), format!("{{\"alipay_cert_sn\":\"{number}\"}}"));
                Some(request::post(&params))
            }
            Protocol::V3 => v3::get(DOWNLOAD, &field("alipay_cert_sn", number.to_owned())).ok(),
        }
    }

    fn read(&self, answer: &Response<Bytes>, _: &Keyring, now: u64) -> Result<Vec<Key>, NoKeys> {
        let no_keys = |why: String, word| NoKeys { why, word, advice: DOWNLOAD_IT };
        let content = downloaded(answer.body());
        let Some(file) = content.alipay_cert_content.and_then(|text| STANDARD.decode(text).ok()) else {
            let word = content.sub_code.or(content.code).map(|code| {
                let message = content.sub_msg.or(content.message).unwrap_or_default();
                ProviderError { code, message }
            });
            let said = word.as_ref().map(|word| format!(" ({word})")).unwrap_or_default();
            let status = answer.status().as_u16();
            let why = format!("Alipay did not hand out its new certificate, it answered HTTP {status}{said}");
            return Err(no_keys(why, word));
        };
        let roots = self.account.certificates.as_ref().map(|numbers| numbers.roots.as_slice());
        let key = believed(&file, roots.unwrap_or_default(), now);
        let key = key.map_err(|why| no_keys(format!("the downloaded certificate is not believed: {why}"), None))?;
        Ok(vec![key])
    }

    fn trust_anchor(&self) -> &str {
        self.account.certificates.as_ref().map_or("", |numbers| &numbers.root)
    }
}

/// What stands in the answer, in either protocol.
#[derive(Default, Deserialize)]
struct Downloaded {
    alipay_cert_content: Option<String>,
    code: Option<String>,
    message: Option<String>,
    sub_code: Option<String>,
    sub_msg: Option<String>,
}

fn downloaded(body: &[u8]) -> Downloaded {
    let Ok(mut object) = serde_json::from_slice::<serde_json::Value>(body) else { return Downloaded::default() };
    let inner = [DOWNLOADED, "error_response"].into_iter().find_map(|name| object.get_mut(name).map(|it| it.take()));
    serde_json::from_value(inner.unwrap_or(object)).unwrap_or_default()
}

/// The key of Alipay's own certificate, the first in the file, when the others lead from it to a root.
fn believed(file: &[u8], roots: &[Vec<u8>], now: u64) -> Result<Key, &'static str> {
    let blocks: Vec<Vec<u8>> =
        Pem::iter_from_buffer(file).map_while(Result::ok).map(|block| block.contents).take(MAX_BETWEEN + 1).collect();
    let (own, between) = blocks.split_first().ok_or("it is no PEM file")?;
    let leaf = certificate(own).ok_or("it cannot be read")?;
    if !is_alipays(&leaf) {
        return Err("it is not Alipay's own, by its name");
    }
    let between: Vec<_> = between.iter().filter_map(|der| certificate(der)).filter(is_authority).collect();
    let roots: Vec<_> = roots.iter().filter_map(|der| certificate(der)).collect();
    let issuer_of = |one: &X509Certificate<'_>, among: &[X509Certificate<'_>]| {
        among.iter().position(|issuer| is_valid(issuer, now) && is_signed_by(one, issuer))
    };
    let mut last = &leaf;
    for _ in 0..=MAX_BETWEEN {
        if !is_valid(last, now) {
            return Err("it, or one above it, is not valid at this time");
        }
        if issuer_of(last, &roots).is_some() {
            let verifier = rsa::verifier(own).map_err(|_| "it has a key that is not taken")?;
            let (id, _) = number(own).ok_or("its number cannot be worked out")?;
            let not_after = u64::try_from(leaf.validity().not_after.timestamp()).ok();
            return Ok(Key { id, verifier, not_after });
        }
        last =
            issuer_of(last, &between).and_then(|at| between.get(at)).ok_or("it does not lead to `keys.root_cert`")?;
    }
    Err("its chain is too long")
}

fn certificate(der: &[u8]) -> Option<X509Certificate<'_>> {
    X509Certificate::from_der(der).ok().filter(|(rest, _)| rest.is_empty()).map(|(_, certificate)| certificate)
}

fn is_alipays(certificate: &X509Certificate<'_>) -> bool {
    let name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    let unit = certificate.subject().iter_organizational_unit().next().and_then(|unit| unit.as_str().ok());
    let name = name.map(|name| name.replace('（', "(").replace('）', ")"));
    name.is_some_and(|name| name.starts_with(OWNER)) && unit == Some(UNIT) && !is_authority(certificate)
}

fn is_authority(certificate: &X509Certificate<'_>) -> bool {
    certificate.basic_constraints().ok().flatten().is_some_and(|constraints| constraints.value.ca)
}

fn is_valid(certificate: &X509Certificate<'_>, now: u64) -> bool {
    let validity = certificate.validity();
    i64::try_from(now)
        .is_ok_and(|now| (validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&now))
}

fn is_signed_by(certificate: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> bool {
    let algorithm = &certificate.signature_algorithm;
    certificate.issuer().as_raw() == issuer.subject().as_raw()
        && *algorithm == certificate.tbs_certificate.signature
        && algorithm.algorithm.to_id_string() == SHA256_WITH_RSA
        && UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &*issuer.public_key().subject_public_key.data)
            .verify(certificate.tbs_certificate.as_ref(), &certificate.signature_value.data)
            .is_ok()
}
