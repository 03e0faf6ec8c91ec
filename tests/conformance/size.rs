//! Maximum packet size (5.0 sections 3.1.2.11.4 and 3.2.2.3.6): what does not fit is not sent, or says less.

use anyhow::{Result, ensure};

use crate::case;
use crate::case::{Case, Env};
use crate::client::Client;
use crate::packet::{
    Property, Publish, Value, Will, ack, block, first, four, id, packet, reason, text, unsubscribe, user,
};

pub(crate) const CASES: &[Case] = &[
    case!(a_message_that_is_too_large_is_dropped_as_if_sent, V5 ["MQTT-3.1.2-24", "MQTT-3.1.2-25"]),
    case!(acknowledgements_fit_the_client,
        V5 ["MQTT-3.1.2-24", "MQTT-3.4.2-2", "MQTT-3.4.2-3", "MQTT-3.5.2-2", "MQTT-3.5.2-3", "MQTT-3.6.2-2",
            "MQTT-3.6.2-3", "MQTT-3.7.2-2", "MQTT-3.7.2-3", "MQTT-3.9.2-1", "MQTT-3.9.2-2", "MQTT-3.11.2-1",
            "MQTT-3.11.2-2"]),
    case!(the_last_words_fit_the_client, V5 ["MQTT-3.14.2-3", "MQTT-3.14.2-4"]),
    case!(a_refusal_fits_the_client, V5 ["MQTT-3.2.2-19", "MQTT-3.2.2-20"]),
    case!(a_client_that_takes_no_connack_is_refused, V5 ["MQTT-3.1.2-24", "MQTT-3.2.0-1", "MQTT-3.14.0-1"]),
    case!(words_of_the_client_are_taken, V5 ["MQTT-3.4.2-2", "MQTT-3.5.2-2", "MQTT-3.6.2-2", "MQTT-3.7.2-2"]),
    case!(a_packet_that_is_too_large_ends_the_connection, V5["MQTT-3.2.2-15"]),
];

/// The largest message to a client of 100 bytes: fixed header, topic, identifier and no properties.
fn message_of(topic: &str, size: usize) -> Publish {
    Publish::new(topic, vec![b'x'; size - 2 - 2 - topic.len() - 2 - 1])
}

async fn a_message_that_is_too_large_is_dropped_as_if_sent(env: Env) -> Result<()> {
    const MOST: u16 = 100;
    let mut publisher = env.client("p").await?;
    for durable in [false, true] {
        let topic = env.topic(if durable { "d" } else { "t" });
        let hello = if durable { env.durable("d") } else { env.hello("s") };
        let mut client = env.connect(&hello.with(four(id::PACKET_SIZE, MOST.into()))).await?;
        client.subscribe(&[(&topic, 2)]).await?;
        let mut large = env.client("large").await?;
        large.subscribe(&[(&topic, 0)]).await?;
        for qos in [1, 2] {
            publisher.publish(message_of(&topic, 100), qos).await?;
            publisher.publish(message_of(&topic, 101), qos).await?;
            publisher.publish(Publish::new(&topic, "x").with(user("k", &"v".repeat(90))), qos).await?;
            publisher.publish(Publish::new(&topic, "fence"), qos).await?;
            let message = client.receive().await?;
            ensure!(message.payload.len() == message_of(&topic, 100).payload.len(), "{message:?}");
            client.receives("fence").await?;
            for _ in 0..4 {
                large.receive().await?; // others get what is too large for one
            }
        }
        client.quiet().await?;
        client.leave().await?;
        if durable {
            // it does not come again, for it counts as sent
            let mut client = env.connect(&env.durable("d")).await?;
            publisher.publish(Publish::new(&topic, "fence"), 1).await?;
            client.receives("fence").await?;
        }
    }
    Ok(())
}

/// A client for which CONNACK just fits.
async fn tiny(env: &Env) -> Result<(Client, u32)> {
    let most = u32::try_from(env.client("probe").await?.connack.size)?;
    let hello = env.hello("tiny").with(four(id::PACKET_SIZE, most)).with(user("me", "tiny"));
    Ok((env.connect(&hello).await?, most))
}

/// No acknowledgement is larger, and each one that says no is one that might carry words.
async fn acknowledgements_fit_the_client(env: Env) -> Result<()> {
    let (mut client, most) = tiny(&env).await?;
    let topic = env.topic("t");
    let fits = |properties: &[Property]| {
        let size = 2 + 3 + block(properties).len();
        ensure!(size <= most as usize, "{size} bytes where {most} fit: {properties:?}");
        anyhow::Ok(())
    };
    client.put(&Publish::new(&topic, "x").qos(2, 5)).await?;
    fits(&client.ack(first::PUBREC, 5).await?.properties)?;
    client.put(&Publish::new(&topic, "x").qos(1, 5)).await?;
    fits(&client.ack(first::PUBACK, 5).await?.properties)?;
    client.send(ack(first::PUBREL, 5)).await?;
    fits(&client.ack(first::PUBCOMP, 5).await?.properties)?;
    client.send(ack(first::PUBREL, 99)).await?;
    fits(&client.ack(first::PUBCOMP, 99).await?.properties)?;
    client.send(ack(first::PUBREC, 99)).await?;
    fits(&client.ack(first::PUBREL, 99).await?.properties)?;
    client.send(unsubscribe(env.version, 6, &[&topic])).await?;
    fits(&client.unsuback(6).await?.properties)?;
    client.send(crate::packet::subscribe(env.version, 7, &[], &[(&topic, 0)])).await?;
    fits(&client.suback(7).await?.properties)
}

async fn the_last_words_fit_the_client(env: Env) -> Result<()> {
    for bytes in [packet(first::PINGREQ, &[1]), packet(first::SUBSCRIBE, &[0, 1, 0])] {
        let (mut client, most) = tiny(&env).await?;
        client.send(bytes.clone()).await?;
        let disconnect = client.ended_by(&[reason::MALFORMED, reason::PROTOCOL_ERROR]).await?;
        let size = disconnect.map_or(0, |disconnect| disconnect.size);
        ensure!(size <= most as usize, "DISCONNECT of {size} bytes where {most} fit");
        // without such a limit it says what is wrong
        let mut client = env.client("roomy").await?;
        client.send(bytes).await?;
        let disconnect = client.ended_by(&[reason::MALFORMED, reason::PROTOCOL_ERROR]).await?;
        let words = disconnect.map(|found| crate::packet::values(&found.properties, id::REASON_STRING));
        ensure!(words.is_some_and(|words| words.len() == 1), "no reason string");
    }
    Ok(())
}

/// The limit counts although the CONNECT in which it stands is refused for what comes behind it.
async fn a_refusal_fits_the_client(env: Env) -> Result<()> {
    const MOST: usize = 12;
    let limited = || env.hello("a").with(four(id::PACKET_SIZE, MOST as u32));
    for connect in [
        limited().with(text(id::AUTH_METHOD, "no-such-method")),
        limited().will(Will::new("a/#", "words")),
        limited().with(crate::packet::two(id::RECEIVE_MAXIMUM, 0)),
        limited().flags(0x86),
    ] {
        let mut client = env.say(connect.bytes()).await?;
        let connack = client.connack().await?;
        ensure!(connack.code >= 0x80, "{connack:?}");
        ensure!(connack.size <= MOST, "CONNACK of {} bytes where {MOST} fit: {connack:?}", connack.size);
        client.closed().await?;
    }
    Ok(())
}

/// It is told with a CONNACK that fits, or not at all; no DISCONNECT comes where no CONNACK came.
async fn a_client_that_takes_no_connack_is_refused(env: Env) -> Result<()> {
    let granted = env.client("probe").await?.connack.size;
    for most in [granted - 1, 5, 4] {
        for connect in [env.hello("a"), env.durable("b")] {
            let connect = connect.with(four(id::PACKET_SIZE, u32::try_from(most)?));
            env.say(connect.bytes()).await?.closed_with_or_without(reason::TOO_LARGE).await?;
        }
    }
    env.connect(&env.durable("b")).await?.quiet().await
}

async fn words_of_the_client_are_taken(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let mut client = env.client("s").await?;
    client.subscribe(&[(&topic, 2)]).await?;
    let words = [text(id::REASON_STRING, "because"), user("a", "b"), user("a", "b")];
    let wordy = |first: u8, id: u16| packet(first, &[&id.to_be_bytes()[..], &[0], &block(&words)].concat());
    let mut publisher = env.client("p").await?;
    publisher.publish(Publish::new(&topic, "x"), 1).await?;
    let message = client.message().await?;
    client.send(wordy(first::PUBACK, message.id)).await?;
    publisher.publish(Publish::new(&topic, "x"), 2).await?;
    let message = client.message().await?;
    client.send(wordy(first::PUBREC, message.id)).await?;
    client.acked(first::PUBREL, message.id, 0).await?;
    client.send(wordy(first::PUBCOMP, message.id)).await?;
    publisher.put(&Publish::new(&topic, "x").qos(2, 9)).await?;
    publisher.ack(first::PUBREC, 9).await?;
    publisher.send(wordy(first::PUBREL, 9)).await?;
    publisher.acked(first::PUBCOMP, 9, 0).await?;
    client.receives("x").await?;
    client.quiet().await
}

/// Refused by its header: the rest need not come.
pub(crate) async fn a_packet_that_is_too_large_ends_the_connection(env: Env) -> Result<()> {
    let mut client = env.client("a").await?;
    let [Value::Four(most)] = client.connack.values(id::PACKET_SIZE)[..] else {
        anyhow::bail!("no maximum packet size in {:?}", client.connack);
    };
    let topic = env.topic("t");
    client.subscribe(&[(&topic, 0)]).await?;
    let header = |size: usize| 1 + crate::packet::varint(size).len();
    let rest = most as usize - header(most as usize - 4);
    let fits = Publish::new(&topic, vec![b'x'; rest - 2 - topic.len() - 1]);
    ensure!(fits.bytes(env.version).len() == most as usize, "not the largest packet");
    client.put(&fits).await?;
    ensure!(
        client.message().await?.payload.len() == fits.payload.len(),
        "the largest packet came back shorter"
    );
    let head = [vec![first::PUBLISH], crate::packet::varint(rest + 1)].concat();
    client.send(head).await?;
    client.ended(reason::TOO_LARGE).await
}
