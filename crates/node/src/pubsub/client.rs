//! One MQTT connection from the client's side: packets in, packets out, signs of life.
//!
//! Knows the connection's rules (CONNECT first, keep alive, DISCONNECT last), not what a session sends.
//! All waiting is in [`Client::step`], which may be cancelled at any time without losing a byte.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::time::{Instant, sleep_until};
use zwerm_wire::{
    ConnAck, Connect, DecodeError, Decoder, Disconnect, EncodeError, MAX_REMAINING_LENGTH, Packet, Protocol,
    ReasonCode, Role, encode, encoded_len,
};

/// Largest packet taken: the largest there can be.
const LARGEST: u32 = MAX_REMAINING_LENGTH + 5;
/// Read at a time.
const READ: usize = 64 << 10;

/// Why the connection, or what was asked on it, failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// CONNACK with an error.
    #[error("the broker refused the connection: {0}")]
    Refused(String),
    /// DISCONNECT from the broker.
    #[error("the broker ended the connection: {0}")]
    Disconnected(String),
    /// The other side closed without a word.
    #[error("the broker closed the connection")]
    Closed,
    /// No sign of life within the keep alive.
    #[error("the broker gave no sign of life for {0:?}")]
    Silent(Duration),
    /// The system's network failed.
    #[error("the connection failed")]
    Io(#[from] std::io::Error),
    /// What came is not what a broker may send.
    #[error("the broker sent what MQTT does not allow")]
    Decode(#[from] DecodeError),
    /// A packet that MQTT does not allow here.
    #[error("the broker sent {0} where MQTT does not allow it")]
    Unexpected(&'static str),
    /// What is to be sent cannot be.
    #[error("this cannot be sent")]
    Encode(#[from] EncodeError),
    /// The broker said how much it takes.
    #[error("a packet of {size} bytes is more than the {limit} that the broker takes")]
    TooLarge {
        /// Bytes of the packet.
        size: usize,
        /// Bytes the broker takes.
        limit: usize,
    },
}

/// A reason code for people: its name, its number and the broker's own words.
pub(super) fn described(reason: ReasonCode, words: Option<&str>) -> String {
    let mut name = String::new();
    for letter in format!("{reason:?}").replace("QoS", "Qos").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push(' ');
        }
        name.extend(letter.to_lowercase());
    }
    let name = name.replace("qos", "QoS");
    let words = words.map(|words| format!(": {words}")).unwrap_or_default();
    format!("{name} (0x{:02x}){words}", reason as u8)
}

/// An open connection over a byte stream.
#[derive(Debug)]
pub(super) struct Client<S> {
    reader: ReadHalf<S>,
    writer: WriteHalf<S>,
    decoder: Decoder,
    protocol: Protocol,
    input: BytesMut,
    output: BytesMut,
    /// Largest packet the broker takes.
    limit: usize,
    /// `None`: no signs of life.
    keep_alive: Option<Duration>,
    last_sent: Instant,
    /// Since when an answer to PINGREQ is awaited.
    pinged: Option<Instant>,
}

impl<S: AsyncRead + AsyncWrite> Client<S> {
    /// Sends CONNECT and waits for a CONNACK that says yes.
    pub(super) async fn connect(stream: S, connect: Connect) -> anyhow::Result<(Self, ConnAck)> {
        let protocol = connect.protocol;
        let seconds = connect.keep_alive;
        let mut decoder = Decoder::new(Role::Client, LARGEST);
        decoder.set_protocol(protocol);
        let (reader, writer) = tokio::io::split(stream);
        let mut client = Self {
            reader,
            writer,
            decoder,
            protocol,
            input: BytesMut::new(),
            output: BytesMut::new(),
            limit: LARGEST as usize,
            keep_alive: None,
            last_sent: Instant::now(),
            pinged: None,
        };
        client.queue(&Packet::Connect(Box::new(connect)))?;
        let Packet::ConnAck(answer) = client.receive().await? else {
            return Err(ClientError::Unexpected("something before CONNACK").into());
        };
        let properties = &answer.properties;
        if answer.reason.is_error() {
            let words = properties.reason_string.as_deref();
            return Err(ClientError::Refused(described(answer.reason, words)).into());
        }
        let seconds = properties.server_keep_alive.unwrap_or(seconds);
        client.keep_alive = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
        if let Some(limit) = properties.maximum_packet_size {
            client.limit = limit.get() as usize;
        }
        Ok((client, *answer))
    }

    /// The version that is spoken.
    pub(super) fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Puts a packet behind those that wait to be sent; [`step`](Self::step) sends them.
    pub(super) fn queue(&mut self, packet: &Packet) -> Result<(), ClientError> {
        let size = encoded_len(packet, self.protocol)?;
        if size > self.limit {
            return Err(ClientError::TooLarge { size, limit: self.limit });
        }
        Ok(encode(packet, self.protocol, &mut self.output)?)
    }

    /// Bytes that wait to be sent.
    pub(super) fn queued(&self) -> usize {
        self.output.len()
    }

    /// The next packet from the broker. Cancel-safe.
    pub(super) async fn receive(&mut self) -> Result<Packet, ClientError> {
        loop {
            if let Some(packet) = self.step().await? {
                return Ok(packet);
            }
        }
    }

    /// Takes a packet that is here, or else reads, writes or pings once. Cancel-safe: bytes move between
    /// the socket and the buffers in single calls that do it or do not.
    pub(super) async fn step(&mut self) -> Result<Option<Packet>, ClientError> {
        if let Some(packet) = self.decoder.decode(&mut self.input)? {
            return self.taken(packet);
        }
        let deadline = self.deadline();
        self.input.reserve(READ);
        tokio::select! {
            read = self.reader.read_buf(&mut self.input) => if read? == 0 { return Err(ClientError::Closed) },
            wrote = self.writer.write_buf(&mut self.output), if !self.output.is_empty() => {
                wrote?;
                self.last_sent = Instant::now();
            }
            () = sleep_until(deadline.unwrap_or(self.last_sent)), if deadline.is_some() => self.ping()?,
        }
        Ok(None)
    }

    fn taken(&mut self, packet: Packet) -> Result<Option<Packet>, ClientError> {
        match packet {
            Packet::PingResp => {
                self.pinged = None;
                Ok(None)
            }
            Packet::Disconnect(said) => {
                Err(ClientError::Disconnected(described(said.reason, said.reason_string.as_deref())))
            }
            other => Ok(Some(other)),
        }
    }

    /// When to ping, or to give the broker up.
    fn deadline(&self) -> Option<Instant> {
        self.keep_alive.map(|keep_alive| self.pinged.unwrap_or(self.last_sent) + keep_alive)
    }

    fn ping(&mut self) -> Result<(), ClientError> {
        if self.pinged.is_some() {
            return Err(ClientError::Silent(self.keep_alive.unwrap_or_default()));
        }
        self.pinged = Some(Instant::now());
        self.queue(&Packet::PingReq)
    }

    /// Sends what waits and a DISCONNECT, and closes.
    pub(super) async fn finish(mut self) -> Result<(), ClientError> {
        self.queue(&Packet::Disconnect(Disconnect::because(ReasonCode::Success)))?;
        self.writer.write_all_buf(&mut self.output).await?;
        // the broker may close first once it has read DISCONNECT
        self.writer.shutdown().await.ok();
        Ok(())
    }
}
