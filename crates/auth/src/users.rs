//! The users of a broker, and the check of a password.
//!
//! One line each, `name:credential`; a name may have a line for each mechanism. Empty lines and those that begin with
//! `#` say nothing. Knows no file. Start at [`Users::parse`].

use std::collections::BTreeMap;

use parking_lot::Mutex;
use subtle::ConstantTimeEq;
use thiserror::Error;

use crate::credential::{Credential, CredentialError, ITERATIONS, SALT_BYTES};
use crate::mechanism::Mechanism;

/// Longest name in bytes.
pub const MAX_NAME: usize = 256;

/// Random bytes of this process that nobody else knows.
pub type Secret = [u8; 32];

/// Why a text is no list of users.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UsersError {
    /// A line without a name, or with one that is too long or has characters that cannot be in it.
    #[error(
        "line {line}: expected name:credential, the name of 1 to {MAX_NAME} bytes without control characters"
    )]
    Name {
        /// From 1.
        line: usize,
    },
    /// What follows the name is none.
    #[error("line {line}: {source}")]
    Credential {
        /// From 1.
        line: usize,
        /// What is wrong with it.
        source: CredentialError,
    },
    /// A name has two lines for one mechanism.
    #[error("line {line}: {name} has another line for {mechanism} before", mechanism = mechanism.name())]
    Twice {
        /// From 1.
        line: usize,
        /// Whose.
        name: String,
        /// Of both lines.
        mechanism: Mechanism,
    },
}

/// The users of a broker.
pub struct Users {
    by_name: BTreeMap<String, BTreeMap<Mechanism, Credential>>,
    secret: Secret,
    /// What a password was found to be right: a keyed hash of it, by name. Saves the rounds the next time; never has
    /// more names than there are users.
    right: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Users").field("count", &self.by_name.len()).finish_non_exhaustive()
    }
}

impl Users {
    /// The users that a text lists.
    ///
    /// # Errors
    /// [`UsersError`] with the first line that is wrong.
    pub fn parse(text: &str, secret: Secret) -> Result<Self, UsersError> {
        let mut by_name: BTreeMap<String, BTreeMap<Mechanism, Credential>> = BTreeMap::new();
        for (line, text) in (1..).zip(text.lines()) {
            let text = text.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let (name, credential) = text.split_once(':').ok_or(UsersError::Name { line })?;
            let name = prepared_name(name).ok_or(UsersError::Name { line })?;
            let credential: Credential =
                credential.parse().map_err(|source| UsersError::Credential { line, source })?;
            let mechanism = credential.mechanism;
            if by_name.entry(name.clone()).or_default().insert(mechanism, credential).is_some() {
                return Err(UsersError::Twice { line, name, mechanism });
            }
        }
        Ok(Self { by_name, secret, right: Mutex::default() })
    }

    /// How many names there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Nobody is listed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Whether this is the user's password. The first time it takes the rounds of the credential (milliseconds), as
    /// it does for a name that nobody has: time tells nothing. To be called where waiting is allowed.
    #[must_use]
    pub fn is_right(&self, name: &str, password: &[u8]) -> bool {
        let name = prepared_name(name).unwrap_or_default();
        let hash = self.keyed_hash(&name, password);
        if self.right.lock().get(&name).is_some_and(|known| known.ct_eq(&hash).into()) {
            return true;
        }
        let password = std::str::from_utf8(password).unwrap_or_default();
        let credentials = self.by_name.get(&name);
        let Some(credential) = credentials.and_then(|found| found.values().next()) else {
            let decoy = self.decoy_salt(&name);
            drop(Credential::derive(Mechanism::Sha256, password, &decoy, ITERATIONS));
            return false;
        };
        let is_right = credential.is_of(password);
        if is_right {
            self.right.lock().insert(name, hash);
        }
        is_right
    }

    /// What a user has for a mechanism; the name is taken as it comes.
    pub(crate) fn credential(&self, name: &str, mechanism: Mechanism) -> Option<&Credential> {
        self.by_name.get(&prepared_name(name)?)?.get(&mechanism)
    }

    /// A salt for a name that nobody has, always the same: whether there is such a user is nobody's business.
    pub(crate) fn decoy_salt(&self, name: &str) -> Vec<u8> {
        let mut salt = self.keyed_hash(name, b"");
        salt.truncate(SALT_BYTES);
        salt
    }

    fn keyed_hash(&self, name: &str, password: &[u8]) -> Vec<u8> {
        let mut text = name.as_bytes().to_vec();
        // no name has a zero byte
        text.push(0);
        text.extend_from_slice(password);
        Mechanism::Sha256.hmac(&self.secret, &text)
    }
}

/// A name as it is looked up (SASLprep, as RFC 5802 section 5.1 asks for). `None`: nobody can have it.
fn prepared_name(name: &str) -> Option<String> {
    let prepared = stringprep::saslprep(name).ok()?;
    (1..=MAX_NAME).contains(&prepared.len()).then(|| prepared.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, mechanism: Mechanism, password: &str) -> String {
        let credential = Credential::derive(mechanism, password, b"some salt", 4_096).unwrap();
        format!("{name}:{credential}")
    }

    #[test]
    fn users_are_read_and_their_passwords_told_from_others() {
        let both = Mechanism::ALL.map(|mechanism| line("anna", mechanism, "pencil")).join("\n");
        let text = format!("# people\n\n{both}\n  {}\n", line("b o", Mechanism::Sha512, "p:$"));
        let users = Users::parse(&text, [7; 32]).unwrap();
        assert_eq!(users.len(), 2);
        for _ in 0..2 {
            // the second time from memory
            assert!(users.is_right("anna", b"pencil"));
            assert!(!users.is_right("anna", b"pencil2") && !users.is_right("anna", b""));
            assert!(users.is_right("b o", b"p:$"));
            assert!(!users.is_right("b o", b"pencil") && !users.is_right("nobody", b"pencil"));
            assert!(!users.is_right("", b"pencil") && !users.is_right("anna", b"\xff"));
        }
        assert!(users.credential("b o", Mechanism::Sha256).is_none());
        assert!(users.credential("anna", Mechanism::Sha512).is_some());
    }

    #[test]
    fn a_list_that_is_wrong_says_in_which_line() {
        let good = line("anna", Mechanism::Sha256, "pencil");
        let wrong = |text: String| Users::parse(&text, [0; 32]).unwrap_err().to_string();
        assert!(wrong(format!("{good}\nanna")).starts_with("line 2: expected name:credential"));
        assert!(wrong(":SCRAM".into()).starts_with("line 1: expected name:credential"));
        assert!(wrong("a:plain".into()).starts_with("line 1: expected SCRAM-SHA-256$"));
        assert_eq!(
            wrong(format!("{good}\n{good}")),
            "line 2: anna has another line for SCRAM-SHA-256 before"
        );
        assert!(wrong(format!("{}:x", "n".repeat(300))).starts_with("line 1: expected name:credential"));
    }
}
