//! The server's side of a SCRAM exchange (RFC 5802, RFC 7677): who the client is, without its password on the wire.
//!
//! client-first -> server-first -> client-final -> server-final. A name that nobody has gets as far as one that
//! somebody has with a wrong password. Channel binding is not offered: certificates of clients do that here. Knows
//! no MQTT. Start at [`Exchange::step`].

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use subtle::ConstantTimeEq;
use thiserror::Error;

use crate::credential::ITERATIONS;
use crate::{Credential, Mechanism, Users};

/// Random bytes of the server's nonce.
pub const NONCE_BYTES: usize = 18;
/// Longest message of a client in bytes.
const MAX_MESSAGE: usize = 4_096;

/// An exchange under way.
#[derive(Debug)]
pub struct Exchange {
    mechanism: Mechanism,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// client-first is awaited.
    Begun,
    /// The same, after an empty message: there is no second one.
    Asked,
    /// client-final is awaited.
    Challenged(Box<Challenged>),
    Over,
}

#[derive(Debug)]
struct Challenged {
    name: String,
    /// `None`: nobody has the name.
    credential: Option<Credential>,
    /// The header of client-first, which client-final repeats.
    header: String,
    nonce: String,
    /// client-first-message-bare, a comma, server-first-message.
    said: String,
}

/// What a message of the client leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Send this and await the next message.
    Challenge(Vec<u8>),
    /// The client is this user; send the proof that the server knows it too.
    Done {
        /// As the client wrote it.
        name: String,
        /// server-final-message.
        proof: Vec<u8>,
    },
}

/// Why an exchange failed. It is over then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Failure {
    /// A message that the mechanism does not have, or not here.
    #[error("the message is none of the mechanism's: {0}")]
    Malformed(&'static str),
    /// Nobody has the name, or the password is wrong; which one is not said.
    #[error("no such user, or another password")]
    Denied,
}

impl Exchange {
    /// An exchange that waits for the client's first message.
    #[must_use]
    pub fn new(mechanism: Mechanism) -> Self {
        Self { mechanism, stage: Stage::Begun }
    }

    /// Takes a message of the client. An empty first one asks for nothing and is answered with nothing, for a
    /// client that waits for the server to begin. `random` makes the server's nonce.
    ///
    /// # Errors
    /// [`Failure`]; every further message is refused as well.
    pub fn step(
        &mut self,
        message: &[u8],
        users: &Users,
        random: [u8; NONCE_BYTES],
    ) -> Result<Step, Failure> {
        let stage = std::mem::replace(&mut self.stage, Stage::Over);
        if message.len() > MAX_MESSAGE {
            return Err(Failure::Malformed("it is too long"));
        }
        let message = std::str::from_utf8(message).map_err(|_| Failure::Malformed("it is no UTF-8"))?;
        match stage {
            Stage::Begun if message.is_empty() => {
                self.stage = Stage::Asked;
                Ok(Step::Challenge(Vec::new()))
            }
            Stage::Begun | Stage::Asked => {
                let (challenged, server_first) = self.challenge(message, users, random)?;
                self.stage = Stage::Challenged(Box::new(challenged));
                Ok(Step::Challenge(server_first.into_bytes()))
            }
            Stage::Challenged(challenged) => self.judge(&challenged, message),
            Stage::Over => Err(Failure::Malformed("the exchange is over")),
        }
    }

    /// client-first-message: header `n,[a=name],` and then `n=name,r=nonce`.
    fn challenge(
        &self,
        message: &str,
        users: &Users,
        random: [u8; NONCE_BYTES],
    ) -> Result<(Challenged, String), Failure> {
        let mut parts = message.splitn(3, ',');
        let (Some(binding), Some(authorised), Some(bare)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(Failure::Malformed("expected a header and n=,r="));
        };
        if binding != "n" && binding != "y" {
            return Err(Failure::Malformed("channel binding is not offered"));
        }
        let mut attributes = bare.split(',');
        let name = attribute(attributes.next(), "n=").and_then(unescaped);
        let name = name.ok_or(Failure::Malformed("expected n= with a name"))?;
        let nonce = attribute(attributes.next(), "r=").filter(|nonce| is_printable(nonce));
        let nonce = nonce.ok_or(Failure::Malformed("expected r= with a nonce"))?;
        let for_itself = match authorised {
            "" => true,
            other => attribute(Some(other), "a=").and_then(unescaped).is_some_and(|other| other == name),
        };
        if !for_itself {
            return Err(Failure::Malformed("nobody may act for another user"));
        }
        let nonce = format!("{nonce}{}", BASE64.encode(random));
        let credential = users.credential(&name, self.mechanism).cloned();
        let (salt, iterations) = match &credential {
            Some(credential) => (BASE64.encode(&credential.salt), credential.iterations),
            None => (BASE64.encode(users.decoy_salt(&name)), ITERATIONS),
        };
        let server_first = format!("r={nonce},s={salt},i={iterations}");
        let said = format!("{bare},{server_first}");
        let header = format!("{binding},{authorised},");
        Ok((Challenged { name, credential, header, nonce, said }, server_first))
    }

    /// client-final-message: `c=header,r=nonce,p=proof`.
    fn judge(&self, challenged: &Challenged, message: &str) -> Result<Step, Failure> {
        let (without_proof, proof) =
            message.rsplit_once(",p=").ok_or(Failure::Malformed("expected p= with a proof"))?;
        let proof = BASE64.decode(proof).map_err(|_| Failure::Malformed("the proof is no base64"))?;
        let mut attributes = without_proof.split(',');
        let header = attribute(attributes.next(), "c=").and_then(|header| BASE64.decode(header).ok());
        if header.as_deref() != Some(challenged.header.as_bytes()) {
            return Err(Failure::Malformed("c= is not the header of the first message"));
        }
        if attribute(attributes.next(), "r=") != Some(&challenged.nonce) {
            return Err(Failure::Malformed("r= is not the nonce of this exchange"));
        }
        let said = format!("{},{without_proof}", challenged.said);
        let credential = challenged.credential.as_ref().ok_or(Failure::Denied)?;
        let signature = self.mechanism.hmac(&credential.stored_key, said.as_bytes());
        if proof.len() != signature.len() {
            return Err(Failure::Denied);
        }
        let client_key: Vec<u8> = proof.iter().zip(&signature).map(|(proof, sign)| proof ^ sign).collect();
        if !bool::from(self.mechanism.hash(&client_key).ct_eq(&credential.stored_key)) {
            return Err(Failure::Denied);
        }
        let proof = BASE64.encode(self.mechanism.hmac(&credential.server_key, said.as_bytes()));
        Ok(Step::Done { name: challenged.name.clone(), proof: format!("v={proof}").into_bytes() })
    }
}

/// The value of an attribute that must come here.
fn attribute<'a>(part: Option<&'a str>, key: &str) -> Option<&'a str> {
    part?.strip_prefix(key).filter(|value| !value.is_empty())
}

/// A name with `=2C` for a comma and `=3D` for an equals sign (section 5.1).
fn unescaped(name: &str) -> Option<String> {
    let mut pieces = name.split('=');
    let mut plain = pieces.next()?.to_owned();
    for piece in pieces {
        let (sign, rest) = match (piece.strip_prefix("2C"), piece.strip_prefix("3D")) {
            (Some(rest), _) => (',', rest),
            (_, Some(rest)) => ('=', rest),
            _ => return None,
        };
        plain.push(sign);
        plain.push_str(rest);
    }
    Some(plain)
}

/// Printable ASCII without a comma (section 7).
fn is_printable(nonce: &str) -> bool {
    nonce.bytes().all(|byte| (0x21..=0x7e).contains(&byte) && byte != b',')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RANDOM: [u8; NONCE_BYTES] = [9; NONCE_BYTES];

    fn users() -> Users {
        let mut text = String::new();
        for mechanism in Mechanism::ALL {
            for (name, password) in [("user", "pencil"), ("a,b=c", "other")] {
                let credential = Credential::derive(mechanism, password, b"0123456789abcdef", 4_096).unwrap();
                text += &format!("{name}:{credential}\n");
            }
        }
        Users::parse(&text, [3; 32]).unwrap()
    }

    /// What a client with this password answers to server-first; the signature it expects.
    fn answer(mechanism: Mechanism, bare: &str, server_first: &str, password: &str) -> (String, String) {
        let mut parts = server_first.split(',');
        let nonce = parts.next().unwrap().strip_prefix("r=").unwrap();
        let salt = BASE64.decode(parts.next().unwrap().strip_prefix("s=").unwrap()).unwrap();
        let rounds: u32 = parts.next().unwrap().strip_prefix("i=").unwrap().parse().unwrap();
        let salted = mechanism.salted(password.as_bytes(), &salt, rounds);
        let client_key = mechanism.hmac(&salted, b"Client Key");
        let without_proof = format!("c=biws,r={nonce}");
        let said = format!("{bare},{server_first},{without_proof}");
        let signature = mechanism.hmac(&mechanism.hash(&client_key), said.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(&signature).map(|(key, sign)| key ^ sign).collect();
        let server = mechanism.hmac(&mechanism.hmac(&salted, b"Server Key"), said.as_bytes());
        (format!("{without_proof},p={}", BASE64.encode(proof)), format!("v={}", BASE64.encode(server)))
    }

    fn attempt(mechanism: Mechanism, name: &str, password: &str) -> Result<(String, bool), Failure> {
        let users = users();
        let mut exchange = Exchange::new(mechanism);
        let bare = format!("n={name},r=rOprNGfwEbeRWgbNEkqO");
        let first = exchange.step(format!("n,,{bare}").as_bytes(), &users, RANDOM)?;
        let Step::Challenge(server_first) = first else { panic!("done at once") };
        let server_first = String::from_utf8(server_first).unwrap();
        let (last, expected) = answer(mechanism, &bare, &server_first, password);
        match exchange.step(last.as_bytes(), &users, RANDOM)? {
            Step::Done { name, proof } => Ok((name, proof == expected.as_bytes())),
            Step::Challenge(more) => panic!("{more:?}"),
        }
    }

    /// The exchange of RFC 7677 section 3, but for the server's part of the nonce.
    #[test]
    fn the_keys_are_those_of_the_standard() {
        let mechanism = Mechanism::Sha256;
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let credential = Credential::derive(mechanism, "pencil", &salt, 4_096).unwrap();
        let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let challenged = Challenged {
            name: "user".into(),
            credential: Some(credential),
            header: "n,,".into(),
            nonce: nonce.into(),
            said: format!("n=user,r=rOprNGfwEbeRWgbNEkqO,r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"),
        };
        let last = format!("c=biws,r={nonce},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
        let done = Exchange::new(mechanism).judge(&challenged, &last).unwrap();
        let proof = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=".to_vec();
        assert_eq!(done, Step::Done { name: "user".into(), proof });
    }

    #[test]
    fn who_knows_the_password_is_the_user_and_nobody_else() {
        for mechanism in Mechanism::ALL {
            assert_eq!(attempt(mechanism, "user", "pencil"), Ok(("user".into(), true)));
            assert_eq!(attempt(mechanism, "a=2Cb=3Dc", "other"), Ok(("a,b=c".into(), true)));
            for (name, password) in [("user", "pencils"), ("nobody", "pencil"), ("user", "other")] {
                assert_eq!(attempt(mechanism, name, password), Err(Failure::Denied), "{name}, {password}");
            }
        }
    }

    #[test]
    fn a_name_that_nobody_has_is_challenged_alike_each_time() {
        let users = users();
        let ask = |random| {
            let mut exchange = Exchange::new(Mechanism::Sha256);
            let Ok(Step::Challenge(text)) = exchange.step(b"n,,n=nobody,r=x", &users, random) else {
                panic!("told apart");
            };
            String::from_utf8(text).unwrap()
        };
        let (one, other) = (ask([1; NONCE_BYTES]), ask([2; NONCE_BYTES]));
        let salt = |text: &str| text.split(',').nth(1).unwrap().to_owned();
        assert_ne!(one, other);
        assert_eq!(salt(&one), salt(&other));
    }

    #[test]
    fn what_is_no_message_of_the_mechanism_ends_the_exchange() {
        let users = users();
        let firsts = [
            "n",
            "n,",
            "n,,",
            "n,,n=,r=x",
            "n,,n=user",
            "n,,n=user,r=",
            "n,,r=x,n=user",
            "p=tls-unique,,n=user,r=x",
            "n,a=admin,n=user,r=x",
            "n,,n=us=er,r=x",
            "n,,n=user,r=a b",
            "n,,m=1,n=user,r=x",
            "c=biws,r=x,p=AA==",
        ];
        for first in firsts {
            let mut exchange = Exchange::new(Mechanism::Sha256);
            let failure = exchange.step(first.as_bytes(), &users, RANDOM);
            assert!(matches!(failure, Err(Failure::Malformed(_))), "{first}: {failure:?}");
            let after = exchange.step(b"n,,n=user,r=x", &users, RANDOM);
            assert_eq!(after, Err(Failure::Malformed("the exchange is over")), "{first}");
        }
        let nonce = format!("x{}", BASE64.encode(RANDOM));
        let lasts = [
            format!("c=biws,r={nonce}"),
            format!("c=biws,r={nonce},p=?"),
            format!("c=eSws,r={nonce},p=AA=="),
            "c=biws,r=x,p=AA==".to_owned(),
            format!("r={nonce},c=biws,p=AA=="),
            String::new(),
        ];
        for last in lasts {
            let mut exchange = Exchange::new(Mechanism::Sha256);
            exchange.step(b"n,,n=user,r=x", &users, RANDOM).unwrap();
            let failure = exchange.step(last.as_bytes(), &users, RANDOM);
            assert!(matches!(failure, Err(Failure::Malformed(_))), "{last}: {failure:?}");
        }
    }

    #[test]
    fn a_client_may_let_the_server_begin_and_name_itself_as_whom_it_acts() {
        let users = users();
        let mut exchange = Exchange::new(Mechanism::Sha512);
        assert_eq!(exchange.step(b"", &users, RANDOM), Ok(Step::Challenge(Vec::new())));
        assert!(matches!(exchange.step(b"y,a=user,n=user,r=x", &users, RANDOM), Ok(Step::Challenge(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_or_pass(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 1..4),
            text in "(n,,n=user,r=x|c=biws,r=[a-z=,]{0,9},p=[A-Za-z0-9=]{0,9})",
        ) {
            let users = users_once();
            let mut exchange = Exchange::new(Mechanism::Sha256);
            for message in messages.iter().map(Vec::as_slice).chain([text.as_bytes()]) {
                let step = exchange.step(message, users, RANDOM);
                let done = matches!(step, Ok(Step::Done { .. }));
                prop_assert!(!done);
            }
        }
    }

    fn users_once() -> &'static Users {
        static USERS: std::sync::OnceLock<Users> = std::sync::OnceLock::new();
        USERS.get_or_init(users)
    }
}
