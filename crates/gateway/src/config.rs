//! What the gateway is told once, at its start.
//!
//! Knows no file format and no environment: the program turns those into a [`Config`].

use std::fmt;
use std::net::{AddrParseError, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use zwerm_session::Limits;

use crate::UserFile;

/// Everything that can be set. Plain data; every field has a default but the listeners.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where clients are waited for.
    pub listeners: Vec<ListenerConfig>,
    /// What each client may do.
    pub limits: Limits,
    /// Refuse strings with control characters or non-characters (section 1.5.4).
    pub strict_utf8: bool,
    /// Connections that all listeners together accept a second, and how many at once after a pause. More wait in the
    /// system's backlog. `None`: no limit.
    pub connect_rate: Option<(NonZeroU32, NonZeroU32)>,
    /// TLS handshakes at once; more wait their turn. Bounds what a storm of reconnecting clients takes of the processor.
    pub max_tls_handshakes: usize,
    /// CONNECT packets that are with the broker at once; more wait their turn. Bounds what a storm of
    /// reconnecting clients puts on the cluster.
    pub max_handshakes: usize,
    /// Connections that wait for either at once; more are refused.
    pub max_waiting: usize,
    /// How long one waits at most; then it is refused.
    pub busy_after: Duration,
    /// CONNECT is refused as "server busy" (0x89) after a time by chance, at most this.
    pub busy_jitter: Duration,
    /// Bytes that wait for one slow socket before its session is given no more messages and its packets are
    /// not read. One message may exceed it.
    pub write_buffer_bytes: usize,
    /// Packets of one client that wait for the broker before no more are read. What bounds 3.x clients,
    /// which know no receive maximum.
    pub max_pending: usize,
    /// How long a closed connection may take to read our last words.
    pub close_timeout: Duration,
    /// How long all connections together may take to end at shutdown before they are cut.
    pub drain_timeout: Duration,
    /// How often the files of certificates and users are looked at.
    pub file_interval: Duration,
    /// Clients without a user name are admitted, and with any where there is no list of users.
    pub allow_anonymous: bool,
    /// Who may connect with a name, and how it is proved.
    pub users: Option<Arc<UserFile>>,
    /// Where clients are sent that cannot stay here (section 4.11).
    pub server_reference: Option<ByteString>,
    /// The beginning of the response topics that clients may use, for those that ask (section 3.2.2.3.15).
    pub response_information: Option<ByteString>,
}

/// One address where clients are waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerConfig {
    /// Port 0 lets the system choose.
    pub bind: Bind,
    /// Connections at once; more are closed at once and counted.
    pub max_connections: usize,
    /// Every connection begins with a PROXY header, version 1 or 2, whose address is taken for the client's.
    pub proxy_protocol: bool,
    /// MQTT, or WebSocket, comes under TLS.
    pub tls: Option<TlsConfig>,
    /// The path at which MQTT comes in WebSocket frames.
    pub websocket: Option<String>,
    /// How long all that comes before MQTT may take together.
    pub handshake_timeout: Duration,
}

impl ListenerConfig {
    /// MQTT and nothing before it, without a limit worth the name.
    #[must_use]
    pub fn new(bind: impl Into<Bind>) -> Self {
        Self {
            bind: bind.into(),
            max_connections: 1_000_000,
            proxy_protocol: false,
            tls: None,
            websocket: None,
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

/// Where a listener listens. Written `127.0.0.1:1883`, `[::]:1883` or `unix:/run/zwerm/mqtt.sock`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bind {
    /// An address and a port.
    Tcp(SocketAddr),
    /// A file, which is made, and removed at the end.
    Unix(PathBuf),
}

/// What the path of a Unix socket is written behind.
const UNIX: &str = "unix:";

impl Bind {
    /// The address, unless it is a Unix socket.
    #[must_use]
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

impl From<SocketAddr> for Bind {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl FromStr for Bind {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix(UNIX) {
            Some(path) => Ok(Self::Unix(path.into())),
            None => text.parse().map(Self::Tcp),
        }
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

/// TLS of a listener. The files are read again when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsConfig {
    /// PEM file of the certificate and those between it and the root, in this order.
    pub cert: PathBuf,
    /// PEM file of its private key.
    pub key: PathBuf,
    /// The oldest version spoken.
    pub min_version: TlsVersion,
    /// What clients show of themselves; `None`: they are not asked.
    pub client: Option<ClientCertificates>,
}

/// Certificates of clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificates {
    /// PEM file of the authorities that have signed them.
    pub ca: PathBuf,
    /// Clients without one are refused.
    pub required: bool,
    /// The common name, else the first alternative name, is the user name.
    pub as_username: bool,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    /// RFC 5246.
    V1_2,
    /// RFC 8446.
    V1_3,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listeners: Vec::new(),
            limits: Limits::default(),
            strict_utf8: false,
            connect_rate: None,
            max_tls_handshakes: 128,
            max_handshakes: 1024,
            max_waiting: 4096,
            busy_after: Duration::from_secs(5),
            busy_jitter: Duration::from_secs(3),
            write_buffer_bytes: 256 * 1024,
            max_pending: 1024,
            close_timeout: Duration::from_secs(2),
            drain_timeout: Duration::from_secs(10),
            file_interval: Duration::from_secs(2),
            allow_anonymous: true,
            users: None,
            server_reference: None,
            response_information: None,
        }
    }
}
