//! How connections end.

use zwerm_gateway::Config;
use zwerm_wire::{Packet, Protocol, QoS, ReasonCode};

use crate::client::{Client, Server, durable, publish, transient};

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
async fn who_is_sent_away_is_told_so_in_the_words_of_its_version() {
    for reason in [ReasonCode::UseAnotherServer, ReasonCode::ServerMoved] {
        let server_reference = Some("b.example:1883".into());
        let server = Server::start_with(Config { server_reference, ..Config::default() }).await;
        let (mut five, _) = Client::connect(&server, transient(Protocol::V5, "five")).await;
        let (mut three, _) = Client::connect(&server, durable(Protocol::V311, "three")).await;
        let (mut old, _) = Client::connect(&server, transient(Protocol::V31, "old")).await;
        let mut leaving = server.broker().evacuate();
        assert_eq!([leaving.tell(1, reason), leaving.tell(5, reason), leaving.tell(5, reason)], [1, 2, 0]);
        let Packet::Disconnect(told) = five.next().await else { panic!("no DISCONNECT") };
        assert_eq!((told.reason, told.server_reference.as_deref()), (reason, Some("b.example:1883")));
        assert_eq!(five.next_or_end().await, None);
        assert_eq!(three.next_or_end().await, None, "3.x has no word for it");
        assert_eq!(old.next_or_end().await, None);
        drop((five, three, old));
        server.left_with(0).await;
        assert_eq!(server.broker().counters().kicked_draining.get(), 3);
        let (_, connack) = Client::connect(&server, durable(Protocol::V311, "three")).await;
        assert!(connack.session_present, "its session waits");
        server.end().await;
    }
}

#[tokio::test]
async fn behind_closed_doors_a_connect_is_refused_and_those_inside_stay() {
    let server_reference = Some("b.example:1883".into());
    let server = Server::start_with(Config { server_reference, ..Config::default() }).await;
    let (mut inside, _) = Client::connect(&server, transient(Protocol::V5, "inside")).await;
    let doors = server.connections.doors();
    doors.close(ReasonCode::UseAnotherServer);
    let told = Client::ask(&server, transient(Protocol::V5, "late")).await.answer().await;
    assert_eq!(told.reason, ReasonCode::UseAnotherServer);
    assert_eq!(told.properties.server_reference.as_deref(), Some("b.example:1883"));
    let told = Client::ask(&server, transient(Protocol::V311, "late")).await.answer().await;
    assert_eq!(told.reason, ReasonCode::ServerUnavailable, "return code 3");
    inside.assert_silence().await;
    doors.open();
    let (_late, _) = Client::connect(&server, transient(Protocol::V5, "late")).await;
    server.end().await;
}

/// On one thread: all CONNECTs are looked at before the first of them can be answered.
#[tokio::test]
async fn more_connects_than_are_taken_are_refused_as_busy_and_counted() {
    let jitter = std::time::Duration::from_millis(5);
    let config = Config { max_handshakes: 1, max_waiting: 3, busy_jitter: jitter, ..Config::default() };
    let server = Server::start_with(config).await;
    let mut asked = Vec::new();
    for id in ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"] {
        for protocol in [Protocol::V5, Protocol::V311] {
            let id: &'static str = String::leak(format!("{id}-{protocol:?}"));
            asked.push((protocol, Client::ask(&server, transient(protocol, id)).await));
        }
    }
    let (mut taken, mut busy) = (0, 0);
    for (protocol, client) in &mut asked {
        let told = client.answer().await.reason;
        let no =
            if *protocol == Protocol::V5 { ReasonCode::ServerBusy } else { ReasonCode::ServerUnavailable };
        match told {
            ReasonCode::Success => taken += 1,
            told => {
                assert_eq!(told, no);
                busy += 1;
            }
        }
    }
    assert!(taken >= 4 && busy > 0, "{taken} taken, {busy} refused");
    assert_eq!(server.connections.counters().connects_busy_total.get(), busy);
    drop(asked);
    let (_later, _) = Client::connect(&server, transient(Protocol::V5, "later")).await;
    server.end().await;
}

/// On one thread: the server sees the CONNECT and the end behind it together, as from a backlog it was slow to empty.
#[tokio::test]
async fn a_client_that_gave_up_while_it_waited_takes_nothing_from_its_newer_connection() {
    let server = Server::start().await;
    let (mut newer, _) = Client::connect(&server, durable(Protocol::V5, "c")).await;
    newer.subscribe("t", QoS::AtLeastOnce).await;
    for protocol in [Protocol::V5, Protocol::V311] {
        drop(Client::ask(&server, transient(protocol, "c")).await);
    }
    server.left_with(1).await;
    newer.assert_silence().await;
    let (mut publisher, _) = Client::connect(&server, transient(Protocol::V5, "p")).await;
    publisher.publish("t", "still here").await;
    assert_eq!(newer.next_publish().await.payload, "still here");
    server.end().await;
}

/// It need not wait for CONNACK (MQTT 5.0 section 3.1.4), so it was no less serious than others.
#[tokio::test]
async fn who_said_all_it_had_to_say_and_hung_up_is_served() {
    let server = Server::start().await;
    let (mut subscriber, _) = Client::connect(&server, transient(Protocol::V5, "s")).await;
    subscriber.subscribe("t", QoS::AtLeastOnce).await;
    let mut hasty = Client::ask(&server, transient(Protocol::V5, "hasty")).await;
    hasty.send(Packet::Publish(publish("t", "in a hurry", QoS::AtLeastOnce, 1))).await;
    drop(hasty);
    assert_eq!(subscriber.next_publish().await.payload, "in a hurry");
    server.end().await;
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
