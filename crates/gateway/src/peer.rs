//! Who is at the other end of a connection: what logs show, and the name that its certificate proves.
//!
//! As small as an address, for every connection keeps one. Knows no MQTT. Start at [`Peer`].

use std::fmt;
use std::net::SocketAddr;

use bytestring::ByteString;

/// The other end. Shown as `192.0.2.7:51234`, or `unix` for a client of a Unix socket, followed by the name in its
/// certificate if that is its user name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// By far the most connections.
    Plain(SocketAddr),
    Other(Box<Other>),
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Other {
    /// `None`: over a Unix socket, and no proxy has said where it comes from.
    address: Option<SocketAddr>,
    username: Option<ByteString>,
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        Self(Kind::Plain(address))
    }
}

impl Peer {
    /// A client of a Unix socket.
    #[must_use]
    pub fn local() -> Self {
        Self(Kind::Other(Box::default()))
    }

    /// The same with the name that its certificate proves.
    #[must_use]
    pub fn with_username(self, username: ByteString) -> Self {
        let address = self.address();
        Self(Kind::Other(Box::new(Other { address, username: Some(username) })))
    }

    /// Where it comes from, as far as is known.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.0 {
            Kind::Plain(address) => Some(*address),
            Kind::Other(other) => other.address,
        }
    }

    /// The user name that its certificate proves, which is worth more than what CONNECT says.
    #[must_use]
    pub fn username(&self) -> Option<&ByteString> {
        match &self.0 {
            Kind::Plain(_) => None,
            Kind::Other(other) => other.username.as_ref(),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address() {
            Some(address) => address.fmt(f)?,
            None => f.write_str("unix")?,
        }
        // a name with control characters is no user name: it cannot forge a line
        self.username().map_or(Ok(()), |name| write!(f, " ({name})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_as_small_as_its_address() {
        assert_eq!(size_of::<Peer>(), size_of::<SocketAddr>());
    }

    #[test]
    fn it_is_shown_by_address_and_name() {
        let address: SocketAddr = "[::1]:7".parse().unwrap();
        assert_eq!(Peer::from(address).to_string(), "[::1]:7");
        assert_eq!(Peer::from(address).with_username("sensor".into()).to_string(), "[::1]:7 (sensor)");
        assert_eq!(Peer::local().to_string(), "unix");
        assert_eq!(Peer::local().with_username("sensor".into()).to_string(), "unix (sensor)");
    }
}
