//! Formats of WeChat Pay's ids, and cross-checks of a channel's key files.

use super::inspect::{Facts, Finding, IdOf, Inspection, Location};
use crate::signer::certificate::Certificate;

/// Rules for APIv3.
pub(super) const V3: Inspection = Inspection {
    certificates: &[],
    authorities: &[],
    verify_from: "download WeChat Pay's public key (pub_key.pem, 微信支付公钥) from pay.weixin.qq.com (账户中心 → API安全), and name its id \
                  PUB_KEY_ID_…",
    id,
    run: |facts| [api_certificate(facts), provider_keys(facts), public_key_ids(facts), account(facts)].concat(),
};

/// Rules for APIv2, which has no private key of its own.
pub(super) const V2: Inspection =
    Inspection { run: |facts| [identity(facts).into_iter().collect(), account(facts)].concat(), ..Inspection::NONE };

const PUBLIC_KEY_ID_PREFIX: &str = "PUB_KEY_ID_";
/// Number of digits of WeChat Pay's serial numbers.
const SERIAL_DIGITS: usize = 40;
/// Number of digits of the merchant number in the id of a public key.
const MCHID_DIGITS: usize = 10;
/// Number of digits of the date after it.
const DATE_DIGITS: usize = 8;

/// Normalizes a key id: a serial number is hexadecimal, the id of a bare public key has a prefix.
fn id(kind: IdOf, id: &str) -> Result<String, Finding> {
    let has_prefix =
        id.get(..PUBLIC_KEY_ID_PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PUBLIC_KEY_ID_PREFIX));
    match kind {
        IdOf::BareKey if id.starts_with(PUBLIC_KEY_ID_PREFIX) => Ok(id.to_owned()),
        IdOf::BareKey if has_prefix => {
            let right = id.to_ascii_uppercase();
            Err(Finding::error(
                Location::VerifyId,
                "the id of WeChat Pay's public key must be in capital letters",
                format!("write id = \"{right}\""),
            ))
        }
        IdOf::BareKey => {
            let advice = match id.bytes().all(|byte| byte.is_ascii_digit()) && !id.is_empty() {
                true => format!("the prefix is missing: write id = \"{PUBLIC_KEY_ID_PREFIX}{id}\""),
                false => "copy it from pay.weixin.qq.com (账户中心 → API安全 → 微信支付公钥), as in id = \"PUB_KEY_ID_0119000001092024…\"".to_owned(),
            };
            Err(Finding::error(
                Location::VerifyId,
                "the id of WeChat Pay's public key must begin with PUB_KEY_ID_",
                advice,
            ))
        }
        IdOf::Sign if has_prefix => {
            let advice = "copy the API certificate's serial number (API证书序列号), or: `openssl x509 -in apiclient_cert.pem -noout -serial`";
            Err(Finding::error(
                Location::SignId,
                "this is the id of WeChat Pay's public key, which belongs into `keys.verify`",
                advice,
            ))
        }
        IdOf::Certificate if has_prefix => {
            let advice = "configure pub_key.pem, or remove `id`";
            Err(Finding::error(
                Location::VerifyId,
                "this id is of WeChat Pay's public key, and the file is a certificate",
                advice,
            ))
        }
        IdOf::Sign => {
            normalize_serial(id).map_err(|(message, advice)| Finding::error(Location::SignId, message, advice))
        }
        IdOf::Certificate => {
            normalize_serial(id).map_err(|(message, advice)| Finding::error(Location::VerifyId, message, advice))
        }
    }
}

/// Normalizes a serial number to capital letters, as WeChat Pay writes it. Small letters are accepted.
fn normalize_serial(id: &str) -> Result<String, (&'static str, String)> {
    let hexadecimal = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_decimal = id.bytes().all(|byte| byte.is_ascii_digit());
    if is_decimal && id.len() > SERIAL_DIGITS {
        let right = decimal_as_hexadecimal(id);
        return Err((
            "this serial number is decimal, but WeChat Pay expects hexadecimal",
            format!("write id = \"{right}\""),
        ));
    }
    if hexadecimal(id) {
        return Ok(id.to_ascii_uppercase());
    }
    let bare: String = id.chars().filter(|c| !matches!(c, ':' | '-' | ' ')).collect();
    let bare = bare.strip_prefix("0x").or_else(|| bare.strip_prefix("0X")).unwrap_or(&bare);
    let bare =
        bare.split_once('=').filter(|(name, _)| name.eq_ignore_ascii_case("serial")).map_or(bare, |(_, number)| number);
    let message = "a serial number must consist of hexadecimal digits only";
    Err(match hexadecimal(bare) {
        true => (message, format!("write id = \"{}\"", bare.to_ascii_uppercase())),
        false => (
            message,
            "copy it from pay.weixin.qq.com, or: `openssl x509 -in apiclient_cert.pem -noout -serial`".to_owned(),
        ),
    })
}

/// Converts a decimal number of any length to hexadecimal.
fn decimal_as_hexadecimal(digits: &str) -> String {
    // Digits in base 16, lowest first.
    let mut number = vec![0u8];
    for digit in digits.bytes().map(|byte| u16::from(byte.saturating_sub(b'0'))) {
        let mut carry = digit;
        for location in &mut number {
            let value = u16::from(*location) * 10 + carry;
            *location = (value % 16) as u8;
            carry = value / 16;
        }
        while carry > 0 {
            number.push((carry % 16) as u8);
            carry /= 16;
        }
    }
    let text: String = number.iter().rev().map(|digit| format!("{digit:X}")).collect();
    text.trim_start_matches('0').to_owned()
}

/// Returns whether two serial numbers are equal, ignoring leading zeros and case.
fn is_same_serial(one: &str, other: &str) -> bool {
    one.trim_start_matches('0').eq_ignore_ascii_case(other.trim_start_matches('0'))
}

/// Compares the signing key and its id with the API certificate in `[mtls]`.
fn api_certificate(facts: &Facts<'_>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = identity(facts).into_iter().collect();
    let Some(sign) = &facts.sign else { return findings };
    if let Some((name, _)) = facts.account.iter().find(|(_, value)| value == sign.id) {
        let message = format!("this is the account's `{name}`, and not the serial number of its API certificate");
        let advice = "copy the serial number (API证书序列号), or: `openssl x509 -in apiclient_cert.pem -noout -serial`";
        findings.push(Finding::error(Location::SignId, message, advice));
        return findings;
    }
    if sign.id.len() != SERIAL_DIGITS {
        let message =
            format!("WeChat Pay's serial numbers have {SERIAL_DIGITS} digits, and this has {}", sign.id.len());
        let advice = "compare it with `openssl x509 -in apiclient_cert.pem -noout -serial`";
        findings.push(Finding::note(Location::SignId, message, advice));
    }
    let (Some(leaf), Some(key)) = (facts.mtls.first(), sign.public_key) else { return findings };
    let is_its_key = leaf.public_key.as_ref() == Some(key);
    let is_its_id = is_same_serial(&leaf.serial, sign.id);
    let number = format!("{:0>SERIAL_DIGITS$}", leaf.serial);
    match (is_its_key, is_its_id) {
        (true, true) => {}
        (true, false) => {
            let message = "`id` is not the serial number of the API certificate in `[mtls]`, to which this key belongs";
            findings.push(Finding::error(Location::SignId, message, format!("write id = \"{number}\"")));
        }
        (false, true) => {
            let message = "this key does not belong to the API certificate in `[mtls]`, whose serial number `id` is";
            let advice =
                "configure the file of `mtls.key` (apiclient_key.pem), or the id of this key's own certificate";
            findings.push(Finding::error(Location::SignFile, message, advice));
        }
        (false, false) if is_api_certificate(leaf) => {
            let message = format!(
                "`keys.sign` and `[mtls]` belong to two different API certificates: `{}` and `{number}`",
                sign.id
            );
            findings.push(Finding::note(Location::SignFile, message, "both can be valid during a renewal"));
        }
        (false, false) => {}
    }
    findings
}

/// Checks that the API certificate was issued to the configured merchant number.
fn identity(facts: &Facts<'_>) -> Option<Finding> {
    let (leaf, mchid) = (facts.mtls.first()?, facts.account("mchid")?);
    (is_api_certificate(leaf) && leaf.common_name != mchid).then(|| {
        let message =
            format!("this API certificate is of the merchant {}, and `mchid` is {mchid}", printable(&leaf.common_name));
        Finding::error(Location::Mtls, message, "name the API certificate (apiclient_cert.pem) of this merchant number")
    })
}

/// Finds files in `keys.verify` that cannot be WeChat Pay's: any merchant's API certificate, and CA certificates. An
/// older API certificate of this merchant has another key, so comparing keys would not find it.
fn provider_keys(facts: &Facts<'_>) -> Vec<Finding> {
    let leaves = facts.verify.iter().enumerate().filter_map(|(index, key)| Some((index, key.certificates.first()?)));
    leaves
        .filter_map(|(index, leaf)| {
            let location = Location::VerifyFile(index);
            if is_api_certificate(leaf) {
                let message = format!(
                    "this is an API certificate of the merchant {}, and WeChat Pay's belongs here",
                    leaf.common_name
                );
                return Some(Finding::error(location, message, V3.verify_from));
            }
            let message =
                "this is the certificate of an authority (rootca.pem?): WeChat Pay signs messages with another key";
            leaf.is_authority.then(|| Finding::note(location, message, V3.verify_from))
        })
        .collect()
}

/// Finds public keys that were issued to another merchant.
///
/// Every published id consists of `PUB_KEY_ID_01`, the merchant number of ten digits, a date and a count. WeChat Pay
/// does not document this format, so a difference is only a note.
fn public_key_ids(facts: &Facts<'_>) -> Vec<Finding> {
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let Some(mchid) = facts.account("mchid").filter(|id| id.len() == MCHID_DIGITS && is_digits(id)) else {
        return Vec::new();
    };
    let merchant_of = |id: &str| -> Option<String> {
        let rest = id.strip_prefix(PUBLIC_KEY_ID_PREFIX)?.strip_prefix("01").filter(|rest| is_digits(rest))?;
        let (merchant, rest_after_merchant) = rest.split_at_checked(MCHID_DIGITS)?;
        (rest_after_merchant.len() >= DATE_DIGITS).then(|| merchant.to_owned())
    };
    let keys = facts.verify.iter().enumerate().filter_map(|(index, key)| Some((index, merchant_of(&key.id)?)));
    keys.filter(|(_, merchant)| merchant != mchid)
        .map(|(index, merchant)| {
            let message =
                format!("the id of this public key looks like one of the merchant {merchant}, and `mchid` is {mchid}");
            Finding::note(Location::VerifyFile(index), message, V3.verify_from)
        })
        .collect()
}

fn is_api_certificate(leaf: &Certificate) -> bool {
    (8..=10).contains(&leaf.common_name.len()) && leaf.common_name.bytes().all(|byte| byte.is_ascii_digit())
}

/// Finds account ids that were swapped or belong to another provider.
fn account(facts: &Facts<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in ["mchid", "sub_mchid"] {
        let Some(id) = facts.account(name).filter(|id| id.bytes().all(|byte| byte.is_ascii_digit())) else { continue };
        if id.starts_with("2088") && id.len() == 16 {
            let message = format!("this {name} is a number of Alipay's");
            findings.push(Finding::error(
                Location::Account(name),
                message,
                "copy the merchant number (商户号) from pay.weixin.qq.com",
            ));
        } else if !(8..=10).contains(&id.len()) {
            let message =
                format!("WeChat Pay's merchant numbers have 8 to 10 digits, and this {name} has {}", id.len());
            findings.push(Finding::note(
                Location::Account(name),
                message,
                "compare it with pay.weixin.qq.com (账户中心 → 商户信息)",
            ));
        }
    }
    for name in ["appid", "sub_appid"] {
        let Some(id) = facts.account(name) else { continue };
        let is_usual =
            id.len() == 18 && id.starts_with('w') && id.bytes().skip(2).all(|byte| byte.is_ascii_alphanumeric());
        let advice = "copy the AppID that is bound to the merchant number, as in \"wx8888888888888888\"";
        if !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()) {
            let message = format!("this {name} is only digits, as a merchant number is; an AppID begins with wx");
            findings.push(Finding::error(Location::Account(name), message, advice));
        } else if !is_usual {
            let message = format!("AppIDs have 18 characters and begin with wx, and this {name} does not look so");
            findings.push(Finding::note(Location::Account(name), message, advice));
        }
    }
    if let Some(id) = facts.account("sub_mchid").filter(|id| facts.account("mchid") == Some(id)) {
        let message =
            format!("`sub_mchid` and `mchid` are both {id}: a service provider and its merchant have two numbers");
        findings.push(Finding::note(
            Location::Account("sub_mchid"),
            message,
            "remove `sub_mchid` for a direct merchant",
        ));
    }
    findings
}

/// Removes control characters and truncates to 64 characters: the name comes from a file with arbitrary content.
fn printable(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::super::inspect::{Severity, Verify};
    use super::*;
    use crate::signer::key_file::{KeyFile, Password};

    #[test]
    fn malformed_serial_number_is_rejected_with_corrected_id() {
        let right = "7132D72A03E93CDDF8C03BBD1F37EEDF5CD1A7B6";
        assert_eq!(id(IdOf::Sign, right).unwrap(), right);
        assert_eq!(id(IdOf::Sign, &right.to_lowercase()).unwrap(), right);
        let colons: Vec<&str> = (0..40).step_by(2).map(|at| &right[at..at + 2]).collect();
        for wrong in [
            colons.join(":"),
            colons.join(" "),
            format!("0x{right}"),
            format!("serial={right}"),
            // The same number in decimal digits.
            "646249737801553860214244709215100082478222780342".to_owned(),
        ] {
            let finding = id(IdOf::Sign, &wrong).unwrap_err();
            assert_eq!(finding.suggestion.unwrap(), format!("write id = \"{right}\""), "{wrong}");
            assert_eq!(
                (finding.location, finding.severity),
                (Location::SignId, super::super::inspect::Severity::Error)
            );
        }
        for wrong in ["", "none", "apiclient", "PUB_KEY_ID_0119000001092024"] {
            assert!(id(IdOf::Sign, wrong).is_err(), "{wrong}");
        }
    }

    /// The ids in this test were published together with their merchant numbers.
    #[test]
    fn public_key_of_another_merchant_is_a_note() {
        let file = include_bytes!("../../tests/golden/wechat-v3/keys/wxjava_wechat_pay_public_key.pem");
        let read = KeyFile::read(file, Password::Unsupported).unwrap();
        let notes = |id: &str, mchid: &str| {
            let public_key = read.public_key().unwrap().clone();
            let verify = [Verify { id: id.to_owned(), has_id: true, public_key, certificates: Vec::new() }];
            let account = [("mchid".to_owned(), mchid.to_owned())];
            let facts =
                Facts { now: 0, account: &account, hosts: &[], sign: None, verify: &verify, mtls: &[], secrets: &[] };
            let found = (V3.run)(&facts).into_iter().filter(|found| found.location == Location::VerifyFile(0));
            found.map(|found| (found.severity, found.message)).collect::<Vec<_>>()
        };
        let (id, mchid) = ("PUB_KEY_ID_0117469715472026061500382161001801", "1746971547");
        assert_eq!(notes(id, mchid), []);
        let message = "the id of this public key looks like one of the merchant 1746971547, and `mchid` is 1900000109";
        assert_eq!(notes(id, "1900000109"), [(Severity::Note, message.to_owned())]);
        // Ids of unknown formats.
        for (id, mchid) in [
            (id, "10000100"),
            ("PUB_KEY_ID_0217469715472026061500382161001801", "1900000109"),
            ("PUB_KEY_ID_01174697154720", "1900000109"),
            ("PUB_KEY_ID_ABC", "1900000109"),
            ("7132D72A03E93CDDF8C03BBD1F37EEDF5CD1A7B6", "1900000109"),
        ] {
            assert_eq!(notes(id, mchid), [], "{id}");
        }
    }

    #[test]
    fn public_key_id_without_prefix_is_rejected_with_corrected_id() {
        let right = "PUB_KEY_ID_0119000001092024101100112200000000";
        assert_eq!(id(IdOf::BareKey, right).unwrap(), right);
        for wrong in [right.to_lowercase(), right.replace("PUB_KEY_ID_", "")] {
            let advice = id(IdOf::BareKey, &wrong).unwrap_err().suggestion.unwrap();
            assert!(advice.ends_with(&format!("write id = \"{right}\"")), "{advice}");
        }
        assert!(id(IdOf::BareKey, "7132D72A03E93CDDF8C03BBD1F37EEDF5CD1A7B6").is_err());
        assert!(id(IdOf::Certificate, right).is_err());
    }
}
