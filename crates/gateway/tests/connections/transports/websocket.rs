//! WebSocket: the request, how packets lie in frames, pings, closing, and what MQTT 5.0 section 6 refuses.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use tungstenite::client::IntoClientRequest as _;
use tungstenite::http::{HeaderValue, StatusCode};
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::protocol::frame::{Frame, FrameHeader};
use tungstenite::{Error, HandshakeError, Message, WebSocket, client};
use zwerm_gateway::{Config, ListenerConfig};
use zwerm_wire::{Packet, QoS};

use super::{Mqtt, Node, blocking, bytes_of, connect_packet, dial, listener, rest};
use crate::client::publish;

/// A WebSocket client as a stream of bytes: a write is a message.
pub struct Ws<S> {
    socket: WebSocket<S>,
    left: Vec<u8>,
}

impl<S: Read + Write> Ws<S> {
    /// At the usual path, with the usual subprotocol.
    pub fn open(stream: S) -> Self {
        let (socket, subprotocol) = Self::try_open(stream, "/mqtt", Some("mqtt")).unwrap();
        assert_eq!(subprotocol, "mqtt");
        Self { socket, left: Vec::new() }
    }

    /// The status of a refusal, or the socket and the subprotocol that was granted.
    fn try_open(
        stream: S,
        path: &str,
        subprotocol: Option<&str>,
    ) -> Result<(WebSocket<S>, String), StatusCode> {
        let mut request = format!("ws://localhost{path}").into_client_request().unwrap();
        if let Some(name) = subprotocol {
            request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_str(name).unwrap());
        }
        match client(request, stream) {
            Ok((socket, response)) => {
                let granted = response.headers()["Sec-WebSocket-Protocol"].to_str().unwrap().to_owned();
                Ok((socket, granted))
            }
            Err(HandshakeError::Failure(Error::Http(response))) => Err(response.status()),
            Err(error) => panic!("{error}"),
        }
    }

    pub fn message(&mut self) -> Message {
        self.socket.read().unwrap()
    }

    /// The code of the Close frame that comes next.
    fn closed_with(&mut self) -> CloseCode {
        match self.message() {
            Message::Close(Some(frame)) => frame.code,
            other => panic!("no Close but {other:?}"),
        }
    }

    /// Waits for the server's Close and answers it, to the end.
    pub fn close(mut self) {
        loop {
            match self.socket.read() {
                Ok(Message::Close(frame)) => assert_eq!(frame.unwrap().code, CloseCode::Normal),
                Ok(_) => {}
                Err(error) => {
                    assert!(matches!(error, Error::ConnectionClosed), "{error}");
                    return;
                }
            }
        }
    }

    fn send_frame(&mut self, frame: Frame) {
        self.socket.send(Message::Frame(frame)).unwrap();
    }

    fn fragment(&mut self, bytes: &[u8], opcode: Data, is_final: bool) {
        self.send_frame(Frame::message(bytes.to_vec(), OpCode::Data(opcode), is_final));
    }
}

impl<S: Read + Write> Read for Ws<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left.is_empty() {
            match self.socket.read() {
                Ok(Message::Binary(bytes)) => self.left = bytes.to_vec(),
                Ok(Message::Close(_)) => return Ok(0),
                Ok(_) => {}
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        let count = self.left.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.left.drain(..count).collect::<Vec<_>>());
        Ok(count)
    }
}

impl<S: Read + Write> Write for Ws<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.send(Message::Binary(bytes.to_vec().into())).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn websocket() -> ListenerConfig {
    ListenerConfig { websocket: Some("/mqtt".into()), ..listener() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_asks_for_something_else_is_refused() {
    let node = Node::start(vec![websocket()]).await;
    let address = node.address();
    blocking(move || {
        let open = |path: &str, subprotocol| Ws::try_open(dial(address), path, subprotocol);
        let refused = |path, subprotocol| open(path, subprotocol).unwrap_err().as_u16();
        assert_eq!(open("/mqtt", Some("mqttv3.1")).unwrap().1, "mqttv3.1");
        assert_eq!(open("/mqtt?a=b", Some("chat, mqttv3.1, mqtt")).unwrap().1, "mqtt");
        assert_eq!(refused("/", Some("mqtt")), 404);
        assert_eq!(refused("/mqtt/", Some("mqtt")), 404);
        assert_eq!(refused("/mqtt", None), 400);
        assert_eq!(refused("/mqtt", Some("chat")), 400);
    })
    .await;
    let count = |reason| node.refused(reason);
    let all = || (count("websocket_path"), count("websocket_subprotocol")) == (2, 2);
    crate::fixture::until("all are counted", all).await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_is_answered_or_cut() {
    let node = Node::start(vec![websocket()]).await;
    let address = node.address();
    blocking(move || {
        let answer = |request: &[u8]| {
            let mut stream = dial(address);
            stream.write_all(request).unwrap();
            String::from_utf8(rest(stream)).unwrap()
        };
        let browser = answer(b"GET /mqtt HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(browser.starts_with("HTTP/1.1 426 "), "{browser}");
        assert!(browser.contains("MQTT over WebSocket only"), "{browser}");
        assert!(answer(b"nonsense\r\n\r\n").starts_with("HTTP/1.1 400 "));
        // the beginning of a TLS handshake: nobody waits for more of it
        assert!(answer(&[22, 3, 1, 2, 0, 1]).starts_with("HTTP/1.1 400 "));
        let endless = [b"GET /mqtt HTTP/1.1\r\nX: ".as_slice(), &[b'x'; 9000]].concat();
        assert!(answer(&endless).starts_with("HTTP/1.1 431 "));
    })
    .await;
    node.has_refused("websocket_request", 4).await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_request_is_cut() {
    let timeout = Duration::from_millis(50);
    let node = Node::start(vec![ListenerConfig { handshake_timeout: timeout, ..websocket() }]).await;
    let address = node.address();
    blocking(move || {
        let mut stream = dial(address);
        stream.write_all(b"GET /mqtt HTTP/1.1\r\nHost: x\r\n").unwrap();
        assert!(rest(stream).is_empty());
    })
    .await;
    node.has_refused("timeout", 1).await;
    node.end().await;
}

/// MQTT-6.0.0-2.
#[tokio::test(flavor = "multi_thread")]
async fn packets_and_frames_need_not_agree() {
    let node = Node::start(vec![websocket()]).await;
    let address = node.address();
    blocking(move || {
        let connect = bytes_of(&connect_packet("frames"));
        let mut ws = Ws::open(dial(address));
        // a packet in messages of a byte
        for byte in connect {
            ws.write_all(&[byte]).unwrap();
        }
        let mut mqtt = Mqtt::new(ws);
        mqtt.connack();
        mqtt.subscribe("t");
        // three packets in one message, which ends amidst the fourth
        let of =
            |number: u16| bytes_of(&Packet::Publish(publish("t", &number.to_string(), QoS::AtMostOnce, 0)));
        let together: Vec<u8> = (0..4).flat_map(of).collect();
        let (first, last) = together.split_at(together.len() - 3);
        mqtt.stream.write_all(first).unwrap();
        mqtt.stream.write_all(&[]).unwrap(); // an empty one
        // the rest in three fragments, a ping between them
        mqtt.stream.fragment(&last[..1], Data::Binary, false);
        mqtt.stream.send_frame(Frame::ping(b"between".to_vec()));
        mqtt.stream.fragment(&last[1..2], Data::Continue, false);
        mqtt.stream.fragment(&last[2..], Data::Continue, true);
        for number in 0..4 {
            let Packet::Publish(seen) = mqtt.next() else { panic!("no PUBLISH") };
            assert_eq!(seen.payload, number.to_string().as_bytes());
        }
    })
    .await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_come_with_the_request_are_not_lost() {
    let node = Node::start(vec![websocket()]).await;
    let address = node.address();
    blocking(move || {
        let request = "GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Protocol: mqtt\r\n\r\n";
        let mut header = FrameHeader { mask: Some([0; 4]), ..FrameHeader::default() };
        header.opcode = OpCode::Data(Data::Binary);
        let mut bytes = request.as_bytes().to_vec();
        Frame::from_payload(header, bytes_of(&connect_packet("early")).into()).format(&mut bytes).unwrap();
        let mut stream = dial(address);
        stream.write_all(&bytes).unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            answer.extend_from_slice(&byte);
        }
        let socket = WebSocket::from_raw_socket(stream, tungstenite::protocol::Role::Client, None);
        Mqtt::new(Ws { socket, left: Vec::new() }).connack();
    })
    .await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_are_answered_also_by_a_connection_that_is_idle() {
    let node = Node::start(vec![websocket()]).await;
    let address = node.address();
    blocking(move || {
        let mut ws = Ws::open(dial(address));
        ws.socket.send(Message::Ping("before CONNECT".into())).unwrap();
        assert_eq!(ws.message(), Message::Pong("before CONNECT".into()));
        let mut mqtt = Mqtt::connect(ws, "pinging");
        for number in 0..200 {
            let text = number.to_string();
            mqtt.stream.socket.send(Message::Ping(text.clone().into())).unwrap();
            assert_eq!(mqtt.stream.message(), Message::Pong(text.into()));
        }
        mqtt.stream.socket.send(Message::Pong("unasked".into())).unwrap();
        mqtt.ping();
    })
    .await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_pings_that_nobody_reads_the_answers_to_is_harmless() {
    let node = Node::start(vec![websocket()]).await;
    let address = node.address();
    blocking(move || {
        let mut mqtt = Mqtt::connect(Ws::open(dial(address)), "flood");
        for _ in 0..50_000 {
            mqtt.stream.socket.write(Message::Ping(vec![7; 125].into())).unwrap();
        }
        mqtt.stream.socket.flush().unwrap();
        // pongs come, though not one for each; then MQTT goes on
        mqtt.ping();
    })
    .await;
    node.end().await;
}

/// MQTT-6.0.0-1, and RFC 6455 sections 5 and 7.4.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_frames_end_the_connection_with_a_code() {
    let node = Node::start_with(Config {
        listeners: vec![websocket()],
        limits: zwerm_session::Limits { max_packet_size: 1000, ..zwerm_session::Limits::default() },
        ..Config::default()
    })
    .await;
    let address = node.address();
    blocking(move || {
        let connected = || Mqtt::connect(Ws::open(dial(address)), "wrong").stream;
        let mut text = connected();
        text.socket.send(Message::text("hello")).unwrap();
        assert_eq!(text.closed_with(), CloseCode::Unsupported);

        let mut unmasked = connected();
        unmasked.socket.get_mut().write_all(&[0x82, 2, 0xc0, 0]).unwrap();
        assert_eq!(unmasked.closed_with(), CloseCode::Protocol);

        let mut reserved = connected();
        reserved.socket.get_mut().write_all(&[0xc2, 0x80, 0, 0, 0, 0]).unwrap();
        assert_eq!(reserved.closed_with(), CloseCode::Protocol);

        let mut unknown = connected();
        unknown.socket.get_mut().write_all(&[0x83, 0x80, 0, 0, 0, 0]).unwrap();
        assert_eq!(unknown.closed_with(), CloseCode::Protocol);

        let mut astray = connected();
        astray.fragment(b"x", Data::Continue, true);
        assert_eq!(astray.closed_with(), CloseCode::Protocol);

        let mut long_ping = connected();
        let ping = [[0x89, 0xfe, 0, 126, 0, 0, 0, 0].as_slice(), &[0; 126]].concat();
        long_ping.socket.get_mut().write_all(&ping).unwrap();
        assert_eq!(long_ping.closed_with(), CloseCode::Protocol);

        // the header is enough: nothing of the frame has come
        let mut large = connected();
        large.socket.get_mut().write_all(&[0x82, 0xff, 0, 0, 0, 0, 0, 0x10, 0, 1, 0, 0, 0, 0]).unwrap();
        assert_eq!(large.closed_with(), CloseCode::Size);

        // a megabyte in fragments, and one byte more
        let mut grown = connected();
        grown.fragment(&[0xc0], Data::Binary, false);
        for _ in 0..1024 {
            grown.fragment(&[0; 1024], Data::Continue, false);
        }
        assert_eq!(grown.closed_with(), CloseCode::Size);
    })
    .await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_is_agreed_whoever_begins() {
    let node = Node::start(vec![websocket()]).await;
    let (address, counters) = (node.address(), node.counters());
    blocking(move || {
        // the client: its Close is answered, though MQTT was not ended
        let mut ws = Mqtt::connect(Ws::open(dial(address)), "leaves").stream;
        ws.socket.close(Some(CloseFrame { code: CloseCode::Away, reason: "".into() })).unwrap();
        assert_eq!(ws.closed_with(), CloseCode::Away);
        assert!(matches!(ws.socket.read(), Err(Error::ConnectionClosed)));
        // the client by DISCONNECT: the server closes
        Mqtt::connect(Ws::open(dial(address)), "says goodbye").goodbye().close();
    })
    .await;
    let ended = |cause| counters.endings_total().find(|(name, _)| *name == cause).unwrap().1;
    crate::fixture::until("both end", || counters.connections_current.get() == 0).await;
    assert_eq!((ended("link_closed"), ended("disconnected")), (1, 1));
    // the server when it stops
    let mut mqtt = blocking(move || Mqtt::connect(Ws::open(dial(address)), "told")).await;
    let ending = tokio::spawn(node.end());
    blocking(move || {
        assert!(matches!(mqtt.next(), Packet::Disconnect(_)));
        mqtt.stream.close();
    })
    .await;
    ending.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_without_a_close_is_an_end() {
    let node = Node::start(vec![websocket()]).await;
    let (address, counters) = (node.address(), node.counters());
    blocking(move || drop(Mqtt::connect(Ws::<TcpStream>::open(dial(address)), "gone"))).await;
    crate::fixture::until("it ends", || counters.connections_current.get() == 0).await;
    node.end().await;
}
