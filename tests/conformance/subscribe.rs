//! SUBSCRIBE and SUBACK (sections 3.8 and 3.9).

use anyhow::{Result, ensure};

use crate::case;
use crate::case::{Case, Env};
use crate::header::ends;
use crate::packet::{Publish, Value, block, field, first, id, options, packet, reason, subscribe, variable};

pub(crate) const CASES: &[Case] = &[
    case!(suback_answers_with_the_identifier_and_a_code_for_each_filter,
        V311 ["MQTT-2.3.1-7", "MQTT-3.8.4-1", "MQTT-3.8.4-2", "MQTT-3.8.4-4", "MQTT-3.8.4-5", "MQTT-3.9.3-1",
            "MQTT-3.9.3-2"],
        V5 ["MQTT-2.2.1-6", "MQTT-3.8.4-1", "MQTT-3.8.4-2", "MQTT-3.8.4-5", "MQTT-3.8.4-6", "MQTT-3.8.4-7",
            "MQTT-3.9.3-1", "MQTT-3.9.3-2"]),
    case!(a_subscribe_without_filters_ends_the_connection, V311["MQTT-3.8.3-3"], V5["MQTT-3.8.3-2"]),
    case!(reserved_options_end_the_connection, V311["MQTT-3.8.3-4"], V5["MQTT-3.8.3-5"]),
    case!(subscribing_again_replaces_the_subscription, V311["MQTT-3.8.4-3"], V5["MQTT-3.8.4-3"]),
    case!(replacing_a_subscription_loses_nothing, V311["MQTT-3.8.4-3"], V5["MQTT-3.8.4-4"]),
    case!(no_local_spares_the_publisher, V5["MQTT-3.8.3-3"]),
    case!(no_local_on_a_shared_subscription_ends_the_connection, V5["MQTT-3.8.3-4"]),
    case!(matching_subscriptions_name_their_identifiers, V5 ["MQTT-3.3.4-3", "MQTT-3.3.4-5"]),
    case!(a_subscription_identifier_may_not_come_from_a_client, V5["MQTT-3.3.4-6"]),
];

async fn suback_answers_with_the_identifier_and_a_code_for_each_filter(env: Env) -> Result<()> {
    for hello in [env.hello("a"), env.durable("d")] {
        let mut client = env.connect(&hello).await?;
        let topics: Vec<String> = (0..9).map(|number| env.topic(&number.to_string())).collect();
        let filters: Vec<(&str, u8)> = topics
            .iter()
            .zip([2, 0, 1, 1, 0, 2, 2, 1, 0])
            .map(|(topic, qos)| (topic.as_str(), qos))
            .collect();
        for id in [1, 256, u16::MAX] {
            client.send(subscribe(env.version, id, &[], &filters)).await?;
            let codes = client.suback(id).await?.codes;
            ensure!(codes == [2, 0, 1, 1, 0, 2, 2, 1, 0], "codes {codes:02x?}");
        }
        // as if they had come one by one: the same filter twice, the last one counts
        client.send(subscribe(env.version, 5, &[], &[(&topics[0], 2), (&topics[0], 0)])).await?;
        let codes = client.suback(5).await?.codes;
        ensure!(codes == [2, 0], "codes {codes:02x?}");
        let mut publisher = env.client("p").await?;
        publisher.publish(Publish::new(&topics[0], "x"), 2).await?;
        publisher.publish(Publish::new(&topics[8], "fence"), 2).await?;
        let message = client.receives("x").await?;
        ensure!(message.qos == 0, "{message:?}");
        client.receives("fence").await?;
    }
    Ok(())
}

async fn a_subscribe_without_filters_ends_the_connection(env: Env) -> Result<()> {
    let bytes = subscribe(env.version, 1, &[], &[]);
    ends(&env, "no filters", bytes, &[reason::PROTOCOL_ERROR]).await
}

async fn reserved_options_end_the_connection(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let reserved: &[u8] =
        if env.is_v5() { &[0x40, 0x80, 0xc0] } else { &[0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xfd] };
    for options in reserved {
        let bytes = subscribe(env.version, 1, &[], &[("fine", 0), (&topic, *options)]);
        ends(&env, &format!("options {options:#04x}"), bytes, &[reason::MALFORMED]).await?;
    }
    let codes = [reason::PROTOCOL_ERROR, reason::MALFORMED];
    ends(&env, "QoS 3", subscribe(env.version, 1, &[], &[(&topic, 3)]), &codes).await?;
    if env.is_v5() {
        let handling = options::RETAINED_IF_NEW | options::NO_RETAINED;
        ends(&env, "retain handling 3", subscribe(env.version, 1, &[], &[(&topic, handling)]), &codes)
            .await?;
    }
    Ok(())
}

async fn subscribing_again_replaces_the_subscription(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let mut publisher = env.client("p").await?;
    for hello in [env.hello("s"), env.durable("d")] {
        let mut client = env.connect(&hello).await?;
        for qos in [2, 0, 1] {
            client.subscribe(&[(&topic, qos)]).await?;
            publisher.publish(Publish::new(&topic, "x"), 2).await?;
            publisher.publish(Publish::new(&topic, "fence"), 2).await?;
            let message = client.receives("x").await?;
            ensure!(message.qos == qos, "granted {qos}: {message:?}");
            client.receives("fence").await?; // and no second copy
        }
        client.leave().await?;
    }
    Ok(())
}

/// Messages are under way while the subscription is replaced.
async fn replacing_a_subscription_loses_nothing(env: Env) -> Result<()> {
    const COUNT: usize = 60;
    let topic = env.topic("t");
    let mut publisher = env.client("p").await?;
    for hello in [env.hello("s"), env.durable("d")] {
        let mut client = env.connect(&hello).await?;
        client.subscribe(&[(&topic, 1)]).await?;
        let topic = topic.clone();
        let flow = async {
            for number in 0..COUNT {
                publisher.publish(Publish::new(&topic, number.to_string()), 1).await?;
            }
            anyhow::Ok(())
        };
        let replace = async {
            for round in 0..6 {
                client.subscribe(&[(&topic, 1 + round % 2)]).await?;
            }
            anyhow::Ok(())
        };
        let (flow, replace) = tokio::join!(flow, replace);
        flow.and(replace)?;
        for number in 0..COUNT {
            client.receives(&number.to_string()).await?;
        }
        client.quiet().await?;
        client.leave().await?;
    }
    Ok(())
}

async fn no_local_spares_the_publisher(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let mut other = env.client("o").await?;
    other.subscribe(&[(&topic, 2 | options::NO_LOCAL)]).await?;
    for hello in [env.hello("a"), env.durable("d")] {
        let mut client = env.connect(&hello).await?;
        client.subscribe(&[(&topic, 2 | options::NO_LOCAL)]).await?;
        for qos in 0..=2 {
            client.publish(Publish::new(&topic, "own"), qos).await?;
            other.receives("own").await?;
            other.publish(Publish::new(&topic, "of another"), qos).await?;
            client.receives("of another").await?;
        }
        other.quiet().await?;
        client.leave().await?;
    }
    Ok(())
}

async fn no_local_on_a_shared_subscription_ends_the_connection(env: Env) -> Result<()> {
    let shared = format!("$share/group/{}", env.topic("t"));
    let bytes = subscribe(env.version, 1, &[], &[(&shared, options::NO_LOCAL)]);
    ends(&env, "no local, shared", bytes, &[reason::PROTOCOL_ERROR]).await
}

/// Each copy has the identifier of its subscription, and one without has none; a merged copy has them all.
async fn matching_subscriptions_name_their_identifiers(env: Env) -> Result<()> {
    let topic = env.topic("a/b");
    let lines = [(topic.clone(), Some(1)), (env.topic("a/+"), Some(268_435_455)), (env.topic("#"), None)];
    let mut publisher = env.client("p").await?;
    for hello in [env.hello("s"), env.durable("d")] {
        let mut client = env.connect(&hello).await?;
        for (filter, identifier) in &lines {
            let properties: Vec<_> =
                identifier.map(|value| variable(id::SUBSCRIPTION_ID, value)).into_iter().collect();
            client.subscribe_with(&properties, &[(filter, 1)]).await?;
        }
        publisher.publish(Publish::new(&topic, "x"), 1).await?;
        publisher.publish(Publish::new(env.topic("fence"), "fence"), 1).await?;
        let mut copies = Vec::new();
        loop {
            let message = client.receive().await?;
            let identifiers = message.values(id::SUBSCRIPTION_ID);
            if message.text() == "fence" {
                ensure!(identifiers.is_empty(), "of a subscription without: {message:?}");
                break;
            }
            copies.push(identifiers);
        }
        let mut seen: Vec<Value> = copies.iter().flatten().cloned().collect();
        seen.sort_by_key(|value| matches!(value, Value::Variable(value) if *value > 1));
        ensure!(seen == [Value::Variable(1), Value::Variable(268_435_455)], "{copies:?}");
        ensure!(copies.len() == 1 || copies.iter().all(|copy| copy.len() <= 1), "{copies:?}");
        // another identifier replaces the one before, none takes it away
        for identifier in [Some(7), None] {
            let properties: Vec<_> =
                identifier.map(|value| variable(id::SUBSCRIPTION_ID, value)).into_iter().collect();
            client.subscribe_with(&properties, &[(&env.topic("again"), 1)]).await?;
            client.unsubscribe(&[&env.topic("#")]).await?;
            publisher.publish(Publish::new(env.topic("again"), "again"), 1).await?;
            let message = client.receives("again").await?;
            let expected: Vec<Value> = identifier.map(Value::Variable).into_iter().collect();
            ensure!(message.values(id::SUBSCRIPTION_ID) == expected, "expected {expected:?}: {message:?}");
        }
    }
    Ok(())
}

async fn a_subscription_identifier_may_not_come_from_a_client(env: Env) -> Result<()> {
    let properties = block(&[variable(id::SUBSCRIPTION_ID, 1)]);
    let bytes = packet(first::PUBLISH, &[field(env.topic("t")), properties].concat());
    ends(&env, "PUBLISH with a subscription identifier", bytes, &[reason::PROTOCOL_ERROR]).await
}
