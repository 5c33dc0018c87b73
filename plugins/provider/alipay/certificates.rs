//! Download of Alipay's next certificate.
//!
//! After Alipay renews its certificate, answers and notifications carry the new serial number. The certificate with
//! that number is then downloaded. It is accepted only if its chain leads to a configured root and its name is
//! Alipay's, because merchants have certificates under the same root.

use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response};
use serde::Deserialize;
use x509_parser::pem::Pem;
use x509_parser::prelude::X509Certificate;

use super::super::form::Fields;
use super::super::{NoKeys, PublishedKeys};
use super::account::Protocol;
use super::certificate_files::{certificate, is_authority, serial};
use super::{Alipay, request, v3};
use crate::error::ProviderError;
use crate::signer::{Key, Keyring, rsa};

/// Interface (应用支付宝公钥证书下载) and the member that contains its answer.
const DOWNLOAD: &str = "alipay.open.app.alipaycert.download";
const DOWNLOADED: &str = "alipay_open_app_alipaycert_download_response";
/// Common-name prefix of every certificate that belongs to Alipay; the merchant's PID follows. Merchants' own
/// certificates begin with their PID.
const ALIPAY_NAME_PREFIX: &str = "支付宝(中国)网络技术有限公司-";
const ALIPAY_UNIT: &str = "Alipay";
/// OID of `sha256WithRSAEncryption`.
const SHA256_WITH_RSA: &str = "1.2.840.113549.1.1.11";
/// Maximum number of certificates between Alipay's own and the root; today there is one.
const MAX_INTERMEDIATES: usize = 4;
const DOWNLOAD_ADVICE: &str = "download alipayCertPublicKey_RSA2.crt from open.alipay.com and put it in the channel's `keys.verify`, \
                           beside the present one";

impl PublishedKeys for Alipay {
    fn request(&self, key_id: Option<&str>) -> Option<Request<Bytes>> {
        let serial = key_id.filter(|serial| serial.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        let field = |name: &str, value: String| Fields::from([(name.to_owned(), value)]);
        match self.account.protocol {
            Protocol::Form => {
                let mut params = field("method", DOWNLOAD.to_owned());
                // This content is never encrypted, even if the account uses encryption.
                params.insert("biz_content".to_owned(), format!("{{\"alipay_cert_sn\":\"{serial}\"}}"));
                Some(request::post(&params))
            }
            Protocol::V3 => v3::get(DOWNLOAD, &field("alipay_cert_sn", serial.to_owned())).ok(),
        }
    }

    fn read(&self, answer: &Response<Bytes>, _: &Keyring, now: u64) -> Result<Vec<Key>, NoKeys> {
        let no_keys = |why: String, provider_error| NoKeys { why, provider_error, advice: DOWNLOAD_ADVICE };
        let content = downloaded(answer.body());
        let Some(file) = content.alipay_cert_content.and_then(|text| STANDARD.decode(text).ok()) else {
            let provider_error = content.sub_code.or(content.code).map(|code| {
                let message = content.sub_msg.or(content.message).unwrap_or_default();
                ProviderError { code, message }
            });
            let provider_message =
                provider_error.as_ref().map(|provider_error| format!(" ({provider_error})")).unwrap_or_default();
            let status = answer.status().as_u16();
            let why = format!("Alipay did not return its new certificate: HTTP {status}{provider_message}");
            return Err(no_keys(why, provider_error));
        };
        let roots = self.account.certificates.as_ref().map(|serials| serials.roots.as_slice());
        let key = verify_chain(&file, roots.unwrap_or_default(), now);
        let key = key.map_err(|why| no_keys(format!("the downloaded certificate was rejected: {why}"), None))?;
        Ok(vec![key])
    }

    fn trust_anchor(&self) -> &str {
        self.account.certificates.as_ref().map_or("", |serials| &serials.root)
    }
}

/// Answer to the download, in either protocol.
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
    let inner =
        [DOWNLOADED, "error_response"].into_iter().find_map(|name| object.get_mut(name).map(|member| member.take()));
    serde_json::from_value(inner.unwrap_or(object)).unwrap_or_default()
}

/// Returns the key of Alipay's own certificate, the first in the file, if its chain leads to a root.
fn verify_chain(file: &[u8], roots: &[Vec<u8>], now: u64) -> Result<Key, &'static str> {
    let blocks: Vec<Vec<u8>> = Pem::iter_from_buffer(file)
        .map_while(Result::ok)
        .map(|block| block.contents)
        .take(MAX_INTERMEDIATES + 1)
        .collect();
    let (leaf_der, intermediates) = blocks.split_first().ok_or("not a PEM file")?;
    let leaf = certificate(leaf_der).ok_or("the certificate cannot be parsed")?;
    if !is_alipays(&leaf) {
        return Err("its name is not Alipay's");
    }
    let intermediates: Vec<_> = intermediates.iter().filter_map(|der| certificate(der)).filter(is_authority).collect();
    let roots: Vec<_> = roots.iter().filter_map(|der| certificate(der)).collect();
    let issuer_of = |subject: &X509Certificate<'_>, among: &[X509Certificate<'_>]| {
        among.iter().position(|issuer| is_valid(issuer, now) && is_signed_by(subject, issuer))
    };
    let mut last = &leaf;
    for _ in 0..=MAX_INTERMEDIATES {
        if !is_valid(last, now) {
            return Err("it or its issuer is expired or not yet valid");
        }
        if issuer_of(last, &roots).is_some() {
            let verifier = rsa::verifier(leaf_der).map_err(|_| "its key type or size is not supported")?;
            let (id, _) = serial(leaf_der).ok_or("its serial number cannot be computed")?;
            let not_after = u64::try_from(leaf.validity().not_after.timestamp()).ok();
            return Ok(Key { id, verifier, not_after });
        }
        last = issuer_of(last, &intermediates)
            .and_then(|at| intermediates.get(at))
            .ok_or("its chain does not lead to `keys.root_cert`")?;
    }
    Err("its chain is too long")
}

fn is_alipays(certificate: &X509Certificate<'_>) -> bool {
    let name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    let unit = certificate.subject().iter_organizational_unit().next().and_then(|unit| unit.as_str().ok());
    let name = name.map(|name| name.replace('（', "(").replace('）', ")"));
    name.is_some_and(|name| name.starts_with(ALIPAY_NAME_PREFIX))
        && unit == Some(ALIPAY_UNIT)
        && !is_authority(certificate)
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
