//! How connections end.

use zwerm_gateway::Config;
use zwerm_wire::{Packet, Protocol, QoS, ReasonCode};

use crate::client::{Client, Server, durable, transient};

async fn assert_told(client: &mut Client, reason: ReasonCode) {
    match client.next().await {
        Packet::Disconnect(disconnect) => assert_eq!(disconnect.reason, reason),
        other => panic!("no DISCONNECT but {other:?}"),
    }
    assert_eq!(client.next_or_end().await, None);
}

#[tokio::test]
async fn stopping_tells_the_clients_and_ends_all_connections() {
    let server = Server::start().await;
    let (mut five, _) = Client::connect(&server, transient(Protocol::V5, "five")).await;
    let (mut three, _) = Client::connect(&server, durable(Protocol::V311, "three")).await;
    server.left_with(2).await;
    server.stop.cancel();
    assert_told(&mut five, ReasonCode::ServerShuttingDown).await;
    assert_eq!(three.next_or_end().await, None);
    drop((five, three));
    server.left_with(0).await;
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_cannot_stay_is_told_where_to_go_if_that_is_configured() {
    for reference in [None, Some("mqtt.example:1883")] {
        let server_reference = reference.map(Into::into);
        let server = Server::start_with(Config { server_reference, ..Config::default() }).await;
        let (mut client, _) = Client::connect(&server, transient(Protocol::V5, "c")).await;
        server.fence.fenced();
        let Packet::Disconnect(disconnect) = client.next().await else { panic!("no DISCONNECT") };
        assert_eq!(disconnect.reason, ReasonCode::UseAnotherServer);
        assert_eq!(disconnect.server_reference.as_deref(), reference);
        assert_eq!(client.next_or_end().await, None);
        server.end().await;
    }
}

#[tokio::test]
async fn a_takeover_ends_the_connection_before_and_its_session_goes_on() {
    let server = Server::start().await;
    let (mut before, _) = Client::connect(&server, durable(Protocol::V5, "c")).await;
    before.subscribe("t", QoS::AtLeastOnce).await;
    let (mut after, connack) = Client::connect(&server, durable(Protocol::V5, "c")).await;
    assert!(connack.session_present);
    assert_told(&mut before, ReasonCode::SessionTakenOver).await;
    drop(before);
    server.left_with(1).await;
    let (mut publisher, _) = Client::connect(&server, transient(Protocol::V5, "p")).await;
    publisher.publish("t", "goes on").await;
    assert_eq!(after.next_publish().await.payload, "goes on");
    server.end().await;
}
