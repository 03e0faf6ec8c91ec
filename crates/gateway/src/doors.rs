//! Whether clients are let in: a node that drains lets nobody in, and sends who is here elsewhere.
//!
//! Knows no sockets: listeners follow what is said here. Start at [`Doors`].

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytestring::ByteString;
use tokio::sync::watch;
use zwerm_wire::ReasonCode;

use crate::Bind;
use crate::connections::Shared;

/// Opens and closes all listeners of a gateway, however often. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Doors(pub(crate) Arc<Shared>);

impl Doors {
    /// Listens no more; connections that are open stay. A client whose CONNECT comes later on one of these is refused
    /// for this reason (5.0), or as unavailable (3.x).
    pub fn close(&self, reason: ReasonCode) {
        self.0.closed.send_replace(Some(reason));
    }

    /// Listens again, at the same addresses. One that cannot be listened at is tried again.
    pub fn open(&self) {
        self.0.closed.send_replace(None);
    }
}

/// Whether listeners listen: `None`, or why not.
pub(crate) type Closed = watch::Sender<Option<ReasonCode>>;

/// Says where clients go that cannot stay (section 4.11).
#[derive(Debug, Default)]
pub(crate) struct Referral {
    /// Clients that were sent away: each finds another node named first.
    sent: AtomicUsize,
}

impl Referral {
    /// What is configured, else the nodes that could be found at their addresses; `None`: nobody knows where.
    pub(crate) fn reference(&self, configured: Option<&ByteString>, nodes: &[String]) -> Option<ByteString> {
        if configured.is_some() {
            return configured.cloned();
        }
        let mut named: Vec<&str> = nodes.iter().map(String::as_str).filter(|node| is_named(node)).collect();
        if named.is_empty() {
            return None;
        }
        let first = self.sent.fetch_add(1, Ordering::Relaxed) % named.len();
        named.rotate_left(first);
        Some(named.join(" ").into())
    }
}

/// Whether a node can be found at the address where it listens: a wildcard or a file names nobody.
fn is_named(address: &str) -> bool {
    let place: Result<Bind, _> = address.parse();
    place.is_ok_and(|place| place.tcp().is_some_and(|address| !address.ip().is_unspecified()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_spread_over_the_nodes_that_can_be_found() {
        let nodes = ["10.0.0.2:1883", "0.0.0.0:1883", "unix:/run/z", "", "[::]:1883", "10.0.0.3:1883"];
        let nodes = nodes.map(str::to_owned);
        let referral = Referral::default();
        let told = [(); 3].map(|()| referral.reference(None, &nodes));
        let (one, other) = ("10.0.0.2:1883 10.0.0.3:1883", "10.0.0.3:1883 10.0.0.2:1883");
        assert_eq!(told.each_ref().map(|told| told.as_deref()), [Some(one), Some(other), Some(one)]);
        assert_eq!(referral.reference(None, &nodes[1..5]), None);
    }

    #[test]
    fn what_is_configured_is_what_is_said() {
        let configured = ByteString::from("mqtt.example:8883");
        let nodes = ["10.0.0.2:1883".to_owned()];
        assert_eq!(Referral::default().reference(Some(&configured), &nodes), Some(configured));
    }
}
