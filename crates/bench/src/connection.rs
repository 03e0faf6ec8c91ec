//! A bare MQTT 3.1.1 connection: frames in and out, no session, no timers.
//!
//! Input and output are two fields, so that what was read can be looked at while answers are appended. Start at
//! [`Connection::open`].

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::BytesMut;
use mqttbytes::QoS;
use mqttbytes::v4::{
    Connect, ConnectReturnCode, Login, Packet, Subscribe, SubscribeFilter, SubscribeReasonCode,
};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::packet::{Frame, encode};

/// The room for input to begin with; thousands of idle connections are opened. It doubles while reads fill it.
const ROOM: usize = 512;
const MOST_ROOM: usize = 256 << 10;

/// How long the broker may take to accept a connection, to answer CONNECT, SUBSCRIBE and PINGREQ.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Who connects.
#[derive(Debug, Clone, Default)]
pub(crate) struct Client {
    /// Client id.
    pub(crate) id: String,
    /// User name and password.
    pub(crate) login: Option<(String, String)>,
    /// Whether the session outlives the connection.
    pub(crate) durable: bool,
}

/// What was read and is not yet taken.
#[derive(Debug, Default)]
pub(crate) struct Input {
    room: Vec<u8>,
    from: usize,
    to: usize,
}

impl Input {
    /// The next packet that is here.
    ///
    /// # Errors
    /// When it is malformed.
    pub(crate) fn next(&mut self) -> Result<Option<Frame<'_>>> {
        let Some((frame, length)) = Frame::cut(&self.room[self.from..self.to])? else { return Ok(None) };
        self.from += length;
        Ok(Some(frame))
    }

    /// Where to read to: at least a byte.
    fn free(&mut self) -> &mut [u8] {
        if self.from == self.to {
            (self.from, self.to) = (0, 0);
        }
        if self.to == self.room.len() && self.from > 0 {
            self.room.copy_within(self.from..self.to, 0);
            (self.from, self.to) = (0, self.to - self.from);
        }
        if self.to == self.room.len() {
            self.room.resize((2 * self.room.len()).max(ROOM), 0);
        }
        &mut self.room[self.to..]
    }

    fn filled(&mut self, bytes: usize) {
        self.to += bytes;
        if self.to == self.room.len() && self.room.len() < MOST_ROOM {
            self.room.resize(2 * self.room.len(), 0);
        }
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    /// What came.
    pub(crate) input: Input,
    /// What is to be written.
    pub(crate) output: Vec<u8>,
    written: usize,
    /// Whether the broker continued a session.
    pub(crate) session_present: bool,
}

impl Connection {
    /// Connects and waits for CONNACK.
    ///
    /// # Errors
    /// When the broker does not answer or refuses.
    pub(crate) async fn open(address: SocketAddr, client: &Client) -> Result<Self> {
        let opening = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let mut connection = Self {
                stream,
                input: Input::default(),
                output: Vec::new(),
                written: 0,
                session_present: false,
            };
            let mut connect = Connect::new(&client.id);
            // rumqttd takes no client without one; nobody is silent for 18 hours.
            connect.keep_alive = u16::MAX;
            connect.clean_session = !client.durable;
            connect.login = client.login.as_ref().map(|(user, password)| Login::new(user, password));
            connection.queue(&Packet::Connect(connect))?;
            connection.flush().await?;
            match connection.answer().await? {
                Packet::ConnAck(ack) if ack.code == ConnectReturnCode::Success => {
                    connection.session_present = ack.session_present;
                    Ok(connection)
                }
                Packet::ConnAck(ack) => bail!("the broker refused the connection: {:?}", ack.code),
                other => bail!("{other:?} instead of CONNACK"),
            }
        };
        within(opening).await.with_context(|| format!("connecting to {address}"))
    }

    /// Subscribes and waits for SUBACK; only while no messages can come.
    ///
    /// # Errors
    /// When it is refused.
    pub(crate) async fn subscribe(&mut self, filter: &str, qos: QoS) -> Result<()> {
        self.queue_subscribe(filter, qos)?;
        self.suback().await.with_context(|| format!("subscribing to {filter}"))
    }

    /// The same for several filters in one packet.
    ///
    /// # Errors
    /// When one is refused, or they do not fit into a packet.
    pub(crate) async fn subscribe_all(
        &mut self,
        filters: impl Iterator<Item = String>,
        qos: QoS,
    ) -> Result<()> {
        let mut subscribe = Subscribe::new_many(filters.map(|filter| SubscribeFilter::new(filter, qos)));
        subscribe.pkid = 1;
        self.queue(&Packet::Subscribe(subscribe))?;
        self.suback().await.context("subscribing to many filters")
    }

    async fn suback(&mut self) -> Result<()> {
        within(async {
            self.flush().await?;
            let answer = self.answer().await?;
            granted(&answer)
        })
        .await
    }

    /// Appends a SUBSCRIBE with packet identifier 1.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub(crate) fn queue_subscribe(&mut self, filter: &str, qos: QoS) -> Result<()> {
        let mut subscribe = Subscribe::new(filter, qos);
        subscribe.pkid = 1;
        self.queue(&Packet::Subscribe(subscribe))
    }

    /// Says goodbye, and waits until the broker has closed the connection.
    ///
    /// # Errors
    /// When the connection breaks otherwise.
    pub(crate) async fn close(mut self) -> Result<()> {
        self.queue(&Packet::Disconnect)?;
        within(async {
            self.flush().await?;
            while self.read().await? {
                self.input.from = self.input.to;
            }
            Ok(())
        })
        .await
        .context("closing a connection")
    }

    /// Appends a packet to what is to be written.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub(crate) fn queue(&mut self, packet: &Packet) -> Result<()> {
        let mut out = BytesMut::new();
        encode(packet, &mut out)?;
        self.output.extend_from_slice(&out);
        Ok(())
    }

    /// Whether everything is written.
    pub(crate) fn is_flushed(&self) -> bool {
        self.output.is_empty()
    }

    /// Writes what can be written without waiting.
    ///
    /// # Errors
    /// When the connection is gone.
    pub(crate) fn try_flush(&mut self) -> Result<()> {
        while self.written < self.output.len() {
            match self.stream.try_write(&self.output[self.written..]) {
                Ok(bytes) => self.written += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("writing"),
            }
        }
        self.output.clear();
        self.written = 0;
        Ok(())
    }

    /// Writes everything.
    ///
    /// # Errors
    /// When the connection is gone.
    pub(crate) async fn flush(&mut self) -> Result<()> {
        loop {
            self.try_flush()?;
            if self.is_flushed() {
                return Ok(());
            }
            self.stream.writable().await?;
        }
    }

    /// Waits until something came or, if something is to be written, until that is possible.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// When the connection is gone.
    pub(crate) async fn ready(&self) -> Result<()> {
        let interest =
            if self.is_flushed() { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
        self.stream.ready(interest).await?;
        Ok(())
    }

    /// Reads what is here without waiting; whether there was anything.
    ///
    /// # Errors
    /// When the broker has closed the connection.
    pub(crate) fn try_read(&mut self) -> Result<bool> {
        match self.stream.try_read(self.input.free()) {
            Ok(0) => bail!("the broker closed the connection"),
            Ok(bytes) => {
                self.input.filled(bytes);
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error).context("reading"),
        }
    }

    /// Reads; `false`: the broker has closed the connection.
    async fn read(&mut self) -> Result<bool> {
        loop {
            self.stream.readable().await?;
            match self.stream.try_read(self.input.free()) {
                Ok(bytes) => {
                    self.input.filled(bytes);
                    return Ok(bytes > 0);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("reading"),
            }
        }
    }

    /// The next packet, which must be neither a message nor an acknowledgement.
    async fn answer(&mut self) -> Result<Packet> {
        loop {
            if let Some(frame) = self.input.next()? {
                match frame {
                    Frame::Other(packet) => return Ok(packet),
                    other => bail!("{other:?} before an answer"),
                }
            }
            ensure!(self.read().await?, "the broker closed the connection");
        }
    }
}

/// Checks a SUBACK.
///
/// # Errors
/// When it is none, or refuses.
pub(crate) fn granted(packet: &Packet) -> Result<()> {
    match packet {
        Packet::SubAck(ack) if ack.return_codes.contains(&SubscribeReasonCode::Failure) => {
            bail!("the broker refused the subscription")
        }
        Packet::SubAck(_) => Ok(()),
        other => bail!("{other:?} instead of SUBACK"),
    }
}

/// What the broker must do within a minute.
pub(crate) async fn within<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    match timeout(ANSWER_WITHIN, work).await {
        Ok(done) => done,
        Err(_) => bail!("no answer within {} s", ANSWER_WITHIN.as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Ack;

    #[test]
    fn frames_are_found_however_they_arrive() {
        let mut sent = Vec::new();
        (1..2_000).for_each(|id| Ack::Publish.write(&mut sent, id));
        for step in [1, 3, 7, 1_000] {
            let mut input = Input::default();
            let mut ids = Vec::new();
            let mut rest = &sent[..];
            while !rest.is_empty() {
                let free = input.free();
                let bytes = step.min(free.len()).min(rest.len());
                free[..bytes].copy_from_slice(&rest[..bytes]);
                rest = &rest[bytes..];
                input.filled(bytes);
                while let Some(frame) = input.next().unwrap() {
                    let Frame::Ack(Ack::Publish, id) = frame else { panic!("{frame:?}") };
                    ids.push(id);
                }
            }
            assert_eq!(ids, (1..2_000).collect::<Vec<u16>>());
        }
    }
}
