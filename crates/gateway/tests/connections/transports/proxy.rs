//! The PROXY protocol in front of TCP, TLS, WebSocket and Unix sockets.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustls::version::TLS13;
use zwerm_gateway::{Bind, ListenerConfig};

use super::certificates::{Authority, Files};
use super::websocket::Ws;
use super::{Mqtt, Node, blocking, bytes_of, connect_packet, dial, listener, log, rest};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn behind_proxy() -> ListenerConfig {
    ListenerConfig { proxy_protocol: true, ..listener() }
}

/// Version 2 for TCP over IPv4 from 192.0.2.`host` and port 12345.
fn version_2(command: u8, host: u8) -> Vec<u8> {
    let addresses = [192, 0, 2, host, 127, 0, 0, 1, 0x30, 0x39, 0x07, 0x5b];
    [SIGNATURE, &[0x20 | command, 0x11, 0, 12], &addresses].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_of_the_header_is_the_clients() {
    log::listen();
    let node = Node::start(vec![behind_proxy()]).await;
    let address = node.address();
    let own = blocking(move || {
        for header in [b"PROXY TCP4 192.0.2.1 127.0.0.1 12345 1883\r\n".to_vec(), version_2(1, 2)] {
            let mut stream = dial(address);
            // MQTT comes in the same segment
            stream.write_all(&[header, bytes_of(&connect_packet("proxied"))].concat()).unwrap();
            let mut mqtt = Mqtt::new(stream);
            mqtt.connack();
            mqtt.ping();
            rest(mqtt.goodbye());
        }
        // LOCAL: the proxy asks for itself, and its own address is shown
        let mut stream = dial(address);
        stream.write_all(&version_2(0, 3)).unwrap();
        let mqtt = Mqtt::connect(stream, "health");
        let own = mqtt.stream.local_addr().unwrap();
        rest(mqtt.goodbye());
        own
    })
    .await;
    log::has(&["connection ended", "peer=192.0.2.1:12345"]).await;
    log::has(&["connection ended", "peer=192.0.2.2:12345"]).await;
    log::has(&["connection ended", &format!("peer={own}")]).await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_may_come_byte_by_byte() {
    let node = Node::start(vec![behind_proxy()]).await;
    let address = node.address();
    blocking(move || {
        for header in [b"PROXY UNKNOWN\r\n".to_vec(), version_2(1, 4)] {
            let mut stream = dial(address);
            for byte in header {
                stream.write_all(&[byte]).unwrap();
            }
            Mqtt::connect(stream, "slow").ping();
        }
    })
    .await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_without_a_header_are_closed() {
    let node = Node::start(vec![behind_proxy()]).await;
    let address = node.address();
    blocking(move || {
        let too_long = [b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat();
        for bytes in [
            bytes_of(&connect_packet("direct")),
            b"GET /mqtt HTTP/1.1\r\n\r\n".to_vec(),
            b"PROXY TCP4 999.0.2.1 127.0.0.1 1 2\r\n".to_vec(),
            version_2(9, 1),
            too_long,
        ] {
            let mut stream = dial(address);
            stream.write_all(&bytes).unwrap();
            assert!(rest(stream).is_empty());
        }
    })
    .await;
    node.has_refused("proxy_header", 5).await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_header_is_waited_for_and_not_for_ever() {
    let timeout = Duration::from_millis(50);
    let node = Node::start(vec![ListenerConfig { handshake_timeout: timeout, ..behind_proxy() }]).await;
    let address = node.address();
    blocking(move || {
        let mut stream = dial(address);
        stream.write_all(&version_2(1, 1)[..20]).unwrap();
        assert!(rest(stream).is_empty());
    })
    .await;
    node.has_refused("timeout", 1).await;
    node.end().await;
    let node = Node::start(vec![behind_proxy()]).await;
    let address = node.address();
    blocking(move || {
        let mut stream = dial(address);
        stream.write_all(b"PROXY TCP4 192.0.2.1").unwrap();
    })
    .await;
    node.has_refused("closed", 1).await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_comes_before_tls_websocket_and_over_unix_sockets() {
    log::listen();
    let authority = Authority::new("zwerm test");
    let files = Files::new(&authority.server());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mqtt.sock");
    let websocket = Some("/mqtt".to_owned());
    let tls = files.config_with(&authority, true, true);
    let node = Node::start(vec![
        ListenerConfig { tls: Some(tls), websocket: websocket.clone(), ..behind_proxy() },
        ListenerConfig { websocket, ..behind_proxy() },
        ListenerConfig { proxy_protocol: true, ..ListenerConfig::new(Bind::Unix(path.clone())) },
    ])
    .await;
    let binds = node.binds().to_vec();
    blocking(move || {
        let mut stream = dial(binds[0].tcp().unwrap());
        stream.write_all(&version_2(1, 10)).unwrap();
        let client = authority.trusting_with(&[&TLS13], Some(&authority.client("pump-10", None)));
        let mut mqtt = Mqtt::connect(Ws::open(client.over(stream)), "wss");
        mqtt.exchange("wss", 100_000);
        mqtt.goodbye().close();
        let mut stream = dial(binds[1].tcp().unwrap());
        stream.write_all(&version_2(1, 11)).unwrap();
        Mqtt::connect(Ws::open(stream), "ws").goodbye().close();
        let mut stream = UnixStream::connect(path).unwrap();
        stream.write_all(&version_2(1, 12)).unwrap();
        rest(Mqtt::connect(stream, "unix").goodbye());
    })
    .await;
    // the name in the certificate is the user name, and shown with the address in the header
    log::has(&["CONNECT", "client_id=\"wss\"", "username=Some(\"pump-10\")"]).await;
    log::has(&["connection ended", "peer=192.0.2.10:12345 (pump-10)"]).await;
    log::has(&["connection ended", "peer=192.0.2.11:12345"]).await;
    log::has(&["connection ended", "peer=192.0.2.12:12345"]).await;
    node.end().await;
}
