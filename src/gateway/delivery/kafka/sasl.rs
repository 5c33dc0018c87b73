//! Login at a broker by SASL: PLAIN (RFC 4616) and SCRAM (RFC 5802, RFC 7677).

use std::num::NonZeroU32;

use aws_lc_rs::{constant_time, digest, hmac, pbkdf2};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tollgate_config::{SaslConfig, SaslMechanism};
use tollgate_plugins::secret::Secret;
use zeroize::Zeroizing;

use crate::delivery::failure::DeliveryError;

/// Range of rounds that a broker may ask for. Fewer are too weak (RFC 7677), more would keep a thread busy for seconds.
const ITERATIONS: std::ops::RangeInclusive<u32> = 4096..=1_000_000;
/// Start of every client's message: no channel binding, no other identity.
const GS2_HEADER: &str = "n,,";

/// Returns the name of a mechanism on the wire.
pub(super) fn name(mechanism: SaslMechanism) -> &'static str {
    match mechanism {
        SaslMechanism::Plain => "PLAIN",
        SaslMechanism::ScramSha256 => "SCRAM-SHA-256",
        SaslMechanism::ScramSha512 => "SCRAM-SHA-512",
    }
}

/// Returns the message of PLAIN: user and password.
pub(super) fn plain(sasl: &SaslConfig) -> Secret {
    plain_message(sasl.user.as_bytes(), sasl.password.expose())
}

/// Returns the message of PLAIN.
pub(super) fn plain_message(user: &[u8], password: &[u8]) -> Secret {
    Secret::new([b"\0", user, b"\0", password].concat())
}

/// SCRAM exchange after the first message.
pub(super) struct Scram {
    hash: ScramHash,
    password: Secret,
    nonce: String,
    first: String,
}

/// The broker's last message must be this: the proof that it knows the password.
pub(super) struct ServerProof(Vec<u8>);

#[derive(Clone, Copy)]
struct ScramHash {
    digest: &'static digest::Algorithm,
    hmac: hmac::Algorithm,
    pbkdf2: pbkdf2::Algorithm,
}

impl Scram {
    /// Starts an exchange. `nonce` is random, printable and has no comma. `None` for PLAIN.
    pub(super) fn start(sasl: &SaslConfig, nonce: String) -> Option<Self> {
        let hash = match sasl.mechanism {
            SaslMechanism::Plain => return None,
            SaslMechanism::ScramSha256 => {
                ScramHash { digest: &digest::SHA256, hmac: hmac::HMAC_SHA256, pbkdf2: pbkdf2::PBKDF2_HMAC_SHA256 }
            }
            SaslMechanism::ScramSha512 => {
                ScramHash { digest: &digest::SHA512, hmac: hmac::HMAC_SHA512, pbkdf2: pbkdf2::PBKDF2_HMAC_SHA512 }
            }
        };
        let user = sasl.user.replace('=', "=3D").replace(',', "=2C");
        let first = format!("n={user},r={nonce}");
        Some(Self { hash, password: sasl.password.clone(), nonce, first })
    }

    /// Returns the first message.
    pub(super) fn first_message(&self) -> String {
        format!("{GS2_HEADER}{}", self.first)
    }

    /// Returns the answer to the broker's challenge, and what the broker must answer then. Takes milliseconds of work.
    pub(super) fn answer(&self, challenge: &str) -> Result<(String, ServerProof), DeliveryError> {
        let malformed = || DeliveryError::Protocol("the SCRAM challenge does not have the documented form");
        let mut parts = challenge.split(',');
        let mut part = |start: &str| parts.next().and_then(|part| part.strip_prefix(start)).ok_or_else(malformed);
        let (nonce, salt, iterations) = (part("r=")?, part("s=")?, part("i=")?);
        if nonce.len() <= self.nonce.len() || !nonce.starts_with(&self.nonce) {
            return Err(DeliveryError::Protocol("the SCRAM challenge belongs to another login"));
        }
        let salt = BASE64_STANDARD.decode(salt).map_err(|_| malformed())?;
        let iterations: u32 = iterations.parse().map_err(|_| malformed())?;
        let iterations = NonZeroU32::new(iterations).filter(|count| ITERATIONS.contains(&count.get()));
        let iterations =
            iterations.ok_or(DeliveryError::Protocol("the SCRAM challenge has too few or too many rounds"))?;
        let ScramHash { digest, hmac, pbkdf2 } = self.hash;
        let mut salted = Zeroizing::new(vec![0; digest.output_len()]);
        pbkdf2::derive(pbkdf2, iterations, &salt, self.password.expose(), &mut salted);
        let salted = hmac::Key::new(hmac, &salted);
        let without_proof = format!("c={},r={nonce}", BASE64_STANDARD.encode(GS2_HEADER));
        let signed = format!("{},{challenge},{without_proof}", self.first);
        let client_key = hmac::sign(&salted, b"Client Key");
        let stored_key = digest::digest(digest, client_key.as_ref());
        let signature = hmac::sign(&hmac::Key::new(hmac, stored_key.as_ref()), signed.as_bytes());
        let proof: Vec<u8> =
            client_key.as_ref().iter().zip(signature.as_ref()).map(|(one, other)| one ^ other).collect();
        let server_key = hmac::sign(&salted, b"Server Key");
        let server_proof = hmac::sign(&hmac::Key::new(hmac, server_key.as_ref()), signed.as_bytes());
        let message = format!("{without_proof},p={}", BASE64_STANDARD.encode(proof));
        Ok((message, ServerProof(server_proof.as_ref().to_vec())))
    }
}

impl ServerProof {
    /// Returns whether the broker's last message proves that it knows the password.
    pub(super) fn is_proven_by(&self, last: &str) -> bool {
        let proof = last.split(',').next().and_then(|part| part.strip_prefix("v="));
        let proof = proof.and_then(|text| BASE64_STANDARD.decode(text).ok());
        proof.is_some_and(|proof| constant_time::verify_slices_are_equal(&proof, &self.0).is_ok())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn login(mechanism: SaslMechanism, user: &str) -> SaslConfig {
        SaslConfig { mechanism, user: user.to_owned(), password: Secret::new("pencil") }
    }

    /// The example of RFC 7677.
    #[test]
    fn scram_sha_256_matches_the_example_of_the_standard() {
        let scram =
            Scram::start(&login(SaslMechanism::ScramSha256, "user"), "rOprNGfwEbeRWgbNEkqO".to_owned()).unwrap();
        assert_eq!(scram.first_message(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let challenge = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let (answer, proof) = scram.answer(challenge).unwrap();
        assert_eq!(
            answer,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert!(proof.is_proven_by("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
        for wrong in ["v=7rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=", "v=", "e=invalid-proof", "", "6rri"] {
            assert!(!proof.is_proven_by(wrong), "{wrong}");
        }
    }

    #[test]
    fn challenge_of_another_login_and_weak_ones_are_refused() {
        let scram = Scram::start(&login(SaslMechanism::ScramSha512, "user"), "abc".to_owned()).unwrap();
        let answer = |challenge: &str| scram.answer(challenge).map(|(answer, _)| answer);
        assert!(answer("r=abcdef,s=c2FsdA==,i=4096").is_ok());
        for wrong in [
            "r=abc,s=c2FsdA==,i=4096",
            "r=xyzdef,s=c2FsdA==,i=4096",
            "r=abcdef,s=c2FsdA==,i=4095",
            "r=abcdef,s=c2FsdA==,i=1000001",
            "r=abcdef,s=c2FsdA==",
            "r=abcdef,s=!,i=4096",
            "e=unknown-user",
            "",
        ] {
            assert!(answer(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn user_is_escaped_and_plain_has_no_exchange() {
        let scram = Scram::start(&login(SaslMechanism::ScramSha512, "a=b,c"), "n".to_owned()).unwrap();
        assert_eq!(scram.first_message(), "n,,n=a=3Db=2Cc,r=n");
        assert!(Scram::start(&login(SaslMechanism::Plain, "a"), String::new()).is_none());
        assert_eq!(plain(&login(SaslMechanism::Plain, "a")).expose(), b"\0a\0pencil");
    }
}
