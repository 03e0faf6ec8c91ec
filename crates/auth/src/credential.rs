//! What is kept of a password: enough to check it and to prove that it is known here, not enough to log in with.
//!
//! Written as PostgreSQL writes it: `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, in base64
//! (RFC 5803 has the same fields). Knows no users. Start at [`Credential::derive`].

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use subtle::ConstantTimeEq;
use thiserror::Error;

use crate::Mechanism;

/// Fewest rounds that a credential may have (RFC 7677 section 4).
pub const MIN_ITERATIONS: u32 = 4_096;
/// Most rounds: more would let a line of a file hold a processor for seconds at each CONNECT.
pub const MAX_ITERATIONS: u32 = 10_000_000;
/// Rounds of new credentials: some milliseconds to check a password for the first time.
pub const ITERATIONS: u32 = 15_000;
/// Bytes of the salt of new credentials.
pub const SALT_BYTES: usize = 16;
/// Longest salt that is read.
const MAX_SALT: usize = 128;

/// What is kept of a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    pub(crate) mechanism: Mechanism,
    pub(crate) iterations: u32,
    pub(crate) salt: Vec<u8>,
    pub(crate) stored_key: Vec<u8>,
    pub(crate) server_key: Vec<u8>,
}

/// Why a text is no credential, or a password none that can be kept.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CredentialError {
    /// The text has another form.
    #[error("expected SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey> (or SCRAM-SHA-512)")]
    Form,
    /// A number of rounds that is not allowed.
    #[error("iterations must be a number from {MIN_ITERATIONS} to {MAX_ITERATIONS}")]
    Iterations,
    /// Salt or keys are not base64, or not of the right length.
    #[error("salt and keys must be base64, the keys of as many bytes as the hash has")]
    Bytes,
    /// The password has characters that SASLprep (RFC 4013) prohibits, or none at all.
    #[error("a password must not be empty nor have control characters or unassigned ones")]
    Password,
}

/// Keys stay out of logs.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mechanism, iterations, .. } = self;
        f.debug_struct("Credential")
            .field("mechanism", mechanism)
            .field("iterations", iterations)
            .finish_non_exhaustive()
    }
}

impl Credential {
    /// Of a password. Takes the time of `iterations` rounds.
    ///
    /// # Errors
    /// [`CredentialError::Password`], or [`CredentialError::Iterations`] out of range.
    pub fn derive(
        mechanism: Mechanism,
        password: &str,
        salt: &[u8],
        iterations: u32,
    ) -> Result<Self, CredentialError> {
        if !(MIN_ITERATIONS..=MAX_ITERATIONS).contains(&iterations) {
            return Err(CredentialError::Iterations);
        }
        let password = prepared(password).ok_or(CredentialError::Password)?;
        let salted = mechanism.salted(password.as_bytes(), salt, iterations);
        let client_key = mechanism.hmac(&salted, b"Client Key");
        Ok(Self {
            mechanism,
            iterations,
            salt: salt.to_vec(),
            stored_key: mechanism.hash(&client_key),
            server_key: mechanism.hmac(&salted, b"Server Key"),
        })
    }

    /// Whether it is of this password. Takes the time of its rounds.
    #[must_use]
    pub fn is_of(&self, password: &str) -> bool {
        let found = Self::derive(self.mechanism, password, &self.salt, self.iterations);
        found.is_ok_and(|found| bool::from(found.stored_key.ct_eq(&self.stored_key)))
    }
}

/// A password as it is hashed (SASLprep, RFC 4013). `None`: it cannot be one.
fn prepared(password: &str) -> Option<std::borrow::Cow<'_, str>> {
    stringprep::saslprep(password).ok().filter(|prepared| !prepared.is_empty())
}

impl fmt::Display for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mechanism, iterations, salt, stored_key, server_key } = self;
        let [salt, stored_key, server_key] = [salt, stored_key, server_key].map(|bytes| BASE64.encode(bytes));
        write!(f, "{}${iterations}:{salt}${stored_key}:{server_key}", mechanism.name())
    }
}

impl FromStr for Credential {
    type Err = CredentialError;

    fn from_str(text: &str) -> Result<Self, CredentialError> {
        let mut parts = text.split('$');
        let (Some(name), Some(how), Some(keys), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(CredentialError::Form);
        };
        let mechanism = Mechanism::named(name).ok_or(CredentialError::Form)?;
        let (iterations, salt) = how.split_once(':').ok_or(CredentialError::Form)?;
        let (stored_key, server_key) = keys.split_once(':').ok_or(CredentialError::Form)?;
        let iterations = iterations.parse().ok().filter(|n| (MIN_ITERATIONS..=MAX_ITERATIONS).contains(n));
        let salt = decode(salt).filter(|salt| (1..=MAX_SALT).contains(&salt.len()));
        let key = |text| decode(text).filter(|key| key.len() == mechanism.hash_bytes());
        Ok(Self {
            mechanism,
            iterations: iterations.ok_or(CredentialError::Iterations)?,
            salt: salt.ok_or(CredentialError::Bytes)?,
            stored_key: key(stored_key).ok_or(CredentialError::Bytes)?,
            server_key: key(server_key).ok_or(CredentialError::Bytes)?,
        })
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    BASE64.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The user of RFC 7677 section 3: password `pencil`.
    pub(crate) const PENCIL: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
        WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    #[test]
    fn a_credential_is_what_the_standard_says_and_survives_its_text() {
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let derived = Credential::derive(Mechanism::Sha256, "pencil", &salt, 4_096).unwrap();
        assert_eq!(derived.to_string(), PENCIL);
        assert_eq!(PENCIL.parse::<Credential>().unwrap(), derived);
        let longer = Credential::derive(Mechanism::Sha512, "pencil", &salt, 4_096).unwrap();
        assert_eq!(longer.to_string().parse::<Credential>().unwrap(), longer);
    }

    #[test]
    fn a_password_is_prepared_and_others_are_not_taken_for_it() {
        // SASLprep: a no-break space is a space, and "ª" is "a" (RFC 4013 section 3).
        let credential = Credential::derive(Mechanism::Sha512, "a b", b"salt", 4_096).unwrap();
        assert!(credential.is_of("a\u{a0}b") && credential.is_of("\u{aa} b"));
        for wrong in ["a b ", "A b", "", "a\u{7}b"] {
            assert!(!credential.is_of(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_no_credential_is_refused_with_the_part_that_is_wrong() {
        use CredentialError as E;
        let table = [
            ("", E::Form),
            ("pencil", E::Form),
            ("SCRAM-SHA-1$4096:AA==$AA==:AA==", E::Form),
            ("SCRAM-SHA-256$4096$AA==:AA==", E::Form),
            ("SCRAM-SHA-256$4096:AA==$AA==", E::Form),
            ("SCRAM-SHA-256$1:AA==$AA==:AA==", E::Iterations),
            ("SCRAM-SHA-256$99999999:AA==$AA==:AA==", E::Iterations),
            ("SCRAM-SHA-256$many:AA==$AA==:AA==", E::Iterations),
            ("SCRAM-SHA-256$4096:?$AA==:AA==", E::Bytes),
            ("SCRAM-SHA-256$4096:AA==$AA==:AA==", E::Bytes),
        ];
        for (text, wrong) in table {
            assert_eq!(text.parse::<Credential>(), Err(wrong), "{text}");
        }
        assert_eq!(Credential::derive(Mechanism::Sha256, "", b"salt", 4_096), Err(E::Password));
        assert_eq!(Credential::derive(Mechanism::Sha256, "p", b"salt", 1), Err(E::Iterations));
        let shown = format!("{:?}", PENCIL.parse::<Credential>().unwrap());
        assert!(!shown.contains("salt") && !shown.contains("key"), "{shown}");
    }
}
