//! Cross-checks of UnionPay's key files: the merchant's certificate and its validity, the CA certificates, and their
//! environment.

use super::super::inspect::{Facts, Finding, IdOf, Inspection, Location};
use super::account::{MIDDLE, ROOT};
use crate::signer::certificate::Certificate;
use crate::signer::key_file::KeyAlgorithm;

pub(super) const INSPECTION: Inspection =
    Inspection { certificates: &[], authorities: &[ROOT, MIDDLE], verify_from: SDK, id, run };

const SDK: &str = "take acp_prod_root.cer and acp_prod_middle.cer from UnionPay's SDK (for tests acp_test_*.cer)";

/// Normalizes a key id: `certId` is the serial number in decimal digits.
fn id(kind: IdOf, id: &str) -> Result<String, Finding> {
    if kind != IdOf::Sign || (!id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit())) {
        return Ok(id.to_owned());
    }
    let bare: String = id.chars().filter(|c| !matches!(c, ':' | ' ' | '-')).collect();
    let bare = bare.strip_prefix("0x").or_else(|| bare.strip_prefix("0X")).unwrap_or(&bare);
    let advice = match u128::from_str_radix(bare, 16) {
        Ok(number) => format!("this may be hexadecimal: write id = \"{number}\""),
        Err(_) => {
            "remove `id`, and configure the PFX file, or a PEM file with the certificate beside the key".to_owned()
        }
    };
    Err(Finding::error(
        Location::SignId,
        "UnionPay's certId must be the certificate's serial number in decimal digits",
        advice,
    ))
}

fn run(facts: &Facts<'_>) -> Vec<Finding> {
    let is_test = facts.account("environment") == Some("test");
    let mut findings: Vec<Finding> = merchant(facts).filter(|_| !is_test).into_iter().collect();
    findings.extend(authority(facts, ROOT, is_test));
    findings.extend(authority(facts, MIDDLE, is_test));
    findings.extend(environment(facts, is_test));
    if let Some(sign) = facts.sign.as_ref().filter(|sign| facts.account("merId") == Some(sign.id)) {
        let message = format!("this is the account's `merId`, and not the number of its certificate: {}", sign.id);
        let advice = "remove `id`, and configure the PFX file, or a PEM file with the certificate beside the key";
        findings.push(Finding::error(Location::SignId, message, advice));
    }
    findings
}

/// Checks the merchant's own certificate beside its key. Skipped in UnionPay's test environment, which still uses an
/// expired one.
fn merchant(facts: &Facts<'_>) -> Option<Finding> {
    let leaf = facts.sign.as_ref()?.certificates.first()?;
    let message = leaf.in_force(facts.now).err()?;
    let message = format!("the merchant's certificate in this file cannot be used: {message}");
    let advice = "get its successor from cs.cfca.com.cn, and upload it at merchant.unionpay.com (证书管理)";
    Some(Finding::error(Location::SignFile, message, advice))
}

/// Checks a file of CA certificates. Old and new ones may be present; at least one must be valid.
fn authority(facts: &Facts<'_>, name: &'static str, is_test: bool) -> Vec<Finding> {
    let location = Location::Secret(name);
    let certificates = facts.secret(name);
    let own = facts.sign.as_ref().and_then(|sign| sign.public_key);
    let is_own = |one: &Certificate| own.is_some() && one.public_key.as_ref() == own;
    let is_sm2 = facts.sign.as_ref().is_some_and(|sign| sign.algorithm == "sm2-sm3");
    let algorithm = if is_sm2 { KeyAlgorithm::Sm2 } else { KeyAlgorithm::Rsa };
    let problem = match () {
        () if certificates.is_empty() => None,
        () if certificates.iter().any(is_own) => {
            Some("this is the merchant's own certificate, and an authority's belongs here".to_owned())
        }
        () if name == MIDDLE
            && certificates.iter().all(Certificate::is_self_issued)
            && facts.secret(ROOT).iter().all(|root| !root.is_self_issued()) =>
        {
            Some("`root_cert` and `middle_cert` are swapped: this one signed itself, as a root does".to_owned())
        }
        () if name == MIDDLE && certificates.iter().all(Certificate::is_self_issued) => {
            Some("this is a root certificate: UnionPay's messages are signed under a middle one".to_owned())
        }
        () if !certificates
            .iter()
            .any(|one| one.public_key.as_ref().is_some_and(|key| key.algorithm() == algorithm)) =>
        {
            Some(format!(
                "no certificate in this file has a key for {algorithm}, with which `keys.sign` and UnionPay sign"
            ))
        }
        () if !certificates.iter().any(|one| one.is_authority) => {
            Some("this certificate may not sign others: it is not a CA certificate".to_owned())
        }
        () => {
            let validity: Vec<_> = certificates.iter().map(|one| one.in_force(facts.now)).collect();
            match validity.iter().any(Result::is_ok) {
                true => None,
                false => validity.into_iter().next().and_then(Result::err),
            }
        }
    };
    let mut findings: Vec<Finding> =
        problem.map(|message| Finding::error(location, message, SDK)).into_iter().collect();
    let is_test_certificate = |one: &Certificate| one.common_name.starts_with("CFCA TEST");
    let is_local = facts.hosts.iter().any(|host| host == "localhost" || host.parse::<std::net::IpAddr>().is_ok());
    if !is_test && !is_local && certificates.iter().any(is_test_certificate) {
        let message = "this is a certificate of UnionPay's test environment, and `environment` is \"production\"";
        findings.push(Finding::error(location, message, SDK));
    }
    findings
}

/// Checks that hosts and `environment` match. Otherwise every message of UnionPay would be rejected.
fn environment(facts: &Facts<'_>, is_test: bool) -> Option<Finding> {
    let is_test_certificate = |host: &&String| host.ends_with("test.95516.com");
    let is_production = |host: &&String| host.ends_with("95516.com") && !is_test_certificate(host);
    if let (false, Some(host)) = (is_test, facts.hosts.iter().find(is_test_certificate)) {
        let message = format!("{host} is UnionPay's test environment, and `environment` is \"production\"");
        return Some(Finding::error(Location::Hosts, message, "add environment = \"test\" to `[account]`"));
    }
    let middles = facts.secret(MIDDLE);
    let is_of_tests_ca = |one: &Certificate| one.common_name.starts_with("CFCA TEST");
    if is_test
        && facts.hosts.iter().any(|host| is_test_certificate(&host))
        && !middles.is_empty()
        && !middles.iter().any(is_of_tests_ca)
    {
        let message =
            "no certificate in this file is of UnionPay's test environment (CFCA TEST …), where the hosts are";
        return Some(Finding::note(Location::Secret(MIDDLE), message, SDK));
    }
    if let (true, Some(host)) = (is_test, facts.hosts.iter().find(is_production)) {
        let message = format!("{host} is UnionPay's production, and `environment` is \"test\"");
        return Some(Finding::error(Location::Hosts, message, "remove `environment`"));
    }
    None
}
