//! MQTT over WebSocket (section 6 of both versions), spoken by hand: RFC 6455 as far as these cases need it.
//!
//! Start at [`WebSocket::open`].

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use zwerm_tests::DEADLINE;

use crate::answer::{self, Answer};
use crate::case;
use crate::case::{Case, Env};
use crate::packet::{DISCONNECT, PINGREQ, Publish, first, subscribe};

pub(crate) const CASES: &[Case] = &[
    case!(the_server_selects_mqtt, V311["MQTT-6.0.0-4"], V5["MQTT-6.0.0-4"]),
    case!(a_client_that_offers_no_mqtt_is_not_told_that_it_did, V311["MQTT-6.0.0-3"], V5["MQTT-6.0.0-3"]),
    case!(frames_that_are_not_binary_end_the_connection, V311["MQTT-6.0.0-1"], V5["MQTT-6.0.0-1"]),
    case!(frames_and_packets_need_not_agree, V311["MQTT-6.0.0-2"], V5["MQTT-6.0.0-2"]),
    case!(control_frames_come_between, V311["MQTT-6.0.0-2"], V5["MQTT-6.0.0-2"]),
];

/// Opcodes (RFC 6455 section 5.2).
mod opcode {
    pub(super) const CONTINUATION: u8 = 0x0;
    pub(super) const TEXT: u8 = 0x1;
    pub(super) const BINARY: u8 = 0x2;
    pub(super) const CLOSE: u8 = 0x8;
    pub(super) const PING: u8 = 0x9;
    pub(super) const PONG: u8 = 0xa;
}

/// The key of RFC 6455 section 1.3, and what a server makes of it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A frame of a client: masked.
fn frame(opcode: u8, last: bool, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = vec![opcode | u8::from(last) << 7];
    match payload.len() {
        length @ 0..=125 => bytes.push(0x80 | length as u8),
        length => {
            bytes.push(0x80 | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// What the server answered to the upgrade.
struct Upgrade {
    status: u16,
    head: String,
}

impl Upgrade {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
    }
}

/// A connection after the upgrade, or one that was refused it.
struct WebSocket {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Payloads of binary frames that are not read as packets yet.
    packets: Vec<u8>,
}

impl WebSocket {
    /// Asks for the upgrade with these sub-protocols.
    async fn ask(env: &Env, protocols: Option<&str>) -> Result<(Self, Upgrade)> {
        let address = env.next_address();
        let mut stream = TcpStream::connect(address).await?;
        let protocols =
            protocols.map(|list| format!("Sec-WebSocket-Protocol: {list}\r\n")).unwrap_or_default();
        let request = format!(
            "GET /mqtt HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {KEY}\r\n{protocols}Sec-WebSocket-Version: 13\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut socket = Self { stream, buffer: Vec::new(), packets: Vec::new() };
        let end = loop {
            if let Some(end) = socket.buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end + 4;
            }
            ensure!(socket.fill().await?, "closed without an answer to the upgrade");
        };
        let head = String::from_utf8(socket.buffer.drain(..end).collect())?;
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.with_context(|| format!("no HTTP answer: {head:?}"))?;
        Ok((socket, Upgrade { status, head }))
    }

    /// A connection that speaks MQTT.
    async fn open(env: &Env) -> Result<Self> {
        let (socket, upgrade) = Self::ask(env, Some("mqtt")).await?;
        ensure!(upgrade.status == 101, "no upgrade: {}", upgrade.head);
        Ok(socket)
    }

    /// The same after CONNECT and CONNACK.
    async fn connect(env: &Env, name: &str) -> Result<Self> {
        let mut socket = Self::open(env).await?;
        socket.send(&env.hello(name).bytes()).await?;
        socket.connack(env).await?;
        Ok(socket)
    }

    async fn connack(&mut self, env: &Env) -> Result<()> {
        match self.packet(env).await? {
            Answer::ConnAck(connack) if connack.code == 0 => Ok(()),
            other => bail!("expected CONNACK, {other:?} came"),
        }
    }

    /// Bytes as they are.
    async fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        timeout(DEADLINE, self.stream.write_all(bytes)).await??;
        Ok(())
    }

    /// One binary frame.
    async fn send(&mut self, payload: &[u8]) -> Result<()> {
        self.raw(&frame(opcode::BINARY, true, payload)).await
    }

    /// False at the end of the connection.
    async fn fill(&mut self) -> Result<bool> {
        let read =
            timeout(DEADLINE, self.stream.read_buf(&mut self.buffer)).await.context("nothing comes")?;
        Ok(read.unwrap_or(0) > 0)
    }

    /// The next frame; `None` at the end of the connection.
    async fn frame(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
        loop {
            if let Some((size, opcode, payload)) = cut(&self.buffer)? {
                self.buffer.drain(..size);
                return Ok(Some((opcode, payload)));
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    /// The next packet. It comes in binary frames (MQTT-6.0.0-1), which may be fragmented.
    async fn packet(&mut self, env: &Env) -> Result<Answer> {
        loop {
            if let Some(&first) = self.packets.first()
                && let Some((length, width)) =
                    answer::varint(&self.packets[1..]).map_err(anyhow::Error::msg)?
                && self.packets.len() > width + length
            {
                let size = 1 + width + length;
                let whole: Vec<u8> = self.packets.drain(..size).collect();
                return answer::read(env.version, first, &whole[1 + width..], size)
                    .map_err(anyhow::Error::msg);
            }
            match self.frame().await? {
                Some((opcode::BINARY | opcode::CONTINUATION, payload)) => self.packets.extend(payload),
                other => bail!("expected a binary frame, {other:?} came"),
            }
        }
    }

    async fn expect(&mut self, env: &Env, expected: &Answer) -> Result<()> {
        let came = self.packet(env).await?;
        ensure!(came == *expected, "expected {expected:?}, {came:?} came");
        Ok(())
    }

    /// The server closes, after a DISCONNECT and a close frame at most, which is answered as it has to be.
    async fn closed(&mut self) -> Result<()> {
        while let Some((opcode, payload)) = self.frame().await? {
            match opcode {
                // It may have closed meanwhile.
                opcode::CLOSE => self.raw(&frame(opcode::CLOSE, true, &payload)).await.unwrap_or_default(),
                opcode::BINARY if payload.first() == Some(&first::DISCONNECT) => {}
                _ => bail!("expected the end, a frame {opcode:#x} came: {payload:x?}"),
            }
        }
        Ok(())
    }
}

/// A whole frame of a server off the front: its size, opcode and payload. It is not masked.
fn cut(bytes: &[u8]) -> Result<Option<(usize, u8, Vec<u8>)>> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    ensure!(first & 0x70 == 0, "reserved bits in a frame: {first:#04x}");
    ensure!(second & 0x80 == 0, "a server masks its frame");
    let (length, width) = match second {
        126 if rest.len() < 2 => return Ok(None),
        126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), 2),
        127 => bail!("no packet of these cases is that large"),
        length => (usize::from(*length), 0),
    };
    let payload = rest.get(width..width + length);
    Ok(payload.map(|payload| (2 + width + length, first & 0x0f, payload.to_vec())))
}

async fn the_server_selects_mqtt(env: Env) -> Result<()> {
    for offer in ["mqtt", "mqttv3.1, mqtt", "mqtt, other", "other,mqtt"] {
        let (mut socket, upgrade) = WebSocket::ask(&env, Some(offer)).await?;
        ensure!(upgrade.status == 101, "offered {offer:?}: {}", upgrade.head);
        ensure!(
            upgrade.header("Sec-WebSocket-Protocol") == Some("mqtt"),
            "offered {offer:?}: {}",
            upgrade.head
        );
        ensure!(upgrade.header("Sec-WebSocket-Accept") == Some(ACCEPT), "{}", upgrade.head);
        socket.send(&env.hello("a").bytes()).await?;
        socket.connack(&env).await?;
        socket.send(DISCONNECT).await?;
        socket.closed().await?;
    }
    Ok(())
}

/// Whether it is refused is the server's choice; it must not select what was not offered, and others are served.
async fn a_client_that_offers_no_mqtt_is_not_told_that_it_did(env: Env) -> Result<()> {
    for offer in [None, Some("other"), Some("mqttx, xmqtt")] {
        let (_, upgrade) = WebSocket::ask(&env, offer).await?;
        let selected = upgrade.header("Sec-WebSocket-Protocol");
        ensure!(selected.is_none(), "offered {offer:?}: {}", upgrade.head);
        ensure!((upgrade.status == 101) || (400..500).contains(&upgrade.status), "{}", upgrade.head);
    }
    WebSocket::connect(&env, "a").await.map(drop)
}

async fn frames_that_are_not_binary_end_the_connection(env: Env) -> Result<()> {
    let mut bystander = WebSocket::connect(&env, "b").await?;
    for bytes in [
        frame(opcode::TEXT, true, PINGREQ),
        frame(opcode::TEXT, true, b"hello"),
        frame(0x3, true, PINGREQ),
        [frame(opcode::TEXT, false, b"a"), frame(opcode::CONTINUATION, true, b"b")].concat(),
    ] {
        let mut socket = WebSocket::connect(&env, "a").await?;
        socket.raw(&bytes).await?;
        socket.closed().await?;
    }
    // first thing, too
    let mut socket = WebSocket::open(&env).await?;
    socket.raw(&frame(opcode::TEXT, true, &env.hello("a").bytes())).await?;
    socket.closed().await?;
    bystander.send(PINGREQ).await?;
    bystander.expect(&env, &Answer::PingResp).await
}

async fn frames_and_packets_need_not_agree(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let mut socket = WebSocket::open(&env).await?;
    // one packet in many frames, and an empty frame between
    for byte in env.hello("a").bytes() {
        socket.send(&[byte]).await?;
        socket.send(&[]).await?;
    }
    socket.connack(&env).await?;
    // many packets in one frame, the last one half, in two fragments
    let large = Publish::new(&topic, vec![b'x'; 300]);
    let packets = [
        subscribe(env.version, 1, &[], &[(&topic, 0)]),
        PINGREQ.to_vec(),
        large.bytes(env.version),
        PINGREQ.to_vec(),
    ]
    .concat();
    let (one, rest) = packets.split_at(packets.len() - 250);
    let (two, three) = rest.split_at(100);
    let fragments = [frame(opcode::BINARY, false, one), frame(opcode::CONTINUATION, true, two)].concat();
    socket.raw(&fragments).await?;
    socket.send(three).await?;
    let mut answers = Vec::new();
    while answers.len() < 4 {
        answers.push(socket.packet(&env).await?);
    }
    let pings = answers.iter().filter(|answer| **answer == Answer::PingResp).count();
    ensure!(pings == 2 && answers.contains(&Answer::Publish(large)), "{answers:?}");
    Ok(())
}

async fn control_frames_come_between(env: Env) -> Result<()> {
    let mut socket = WebSocket::open(&env).await?;
    let connect = env.hello("a").bytes();
    let (one, two) = connect.split_at(5);
    socket.raw(&frame(opcode::BINARY, false, one)).await?;
    socket.raw(&frame(opcode::PING, true, b"are you there")).await?;
    let pong = socket.frame().await?;
    ensure!(pong == Some((opcode::PONG, b"are you there".to_vec())), "{pong:?}");
    socket.raw(&frame(opcode::CONTINUATION, true, two)).await?;
    socket.connack(&env).await?;
    socket.raw(&frame(opcode::CLOSE, true, &1000u16.to_be_bytes())).await?;
    socket.closed().await
}
