//! Generates sandbox channels of Alipay, with public keys or certificates, in the form or the v3 protocol.

use std::io;

use md5::{Digest, Md5};
use rcgen::{DnType, Issuer, KeyPair, PKCS_RSA_SHA256, SerialNumber};

use super::account_kind::{FILTERS, GeneratedAccount, NewAccount, digits, rsa_key_pair};
use super::authority::{generation_error, issuer_parameters, parameters, serial, server};

/// Authentication and protocol of the channel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Public keys, form protocol.
    Keys,
    /// Certificates, form protocol.
    Certificates,
    /// Certificates, v3 protocol (JSON).
    V3,
}

/// Generates the keys of both sides, and in certificate mode the certificates.
pub(crate) fn make(new_account: &NewAccount<'_>, kind: Mode) -> io::Result<GeneratedAccount> {
    let mut files = Vec::new();
    server(new_account, &mut files)?;
    let (application, alipay) = (rsa_key_pair()?, rsa_key_pair()?);
    let application_id = format!("2021{}", digits(12));
    let seller_id = format!("2088{}", digits(12));
    let serials = if kind != Mode::Keys {
        let root = Root::new()?;
        // A root that is not RSA comes first, as in Alipay's own file. Its serial number must be left out.
        let other = KeyPair::generate().map_err(generation_error)?;
        let other = issuer_parameters("Tollgate sandbox root E1")?.self_signed(&other).map_err(generation_error)?;
        let app_certificate = root.certificate(&seller_id, &application.private_key)?;
        let alipay_certificate = root.certificate("Tollgate sandbox platform", &alipay.private_key)?;
        let next = rsa_key_pair()?;
        let next_certificate = root.platform_certificate(&seller_id, &next.private_key)?;
        let serials = Serials {
            app: serial_number(&app_certificate)?,
            root: serial_number(&root.pem)?,
            alipay: serial_number(&alipay_certificate)?,
            next: serial_number(&next_certificate)?,
        };
        files.push(("alipay_next_cert.pem", next_certificate));
        files.push(("alipay_next_private_key.pem", next.private_key));
        files.push(("app_cert.pem", app_certificate));
        files.push(("alipay_cert.pem", alipay_certificate));
        files.push(("alipay_root_cert.pem", other.pem() + &root.pem));
        Some(serials)
    } else {
        None
    };
    files.push(("app_private_key.pem", application.private_key));
    files.push(("app_public_key.pem", application.public_key));
    files.push(("alipay_private_key.pem", alipay.private_key));
    files.push(("alipay_public_key.pem", alipay.public_key));
    files.push(("sandbox.toml", account_toml(new_account.address, &application_id, &seller_id, serials.as_ref())));
    let channel = channel_toml(new_account, &application_id, &seller_id, kind);
    Ok(GeneratedAccount { files, channel, mchid: seller_id, appid: application_id })
}

/// Serial numbers that identify the certificates in certificate mode.
struct Serials {
    app: String,
    root: String,
    alipay: String,
    next: String,
}

/// RSA certificate authority of Alipay's certificates. The listener's certificate has another authority.
struct Root {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    private_key: String,
}

impl Root {
    fn new() -> io::Result<Self> {
        let pair = rsa_key_pair()?;
        let key =
            KeyPair::from_pkcs8_pem_and_sign_algo(&pair.private_key, &PKCS_RSA_SHA256).map_err(generation_error)?;
        let root = issuer_parameters("Tollgate sandbox root R1")?;
        let pem = root.self_signed(&key).map_err(generation_error)?.pem();
        Ok(Self { issuer: Issuer::new(root, key), pem, private_key: pair.private_key })
    }

    fn certificate(&self, subject: &str, private_key: &str) -> io::Result<String> {
        let key = KeyPair::from_pkcs8_pem_and_sign_algo(private_key, &PKCS_RSA_SHA256).map_err(generation_error)?;
        let mut certificate = parameters(subject, Vec::new())?;
        certificate.serial_number = Some(SerialNumber::from_slice(&serial()));
        Ok(certificate.signed_by(&key, &self.issuer).map_err(generation_error)?.pem())
    }

    /// Returns a certificate with the subject of Alipay's own, followed by the intermediate certificate.
    fn platform_certificate(&self, seller_id: &str, private_key: &str) -> io::Result<String> {
        let read = |pem: &str| KeyPair::from_pkcs8_pem_and_sign_algo(pem, &PKCS_RSA_SHA256).map_err(generation_error);
        let intermediate = issuer_parameters("Tollgate sandbox authority Class 2")?;
        // The intermediate reuses the root's key, which saves the generation of a third key.
        let intermediate_pem =
            intermediate.signed_by(&read(&self.private_key)?, &self.issuer).map_err(generation_error)?.pem();
        let issuer = Issuer::new(intermediate, read(&self.private_key)?);
        let mut certificate = parameters(&format!("支付宝(中国)网络技术有限公司-{seller_id}"), Vec::new())?;
        certificate.distinguished_name.push(DnType::OrganizationalUnitName, "Alipay");
        certificate.serial_number = Some(SerialNumber::from_slice(&serial()));
        Ok(certificate.signed_by(&read(private_key)?, &issuer).map_err(generation_error)?.pem() + &intermediate_pem)
    }
}

/// Returns Alipay's certificate serial number: MD5 over the reversed issuer names and the decimal serial number.
pub(super) fn serial_number(pem: &str) -> io::Result<String> {
    let unreadable = |error: String| io::Error::other(format!("cannot parse a generated certificate: {error}"));
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|error| unreadable(error.to_string()))?;
    let certificate = pem.parse_x509().map_err(|error| unreadable(error.to_string()))?;
    let mut names = Vec::new();
    for attribute in certificate.issuer().iter_attributes() {
        let name = x509_parser::objects::oid2abbrev(attribute.attr_type(), x509_parser::objects::oid_registry());
        let name = name.map_err(|error| unreadable(format!("{error:?}")))?;
        let value = attribute.as_str().map_err(|error| unreadable(error.to_string()))?;
        names.push(format!("{name}={value}"));
    }
    names.reverse();
    let text = format!("{}{}", names.join(","), certificate.serial);
    Ok(hex::encode(Md5::digest(text)))
}

fn account_toml(address: &str, app_id: &str, seller_id: &str, serials: Option<&Serials>) -> String {
    let certificates = serials.map_or_else(String::new, |Serials { app, root, alipay, next }| {
        format!(
            r#"
[certificates]                                # serial numbers in requests and responses
app_cert_sn = "{app}"
alipay_root_cert_sn = "{root}"
alipay_cert_sn = "{alipay}"

[next]                                        # signs responses under the fault `next_key`, as after a renewal
private_key = "alipay_next_private_key.pem"
certificate = "alipay_next_cert.pem"
alipay_cert_sn = "{next}"
"#
        )
    });
    format!(
        r#"# Account at the sandbox. The gateway's side is the channel file in the parent folder.
provider = "alipay"
address = "{address}"
app_id = "{app_id}"
seller_id = "{seller_id}"

[application]                                 # its signatures are accepted
public_key = "app_public_key.pem"

[alipay]                                      # signs responses and notifications
private_key = "alipay_private_key.pem"
{certificates}
[tls]
ca = "ca.pem"
certificate = "server.pem"
private_key = "server_key.pem"
"#
    )
}

fn channel_toml(new_account: &NewAccount<'_>, app_id: &str, seller_id: &str, kind: Mode) -> String {
    let protocol = if kind == Mode::V3 { "\nprotocol = \"v3\"" } else { "" };
    let NewAccount { name, address, .. } = new_account;
    let (verify, certificates) = match kind {
        Mode::Certificates | Mode::V3 => {
            let certificates =
                format!("app_cert = \"file:{name}/app_cert.pem\"\nroot_cert = \"file:{name}/alipay_root_cert.pem\"\n");
            ("alipay_cert.pem", certificates)
        }
        Mode::Keys => ("alipay_public_key.pem", String::new()),
    };
    format!(
        r#"# A channel to the sandbox (`tollgate sandbox` with the folder `{name}`). No real money can move here.
provider = "alipay"
hosts = ["https://{address}"]
ca = "{name}/ca.pem"                          # the sandbox's own authority; real channels use the public roots
timeouts = {{ connect = "1s", read = "2s", write = "2s", total = "5s" }}
pool = {{ idle = 128, idle_timeout = "60s" }}

[account]
app_id = "{app_id}"
seller_id = "{seller_id}"{protocol}
gateway = "https://{address}/gateway.do"      # where browsers and apps are sent

[keys]                                        # the ids are computed from the files
sign = {{ algorithm = "rsa-sha256", file = "{name}/app_private_key.pem" }}
verify = [{{ file = "{name}/{verify}" }}]
{certificates}{FILTERS}"#
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The expected serial number was computed by Alipay's SDK.
    const CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----
MIIDVzCCAj+gAwIBAgIQIAEBAQEBAQEBAQEBAQEBqjANBgkqhkiG9w0BAQsFADBg
MQswCQYDVQQGEwJDTjERMA8GA1UECgwIQW50IFRlc3QxIDAeBgNVBAsMF0NlcnRp
ZmljYXRpb24gQXV0aG9yaXR5MRwwGgYDVQQDDBNBbnQgVGVzdCBDbGFzcyAxIFIx
MB4XDTI1MDEwMTAwMDAwMFoXDTQ1MDEwMTAwMDAwMFowXTELMAkGA1UEBhMCQ04x
ETAPBgNVBAoMCHRlc3QgYXBwMQ8wDQYDVQQLDAZBbGlwYXkxKjAoBgNVBAMMITIw
ODgwMDAwMDAwMDAwMDEtMjAyMTAwMDAwMDAwMDAwMTCCASIwDQYJKoZIhvcNAQEB
BQADggEPADCCAQoCggEBAJPMNCKMSTlE/iNByQHmNCF6KXuQHlnJa3GhNql9T/ym
WlA1yjgthVnqUlCaVImB0lo5tPadNyFF53cLKXpem5HyRkCMCC4s3jhJOHJLnJAJ
PxIdA5Nx/L2XSYfav6DUyjAlTBtc5NLuAWl0ys0y7f7IaIpBvB7GBYMssvR83OgO
wYEb5O7/SFu0f7mOA8RfDT4eZM+/ZPGyLLcQcBGpVwxKPnnyPsSdX/jOeJcerq0y
b3IsA2YuAbrrcgmTiFKFSYn7737sHJ0ocozxQfvbO7qQ3Ohv2BX8X65EY0IXCMMo
2eD1FRyADtAatqCY+8OufIqXnhnGlAB9S5d4MjPTcJECAwEAAaMQMA4wDAYDVR0T
AQH/BAIwADANBgkqhkiG9w0BAQsFAAOCAQEAVmNp4GXT7XhK9ZgDkdHarTaKTv8P
EYi0XjjmLpwJgEtn5DRvGdiPpQ0BOzBQRUNtfzZlbV9HTc5WTYV2u5QeOc1sP9Zj
mzLRjuN/AAhEUVYiPaLiqnFmxEZKE8DEOMyY/10NbAQlMfMB8gETQKlyI+1SSfRW
FQqHGCtVpi0bZ3T0z1FVPSujhaWT5wHcIWoZJol/P8Id54KnJmhXpsJUJBbYhABx
DA9K0LMah+lFHXD75VCrcR+nEb/1Cms2QxfHwRqLq8mKRjZ8sFmoYuWpwF+VcW6v
yBNjMsJrg+NWwyDVL74KLg5+Goh8x93jDDqis4mL/wL6dHeWbE4KYUxWFg==
-----END CERTIFICATE-----";

    #[test]
    fn certificate_serial_number_equals_the_one_of_alipays_sdk() {
        assert_eq!(serial_number(CERTIFICATE).unwrap(), "8f87da9afe9215ee0be9a7da04355e92");
    }
}
