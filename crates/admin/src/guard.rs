//! Who may change a node over HTTP: whoever has the token, or without one only programs of the same machine.
//!
//! Reading is open to whoever reaches the port. Knows no path. Start at [`Guard::admit`].

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use axum::http::{HeaderMap, StatusCode, header};
use subtle::ConstantTimeEq as _;

/// Characters that a token has at least.
const SHORTEST_TOKEN: usize = 16;
/// A token is no book.
const LARGEST_FILE: usize = 4096;

/// Headers of requests that somebody else sent on: where they come from nobody knows.
const SENT_ON: [&str; 3] = ["forwarded", "x-forwarded-for", "x-real-ip"];

/// Lets changes through, or not.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    token_file: Option<PathBuf>,
}

/// The file of the token cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The system does not give it.
    #[error("cannot read the token in {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// What is in it is no token.
    #[error("{} has no token: one line of {} or more letters, digits and signs, without spaces", path.display(), SHORTEST_TOKEN)]
    Token {
        /// The file.
        path: PathBuf,
    },
}

/// Why a request is not let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    /// The token is missing or wrong.
    Token,
    /// It comes from another machine, and there is no token.
    Elsewhere,
    /// It comes through a proxy, and there is no token.
    SentOn,
    /// A web page sent it, and there is no token.
    Page,
    /// The token cannot be read.
    Unreadable,
}

impl Denied {
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::Token => StatusCode::UNAUTHORIZED,
            Self::Elsewhere | Self::SentOn | Self::Page => StatusCode::FORBIDDEN,
            Self::Unreadable => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Token => "the token of http.token_file is needed: Authorization: Bearer <token>",
            Self::Elsewhere => {
                "changes are taken from this machine only; set http.token_file to take them from others"
            }
            Self::SentOn => {
                "this request came through a proxy, and without http.token_file only programs of this machine may change the node"
            }
            Self::Page => {
                "this request was sent by a web page, and without http.token_file only programs of this machine may change the node"
            }
            Self::Unreadable => "the token of http.token_file cannot be read; the log says why",
        }
    }
}

impl Guard {
    /// Asks for the token in this file, or with `None` lets programs of this machine through.
    #[must_use]
    pub fn new(token_file: Option<PathBuf>) -> Self {
        Self { token_file }
    }

    /// Whether the token can be read now.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn check(&self) -> Result<(), TokenError> {
        self.token_file.as_deref().map_or(Ok(()), |path| read_token(path).map(drop))
    }

    /// Whether a request may change something. The token is read each time, so that it can be changed.
    pub(crate) fn admit(&self, peer: IpAddr, headers: &HeaderMap) -> Result<(), Denied> {
        let Some(path) = &self.token_file else { return is_local(peer, headers) };
        let token = read_token(path).map_err(|error| {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "nobody can change this node over HTTP"
            );
            Denied::Unreadable
        })?;
        let said = headers.get(header::AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
        let is_right = said.is_some_and(|said| bool::from(said.ct_eq(token.as_bytes())));
        if is_right { Ok(()) } else { Err(Denied::Token) }
    }
}

/// The token of an Authorization header (RFC 6750, section 2.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"bearer ";
    let (scheme, token) = value.split_at_checked(SCHEME.len())?;
    scheme.eq_ignore_ascii_case(SCHEME).then_some(token.trim_ascii())
}

/// A page in a browser can reach this machine's ports too, but cannot hide that it is one.
fn is_local(peer: IpAddr, headers: &HeaderMap) -> Result<(), Denied> {
    if !peer.to_canonical().is_loopback() {
        return Err(Denied::Elsewhere);
    }
    if SENT_ON.iter().any(|name| headers.contains_key(*name)) {
        return Err(Denied::SentOn);
    }
    if headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site") {
        return Err(Denied::Page);
    }
    Ok(())
}

/// Reads a token as the guard does: for those who send it.
///
/// # Errors
/// See [`TokenError`].
pub fn read_token(path: &Path) -> Result<String, TokenError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| TokenError::Read { path: path.to_owned(), source })?;
    let token = text.trim();
    let fits = (SHORTEST_TOKEN..=LARGEST_FILE).contains(&token.len());
    if fits && token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(token.to_owned());
    }
    Err(TokenError::Token { path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn headers(said: &[(&'static str, &'static str)]) -> HeaderMap {
        said.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn without_a_token_only_programs_of_this_machine_change_anything() {
        let guard = Guard::default();
        for local in ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(guard.admit(local.parse().unwrap(), &headers(&[])), Ok(()), "{local}");
        }
        for remote in ["10.0.0.1", "::ffff:10.0.0.1", "2001:db8::1", "0.0.0.0"] {
            assert_eq!(
                guard.admit(remote.parse().unwrap(), &headers(&[])),
                Err(Denied::Elsewhere),
                "{remote}"
            );
        }
        let cases = [
            ("x-forwarded-for", "127.0.0.1", Denied::SentOn),
            ("forwarded", "for=127.0.0.1", Denied::SentOn),
            ("origin", "http://127.0.0.1:8080", Denied::Page),
            ("origin", "null", Denied::Page),
            ("sec-fetch-site", "same-origin", Denied::Page),
        ];
        for (name, value, denied) in cases {
            assert_eq!(guard.admit(HERE, &headers(&[(name, value)])), Err(denied), "{name}: {value}");
        }
    }

    #[test]
    fn with_a_token_whoever_has_it_and_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "0123456789abcdef\n").unwrap();
        let guard = Guard::new(Some(path.clone()));
        guard.check().unwrap();
        let far = "203.0.113.9".parse().unwrap();
        let cases = [
            ("Bearer 0123456789abcdef", Ok(())),
            ("bearer  0123456789abcdef", Ok(())),
            ("Bearer 0123456789abcdeF", Err(Denied::Token)),
            ("Bearer 0123456789abcde", Err(Denied::Token)),
            ("Bearer", Err(Denied::Token)),
            ("Basic 0123456789abcdef", Err(Denied::Token)),
            ("0123456789abcdef", Err(Denied::Token)),
        ];
        for (said, wanted) in cases {
            let headers = headers(&[("authorization", said), ("origin", "http://dashboard")]);
            assert_eq!(guard.admit(far, &headers), wanted, "{said}");
        }
        assert_eq!(guard.admit(HERE, &headers(&[])), Err(Denied::Token), "also from this machine");
        std::fs::write(&path, "fedcba9876543210").unwrap();
        assert_eq!(guard.admit(far, &headers(&[("authorization", "Bearer fedcba9876543210")])), Ok(()));
        for no_token in ["", "  \n", "too-short", "0123456789 abcdef", "0123456789abcdé\u{7f}"] {
            std::fs::write(&path, no_token).unwrap();
            assert!(matches!(guard.check(), Err(TokenError::Token { .. })), "{no_token:?}");
            assert_eq!(guard.admit(HERE, &headers(&[("authorization", "Bearer ")])), Err(Denied::Unreadable));
        }
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(guard.check(), Err(TokenError::Read { .. })));
    }
}
