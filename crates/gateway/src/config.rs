//! What the gateway is told once, at its start.
//!
//! Knows no file format and no environment: the program turns those into a [`Config`].

use std::net::SocketAddr;
use std::time::Duration;

use zwerm_session::Limits;

/// Everything that can be set. Plain data; every field has a default but the listeners.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where clients are waited for.
    pub listeners: Vec<ListenerConfig>,
    /// What each client may do.
    pub limits: Limits,
    /// Refuse strings with control characters or non-characters (section 1.5.4).
    pub strict_utf8: bool,
    /// CONNECT packets that are with the broker at once; more wait their turn. Bounds what a storm of
    /// reconnecting clients puts on the cluster.
    pub max_handshakes: usize,
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
}

/// One address where clients are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenerConfig {
    /// Port 0 lets the system choose.
    pub bind: SocketAddr,
    /// Connections at once; more are closed at once and counted.
    pub max_connections: usize,
}

impl ListenerConfig {
    /// A listener without a limit worth the name.
    #[must_use]
    pub fn new(bind: SocketAddr) -> Self {
        Self { bind, max_connections: 1_000_000 }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listeners: Vec::new(),
            limits: Limits::default(),
            strict_utf8: false,
            max_handshakes: 1024,
            write_buffer_bytes: 256 * 1024,
            max_pending: 1024,
            close_timeout: Duration::from_secs(2),
            drain_timeout: Duration::from_secs(10),
        }
    }
}
