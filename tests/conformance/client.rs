//! A client that is a socket: it sends the bytes it is given, and reads packets one by one.
//!
//! Keeps no session and does nothing by itself: what it acknowledges a case says. Everything that goes and comes is
//! written down for the report of a case that fails. Start at [`Client::connect`] and [`Client::next`].

use std::collections::VecDeque;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use zwerm_tests::DEADLINE;

use crate::answer::{self, Ack, Answer, Auth, Codes, ConnAck, Disconnect};
use crate::packet::{self, Connect, Property, Publish, Version, first};

/// What the clients of one case sent and got, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Transcript(Arc<Mutex<Vec<String>>>);

/// Lines of it that a report shows.
const SHOWN: usize = 40;

impl Transcript {
    fn note(&self, line: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    /// Its last lines.
    pub(crate) fn tail(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines[lines.len().saturating_sub(SHOWN)..].join("\n    ")
    }
}

/// One connection. Dropping it closes the socket without a DISCONNECT.
pub(crate) struct Client {
    name: String,
    pub(crate) version: Version,
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Messages that came before an answer that was waited for.
    messages: VecDeque<Publish>,
    /// What CONNECT was answered with.
    pub(crate) connack: ConnAck,
    last_id: u16,
    transcript: Transcript,
}

impl Client {
    /// Opens the connection; sends nothing.
    pub(crate) async fn open(
        address: SocketAddr,
        version: Version,
        name: String,
        transcript: Transcript,
    ) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        transcript.note(format!("{name} opens a connection to {address}"));
        let (buffer, messages, connack) = (Vec::new(), VecDeque::new(), ConnAck::default());
        Ok(Self { name, version, stream, buffer, messages, connack, last_id: 0, transcript })
    }

    /// CONNECT that must be granted.
    pub(crate) async fn connect(&mut self, connect: &Connect) -> Result<()> {
        self.send(connect.bytes()).await?;
        let connack = self.connack().await?;
        ensure!(connack.code == 0, "CONNECT was refused: {connack:?}");
        self.connack = connack;
        Ok(())
    }

    /// Sends bytes as they are.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        let bytes = bytes.as_ref();
        self.transcript.note(format!("{} > {}", self.name, hex(bytes)));
        timeout(DEADLINE, self.stream.write_all(bytes)).await.context("the broker takes no bytes")??;
        Ok(())
    }

    /// Sends what may well be refused half-way: that the connection is gone is no error here.
    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) {
        // What comes of it is read afterwards.
        self.send(bytes).await.unwrap_or_default();
    }

    /// Says that it will send nothing more.
    pub(crate) async fn finish(&mut self) -> Result<()> {
        Ok(self.stream.shutdown().await?)
    }

    /// The next packet; `None` at the end of the connection.
    async fn packet(&mut self) -> Result<Option<Answer>> {
        loop {
            if let Some((answer, size)) = self.cut()? {
                self.buffer.drain(..size);
                self.transcript.note(format!("{} < {answer:?}", self.name));
                return Ok(Some(answer));
            }
            let read = timeout(DEADLINE, self.stream.read_buf(&mut self.buffer))
                .await
                .with_context(|| format!("{}: nothing comes", self.name))?;
            // A reset is an end too: a server may not wait for what is under way to it.
            if read.unwrap_or(0) == 0 {
                self.transcript.note(format!("{} < end of the connection", self.name));
                ensure!(self.buffer.is_empty(), "{}: closed inside a packet: {:?}", self.name, self.buffer);
                return Ok(None);
            }
        }
    }

    fn cut(&self) -> Result<Option<(Answer, usize)>> {
        let Some((&first, rest)) = self.buffer.split_first() else { return Ok(None) };
        let illegal = |error| anyhow::anyhow!("{}: an illegal packet came: {error}", self.name);
        let Some((length, width)) = answer::varint(rest).map_err(illegal)? else { return Ok(None) };
        let size = 1 + width + length;
        if self.buffer.len() < size {
            return Ok(None);
        }
        let body = &self.buffer[1 + width..size];
        Ok(Some((answer::read(self.version, first, body, size).map_err(illegal)?, size)))
    }

    /// The next packet, in order of arrival.
    pub(crate) async fn next(&mut self) -> Result<Answer> {
        if let Some(message) = self.messages.pop_front() {
            return Ok(Answer::Publish(message));
        }
        self.packet().await?.with_context(|| format!("{}: the connection was closed", self.name))
    }

    /// The next packet must be this one.
    pub(crate) async fn expect(&mut self, expected: &Answer) -> Result<()> {
        let came = self.next().await?;
        ensure!(came == *expected, "{}: expected {expected:?}, {came:?} came", self.name);
        Ok(())
    }

    fn wrong<T>(&self, expected: &str, came: impl Debug) -> Result<T> {
        bail!("{}: expected {expected}, {came:?} came", self.name)
    }

    /// The next packet must be a CONNACK.
    pub(crate) async fn connack(&mut self) -> Result<ConnAck> {
        match self.next().await? {
            Answer::ConnAck(connack) => Ok(connack),
            other => self.wrong("CONNACK", other),
        }
    }

    /// The next packet must be a message.
    pub(crate) async fn message(&mut self) -> Result<Publish> {
        match self.next().await? {
            Answer::Publish(publish) => Ok(publish),
            other => self.wrong("PUBLISH", other),
        }
    }

    /// The next packet that is no message; those are kept for later.
    async fn answer(&mut self) -> Result<Answer> {
        loop {
            match self.packet().await?.with_context(|| format!("{}: the connection was closed", self.name))? {
                Answer::Publish(publish) => self.messages.push_back(publish),
                other => return Ok(other),
            }
        }
    }

    /// PUBACK, PUBREC, PUBREL or PUBCOMP, by its first byte, is the next packet that is no message.
    pub(crate) async fn ack(&mut self, first: u8, id: u16) -> Result<Ack> {
        match self.answer().await? {
            Answer::Ack(ack) if (ack.first, ack.id) == (first, id) => Ok(ack),
            other => self.wrong(&format!("acknowledgement {first:#04x} of {id}"), other),
        }
    }

    /// The same, and its code is this one (3.x has none: then 0 is what comes).
    pub(crate) async fn acked(&mut self, first: u8, id: u16, code: u8) -> Result<()> {
        let ack = self.ack(first, id).await?;
        ensure!(ack.code == code, "{}: expected code {code:#04x}, {ack:?} came", self.name);
        Ok(())
    }

    /// AUTH is the next packet that is no message.
    pub(crate) async fn auth(&mut self) -> Result<Auth> {
        match self.answer().await? {
            Answer::Auth(auth) => Ok(auth),
            other => self.wrong("AUTH", other),
        }
    }

    pub(crate) async fn suback(&mut self, id: u16) -> Result<Codes> {
        match self.answer().await? {
            Answer::SubAck(codes) if codes.id == id => Ok(codes),
            other => self.wrong(&format!("SUBACK of {id}"), other),
        }
    }

    pub(crate) async fn unsuback(&mut self, id: u16) -> Result<Codes> {
        match self.answer().await? {
            Answer::UnsubAck(codes) if codes.id == id => Ok(codes),
            other => self.wrong(&format!("UNSUBACK of {id}"), other),
        }
    }

    /// PINGREQ, and nothing but its PINGRESP comes: all that was sent before is done with, and brought nothing. Once
    /// more, for what waited for the client when the first PINGREQ came may go behind its answer.
    pub(crate) async fn quiet(&mut self) -> Result<()> {
        for _ in 0..2 {
            self.send(packet::PINGREQ).await?;
            self.expect(&Answer::PingResp).await?;
        }
        Ok(())
    }

    /// PUBACKs come, and then the end with this code (true), or a PUBACK for all and no end (false).
    pub(crate) async fn refused_after_acks(&mut self, code: u8) -> Result<bool> {
        self.send(packet::PINGREQ).await?;
        loop {
            match self.packet().await? {
                Some(Answer::Ack(_)) => {}
                Some(Answer::PingResp) => return Ok(false),
                Some(Answer::Disconnect(disconnect)) if disconnect.code == code => {
                    return self.closed().await.map(|()| true);
                }
                other => return self.wrong(&format!("PUBACK, DISCONNECT {code:#04x} or PINGRESP"), other),
            }
        }
    }

    /// Nothing comes but the end of the connection.
    pub(crate) async fn closed(&mut self) -> Result<()> {
        ensure!(self.messages.is_empty(), "{}: {:?} came", self.name, self.messages);
        match self.packet().await? {
            None => Ok(()),
            Some(other) => self.wrong("the end of the connection and nothing else", other),
        }
    }

    /// The server ends the connection: 5.0 is told why, 3.x is not.
    pub(crate) async fn ended(&mut self, code: u8) -> Result<()> {
        self.ended_by(&[code]).await.map(drop)
    }

    /// The same with messages before it.
    pub(crate) async fn cut_off(&mut self, code: u8) -> Result<()> {
        loop {
            match self.packet().await? {
                Some(Answer::Publish(_)) => {}
                None if self.version != Version::V5 => return Ok(()),
                Some(Answer::Disconnect(disconnect)) if disconnect.code == code => {
                    return self.closed().await;
                }
                other => return self.wrong(&format!("the end of the connection ({code:#04x})"), other),
            }
        }
    }

    /// The same when the specification leaves a choice of codes.
    pub(crate) async fn ended_by(&mut self, codes: &[u8]) -> Result<Option<Disconnect>> {
        if self.version != Version::V5 {
            self.closed().await?;
            return Ok(None);
        }
        let disconnect = match self.answer().await? {
            Answer::Disconnect(disconnect) if codes.contains(&disconnect.code) => disconnect,
            other => return self.wrong(&format!("DISCONNECT {codes:02x?}"), other),
        };
        self.closed().await?;
        Ok(Some(disconnect))
    }

    /// CONNECT is refused: 5.0 with one code, 3.x with a return code or without a word, and the connection ends.
    pub(crate) async fn refused(&mut self, code: u8, return_code: Option<u8>) -> Result<()> {
        let expected = if self.version == Version::V5 { Some(code) } else { return_code };
        if let Some(expected) = expected {
            let connack = self.connack().await?;
            ensure!(
                (connack.code, connack.session_present) == (expected, false),
                "{}: expected CONNACK {expected:#04x}, {connack:?} came",
                self.name
            );
        }
        self.closed().await
    }

    /// CONNECT is refused where the specification lets a 5.0 server choose whether it says so.
    pub(crate) async fn closed_with_or_without(&mut self, code: u8) -> Result<()> {
        match self.packet().await? {
            None => Ok(()),
            Some(Answer::ConnAck(connack)) if self.version == Version::V5 && connack.code == code => {
                self.closed().await
            }
            Some(other) => self.wrong(&format!("CONNACK {code:#04x} or the end"), other),
        }
    }

    /// A packet identifier that was not used by this client yet.
    pub(crate) fn new_id(&mut self) -> u16 {
        self.last_id += 1;
        self.last_id
    }

    /// Subscribes, and all is granted with the QoS that was asked for.
    pub(crate) async fn subscribe(&mut self, filters: &[(&str, u8)]) -> Result<()> {
        self.subscribe_with(&[], filters).await
    }

    /// The same with properties.
    pub(crate) async fn subscribe_with(
        &mut self,
        properties: &[Property],
        filters: &[(&str, u8)],
    ) -> Result<()> {
        let codes = self.subscribe_codes(properties, filters).await?;
        let granted: Vec<u8> = filters.iter().map(|(_, options)| options & 3).collect();
        ensure!(codes == granted, "{}: SUBACK says {codes:02x?}, expected {granted:02x?}", self.name);
        Ok(())
    }

    /// Subscribes and says what SUBACK said.
    pub(crate) async fn subscribe_codes(
        &mut self,
        properties: &[Property],
        filters: &[(&str, u8)],
    ) -> Result<Vec<u8>> {
        let id = self.new_id();
        self.send(packet::subscribe(self.version, id, properties, filters)).await?;
        Ok(self.suback(id).await?.codes)
    }

    /// Unsubscribes and says what UNSUBACK said.
    pub(crate) async fn unsubscribe(&mut self, filters: &[&str]) -> Result<Vec<u8>> {
        let id = self.new_id();
        self.send(packet::unsubscribe(self.version, id, filters)).await?;
        Ok(self.unsuback(id).await?.codes)
    }

    /// Sends a PUBLISH as it is.
    pub(crate) async fn put(&mut self, publish: &Publish) -> Result<()> {
        self.send(publish.bytes(self.version)).await
    }

    /// Publishes with this QoS under a fresh identifier, to the end of the exchange.
    pub(crate) async fn publish(&mut self, publish: Publish, qos: u8) -> Result<()> {
        let id = if qos > 0 { self.new_id() } else { 0 };
        self.put(&publish.qos(qos, id)).await?;
        match qos {
            0 => Ok(()),
            1 => self.acked_well(first::PUBACK, id).await,
            _ => {
                self.acked_well(first::PUBREC, id).await?;
                self.send(packet::ack(first::PUBREL, id)).await?;
                self.acked(first::PUBCOMP, id, 0).await
            }
        }
    }

    /// An acknowledgement that is no refusal: 0, or 0x10 when nobody subscribed.
    async fn acked_well(&mut self, first: u8, id: u16) -> Result<()> {
        let ack = self.ack(first, id).await?;
        ensure!(ack.code < 0x80, "{}: refused: {ack:?}", self.name);
        Ok(())
    }

    /// The next packet must be a message; it is acknowledged to the end.
    pub(crate) async fn receive(&mut self) -> Result<Publish> {
        let message = self.message().await?;
        self.acknowledge(&message).await?;
        Ok(message)
    }

    /// Acknowledges a message to the end.
    pub(crate) async fn acknowledge(&mut self, message: &Publish) -> Result<()> {
        match message.qos {
            0 => Ok(()),
            1 => self.send(packet::ack(first::PUBACK, message.id)).await,
            _ => {
                self.send(packet::ack(first::PUBREC, message.id)).await?;
                self.acked(first::PUBREL, message.id, 0).await?;
                self.send(packet::ack(first::PUBCOMP, message.id)).await
            }
        }
    }

    /// The next message, acknowledged, has this payload.
    pub(crate) async fn receives(&mut self, payload: &str) -> Result<Publish> {
        let message = self.receive().await?;
        ensure!(message.text() == payload, "{}: expected {payload:?}, {message:?} came", self.name);
        Ok(message)
    }

    /// DISCONNECT, and waits until the server has closed: then its session is put away.
    pub(crate) async fn leave(mut self) -> Result<()> {
        self.send(packet::DISCONNECT).await?;
        self.messages.clear();
        loop {
            match self.packet().await? {
                None => return Ok(()),
                Some(Answer::Publish(_)) => {}
                Some(other) => return self.wrong("the end of the connection", other),
            }
        }
    }
}

/// Bytes for people: long ones shortened.
fn hex(bytes: &[u8]) -> String {
    const MOST: usize = 96;
    let shown: Vec<String> = bytes.iter().take(MOST).map(|byte| format!("{byte:02x}")).collect();
    let more = if bytes.len() > MOST { format!(" ... ({} bytes)", bytes.len()) } else { String::new() };
    shown.join(" ") + &more
}
