//! What the gateway counts, as plain numbers for whoever shows them.
//!
//! Knows no exposition format. Connections add up their packets and bytes and count them once per wake-up, so
//! that busy connections do not fight over these cache lines. Start at [`Counters`].

use std::sync::atomic::{AtomicU64, Ordering};

use zwerm_session::Cause;
use zwerm_wire::ReasonCode;

/// One number that many tasks change. Relaxed: it orders nothing.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it.
    pub fn add(&self, amount: u64) {
        if amount > 0 {
            self.0.fetch_add(amount, Ordering::Relaxed);
        }
    }

    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Takes one away, for numbers that go both ways.
    pub fn decrement(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// The number now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Why connections ended; the names are those of [`Cause::name`].
const CAUSES: [&str; 7] = [
    "disconnected",
    "link_closed",
    "connect_timeout",
    "keep_alive_timeout",
    "violation",
    "refused",
    "kicked",
];

/// Why a connection did not get to MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The handshake was not done in time.
    Timeout,
    /// The connection ended or broke before it was.
    Closed,
    /// Too many TLS handshakes were before it.
    Busy,
    /// There was no PROXY header, or a malformed one.
    ProxyHeader,
    /// The TLS handshake failed.
    Tls,
    /// The client has no certificate, or one that does not do.
    ClientCertificate,
    /// The request was not for a WebSocket.
    WebSocketRequest,
    /// It was for another path.
    WebSocketPath,
    /// It did not offer a subprotocol of MQTT.
    WebSocketSubprotocol,
}

impl Refused {
    const ALL: [Self; 9] = [
        Self::Timeout,
        Self::Closed,
        Self::Busy,
        Self::ProxyHeader,
        Self::Tls,
        Self::ClientCertificate,
        Self::WebSocketRequest,
        Self::WebSocketPath,
        Self::WebSocketSubprotocol,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::Busy => "busy",
            Self::ProxyHeader => "proxy_header",
            Self::Tls => "tls",
            Self::ClientCertificate => "client_certificate",
            Self::WebSocketRequest => "websocket_request",
            Self::WebSocketPath => "websocket_path",
            Self::WebSocketSubprotocol => "websocket_subprotocol",
        }
    }
}

/// Everything the gateway counts. Those named `_total` only grow.
#[derive(Debug)]
pub struct Counters {
    /// Connections that are open now.
    pub connections_current: Counter,
    /// Connections that were accepted.
    pub connections_total: Counter,
    /// Connections that were closed at once, for there were too many.
    pub connections_refused_total: Counter,
    /// Times that accepting waited because connections came faster than they are taken.
    pub accepts_paced_total: Counter,
    /// CONNECT packets refused as "server busy": too many were before them.
    pub connects_busy_total: Counter,
    /// CONNECT packets of clients that hung up before their turn came.
    pub connects_given_up_total: Counter,
    /// TLS handshakes that began from nothing.
    pub tls_full_total: Counter,
    /// TLS handshakes that continued a session of before.
    pub tls_resumed_total: Counter,
    /// CONNECT and AUTH packets that did not prove who the client is, or came without a name where one is needed.
    pub authentications_failed_total: Counter,
    /// Changed certificates that came into use.
    pub certificates_reloaded_total: Counter,
    /// Changed certificates that could not be used.
    pub certificates_broken_total: Counter,
    /// Connection tasks that ended by a panic: each is a bug.
    pub connections_panicked_total: Counter,
    /// Failures of the system to hand over a connection.
    pub accept_errors_total: Counter,
    /// MQTT packets from clients.
    pub packets_received_total: Counter,
    /// MQTT packets to clients.
    pub packets_sent_total: Counter,
    /// PUBLISH packets from clients.
    pub messages_received_total: Counter,
    /// PUBLISH packets to clients.
    pub messages_sent_total: Counter,
    /// Bytes from clients.
    pub bytes_received_total: Counter,
    /// Bytes to clients.
    pub bytes_sent_total: Counter,
    /// Messages not sent because they exceed the maximum packet size of their client.
    pub messages_dropped_too_large_total: Counter,
    /// Messages not sent because they expired while they waited.
    pub messages_dropped_expired_total: Counter,
    /// Messages not sent because no packet can hold them.
    pub messages_dropped_unencodable_total: Counter,
    malformed: [Counter; ReasonCode::ALL.len()],
    endings: [Counter; CAUSES.len()],
    refused: [Counter; Refused::ALL.len()],
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            connections_current: Counter::default(),
            connections_total: Counter::default(),
            connections_refused_total: Counter::default(),
            accepts_paced_total: Counter::default(),
            connects_busy_total: Counter::default(),
            connects_given_up_total: Counter::default(),
            tls_full_total: Counter::default(),
            tls_resumed_total: Counter::default(),
            authentications_failed_total: Counter::default(),
            certificates_reloaded_total: Counter::default(),
            certificates_broken_total: Counter::default(),
            connections_panicked_total: Counter::default(),
            accept_errors_total: Counter::default(),
            packets_received_total: Counter::default(),
            packets_sent_total: Counter::default(),
            messages_received_total: Counter::default(),
            messages_sent_total: Counter::default(),
            bytes_received_total: Counter::default(),
            bytes_sent_total: Counter::default(),
            messages_dropped_too_large_total: Counter::default(),
            messages_dropped_expired_total: Counter::default(),
            messages_dropped_unencodable_total: Counter::default(),
            malformed: std::array::from_fn(|_| Counter::default()),
            endings: std::array::from_fn(|_| Counter::default()),
            refused: std::array::from_fn(|_| Counter::default()),
        }
    }
}

impl Counters {
    /// Bytes that were no packet.
    pub(crate) fn malformed(&self, reason: ReasonCode) {
        let place = ReasonCode::ALL.iter().position(|code| *code == reason);
        if let Some(counter) = place.and_then(|place| self.malformed.get(place)) {
            counter.increment();
        }
    }

    /// A connection ended.
    pub(crate) fn ended(&self, cause: Cause) {
        let place = CAUSES.iter().position(|name| *name == cause.name());
        if let Some(counter) = place.and_then(|place| self.endings.get(place)) {
            counter.increment();
        }
    }

    /// A connection did not get to MQTT.
    pub(crate) fn refused(&self, reason: Refused) {
        let place = Refused::ALL.iter().position(|known| *known == reason);
        if let Some(counter) = place.and_then(|place| self.refused.get(place)) {
            counter.increment();
        }
    }

    /// Connections that did not get to MQTT, by reason: `timeout`, `closed`, `busy`, `proxy_header`, `tls`,
    /// `client_certificate`, `websocket_request`, `websocket_path`, `websocket_subprotocol`.
    pub fn handshakes_refused_total(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Refused::ALL.iter().zip(&self.refused).map(|(reason, counter)| (reason.name(), counter.get()))
    }

    /// Connections that sent what is no packet, by the reason they were told; those that never happened are
    /// left out.
    pub fn malformed_total(&self) -> impl Iterator<Item = (ReasonCode, u64)> {
        let counted = ReasonCode::ALL.iter().zip(&self.malformed);
        counted.map(|(reason, counter)| (*reason, counter.get())).filter(|(_, count)| *count > 0)
    }

    /// Connections that ended, by cause.
    pub fn endings_total(&self) -> impl Iterator<Item = (&'static str, u64)> {
        CAUSES.iter().zip(&self.endings).map(|(name, counter)| (*name, counter.get()))
    }
}

/// What one connection counted since its last wake-up. A turn handles a few thousand packets at most.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) packets_received: u32,
    pub(crate) packets_sent: u32,
    pub(crate) messages_received: u32,
    pub(crate) messages_sent: u32,
    pub(crate) bytes_received: u64,
    pub(crate) bytes_sent: u64,
}

impl Tally {
    /// Adds it to what all connections counted.
    pub(crate) fn count(&mut self, counters: &Counters) {
        counters.packets_received_total.add(self.packets_received.into());
        counters.packets_sent_total.add(self.packets_sent.into());
        counters.messages_received_total.add(self.messages_received.into());
        counters.messages_sent_total.add(self.messages_sent.into());
        counters.bytes_received_total.add(self.bytes_received);
        counters.bytes_sent_total.add(self.bytes_sent);
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zwerm_session::Deadline;

    #[test]
    fn every_cause_has_its_counter() {
        let counters = Counters::default();
        let reason = ReasonCode::ProtocolError;
        for cause in [
            Cause::Disconnected(reason),
            Cause::LinkClosed,
            Cause::TimedOut(Deadline::Connect),
            Cause::TimedOut(Deadline::KeepAlive),
            Cause::Violation(reason),
            Cause::Refused(reason),
            Cause::Kicked(reason),
        ] {
            counters.ended(cause);
        }
        assert!(counters.endings_total().all(|(_, count)| count == 1));
    }

    #[test]
    fn every_refusal_has_its_counter() {
        let counters = Counters::default();
        Refused::ALL.into_iter().for_each(|reason| counters.refused(reason));
        assert!(counters.handshakes_refused_total().all(|(_, count)| count == 1));
    }

    #[test]
    fn malformed_bytes_are_counted_by_reason() {
        let counters = Counters::default();
        counters.malformed(ReasonCode::PacketTooLarge);
        counters.malformed(ReasonCode::MalformedPacket);
        counters.malformed(ReasonCode::PacketTooLarge);
        let counted: Vec<_> = counters.malformed_total().collect();
        assert_eq!(counted, [(ReasonCode::MalformedPacket, 1), (ReasonCode::PacketTooLarge, 2)]);
    }
}
