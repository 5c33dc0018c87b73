//! Cross-checks of Alipay's key files: the app's key and its certificate, every certificate and its root, and the
//! account ids.

use super::super::inspect::{Facts, Finding, IdOf, Inspection, Location};
use super::account::{APP_CERT, ROOT_CERT};
use crate::signer::certificate::{Certificate, Chain};

pub(super) const INSPECTION: Inspection = Inspection {
    certificates: &[APP_CERT],
    authorities: &[ROOT_CERT],
    verify_from: "take Alipay's public key (支付宝公钥, not 应用公钥) or its certificate alipayCertPublicKey_RSA2.crt from open.alipay.com",
    id,
    run,
};

/// Normalizes an id: Alipay identifies certificates by a digest in small letters; bare keys have no id.
fn id(kind: IdOf, id: &str) -> Result<String, Finding> {
    let is_number = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    match kind {
        IdOf::Certificate if is_number => Ok(id.to_ascii_lowercase()),
        _ => Ok(id.to_owned()),
    }
}

fn run(facts: &Facts<'_>) -> Vec<Finding> {
    [
        app_certificate(facts),
        provider_certificates(facts),
        owners(facts),
        roots(facts),
        chains(facts),
        short_keys(facts),
        gateway(facts),
        numbers(facts),
    ]
    .concat()
}

/// Checks the app's certificate: key, validity and app id.
fn app_certificate(facts: &Facts<'_>) -> Vec<Finding> {
    let Some(leaf) = facts.secret(APP_CERT).first() else { return Vec::new() };
    let location = Location::Secret(APP_CERT);
    let download = "download appCertPublicKey_….crt of this app from open.alipay.com (开发设置 → 接口加签方式)";
    let is_alipays = facts.verify.iter().any(|key| key.certificates.first().is_some_and(|one| one.der == leaf.der));
    if is_alipays {
        return vec![Finding::error(
            location,
            "this is the same certificate as Alipay's in `keys.verify`, and not the app's",
            download,
        )];
    }
    let mut findings = Vec::new();
    if let Some(key) = facts.sign.as_ref().and_then(|sign| sign.public_key)
        && leaf.public_key.as_ref() != Some(key)
    {
        let message = "this app certificate does not belong to the private key in `keys.sign`";
        findings.push(Finding::error(
            location,
            message,
            format!("{download}, or configure the key with which it was requested"),
        ));
    }
    if let Err(message) = leaf.in_force(facts.now) {
        findings.push(Finding::error(location, message, format!("Alipay refuses every request with it: {download}")));
    }
    let Some((owner, app)) = app_of(leaf) else { return findings };
    if let Some(app_id) = facts.account("app_id").filter(|id| *id != app) {
        findings.push(Finding::error(
            location,
            format!("this certificate is of the app {app}, and `app_id` is {app_id}"),
            download,
        ));
    }
    // Alipay can arrange that an app collects for another account (收款关系). With a token the seller is always another
    // account.
    if let (Some(seller_id), None) = (facts.account("seller_id"), facts.account("app_auth_token"))
        && seller_id != owner
    {
        let message = format!(
            "`seller_id` is {seller_id}, but the app in `keys.app_cert` belongs to {owner}: without an arrangement Alipay refuses \
             every payment"
        );
        let advice =
            format!("write seller_id = \"{owner}\", remove it, or ask Alipay whether this pair is arranged (收款关系)");
        findings.push(Finding::note(Location::Account("seller_id"), message, advice));
    }
    findings
}

/// Returns the owner (PID) and the app (APPID) from the name of an app's certificate: `2088…-2021…`.
fn app_of(leaf: &Certificate) -> Option<(&str, &str)> {
    leaf.common_name.split_once('-').filter(|(owner, app)| is_number(owner) && is_number(app))
}

/// Notes a certificate of Alipay that was issued for the app of another owner. Its name ends with the owner's PID.
fn owners(facts: &Facts<'_>) -> Vec<Finding> {
    let Some((owner, _)) = facts.secret(APP_CERT).first().and_then(app_of) else { return Vec::new() };
    let leaves = facts.verify.iter().enumerate().filter_map(|(index, key)| Some((index, key.certificates.first()?)));
    let owned = leaves.filter_map(|(index, leaf)| Some((index, leaf.common_name.rsplit_once('-')?.1)));
    owned
        .filter(|(_, other)| is_number(other) && *other != owner)
        .map(|(index, other)| {
            let message = format!(
                "this certificate of Alipay's is for apps of {other}, and the one in `keys.app_cert` belongs to {owner}"
            );
            Finding::note(Location::VerifyFile(index), message, INSPECTION.verify_from)
        })
        .collect()
}

/// Finds certificates in `keys.verify` that cannot be Alipay's own: those of an app, and CA certificates.
fn provider_certificates(facts: &Facts<'_>) -> Vec<Finding> {
    let leaves = facts.verify.iter().enumerate().filter_map(|(index, key)| Some((index, key.certificates.first()?)));
    leaves
        .filter_map(|(index, leaf)| {
            let message = match (
                app_of(leaf).is_some(),
                leaf.is_authority || facts.secret(ROOT_CERT).iter().any(|root| root.der == leaf.der),
            ) {
                (true, _) => {
                    format!("this is the certificate of the app {}, and Alipay's belongs here", leaf.common_name)
                }
                (false, true) => "this is the certificate of an authority, and Alipay's own belongs here".to_owned(),
                (false, false) => return None,
            };
            Some(Finding::error(Location::VerifyFile(index), message, INSPECTION.verify_from))
        })
        .collect()
}

/// Rejects a `root_cert` file without a self-signed CA certificate.
fn roots(facts: &Facts<'_>) -> Vec<Finding> {
    let roots = facts.secret(ROOT_CERT);
    let message = match () {
        () if roots.is_empty() || roots.iter().any(is_root) => return Vec::new(),
        () if roots.iter().any(Certificate::is_self_issued) => {
            "there is no root certificate in this file: what signed itself in it is no CA certificate"
        }
        () => "there is no root certificate in this file: none of its certificates signed itself",
    };
    vec![Finding::error(Location::Secret(ROOT_CERT), message, "download alipayRootCert.crt from open.alipay.com")]
}

fn is_root(certificate: &Certificate) -> bool {
    certificate.is_self_issued() && certificate.is_authority
}

/// Checks that the app's and Alipay's certificates lead to a configured root.
fn chains(facts: &Facts<'_>) -> Vec<Finding> {
    let roots = facts.secret(ROOT_CERT);
    if !roots.iter().any(is_root) {
        return Vec::new();
    }
    let all_certificates = facts.secret(APP_CERT).iter().chain(facts.verify.iter().flat_map(|key| &key.certificates));
    let known: Vec<&Certificate> = all_certificates.collect();
    let app = facts.secret(APP_CERT).first().map(|leaf| (Location::Secret(APP_CERT), leaf));
    let verify = facts.verify.iter().enumerate();
    let verify = verify.filter_map(|(index, key)| Some((Location::VerifyFile(index), key.certificates.first()?)));
    let mut findings: Vec<Finding> = app
        .into_iter()
        .chain(verify)
        .filter_map(|(location, leaf)| {
            let message = match leaf.chain(&known, roots) {
                Chain::Leads => return None,
                // Alipay provides the app's certificate without its intermediate.
                Chain::Unknown(_) if roots.iter().any(|root| is_same_organization(leaf, root)) => return None,
                Chain::Broken(issuer) => {
                    format!("this certificate names `{issuer}` as its issuer, but not the one in `root_cert` signed it")
                }
                Chain::Unknown(issuer) => {
                    format!("this certificate leads to no root in `root_cert`: `{issuer}` issued it")
                }
            };
            let advice = "take all certificates from the same app and environment of open.alipay.com";
            Some(Finding::error(location, message, advice))
        })
        .collect();
    if !facts.verify.is_empty() && facts.verify.iter().all(|key| key.certificates.is_empty() && !key.has_id) {
        let message = "with `app_cert` Alipay signs with a certificate and sends its serial number, which a bare public key does not have";
        let advice = "configure alipayCertPublicKey_RSA2.crt from open.alipay.com here";
        findings.push(Finding::note(Location::VerifyFile(0), message, advice));
    }
    findings
}

fn is_same_organization(leaf: &Certificate, root: &Certificate) -> bool {
    !leaf.issuer_organization.is_empty() && root.organization() == leaf.issuer_organization
}

/// Notes keys under 2048 bits. Only old accounts have them, and only with SHA-1.
fn short_keys(facts: &Facts<'_>) -> Vec<Finding> {
    let own = facts.sign.as_ref().and_then(|sign| Some((Location::SignFile, sign.public_key?)));
    let theirs = facts.verify.iter().enumerate().map(|(index, key)| (Location::VerifyFile(index), &key.public_key));
    let short = own
        .into_iter()
        .chain(theirs)
        .filter_map(|(location, key)| Some((location, key.rsa_bits().filter(|bits| *bits < 2048)?)));
    short
        .filter(|_| facts.sign.as_ref().is_some_and(|sign| sign.algorithm == "rsa-sha1"))
        .map(|(location, bits)| {
            let message = format!(
                "this key has only {bits} bits and signs with SHA-1, which Alipay accepts for old accounts only"
            );
            Finding::note(
                location,
                message,
                "switch the app to RSA2 with a 2048-bit key on open.alipay.com, and to rsa-sha256 here",
            )
        })
        .collect()
}

/// Checks that `gateway` (where payers are redirected) and the hosts belong to the same environment.
fn gateway(facts: &Facts<'_>) -> Vec<Finding> {
    let is_sandbox = |host: &str| host.contains("alipaydev.com") || host.contains("-sandbox");
    let is_production = |host: &str| host.contains("openapi.alipay.com");
    let gateway = facts.account("gateway");
    let sandbox = facts.hosts.iter().find(|host| is_sandbox(host));
    match (sandbox, gateway) {
        (Some(host), None) => {
            let message =
                "the hosts are Alipay's sandbox, but links would lead payers to production: `gateway` is missing";
            let advice = format!("add gateway = \"https://{host}/gateway.do\" to `[account]`");
            vec![Finding::error(Location::Hosts, message, advice)]
        }
        (Some(host), Some(gateway)) if is_production(gateway) => {
            let message = "the hosts are Alipay's sandbox, but `gateway` leads payers to production";
            vec![Finding::error(
                Location::Account("gateway"),
                message,
                format!("write gateway = \"https://{host}/gateway.do\""),
            )]
        }
        (None, Some(gateway)) if is_sandbox(gateway) && facts.hosts.iter().any(|host| is_production(host)) => {
            let message = "the hosts are Alipay's production, but `gateway` leads payers to the sandbox";
            vec![Finding::error(Location::Account("gateway"), message, "remove `gateway`")]
        }
        _ => Vec::new(),
    }
}

/// Finds account ids that were swapped or belong to another provider.
fn numbers(facts: &Facts<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in ["app_id", "op_app_id"] {
        let Some(id) = facts.account(name).filter(|id| !id.is_empty()) else { continue };
        let advice = "copy the APPID from open.alipay.com, as in \"2021000000000001\"";
        if is_seller(id) {
            let message = format!("this {name} is a seller's number (PID, 2088…), and not an APPID");
            findings.push(Finding::error(Location::Account(name), message, advice));
        } else if id.starts_with("wx") {
            findings.push(Finding::error(
                Location::Account(name),
                format!("this {name} is an AppID of WeChat's"),
                advice,
            ));
        } else if !is_number(id) {
            findings.push(Finding::note(
                Location::Account(name),
                format!("APPIDs have 16 digits, and this {name} has not"),
                advice,
            ));
        }
    }
    let seller = facts.account("seller_id").filter(|id| !id.is_empty() && !is_seller(id));
    findings.extend(seller.map(|id| {
        let (location, advice) =
            (Location::Account("seller_id"), "copy the seller's PID from open.alipay.com, as in \"2088000000000001\"");
        match () {
            () if is_app(id) || facts.account("app_id") == Some(id) => {
                Finding::error(location, "this seller_id is an APPID; a seller's number (PID) begins with 2088", advice)
            }
            () if is_number(id) => {
                Finding::note(location, "a seller's number (PID) begins with 2088, and this seller_id does not", advice)
            }
            () => Finding::error(location, "a seller's number (PID) has 16 digits, and this seller_id has not", advice),
        }
    }));
    findings
}

/// Returns whether the id is a seller's number (PID). PIDs without the prefix 2088 are not known, but not excluded
/// either.
fn is_seller(id: &str) -> bool {
    id.starts_with("2088") && is_number(id)
}

/// Returns whether the id looks like an APPID, which begins with the year in which it was issued.
fn is_app(id: &str) -> bool {
    is_number(id) && ["201", "202", "203"].iter().any(|decade| id.starts_with(decade))
}

/// Returns whether the id has the format of PIDs and APPIDs: 16 digits.
fn is_number(id: &str) -> bool {
    id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_digit())
}
