//! A bare MQTT 3.1.1 connection: whole frames in and out, no session, no timers.
//!
//! A frame is cut off first and only then given to mqttbytes, which for some packets consumes input before it
//! asks for more. Start at [`Connection::open`].

use std::net::SocketAddr;

use anyhow::{Result, bail, ensure};
use bytes::{BufMut, BytesMut};
use mqttbytes::QoS;
use mqttbytes::v4::{self, Packet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const LARGEST: usize = 1 << 20;

/// One connection with what was read and is not yet taken, and what is to be written.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    input: BytesMut,
    output: BytesMut,
}

impl Connection {
    /// Connects with a clean session and waits for CONNACK.
    ///
    /// # Errors
    /// When the broker does not answer or refuses.
    pub async fn open(address: SocketAddr, client_id: &str) -> Result<Self> {
        let (connection, _) = Self::connect(address, client_id, true).await?;
        Ok(connection)
    }

    /// Connects with a durable session and waits for CONNACK; says whether the session was there.
    ///
    /// # Errors
    /// When the broker does not answer or refuses.
    pub async fn resume(address: SocketAddr, client_id: &str) -> Result<(Self, bool)> {
        Self::connect(address, client_id, false).await
    }

    async fn connect(address: SocketAddr, client_id: &str, clean_session: bool) -> Result<(Self, bool)> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        // Small to begin with: thousands of idle connections are opened with these buffers.
        let mut connection = Self { stream, input: BytesMut::with_capacity(64), output: BytesMut::new() };
        let mut connect = v4::Connect::new(client_id);
        connect.keep_alive = 0;
        connect.clean_session = clean_session;
        connection.queue(&Packet::Connect(connect))?;
        connection.flush().await?;
        match connection.receive().await? {
            Packet::ConnAck(ack) if ack.code == v4::ConnectReturnCode::Success => {
                Ok((connection, ack.session_present))
            }
            other => bail!("refused with {other:?}"),
        }
    }

    /// Subscribes and waits for SUBACK; only before messages can come.
    ///
    /// # Errors
    /// When another packet comes instead.
    pub async fn subscribe(&mut self, filter: &str, qos: QoS) -> Result<()> {
        let mut subscribe = v4::Subscribe::new(filter, qos);
        subscribe.pkid = 1;
        self.queue(&Packet::Subscribe(subscribe))?;
        self.flush().await?;
        match self.receive().await? {
            Packet::SubAck(_) => Ok(()),
            other => bail!("{other:?} instead of SUBACK"),
        }
    }

    /// Says goodbye, and waits until the broker has closed the connection.
    ///
    /// # Errors
    /// When the connection breaks otherwise.
    pub async fn close(mut self) -> Result<()> {
        self.output.put_slice(&[0xe0, 0]);
        self.flush().await?;
        while self.stream.read_buf(&mut self.input).await? > 0 {
            self.input.clear();
        }
        Ok(())
    }

    /// Appends a packet to what the next flush writes.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn queue(&mut self, packet: &Packet) -> Result<()> {
        let out = &mut self.output;
        let written = match packet {
            Packet::Connect(packet) => packet.write(out),
            Packet::Subscribe(packet) => packet.write(out),
            Packet::Publish(packet) => packet.write(out),
            Packet::PubAck(packet) => packet.write(out),
            Packet::PubRec(packet) => packet.write(out),
            Packet::PubRel(packet) => packet.write(out),
            Packet::PubComp(packet) => packet.write(out),
            other => bail!("{other:?} is nothing a load needs"),
        };
        match written {
            Ok(_) => Ok(()),
            Err(error) => bail!("encoding failed: {error:?}"),
        }
    }

    /// Writes everything queued.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn flush(&mut self) -> Result<()> {
        self.stream.write_all(&self.output).await?;
        self.output.clear();
        Ok(())
    }

    /// The next packet; reads as much as it must.
    ///
    /// # Errors
    /// When the connection ends or the packet is malformed.
    pub async fn receive(&mut self) -> Result<Packet> {
        loop {
            if let Some(packet) = self.received()? {
                return Ok(packet);
            }
            let read = self.stream.read_buf(&mut self.input).await?;
            if read == 0 {
                bail!("the broker closed the connection");
            }
        }
    }

    /// A packet that is here already; reads nothing.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn received(&mut self) -> Result<Option<Packet>> {
        let Some(length) = frame_length(&self.input)? else { return Ok(None) };
        if self.input.len() < length {
            self.input.reserve((length - self.input.len()).max(4096));
            return Ok(None);
        }
        let mut frame = self.input.split_to(length);
        match v4::read(&mut frame, LARGEST) {
            Ok(packet) => Ok(Some(packet)),
            Err(error) => bail!("the broker sent what mqttbytes refuses: {error:?}"),
        }
    }
}

/// Length of the frame in front, header included; `None` while the header is incomplete.
fn frame_length(input: &[u8]) -> Result<Option<usize>> {
    let mut remaining = 0;
    for (index, byte) in input.iter().skip(1).take(4).enumerate() {
        remaining |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some(2 + index + remaining));
        }
    }
    ensure!(input.len() < 5, "a remaining length of five bytes");
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::frame_length;

    #[test]
    fn the_length_of_a_frame_counts_its_header() {
        assert_eq!(frame_length(&[0xd0, 0x00]).unwrap(), Some(2));
        assert_eq!(frame_length(&[0x30, 0x80, 0x01]).unwrap(), Some(131));
    }

    #[test]
    fn an_incomplete_header_needs_more() {
        assert_eq!(frame_length(&[]).unwrap(), None);
        assert_eq!(frame_length(&[0x30]).unwrap(), None);
        assert_eq!(frame_length(&[0x30, 0x80]).unwrap(), None);
    }

    #[test]
    fn five_length_bytes_are_refused() {
        assert!(frame_length(&[0x30, 0x80, 0x80, 0x80, 0x80, 0x01]).is_err());
    }
}
