//! Carries bytes between sockets and sessions; one task owns one connection.
//!
//! It accepts, reads, writes, paces and ends connections, over TCP or Unix sockets, under TLS, in WebSocket frames.
//! What a packet means is the session's business, what becomes of a message the broker's. Start at
//! [`Gateway::start`], then read `driver`; what comes before MQTT is in `handshake`.

mod admission;
mod authentication;
mod bucket;
mod buffers;
mod certificates;
mod config;
mod connections;
mod counters;
mod delivery;
mod doors;
mod driver;
mod farewell;
mod gateway;
mod handshake;
mod input;
mod intake;
mod link;
mod listener;
mod memory;
mod output;
mod peer;
mod proxy;
mod shares;
mod subject;
mod tls;
mod upgrade;
mod watch;
mod websocket;

pub use authentication::{UserFile, UserFileError, UserFileProblem};
pub use bucket::TokenBucket;
pub use certificates::{CertificateError, CertificateProblem};
pub use config::{Bind, ClientCertificates, Config, ListenerConfig, TlsConfig, TlsVersion};
pub use connections::Connections;
pub use counters::{Counter, Counters};
pub use doors::Doors;
pub use gateway::{Gateway, StartError};
pub use link::Link;
pub use memory::MemoryLink;
pub use peer::Peer;
