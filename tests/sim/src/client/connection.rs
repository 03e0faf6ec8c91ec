//! One connection of a client: packets over the network, without waiting.
//!
//! Knows no session. Start at [`Connection::packets`].

use std::collections::VecDeque;

use bytes::BytesMut;
use zwerm_oracle::Will;
use zwerm_wire::{Decoder, Packet, Protocol, Role, encode};

use crate::net::End;

/// The most a client reads at once.
const READ_BYTES: usize = 64 * 1024;

/// A connection.
pub(crate) struct Connection {
    pub(crate) number: u32,
    pub(crate) phase: Phase,
    pub(crate) will: Option<Will>,
    /// When something came last.
    pub(crate) heard_ms: u64,
    /// When a PINGREQ was sent that was not answered.
    pub(crate) pinged_ms: Option<u64>,
    protocol: Protocol,
    end: End,
    decoder: Decoder,
    input: BytesMut,
    output: BytesMut,
    /// Acknowledgements that the client takes its time for, in order.
    later: VecDeque<(u64, Packet)>,
    over: bool,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// CONNECT was sent.
    Connecting {
        /// When.
        since_ms: u64,
    },
    /// CONNACK came.
    Open,
    /// DISCONNECT was sent.
    Leaving {
        /// When.
        since_ms: u64,
    },
}

impl Connection {
    pub(crate) fn new(number: u32, protocol: Protocol, end: End, now_ms: u64) -> Self {
        let mut decoder = Decoder::new(Role::Client, u32::MAX);
        decoder.set_protocol(protocol);
        Self {
            number,
            phase: Phase::Connecting { since_ms: now_ms },
            will: None,
            heard_ms: now_ms,
            pinged_ms: None,
            protocol,
            end,
            decoder,
            input: BytesMut::new(),
            output: BytesMut::new(),
            later: VecDeque::new(),
            over: false,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.phase == Phase::Open && !self.over
    }

    /// The other side closed it, or it broke.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    /// Closes it without a word.
    pub(crate) fn abandon(&mut self) {
        self.over = true;
    }

    /// Whether acknowledgements or bytes wait.
    pub(crate) fn is_quiet(&self) -> bool {
        self.later.is_empty() && self.output.is_empty()
    }

    /// What has come.
    pub(crate) fn packets(&mut self, now_ms: u64) -> Vec<Packet> {
        loop {
            match self.end.try_read(READ_BYTES) {
                Ok(None) => break,
                Ok(Some(bytes)) if !bytes.is_empty() => {
                    self.input.extend_from_slice(&bytes);
                    self.heard_ms = now_ms;
                }
                Ok(Some(_)) | Err(_) => {
                    self.over = true;
                    break;
                }
            }
        }
        let mut packets = Vec::new();
        while let Some(packet) = self.decode() {
            packets.push(packet);
        }
        packets
    }

    fn decode(&mut self) -> Option<Packet> {
        if self.input.is_empty() {
            return None;
        }
        self.decoder.decode(&mut self.input).unwrap_or_else(|error| {
            tracing::error!(%error, "the server sent what is no packet");
            self.over = true;
            None
        })
    }

    /// Sends a packet with the next [`flush`](Self::flush).
    pub(crate) fn send(&mut self, packet: &Packet) {
        if let Err(error) = encode(packet, self.protocol, &mut self.output) {
            tracing::error!(%error, "a client cannot say that");
        }
    }

    /// Sends an acknowledgement at a time, but not before those before it.
    pub(crate) fn send_at(&mut self, at_ms: u64, packet: Packet) {
        let last = self.later.back().map_or(0, |(at, _)| *at);
        self.later.push_back((at_ms.max(last), packet));
    }

    /// Writes what there is to write.
    pub(crate) fn flush(&mut self, now_ms: u64) {
        while let Some((_, packet)) = self.later.pop_front_if(|(at, _)| *at <= now_ms) {
            self.send(&packet);
        }
        while !self.output.is_empty() && !self.over {
            match self.end.try_write(&self.output) {
                Ok(count) => drop(self.output.split_to(count)),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                // What came before the end is still read.
                Err(_) => self.output.clear(),
            }
        }
    }
}
