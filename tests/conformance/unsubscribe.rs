//! UNSUBSCRIBE and UNSUBACK (sections 3.10 and 3.11).

use anyhow::{Result, ensure};

use crate::case;
use crate::case::{Case, Env};
use crate::header::ends;
use crate::packet::{Publish, ack, first, reason, unsubscribe};

pub(crate) const CASES: &[Case] = &[
    case!(an_unsubscribe_without_filters_ends_the_connection, V311["MQTT-3.10.3-2"], V5["MQTT-3.10.3-2"]),
    case!(filters_are_compared_character_by_character,
        V311 ["MQTT-3.10.4-1", "MQTT-3.10.4-5"],
        V5 ["MQTT-3.10.4-1", "MQTT-3.10.4-5"]),
    case!(nothing_new_comes_after_unsubscribe, V311["MQTT-3.10.4-2"], V5["MQTT-3.10.4-2"]),
    case!(what_has_begun_is_finished, V311["MQTT-3.10.4-3"], V5["MQTT-3.10.4-3"]),
    case!(unsuback_answers_all_filters_at_once,
        V311 ["MQTT-2.3.1-7", "MQTT-3.10.4-4", "MQTT-3.10.4-6"],
        V5 ["MQTT-2.2.1-6", "MQTT-3.10.4-4", "MQTT-3.10.4-6", "MQTT-3.11.3-1", "MQTT-3.11.3-2"]),
    case!(malformed_filters_end_the_connection, V311["MQTT-4.8.0-1"], V5["MQTT-4.13.1-1"]),
];

async fn an_unsubscribe_without_filters_ends_the_connection(env: Env) -> Result<()> {
    ends(&env, "no filters", unsubscribe(env.version, 1, &[]), &[reason::PROTOCOL_ERROR]).await
}

async fn filters_are_compared_character_by_character(env: Env) -> Result<()> {
    for hello in [env.hello("s"), env.durable("d")] {
        let mut client = env.connect(&hello).await?;
        let topic = env.topic("a/b");
        client.subscribe(&[(&topic, 1)]).await?;
        let near = [
            env.topic("a/B"),
            env.topic("a/b/"),
            env.topic("a/+"),
            env.topic("#"),
            env.topic("a"),
            "/".into(),
        ];
        let near: Vec<&str> = near.iter().map(String::as_str).collect();
        let codes = client.unsubscribe(&near).await?;
        ensure!(codes.iter().all(|code| *code == reason::NO_SUBSCRIPTION), "codes {codes:02x?}");
        client.publish(Publish::new(&topic, "still there"), 1).await?;
        client.receives("still there").await?;
        let codes = client.unsubscribe(&[&topic]).await?;
        ensure!(codes.iter().all(|code| *code == 0), "codes {codes:02x?}");
        client.publish(Publish::new(&topic, "too late"), 1).await?;
        client.quiet().await?;
    }
    Ok(())
}

async fn nothing_new_comes_after_unsubscribe(env: Env) -> Result<()> {
    let (topic, fence) = (env.topic("t"), env.topic("fence"));
    let mut publisher = env.client("p").await?;
    for hello in [env.hello("s"), env.durable("d")] {
        let mut client = env.connect(&hello).await?;
        client.subscribe(&[(&topic, 2), (&fence, 2)]).await?;
        publisher.publish(Publish::new(&topic, "before"), 2).await?;
        client.receives("before").await?;
        client.unsubscribe(&[&topic]).await?;
        for qos in 0..=2 {
            publisher.publish(Publish::new(&topic, "too late"), qos).await?;
        }
        publisher.publish(Publish::new(&fence, "fence"), 0).await?;
        publisher.publish(Publish::new(&fence, "second fence"), 2).await?;
        client.receives("fence").await?;
        client.receives("second fence").await?;
        client.leave().await?;
    }
    Ok(())
}

async fn what_has_begun_is_finished(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let mut publisher = env.client("p").await?;
    for hello in [env.hello("s"), env.durable("d")] {
        let mut client = env.connect(&hello).await?;
        client.subscribe(&[(&topic, 2)]).await?;
        publisher.publish(Publish::new(&topic, "one"), 1).await?;
        publisher.publish(Publish::new(&topic, "two"), 2).await?;
        let (one, two) = (client.message().await?, client.message().await?);
        client.unsubscribe(&[&topic]).await?;
        client.send(ack(first::PUBACK, one.id)).await?;
        client.send(ack(first::PUBREC, two.id)).await?;
        client.acked(first::PUBREL, two.id, 0).await?;
        client.send(ack(first::PUBCOMP, two.id)).await?;
        client.quiet().await?;
        client.leave().await?;
    }
    // not finished, it comes again, though nobody is subscribed any more
    let mut client = env.connect(&env.durable("e")).await?;
    client.subscribe(&[(&topic, 2)]).await?;
    publisher.publish(Publish::new(&topic, "begun"), 2).await?;
    let begun = client.message().await?;
    client.unsubscribe(&[&topic]).await?;
    drop(client);
    let mut client = env.connect(&env.durable("e")).await?;
    let again = client.receives("begun").await?;
    ensure!((again.id, again.dup) == (begun.id, true), "{again:?} after {begun:?}");
    Ok(())
}

async fn unsuback_answers_all_filters_at_once(env: Env) -> Result<()> {
    let topics: Vec<String> = (0..5).map(|number| env.topic(&number.to_string())).collect();
    let all: Vec<&str> = topics.iter().map(String::as_str).collect();
    for hello in [env.hello("s"), env.durable("d")] {
        let mut client = env.connect(&hello).await?;
        client.subscribe(&[(all[1], 0), (all[3], 1)]).await?;
        for id in [1, 256, u16::MAX] {
            client.send(unsubscribe(env.version, id, &all)).await?;
            let codes = client.unsuback(id).await?.codes;
            let none = reason::NO_SUBSCRIPTION;
            let expected = match (env.is_v5(), id) {
                (false, _) => vec![],
                (true, 1) => vec![none, 0, none, 0, none],
                (true, _) => vec![none; 5],
            };
            ensure!(codes == expected, "codes {codes:02x?}, expected {expected:02x?}");
        }
        // one after the other: the second time it is gone
        client.subscribe(&[(all[0], 0)]).await?;
        let codes = client.unsubscribe(&[all[0], all[0]]).await?;
        ensure!(!env.is_v5() || codes == [0, reason::NO_SUBSCRIPTION], "codes {codes:02x?}");
    }
    Ok(())
}

async fn malformed_filters_end_the_connection(env: Env) -> Result<()> {
    for filter in ["", "a/#/b", "a+", "$share/g", "$share//t"] {
        let bytes = unsubscribe(env.version, 1, &[filter]);
        ends(&env, filter, bytes, &[reason::TOPIC_FILTER, reason::MALFORMED, reason::PROTOCOL_ERROR]).await?;
    }
    Ok(())
}
