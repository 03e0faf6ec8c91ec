//! Carries bytes between sockets and sessions; one task owns one connection.
//!
//! It accepts, reads, writes, paces and ends connections. What a packet means is the session's business, what
//! becomes of a message the broker's. Start at [`Gateway::start`], then read `driver`.

mod buffers;
mod config;
mod connections;
mod counters;
mod delivery;
mod driver;
mod gateway;
mod input;
mod intake;
mod link;
mod listener;
mod memory;
mod output;
mod shares;

pub use config::{Config, ListenerConfig};
pub use connections::Connections;
pub use counters::{Counter, Counters};
pub use gateway::{Gateway, StartError};
pub use link::Link;
pub use memory::MemoryLink;
