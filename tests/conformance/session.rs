//! Sessions (section 4.1) and delivery after a reconnect (section 4.4): what is kept, what is given up, what comes again.

use anyhow::{Result, ensure};

use crate::case;
use crate::case::{Case, Env};
use crate::client::Client;
use crate::packet::{
    Connect, Publish, Value, Version, Will, ack, ack_because, disconnect, first, four, id, options, reason,
    two, variable,
};

pub(crate) const CASES: &[Case] = &[
    case!(a_durable_session_is_continued,
        V311 ["MQTT-3.1.2-4", "MQTT-3.1.2-5", "MQTT-3.1.3-2", "MQTT-3.2.2-2", "MQTT-3.2.2-3", "MQTT-4.1.0-1"],
        V5 ["MQTT-3.1.2-5", "MQTT-3.1.2-6", "MQTT-3.1.2-23", "MQTT-3.1.3-2", "MQTT-3.2.2-3", "MQTT-4.1.0-1"]),
    case!(a_clean_session_gives_up_what_was,
        V311 ["MQTT-3.1.2-6", "MQTT-3.1.4-3", "MQTT-3.2.2-1"],
        V5 ["MQTT-3.1.2-4", "MQTT-3.1.4-4", "MQTT-3.2.2-2"]),
    case!(a_session_without_expiry_ends_with_its_connection,
        V311 ["MQTT-3.1.2-6", "MQTT-4.1.0-2"],
        V5 ["MQTT-4.1.0-2"]),
    case!(a_session_lasts_as_long_as_its_connection, V311["MQTT-4.1.0-2"], V5["MQTT-4.1.0-1"]),
    case!(retained_messages_are_no_session_state, V311["MQTT-3.1.2-7"]),
    case!(a_session_ends_when_its_interval_has_passed, V5 ["MQTT-4.1.0-2", "MQTT-3.1.2-8"]),
    case!(disconnect_may_change_the_expiry, V5 ["MQTT-4.1.0-2", "MQTT-3.1.2-23"]),
    case!(what_was_not_acknowledged_comes_again,
        V311 ["MQTT-4.4.0-1", "MQTT-3.3.1-1", "MQTT-2.3.1-3", "MQTT-4.6.0-1"],
        V5 ["MQTT-4.4.0-1", "MQTT-3.3.1-1", "MQTT-4.6.0-1"]),
    case!(options_and_identifiers_are_session_state, V5["MQTT-4.1.0-1"]),
    case!(a_takeover_sends_again_what_was_under_way, V311["MQTT-4.4.0-1"], V5["MQTT-4.4.0-1"]),
    case!(a_narrower_window_holds_for_what_comes_again, V5["MQTT-3.3.4-9", "MQTT-4.9.0-2"]),
    case!(an_assigned_client_id_names_a_session, V5["MQTT-3.1.3-7", "MQTT-3.1.3-2"]),
    case!(what_was_acknowledged_does_not_come_again, V311["MQTT-4.4.0-1"], V5["MQTT-4.4.0-1"]),
    case!(what_was_refused_does_not_come_again, V5["MQTT-4.4.0-2"]),
    case!(a_qos_2_exchange_of_a_client_goes_on_after_a_reconnect,
        V311 ["MQTT-4.3.3-2", "MQTT-4.4.0-1"],
        V5 ["MQTT-4.3.3-10", "MQTT-4.3.3-11", "MQTT-4.4.0-1"]),
    case!(
        a_session_belongs_to_the_client_id_and_not_to_the_version,
        V311["MQTT-3.1.3-2"],
        V5["MQTT-3.1.3-2"]
    ),
];

async fn session_present(env: &Env, connect: &Connect, expected: bool) -> Result<Client> {
    let client = env.connect(connect).await?;
    let told = client.connack.session_present;
    ensure!(told == expected, "session present is {told}, expected {expected}");
    Ok(client)
}

async fn a_durable_session_is_continued(env: Env) -> Result<()> {
    let (topic, other) = (env.topic("t"), env.topic("other"));
    let mut publisher = env.client("p").await?;
    // both ways to go: with a goodbye and without
    for (name, goodbye) in [("a", true), ("b", false)] {
        let mut client = session_present(&env, &env.durable(name), false).await?;
        client.subscribe(&[(&topic, 2), (&other, 1)]).await?;
        if goodbye {
            client.leave().await?;
        } else {
            drop(client);
        }
        for qos in [1, 2] {
            publisher.publish(Publish::new(&topic, format!("while away {qos}")), qos).await?;
        }
        let mut client = session_present(&env, &env.durable(name), true).await?;
        for qos in [1, 2] {
            let message = client.receives(&format!("while away {qos}")).await?;
            ensure!(message.qos == qos, "{message:?}");
        }
        publisher.publish(Publish::new(&other, "the subscription lives"), 1).await?;
        client.receives("the subscription lives").await?;
        // another client id is another session
        session_present(&env, &env.durable(&format!("{name}x")), false).await?.leave().await?;
        client.unsubscribe(&[&topic, &other]).await?;
        client.leave().await?;
    }
    Ok(())
}

async fn a_clean_session_gives_up_what_was(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let mut publisher = env.client("p").await?;
    let mut client = session_present(&env, &env.durable("a"), false).await?;
    client.subscribe(&[(&topic, 1)]).await?;
    client.leave().await?;
    publisher.publish(Publish::new(&topic, "queued"), 1).await?;
    let mut client = session_present(&env, &env.hello("a"), false).await?;
    publisher.publish(Publish::new(&topic, "to nobody"), 1).await?;
    client.subscribe(&[(&env.topic("fence"), 1)]).await?;
    publisher.publish(Publish::new(env.topic("fence"), "fence"), 1).await?;
    client.receives("fence").await?;
    client.leave().await?;
    session_present(&env, &env.durable("a"), false).await?.quiet().await
}

async fn a_session_without_expiry_ends_with_its_connection(env: Env) -> Result<()> {
    let topic = env.topic("t");
    for goodbye in [true, false] {
        let mut client = session_present(&env, &env.hello("a"), false).await?;
        client.subscribe(&[(&topic, 1)]).await?;
        if goodbye {
            client.leave().await?;
        } else {
            drop(client);
        }
        env.client("p").await?.publish(Publish::new(&topic, "to nobody"), 1).await?;
        let mut client = session_present(&env, &env.durable("a"), false).await?;
        client.quiet().await?;
        env.connect(&env.hello("a")).await?.leave().await?; // gives the durable one up
        client.ended(reason::TAKEN_OVER).await?;
    }
    Ok(())
}

/// Even without any expiry, and whatever else goes on.
async fn a_session_lasts_as_long_as_its_connection(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let mut client = env.client("a").await?;
    client.subscribe(&[(&topic, 2)]).await?;
    let mut publisher = env.client("p").await?;
    for round in 0..5 {
        publisher.publish(Publish::new(&topic, round.to_string()), 2).await?;
        client.receives(&round.to_string()).await?;
        env.client(&format!("passer{round}")).await?.leave().await?;
    }
    Ok(())
}

async fn retained_messages_are_no_session_state(env: Env) -> Result<()> {
    let topic = env.topic("kept");
    let mut publisher = env.client("p").await?;
    publisher.publish(Publish::new(&topic, "kept").retain(), 1).await?;
    publisher.leave().await?;
    env.client("p").await?.leave().await?;
    let mut client = env.client("s").await?;
    client.subscribe(&[(&topic, 1)]).await?;
    let kept = client.receives("kept").await?;
    ensure!(kept.retain, "{kept:?}");
    Ok(())
}

/// A will with a longer delay is published at the end of the session: that is how its end is seen.
async fn a_session_ends_when_its_interval_has_passed(env: Env) -> Result<()> {
    let topic = env.topic("end");
    let mut witness = env.client("w").await?;
    witness.subscribe(&[(&topic, 1)]).await?;
    let will = Will::new(&topic, "session over").with(four(id::WILL_DELAY, 1_000));
    let mut short = env.hello("a").with(four(id::SESSION_EXPIRY, 1)).will(will);
    short.clean = false;
    let mut client = session_present(&env, &short, false).await?;
    client.subscribe(&[(&env.topic("t"), 1)]).await?;
    drop(client);
    env.client("p").await?.publish(Publish::new(env.topic("t"), "queued for nobody"), 1).await?;
    witness.receives("session over").await?;
    session_present(&env, &env.durable("a"), false).await?.quiet().await
}

async fn disconnect_may_change_the_expiry(env: Env) -> Result<()> {
    let with_expiry = |seconds| disconnect(0, &[four(id::SESSION_EXPIRY, seconds)]);
    // for ever, and then no longer
    let mut client = env.connect(&env.durable("a")).await?;
    client.send(with_expiry(0)).await?;
    client.closed().await?;
    session_present(&env, &env.durable("a"), false).await?.leave().await?;
    session_present(&env, &env.durable("a"), true).await?.leave().await?;
    // but what was 0 stays 0 (section 3.14.2.2.2)
    let mut client = env.client("b").await?;
    client.send(with_expiry(5)).await?;
    client.ended(reason::PROTOCOL_ERROR).await?;
    session_present(&env, &env.durable("b"), false).await?.leave().await
}

/// PUBLISH with QoS 1 and 2 and PUBREL, under the same identifiers and in the order they had.
async fn what_was_not_acknowledged_comes_again(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let mut publisher = env.client("p").await?;
    let mut client = env.connect(&env.durable("a")).await?;
    client.subscribe(&[(&topic, 2)]).await?;
    let mut before = Vec::new();
    for (number, qos) in [1, 2, 1, 2, 2].into_iter().enumerate() {
        publisher.publish(Publish::new(&topic, number.to_string()), qos).await?;
        let message = client.message().await?;
        ensure!(!message.dup, "sent for the first time: {message:?}");
        before.push(message);
    }
    // one is half done: PUBREL is out
    let released = before.remove(1).id;
    client.send(ack(first::PUBREC, released)).await?;
    client.acked(first::PUBREL, released, 0).await?;
    client.quiet().await?; // nothing comes again on this connection
    drop(client);
    let mut client = session_present(&env, &env.durable("a"), true).await?;
    client.acked(first::PUBREL, released, 0).await?;
    for earlier in &before {
        let again = client.message().await?;
        let expected = Publish { dup: true, ..earlier.clone() };
        ensure!(again == expected, "expected {expected:?}, {again:?} came");
    }
    client.send(ack(first::PUBCOMP, released)).await?;
    for earlier in &before {
        client.acknowledge(earlier).await?;
    }
    client.quiet().await
}

async fn what_was_acknowledged_does_not_come_again(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let mut publisher = env.client("p").await?;
    let mut client = env.connect(&env.durable("a")).await?;
    client.subscribe(&[(&topic, 2)]).await?;
    for qos in [1, 2] {
        publisher.publish(Publish::new(&topic, "x"), qos).await?;
        client.receive().await?;
    }
    client.quiet().await?;
    client.leave().await?;
    let mut client = session_present(&env, &env.durable("a"), true).await?;
    publisher.publish(Publish::new(&topic, "fence"), 1).await?;
    client.receives("fence").await.map(drop)
}

async fn what_was_refused_does_not_come_again(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let mut publisher = env.client("p").await?;
    let mut client = env.connect(&env.durable("a")).await?;
    client.subscribe(&[(&topic, 2)]).await?;
    for (qos, answer) in [(1, first::PUBACK), (2, first::PUBREC)] {
        publisher.publish(Publish::new(&topic, "unwanted"), qos).await?;
        let message = client.message().await?;
        client.send(ack_because(answer, message.id, reason::UNSPECIFIED)).await?;
    }
    client.quiet().await?;
    client.leave().await?;
    let mut client = session_present(&env, &env.durable("a"), true).await?;
    publisher.publish(Publish::new(&topic, "fence"), 1).await?;
    client.receives("fence").await.map(drop)
}

async fn a_qos_2_exchange_of_a_client_goes_on_after_a_reconnect(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let mut subscriber = env.client("s").await?;
    subscriber.subscribe(&[(&topic, 2)]).await?;
    let mut client = env.connect(&env.durable("a")).await?;
    let message = Publish::new(&topic, "once").qos(2, 21);
    client.put(&message).await?;
    client.ack(first::PUBREC, 21).await?;
    drop(client);
    let mut client = session_present(&env, &env.durable("a"), true).await?;
    client.put(&message.dup()).await?; // the client has lost the PUBREC
    client.acked(first::PUBREC, 21, 0).await?;
    drop(client);
    let mut client = session_present(&env, &env.durable("a"), true).await?;
    client.send(ack(first::PUBREL, 21)).await?;
    client.acked(first::PUBCOMP, 21, 0).await?;
    drop(client);
    let mut client = session_present(&env, &env.durable("a"), true).await?;
    client.send(ack(first::PUBREL, 21)).await?; // the client has lost the PUBCOMP
    client.ack(first::PUBCOMP, 21).await?;
    client.publish(Publish::new(&topic, "fence"), 1).await?;
    subscriber.receives("once").await?;
    subscriber.receives("fence").await.map(drop)
}

async fn a_session_belongs_to_the_client_id_and_not_to_the_version(env: Env) -> Result<()> {
    let other = env.in_version(if env.is_v5() { Version::V311 } else { Version::V5 });
    let topic = env.topic("t");
    let mut client = env.connect(&env.durable("a")).await?;
    client.subscribe(&[(&topic, 1)]).await?;
    client.leave().await?;
    env.client("p").await?.publish(Publish::new(&topic, "across versions"), 1).await?;
    let mut client = session_present(&other, &other.durable("a"), true).await?;
    client.receives("across versions").await.map(drop)
}

/// No local, retain as published, QoS and identifier, after a reconnect to another node.
async fn options_and_identifiers_are_session_state(env: Env) -> Result<()> {
    let (topic, fence) = (env.topic("t"), env.topic("fence"));
    let mut client = env.connect(&env.durable("a")).await?;
    let options = 1 | options::NO_LOCAL | options::AS_PUBLISHED;
    client.subscribe_with(&[variable(id::SUBSCRIPTION_ID, 9)], &[(&topic, options)]).await?;
    client.subscribe(&[(&fence, 2)]).await?;
    client.leave().await?;
    let mut other = env.client("o").await?;
    other.publish(Publish::new(&topic, "queued").retain(), 2).await?;
    let mut client = session_present(&env, &env.durable("a"), true).await?;
    client.publish(Publish::new(&topic, "own"), 1).await?;
    client.publish(Publish::new(&topic, "own"), 0).await?;
    other.publish(Publish::new(&topic, "live").retain(), 0).await?;
    other.publish(Publish::new(&topic, "live").retain(), 2).await?;
    other.publish(Publish::new(&fence, "fence"), 2).await?;
    let mut seen = Vec::new();
    loop {
        let message = client.receive().await?;
        if message.text() == "fence" {
            break;
        }
        let identifiers = message.values(id::SUBSCRIPTION_ID);
        ensure!(message.retain && identifiers == [variable(id::SUBSCRIPTION_ID, 9).1], "{message:?}");
        if message.qos > 0 {
            seen.push(message.text());
        }
    }
    ensure!(seen == ["queued", "live"], "{seen:?} came");
    Ok(())
}

/// The old connection lives until the new one is there, and has acknowledged nothing.
async fn a_takeover_sends_again_what_was_under_way(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let mut publisher = env.client("p").await?;
    let mut old = env.connect(&env.durable("a")).await?;
    old.subscribe(&[(&topic, 2)]).await?;
    let mut before = Vec::new();
    for qos in [1, 2] {
        publisher.publish(Publish::new(&topic, qos.to_string()), qos).await?;
        before.push(old.message().await?);
    }
    let mut new = session_present(&env, &env.durable("a"), true).await?;
    old.ended(reason::TAKEN_OVER).await?;
    for earlier in before {
        let again = new.receive().await?;
        let expected = Publish { dup: true, ..earlier };
        ensure!(again == expected, "expected {expected:?}, {again:?} came");
    }
    new.quiet().await
}

/// More is under way from before than the client takes now.
async fn a_narrower_window_holds_for_what_comes_again(env: Env) -> Result<()> {
    const COUNT: usize = 5;
    let topic = env.topic("t");
    let mut publisher = env.client("p").await?;
    let mut client = env.connect(&env.durable("a")).await?;
    client.subscribe(&[(&topic, 2)]).await?;
    for number in 0..COUNT {
        publisher.publish(Publish::new(&topic, number.to_string()), 1 + (number % 2) as u8).await?;
        client.message().await?;
    }
    drop(client);
    let mut client = session_present(&env, &env.durable("a").with(two(id::RECEIVE_MAXIMUM, 1)), true).await?;
    for number in 0..COUNT {
        let message = client.message().await?;
        ensure!(message.text() == number.to_string() && message.dup, "message {number}: {message:?}");
        client.quiet().await?;
        client.acknowledge(&message).await?;
    }
    client.quiet().await
}

async fn an_assigned_client_id_names_a_session(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let mut client = session_present(&env, &Connect::new(env.version, "").durable(), false).await?;
    let [Value::Text(assigned)] = &client.connack.values(id::ASSIGNED_CLIENT_ID)[..] else {
        anyhow::bail!("no assigned client identifier in {:?}", client.connack);
    };
    let again = Connect::new(env.version, assigned).durable();
    client.subscribe(&[(&topic, 1)]).await?;
    client.leave().await?;
    env.client("p").await?.publish(Publish::new(&topic, "queued"), 1).await?;
    let mut client = session_present(&env, &again, true).await?;
    client.receives("queued").await.map(drop)
}
