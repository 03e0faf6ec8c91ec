//! Flow control (5.0 section 4.9): receive maximum, both ways.

use anyhow::{Result, ensure};

use crate::answer::Answer;
use crate::case;
use crate::case::{Case, Env};
use crate::client::Client;
use crate::packet::{Publish, Value, ack, ack_because, first, id, reason, two};

pub(crate) const CASES: &[Case] = &[
    case!(a_server_keeps_within_the_receive_maximum,
        V5 ["MQTT-3.3.4-9", "MQTT-3.3.4-10", "MQTT-4.9.0-1", "MQTT-4.9.0-2", "MQTT-4.9.0-3"]),
    case!(every_end_of_an_exchange_opens_the_window, V5["MQTT-4.9.0-2"]),
    case!(a_client_over_the_receive_maximum_is_cut_off, V5["MQTT-3.3.4-7"]),
    case!(a_client_with_a_full_window_is_served, V5 ["MQTT-3.3.4-8", "MQTT-4.9.0-3"]),
    case!(the_window_of_a_new_connection_is_whole, V5["MQTT-4.9.0-1"]),
];

/// A subscriber that takes so many at once.
async fn narrow(env: &Env, name: &str, durable: bool, most: u16) -> Result<Client> {
    let hello = if durable { env.durable(name) } else { env.hello(name) };
    env.connect(&hello.with(two(id::RECEIVE_MAXIMUM, most))).await
}

async fn a_server_keeps_within_the_receive_maximum(env: Env) -> Result<()> {
    const MOST: u16 = 3;
    let mut publisher = env.client("p").await?;
    for durable in [false, true] {
        let topic = env.topic(if durable { "d" } else { "t" });
        let mut client = narrow(&env, &topic.replace('/', ""), durable, MOST).await?;
        client.subscribe(&[(&topic, 2)]).await?;
        for number in 0..9 {
            publisher.publish(Publish::new(&topic, number.to_string()), 1 + number % 2).await?;
        }
        let mut window = Vec::new();
        for _ in 0..MOST {
            window.push(client.message().await?);
        }
        client.quiet().await?; // no fourth message, and PINGREQ is answered
        client.subscribe(&[(&env.topic("other"), 0)]).await?;
        client.unsubscribe(&[&env.topic("other")]).await?;
        client.publish(Publish::new(env.topic("nobody"), "x"), 2).await?;
        client.quiet().await?;
        for message in window {
            client.acknowledge(&message).await?;
        }
        for number in 3..9 {
            client.receives(&number.to_string()).await?;
        }
        client.quiet().await?;
    }
    Ok(())
}

async fn every_end_of_an_exchange_opens_the_window(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let mut publisher = env.client("p").await?;
    let mut client = narrow(&env, "s", false, 1).await?;
    client.subscribe(&[(&topic, 2)]).await?;
    let publish = async |publisher: &mut Client, qos| publisher.publish(Publish::new(&topic, "x"), qos).await;
    for (qos, answer, code) in [
        (1, first::PUBACK, 0),
        (1, first::PUBACK, reason::UNSPECIFIED),
        (2, first::PUBREC, reason::UNSPECIFIED),
    ] {
        publish(&mut publisher, qos).await?;
        publish(&mut publisher, 1).await?;
        let message = client.message().await?;
        client.quiet().await?;
        client.send(ack_because(answer, message.id, code)).await?;
        client.receive().await?;
    }
    publish(&mut publisher, 2).await?;
    publish(&mut publisher, 1).await?;
    let message = client.message().await?;
    client.send(ack(first::PUBREC, message.id)).await?;
    client.acked(first::PUBREL, message.id, 0).await?;
    client.quiet().await?; // PUBREC is not the end
    client.send(ack(first::PUBCOMP, message.id)).await?;
    client.receive().await.map(drop)
}

/// What the server allows, by its CONNACK.
pub(crate) fn allowed(client: &Client) -> u16 {
    match client.connack.values(id::RECEIVE_MAXIMUM)[..] {
        [Value::Two(most)] => most,
        _ => u16::MAX,
    }
}

pub(crate) async fn a_client_over_the_receive_maximum_is_cut_off(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let qos =
        if env.connect(&env.hello("q")).await?.connack.values(id::MAXIMUM_QOS).is_empty() { 2 } else { 1 };
    ensure!(qos == 2, "this case needs QoS 2, whose places stay taken until PUBREL");
    let mut client = env.client("a").await?;
    let most = allowed(&client);
    fill(&mut client, &topic, most).await?;
    client.put(&Publish::new(&topic, "one too many").qos(1, most + 1)).await?;
    client.ended(reason::RECEIVE_MAXIMUM).await
}

/// Takes all places with QoS 2 messages that are not released.
async fn fill(client: &mut Client, topic: &str, most: u16) -> Result<()> {
    let publish = |id| Publish::new(topic, "x").qos(2, id).bytes(crate::packet::Version::V5);
    client.send((1..=most).flat_map(publish).collect::<Vec<u8>>()).await?;
    for id in 1..=most {
        client.ack(first::PUBREC, id).await?;
    }
    Ok(())
}

async fn a_client_with_a_full_window_is_served(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let mut client = env.client("a").await?;
    let most = allowed(&client);
    fill(&mut client, &env.topic("nobody"), most).await?;
    let suback = most + 1;
    client.send(crate::packet::subscribe(env.version, suback, &[], &[(&topic, 0)])).await?;
    client.suback(suback).await?;
    client.put(&Publish::new(&topic, "QoS 0 needs no place")).await?;
    client.expect(&Answer::Publish(Publish::new(&topic, "QoS 0 needs no place"))).await?;
    client.quiet().await?;
    // a place is free again with PUBCOMP
    client.send(ack(first::PUBREL, 1)).await?;
    client.acked(first::PUBCOMP, 1, 0).await?;
    client.put(&Publish::new(&topic, "again").qos(1, 1)).await?;
    client.ack(first::PUBACK, 1).await.map(drop)
}

/// Of what an earlier connection left unfinished nothing is counted (section 4.9).
async fn the_window_of_a_new_connection_is_whole(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let mut client = env.connect(&env.durable("a")).await?;
    let most = allowed(&client);
    fill(&mut client, &topic, most).await?;
    drop(client);
    let mut client = env.connect(&env.durable("a")).await?;
    for id in [most + 1, most + 2] {
        client.put(&Publish::new(&topic, "new").qos(2, id)).await?;
        client.ack(first::PUBREC, id).await?;
    }
    Ok(())
}
