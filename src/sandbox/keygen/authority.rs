//! The sandbox's certificate authority, and the certificates that it issues.

use std::fmt::Display;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rand::RngExt;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_RSA_SHA256, SerialNumber,
};
use serde::Deserialize;

use super::account_kind::{NewAccount, rsa_key_pair};

/// Subject of every sandbox authority. It is constant, so that the authority can be rebuilt from its key alone.
const AUTHORITY: &str = "Tollgate sandbox authority (worth nothing elsewhere)";
/// Lifetime of certificates in years, as at WeChat Pay.
pub(super) const LIFETIME_YEARS: i16 = 5;

/// Returns the authority, and adds the files of the authority and the server certificate. An existing account with
/// the same address shares its files; otherwise they are generated.
pub(super) fn server(
    new_account: &NewAccount<'_>,
    files: &mut Vec<(&'static str, String)>,
) -> io::Result<Issuer<'static, KeyPair>> {
    const FILES: [&str; 4] = ["ca.pem", "ca_key.pem", "server.pem", "server_key.pem"];
    if let Some(existing) = account_with_address(new_account.dir, new_account.address) {
        for file in FILES {
            files.push((file, fs::read_to_string(existing.join(file))?));
        }
        let key = KeyPair::from_pem(&fs::read_to_string(existing.join(FILES[1]))?).map_err(generation_error)?;
        return Ok(Issuer::new(authority_parameters()?, key));
    }
    let authority_key = KeyPair::generate().map_err(generation_error)?;
    let authority = authority_parameters()?.self_signed(&authority_key).map_err(generation_error)?;
    files.push((FILES[0], authority.pem()));
    files.push((FILES[1], authority_key.serialize_pem()));
    let issuer = Issuer::new(authority_parameters()?, authority_key);

    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(String::from).into();
    if !names.iter().any(|name| name == new_account.host) {
        names.push(new_account.host.to_owned());
    }
    let mut server = parameters("Tollgate sandbox", names)?;
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().map_err(generation_error)?;
    let certificate = server.signed_by(&key, &issuer).map_err(generation_error)?;
    files.push((FILES[2], certificate.pem()));
    files.push((FILES[3], key.serialize_pem()));
    Ok(issuer)
}

/// Returns the folder of an account in the same directory with the same address.
fn account_with_address(dir: &Path, address: &str) -> Option<PathBuf> {
    #[derive(Deserialize)]
    struct File {
        address: String,
    }
    let mut accounts: Vec<_> = fs::read_dir(dir).ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    accounts.sort();
    accounts.into_iter().find(|account| {
        let text = fs::read_to_string(account.join("sandbox.toml"));
        let file = text.ok().and_then(|text| toml::from_str::<File>(&text).ok());
        file.is_some_and(|file| file.address == address) && account.join("ca_key.pem").exists()
    })
}

fn authority_parameters() -> io::Result<CertificateParams> {
    let mut authority = parameters(AUTHORITY, Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(authority)
}

/// Generates a WeChat merchant's client certificate and adds its files. Returns the serial number.
pub(super) fn identity(
    mchid: &str,
    authority: &Issuer<'static, KeyPair>,
    files: &mut Vec<(&'static str, String)>,
) -> io::Result<String> {
    let pair = rsa_key_pair()?;
    let key = KeyPair::from_pkcs8_pem_and_sign_algo(&pair.private_key, &PKCS_RSA_SHA256).map_err(generation_error)?;
    let mut merchant = parameters(mchid, Vec::new())?;
    let serial = serial();
    merchant.serial_number = Some(SerialNumber::from_slice(&serial));
    merchant.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    merchant.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = merchant.signed_by(&key, authority).map_err(generation_error)?;
    files.push(("apiclient_key.pem", pair.private_key));
    files.push(("apiclient_cert.pem", certificate.pem()));
    Ok(hex::encode(serial).to_uppercase())
}

/// Returns certificate parameters without key usages.
pub(super) fn parameters(name: &str, alternative_names: Vec<String>) -> io::Result<CertificateParams> {
    let mut parameters = CertificateParams::new(alternative_names).map_err(generation_error)?;
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.use_authority_key_identifier_extension = true;
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let day = |date: jiff::civil::Date| {
        rcgen::date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    parameters.not_before = day(today.saturating_sub(jiff::Span::new().days(1)));
    parameters.not_after = day(today.saturating_add(jiff::Span::new().years(LIFETIME_YEARS)));
    Ok(parameters)
}

/// Returns the parameters of a provider's certificate authority without a path length limit.
pub(super) fn issuer_parameters(name: &str) -> io::Result<CertificateParams> {
    let mut issuer = parameters(name, Vec::new())?;
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CountryName, "CN");
    subject.push(DnType::OrganizationName, "Tollgate sandbox");
    subject.push(DnType::OrganizationalUnitName, "Certification Authority");
    subject.push(DnType::CommonName, name);
    issuer.distinguished_name = subject;
    issuer.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    issuer.serial_number = Some(SerialNumber::from_slice(&rand::rng().random_range(1..=u64::MAX >> 1).to_be_bytes()));
    Ok(issuer)
}

/// Returns a random serial number of 20 bytes: positive, and 40 hexadecimal digits without leading zeros.
pub(super) fn serial() -> [u8; 20] {
    let mut serial: [u8; 20] = rand::random();
    serial[0] = rand::rng().random_range(0x10..0x80);
    serial
}

pub(super) fn generation_error(error: impl Display) -> io::Error {
    io::Error::other(format!("cannot generate a certificate: {error}"))
}
