//! The sandbox's own authority, and the certificates under it.

use std::fmt::Display;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rand::Rng;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_RSA_SHA256, SerialNumber,
};
use serde::Deserialize;

use super::{Place, rsa_key_pair};

/// The subject of every sandbox authority: constant, so that one can be used again from its key alone.
const AUTHORITY: &str = "Tollgate sandbox authority (worth nothing elsewhere)";
/// How long certificates live, as at WeChat Pay.
pub(super) const YEARS: i16 = 5;

/// The authority and the server's certificate: those of a neighbour with the same address, or new ones. Adds their files.
pub(super) fn server(
    place: &Place<'_>,
    files: &mut Vec<(&'static str, String)>,
) -> io::Result<Issuer<'static, KeyPair>> {
    const FILES: [&str; 4] = ["ca.pem", "ca_key.pem", "server.pem", "server_key.pem"];
    if let Some(neighbour) = neighbour(place.dir, place.address) {
        for file in FILES {
            files.push((file, fs::read_to_string(neighbour.join(file))?));
        }
        let key = KeyPair::from_pem(&fs::read_to_string(neighbour.join(FILES[1]))?).map_err(bad)?;
        return Ok(Issuer::new(authority_parameters()?, key));
    }
    let authority_key = KeyPair::generate().map_err(bad)?;
    let authority = authority_parameters()?.self_signed(&authority_key).map_err(bad)?;
    files.push((FILES[0], authority.pem()));
    files.push((FILES[1], authority_key.serialize_pem()));
    let issuer = Issuer::new(authority_parameters()?, authority_key);

    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(String::from).into();
    if !names.iter().any(|name| name == place.host) {
        names.push(place.host.to_owned());
    }
    let mut server = parameters("Tollgate sandbox", names)?;
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().map_err(bad)?;
    let certificate = server.signed_by(&key, &issuer).map_err(bad)?;
    files.push((FILES[2], certificate.pem()));
    files.push((FILES[3], key.serialize_pem()));
    Ok(issuer)
}

/// An account in the same directory that a sandbox on the same address would serve.
fn neighbour(dir: &Path, address: &str) -> Option<PathBuf> {
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

/// A WeChat merchant's client certificate: gives its serial number, and adds its files.
pub(super) fn identity(
    mchid: &str,
    authority: &Issuer<'static, KeyPair>,
    files: &mut Vec<(&'static str, String)>,
) -> io::Result<String> {
    let pair = rsa_key_pair()?;
    let key = KeyPair::from_pkcs8_pem_and_sign_algo(&pair.private_key, &PKCS_RSA_SHA256).map_err(bad)?;
    let mut merchant = parameters(mchid, Vec::new())?;
    let serial = serial();
    merchant.serial_number = Some(SerialNumber::from_slice(&serial));
    merchant.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    merchant.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = merchant.signed_by(&key, authority).map_err(bad)?;
    files.push(("apiclient_key.pem", pair.private_key));
    files.push(("apiclient_cert.pem", certificate.pem()));
    Ok(hex::encode(serial).to_uppercase())
}

/// A certificate's content, without any use yet.
pub(super) fn parameters(name: &str, alternative_names: Vec<String>) -> io::Result<CertificateParams> {
    let mut parameters = CertificateParams::new(alternative_names).map_err(bad)?;
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.use_authority_key_identifier_extension = true;
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let day = |date: jiff::civil::Date| {
        rcgen::date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    parameters.not_before = day(today.saturating_sub(jiff::Span::new().days(1)));
    parameters.not_after = day(today.saturating_add(jiff::Span::new().years(YEARS)));
    Ok(parameters)
}

/// What an authority of a provider's own certificates says of itself, with any number of authorities under it.
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

/// 20 bytes that make 40 hexadecimal digits without leading zeros and a positive number.
pub(super) fn serial() -> [u8; 20] {
    let mut serial: [u8; 20] = rand::random();
    serial[0] = rand::rng().random_range(0x10..0x80);
    serial
}

pub(super) fn bad(error: impl Display) -> io::Error {
    io::Error::other(format!("a certificate could not be made: {error}"))
}
