//! DISCONNECT (section 3.14), of either side.

use anyhow::{Result, ensure};

use crate::case;
use crate::case::{Case, Env};
use crate::packet::{DISCONNECT, Publish, disconnect, first, four, id, packet, reason, text, user};

pub(crate) const CASES: &[Case] = &[
    case!(nothing_counts_after_disconnect,
        V311 ["MQTT-3.14.4-1", "MQTT-3.14.4-2"],
        V5 ["MQTT-3.14.4-1", "MQTT-3.14.4-2"]),
    case!(a_server_that_disconnects_says_nothing_more, V5 ["MQTT-3.14.4-1", "MQTT-3.14.4-2", "MQTT-4.13.2-1"]),
    case!(disconnect_may_say_more, V5["MQTT-3.14.2-1"]),
    case!(a_server_sends_no_session_expiry, V5["MQTT-3.14.2-2"]),
];

/// The client does not close: the server does.
async fn nothing_counts_after_disconnect(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let mut witness = env.client("w").await?;
    witness.subscribe(&[(&topic, 0)]).await?;
    let mut client = env.client("a").await?;
    let after = [Publish::new(&topic, "after").bytes(env.version), vec![first::PINGREQ, 0]].concat();
    client
        .send([Publish::new(&topic, "before").bytes(env.version), DISCONNECT.to_vec(), after].concat())
        .await?;
    client.closed().await?;
    env.client("m").await?.publish(Publish::new(&topic, "marker"), 0).await?;
    witness.receives("before").await?;
    witness.receives("marker").await.map(drop)
}

async fn a_server_that_disconnects_says_nothing_more(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let mut client = env.client("a").await?;
    client.subscribe(&[(&topic, 0)]).await?;
    // a protocol error, with more behind it that would be answered
    let error = packet(first::SUBSCRIBE, &[0, 9, 0]);
    let more = [vec![first::PINGREQ, 0], Publish::new(&topic, "x").bytes(env.version)].concat();
    client.send([error, more].concat()).await?;
    client.ended(reason::PROTOCOL_ERROR).await
}

async fn disconnect_may_say_more(env: Env) -> Result<()> {
    for (what, bytes) in [
        ("nothing", DISCONNECT.to_vec()),
        ("a code", packet(first::DISCONNECT, &[0x00])),
        ("no properties", packet(first::DISCONNECT, &[0x00, 0])),
        ("all", disconnect(0x98, &[text(id::REASON_STRING, "tired"), user("a", "b"), user("a", "b")])),
    ] {
        let mut client = env.client("a").await?;
        client.send(bytes).await?;
        client.closed().await.map_err(|error| error.context(what))?;
    }
    // a server reference is the server's to say, and nothing may be there twice
    for properties in [
        vec![text(id::SERVER_REFERENCE, "elsewhere")],
        vec![text(id::REASON_STRING, "a"), text(id::REASON_STRING, "a")],
    ] {
        let mut client = env.client("a").await?;
        client.send(disconnect(0, &properties)).await?;
        client.ended_by(&[reason::PROTOCOL_ERROR, reason::MALFORMED]).await?;
    }
    Ok(())
}

/// Also to a client that has one: the reader refuses it in any DISCONNECT of a server.
async fn a_server_sends_no_session_expiry(env: Env) -> Result<()> {
    let mut client = env.connect(&env.durable("a")).await?;
    let _successor = env.connect(&env.durable("a").with(four(id::PACKET_SIZE, 1_000))).await?;
    let disconnect = client.ended_by(&[reason::TAKEN_OVER]).await?;
    let expiries = disconnect.map(|found| crate::packet::values(&found.properties, id::SESSION_EXPIRY));
    ensure!(expiries == Some(Vec::new()), "{expiries:?}");
    Ok(())
}
