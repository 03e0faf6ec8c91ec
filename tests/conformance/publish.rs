//! PUBLISH (section 3.3): identifiers, flags, topics, and who gets it with which quality of service.

use anyhow::{Result, ensure};

use crate::answer::Answer;
use crate::case;
use crate::case::{Case, Env};
use crate::header::ends;
use crate::packet::{Publish, ack, field, first, packet, reason};

pub(crate) const CASES: &[Case] = &[
    case!(qos_0_has_no_packet_identifier, V311["MQTT-2.3.1-5"], V5["MQTT-2.2.1-2"]),
    case!(acknowledgements_carry_the_identifier,
        V311 ["MQTT-2.3.1-6", "MQTT-3.3.4-1"],
        V5 ["MQTT-2.2.1-5", "MQTT-3.3.4-1"]),
    case!(identifiers_of_the_server_are_not_in_use, V311["MQTT-2.3.1-4"], V5["MQTT-2.2.1-4"]),
    case!(an_identifier_in_use_is_not_taken_again, V311["MQTT-2.3.1-2"], V5["MQTT-2.2.1-3"]),
    case!(qos_0_with_dup_ends_the_connection,
        V311 ["MQTT-3.3.1-2", "MQTT-4.3.1-1"],
        V5 ["MQTT-3.3.1-2", "MQTT-4.3.1-1"]),
    case!(dup_goes_no_further, V311["MQTT-3.3.1-3"], V5["MQTT-3.3.1-3"]),
    case!(qos_3_ends_the_connection, V311["MQTT-3.3.1-4"], V5["MQTT-3.3.1-4"]),
    case!(wildcards_in_a_topic_name_end_the_connection,
        V311 ["MQTT-3.3.2-2", "MQTT-4.7.1-1"],
        V5 ["MQTT-3.3.2-2", "MQTT-4.7.0-1"]),
    case!(an_empty_topic_name_ends_the_connection, V311["MQTT-4.7.3-1"], V5["MQTT-4.7.3-1"]),
    case!(the_topic_that_comes_matches_the_filter, V311["MQTT-3.3.2-3"], V5["MQTT-3.3.2-3"]),
    case!(the_lower_quality_of_service_counts, V311["MQTT-3.8.4-6"], V5["MQTT-3.8.4-8"]),
    case!(overlapping_filters_respect_the_highest_qos, V311["MQTT-3.3.5-1"], V5["MQTT-3.3.4-2"]),
    case!(every_matching_session_gets_an_accepted_message,
        V311 ["MQTT-4.5.0-1", "MQTT-4.5.0-2"],
        V5 ["MQTT-4.5.0-1", "MQTT-4.5.0-2"]),
];

/// The first bytes of the payload would be an identifier.
async fn qos_0_has_no_packet_identifier(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let mut subscriber = env.client("s").await?;
    subscriber.subscribe(&[(&topic, 2)]).await?;
    let mut publisher = env.client("p").await?;
    let properties: &[u8] = if env.is_v5() { &[0] } else { &[] };
    publisher.send(packet(first::PUBLISH, &[&field(&topic)[..], properties, b"\x12\x34"].concat())).await?;
    subscriber.expect(&Answer::Publish(Publish::new(&topic, b"\x12\x34"))).await?;
    publisher.quiet().await // and QoS 0 is not answered
}

async fn acknowledgements_carry_the_identifier(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let mut client = env.client("p").await?;
    for id in [1, 255, 256, 0x1234, u16::MAX] {
        client.put(&Publish::new(&topic, "x").qos(1, id)).await?;
        client.ack(first::PUBACK, id).await?;
        client.put(&Publish::new(&topic, "x").qos(2, id)).await?;
        client.ack(first::PUBREC, id).await?;
        client.send(ack(first::PUBREL, id)).await?;
        client.ack(first::PUBCOMP, id).await?;
        client.quiet().await?;
    }
    Ok(())
}

async fn identifiers_of_the_server_are_not_in_use(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let mut subscriber = env.client("s").await?;
    subscriber.subscribe(&[(&topic, 2)]).await?;
    let mut publisher = env.client("p").await?;
    let mut used = Vec::new();
    for number in 0..20u8 {
        publisher.publish(Publish::new(&topic, [number]), 1 + number % 2).await?;
        let message = subscriber.message().await?;
        ensure!(
            message.payload == [number] && message.qos == 1 + number % 2,
            "message {number}: {message:?}"
        );
        ensure!(!used.contains(&message.id), "identifier {} is in use", message.id);
        used.push(message.id);
    }
    Ok(())
}

async fn an_identifier_in_use_is_not_taken_again(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let mut subscriber = env.client("s").await?;
    subscriber.subscribe(&[(&topic, 0)]).await?;
    let mut client = env.client("p").await?;
    client.put(&Publish::new(&topic, "first").qos(2, 9)).await?;
    client.ack(first::PUBREC, 9).await?;
    client.put(&Publish::new(&topic, "intruder").qos(1, 9)).await?;
    if env.is_v5() {
        client.acked(first::PUBACK, 9, reason::ID_IN_USE).await?;
        let suback = crate::packet::subscribe(env.version, 9, &[], &[("never/granted", 0)]);
        client.send(suback).await?;
        let codes = client.suback(9).await?.codes;
        ensure!(codes == [reason::ID_IN_USE], "SUBSCRIBE under an identifier in use: {codes:02x?}");
        client.send(ack(first::PUBREL, 9)).await?;
        client.acked(first::PUBCOMP, 9, 0).await?;
    } else {
        client.closed().await?;
    }
    env.client("m").await?.publish(Publish::new(&topic, "marker"), 0).await?;
    subscriber.receives("first").await?;
    subscriber.receives("marker").await.map(drop)
}

async fn qos_0_with_dup_ends_the_connection(env: Env) -> Result<()> {
    let bytes = Publish::new(env.topic("t"), "x").dup().bytes(env.version);
    ends(&env, "QoS 0 with DUP", bytes, &[reason::MALFORMED, reason::PROTOCOL_ERROR]).await
}

async fn dup_goes_no_further(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let (mut subscriber, mut publisher) = (env.client("s").await?, env.client("p").await?);
    subscriber.subscribe(&[(&topic, 2)]).await?;
    for qos in [1, 2] {
        publisher.publish(Publish::new(&topic, "x").dup(), qos).await?;
        let message = subscriber.receive().await?;
        ensure!((message.dup, message.qos) == (false, qos), "sent for the first time: {message:?}");
    }
    Ok(())
}

async fn qos_3_ends_the_connection(env: Env) -> Result<()> {
    for publish in
        [Publish::new(env.topic("t"), "x").qos(3, 1), Publish::new(env.topic("t"), "x").qos(3, 1).dup()]
    {
        ends(&env, "QoS 3", publish.bytes(env.version), &[reason::MALFORMED]).await?;
    }
    Ok(())
}

async fn wildcards_in_a_topic_name_end_the_connection(env: Env) -> Result<()> {
    let mut witness = env.client("w").await?;
    witness.subscribe(&[(&env.topic("#"), 0)]).await?;
    for topic in ["+", "#", "a/+", "a/#/b", "a+", "b#"] {
        for qos in 0..=2 {
            let bytes = Publish::new(env.topic(topic), "x").qos(qos, 1).bytes(env.version);
            ends(&env, topic, bytes, &[reason::TOPIC_NAME]).await?;
        }
    }
    env.client("m").await?.publish(Publish::new(env.topic("t"), "marker"), 0).await?;
    witness.receives("marker").await.map(drop)
}

async fn an_empty_topic_name_ends_the_connection(env: Env) -> Result<()> {
    let bytes = Publish::new("", "x").bytes(env.version);
    ends(&env, "empty topic", bytes, &[reason::PROTOCOL_ERROR, reason::TOPIC_NAME]).await
}

async fn the_topic_that_comes_matches_the_filter(env: Env) -> Result<()> {
    let mut subscriber = env.client("s").await?;
    subscriber.subscribe(&[(&env.topic("+/b"), 0), (&env.topic("c/#"), 0)]).await?;
    let mut publisher = env.client("p").await?;
    for rest in ["a/x", "c", "b", "x/b", "a/b/c", "c/d/e", "end/b"] {
        publisher.publish(Publish::new(env.topic(rest), rest), 0).await?;
    }
    for rest in ["c", "x/b", "c/d/e", "end/b"] {
        let message = subscriber.receives(rest).await?;
        ensure!(message.topic == env.topic(rest), "{message:?}");
    }
    Ok(())
}

async fn the_lower_quality_of_service_counts(env: Env) -> Result<()> {
    let mut subscriber = env.client("s").await?;
    let mut publisher = env.client("p").await?;
    for granted in 0..=2 {
        let topic = env.topic(&format!("q{granted}"));
        subscriber.subscribe(&[(&topic, granted)]).await?;
        for published in 0..=2 {
            publisher.publish(Publish::new(&topic, "x"), published).await?;
            let message = subscriber.receive().await?;
            ensure!(
                message.qos == granted.min(published),
                "published {published}, granted {granted}: {message:?}"
            );
        }
    }
    Ok(())
}

async fn overlapping_filters_respect_the_highest_qos(env: Env) -> Result<()> {
    let (mut subscriber, mut publisher) = (env.client("s").await?, env.client("p").await?);
    let (exact, one, many) = (env.topic("a/b"), env.topic("a/+"), env.topic("#"));
    subscriber.subscribe(&[(&exact, 0), (&one, 2), (&many, 1)]).await?;
    for published in 0..=2 {
        publisher.publish(Publish::new(&exact, "x"), published).await?;
        publisher.publish(Publish::new(env.topic("fence"), "fence"), 1).await?;
        let mut seen = Vec::new();
        loop {
            let message = subscriber.receive().await?;
            if message.text() == "fence" {
                break;
            }
            seen.push(message.qos);
        }
        ensure!(seen.contains(&published), "published with {published}, none came with it: {seen:?}");
        let allowed: Vec<u8> = [0, 2, 1].iter().map(|granted| published.min(*granted)).collect();
        ensure!(seen.len() <= 3 && seen.iter().all(|qos| allowed.contains(qos)), "{seen:?} of {allowed:?}");
    }
    Ok(())
}

/// Present and away, and one that acknowledges nothing holds up nobody.
async fn every_matching_session_gets_an_accepted_message(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let mut away = env.connect(&env.durable("away")).await?;
    away.subscribe(&[(&topic, 2)]).await?;
    away.leave().await?;
    let mut present = env.client("present").await?;
    present.subscribe(&[(&topic, 2)]).await?;
    let mut silent = env.client("silent").await?;
    silent.subscribe(&[(&topic, 2)]).await?;
    let mut durable = env.connect(&env.durable("durable")).await?;
    durable.subscribe(&[(&topic, 1)]).await?;
    let mut publisher = env.client("p").await?;
    for number in 0..10 {
        publisher.publish(Publish::new(&topic, number.to_string()), 1 + number % 2).await?;
    }
    let mut away = env.connect(&env.durable("away")).await?;
    for number in 0..10 {
        let text = number.to_string();
        present.receives(&text).await?;
        durable.receives(&text).await?;
        away.receives(&text).await?;
        ensure!(silent.message().await?.text() == text, "the silent client missed message {number}");
    }
    Ok(())
}
