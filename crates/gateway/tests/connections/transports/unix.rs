//! Unix sockets: clients of the same machine.

use std::os::unix::net::UnixStream;

use zwerm_gateway::{Bind, ListenerConfig};

use super::{Mqtt, Node, blocking, dial, log};

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_a_unix_socket_is_served_and_the_file_removed_at_the_end() {
    log::listen();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mqtt.sock");
    let node = Node::start(vec![ListenerConfig::new(Bind::Unix(path.clone()))]).await;
    let socket = path.clone();
    blocking(move || {
        let mut mqtt = Mqtt::connect(UnixStream::connect(socket).unwrap(), "local");
        mqtt.exchange("t", 1000);
        super::rest(mqtt.goodbye());
    })
    .await;
    log::has(&["connection ended", "peer=unix"]).await;
    node.end().await;
    assert!(!path.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_the_limit_are_closed_there_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mqtt.sock");
    let bind = ListenerConfig { max_connections: 1, ..ListenerConfig::new(Bind::Unix(path.clone())) };
    let node = Node::start(vec![bind, super::listener()]).await;
    let tcp = node.binds()[1].tcp().unwrap();
    blocking(move || {
        let first = Mqtt::connect(UnixStream::connect(&path).unwrap(), "first");
        assert!(super::rest(UnixStream::connect(&path).unwrap()).is_empty());
        Mqtt::connect(dial(tcp), "another listener has its own limit").ping();
        drop(first);
    })
    .await;
    assert_eq!(node.counters().connections_refused_total.get(), 1);
    node.end().await;
}
