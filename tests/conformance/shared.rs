//! Shared subscriptions (5.0 section 4.8.2).

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};

use crate::case;
use crate::case::{Case, Env};
use crate::client::Client;
use crate::header::ends;
use crate::packet::{Publish, ack_because, first, reason, subscribe};

pub(crate) const CASES: &[Case] = &[
    case!(a_malformed_share_ends_the_connection, V5 ["MQTT-4.8.2-1", "MQTT-4.8.2-2"]),
    case!(one_member_of_each_group_gets_a_message, V5["MQTT-4.8.2-2"]),
    case!(a_shared_delivery_respects_the_granted_qos, V5["MQTT-4.8.2-3"]),
    case!(a_qos_2_message_stays_with_the_member_it_was_sent_to, V5["MQTT-4.8.2-4"]),
    case!(a_qos_2_message_of_a_member_that_is_gone_goes_to_no_other, V5["MQTT-4.8.2-5"]),
    case!(a_qos_2_message_of_a_session_that_is_gone_goes_to_no_other, V5["MQTT-4.8.2-5"]),
    case!(a_qos_1_message_of_a_member_that_is_gone_goes_to_another, V5["MQTT-4.8.2-3"]),
    case!(a_qos_1_message_of_a_session_that_is_gone_goes_to_another, V5["MQTT-4.8.2-3"]),
    case!(a_refused_message_goes_to_no_other, V5["MQTT-4.8.2-6"]),
    case!(a_message_that_a_durable_member_refused_is_gone, V5["MQTT-4.8.2-6"]),
    case!(a_message_for_a_member_that_left_goes_to_another, V5["MQTT-4.5.0-1"]),
];

async fn a_malformed_share_ends_the_connection(env: Env) -> Result<()> {
    for filter in [
        "$share",
        "$share/",
        "$share//t",
        "$share/g",
        "$share/g/",
        "$share/g+/t",
        "$share/#/t",
        "$share/+/t",
        "$share/g/a#",
        "$share/g/#/a",
    ] {
        let bytes = subscribe(env.version, 1, &[], &[(filter, 0)]);
        ends(&env, filter, bytes, &[reason::TOPIC_FILTER, reason::MALFORMED, reason::PROTOCOL_ERROR]).await?;
    }
    Ok(())
}

/// Two groups with two members each, and a subscription that is not shared.
async fn one_member_of_each_group_gets_a_message(env: Env) -> Result<()> {
    const COUNT: usize = 12;
    let topic = env.topic("t");
    let mut plain = env.client("plain").await?;
    plain.subscribe(&[(&topic, 1)]).await?;
    let mut members = Vec::new();
    for group in ["one", "two"] {
        for member in 0..2 {
            let mut client = env.client(&format!("{group}{member}")).await?;
            client.subscribe(&[(&format!("$share/{group}/{topic}"), 1)]).await?;
            members.push(client);
        }
    }
    let mut publisher = env.client("p").await?;
    for number in 0..COUNT {
        publisher.publish(Publish::new(&topic, number.to_string()), 1).await?;
        plain.receives(&number.to_string()).await?;
    }
    let (mut groups, fence) = (BTreeMap::<usize, BTreeSet<String>>::new(), env.topic("fence"));
    for (number, member) in members.iter_mut().enumerate() {
        member.subscribe(&[(&fence, 1)]).await?;
        publisher.publish(Publish::new(&fence, "fence"), 1).await?;
        loop {
            let text = member.receive().await?.text();
            if text == "fence" {
                break;
            }
            let is_new = groups.entry(number / 2).or_default().insert(text.clone());
            ensure!(is_new, "two members of a group got message {text}");
        }
        member.unsubscribe(&[&fence]).await?;
    }
    ensure!(groups.values().all(|seen| seen.len() == COUNT), "of {COUNT} messages each: {groups:?}");
    Ok(())
}

async fn a_shared_delivery_respects_the_granted_qos(env: Env) -> Result<()> {
    let mut publisher = env.client("p").await?;
    for hello in [env.hello("s"), env.durable("d")] {
        let mut member = env.connect(&hello).await?;
        for granted in 0..=2 {
            let topic = env.topic(&granted.to_string());
            member.subscribe(&[(&format!("$share/g/{topic}"), granted)]).await?;
            for published in 0..=2 {
                publisher.publish(Publish::new(&topic, "x"), published).await?;
                let message = member.receive().await?;
                ensure!(
                    message.qos == granted.min(published),
                    "granted {granted}, published {published}: {message:?}"
                );
            }
        }
        env.connect(&env.hello("d")).await?.leave().await?;
        member.try_send(crate::packet::DISCONNECT).await;
    }
    Ok(())
}

/// A group of which the first member was sent two messages and has not answered: "begun" with this QoS, and "marker" with
/// QoS 1. The second member came later.
///
/// What of this goes to another member goes in this order: so "marker" is the proof that "begun" does not.
async fn begun(env: &Env, durable: bool, qos: u8) -> Result<(Client, [Publish; 2], Client)> {
    let topic = env.topic("t");
    let shared = format!("$share/g/{topic}");
    let hello = if durable { env.durable("first") } else { env.hello("first") };
    let mut first = env.connect(&hello).await?;
    first.subscribe(&[(&shared, 2)]).await?;
    let mut publisher = env.client("p").await?;
    publisher.publish(Publish::new(&topic, "begun"), qos).await?;
    publisher.publish(Publish::new(&topic, "marker"), 1).await?;
    let messages = [first.message().await?, first.message().await?];
    ensure!((messages[0].qos, messages[1].qos) == (qos, 1), "{messages:?}");
    let mut second = env.client("second").await?;
    second.subscribe(&[(&shared, 2)]).await?;
    Ok((first, messages, second))
}

/// Ends the session of the first member, whatever it was.
async fn end_first(env: &Env, first: Client) -> Result<()> {
    drop(first);
    env.connect(&env.hello("first")).await?.leave().await
}

/// The second member gets the marker, and nothing else.
async fn gets_the_marker(second: &mut Client) -> Result<()> {
    second.receives("marker").await?;
    second.quiet().await
}

async fn a_qos_2_message_stays_with_the_member_it_was_sent_to(env: Env) -> Result<()> {
    let (first, [message, _], mut second) = begun(&env, true, 2).await?;
    drop(first);
    let mut first = env.connect(&env.durable("first")).await?;
    let again = first.message().await?;
    ensure!((again.id, again.dup, again.text()) == (message.id, true, "begun".to_owned()), "{again:?}");
    first.acknowledge(&again).await?;
    first.receives("marker").await?;
    first.leave().await?;
    second.quiet().await
}

async fn a_qos_2_message_of_a_member_that_is_gone_goes_to_no_other(env: Env) -> Result<()> {
    let (first, _, mut second) = begun(&env, false, 2).await?;
    first.leave().await?;
    gets_the_marker(&mut second).await
}

async fn a_qos_2_message_of_a_session_that_is_gone_goes_to_no_other(env: Env) -> Result<()> {
    let (first, _, mut second) = begun(&env, true, 2).await?;
    end_first(&env, first).await?;
    gets_the_marker(&mut second).await
}

/// Not a must, but what users of shared subscriptions count on.
async fn a_qos_1_message_of_a_member_that_is_gone_goes_to_another(env: Env) -> Result<()> {
    let (first, _, mut second) = begun(&env, false, 1).await?;
    drop(first);
    second.receives("begun").await?;
    gets_the_marker(&mut second).await
}

/// Likewise.
async fn a_qos_1_message_of_a_session_that_is_gone_goes_to_another(env: Env) -> Result<()> {
    let (first, _, mut second) = begun(&env, true, 1).await?;
    end_first(&env, first).await?;
    second.receives("begun").await?;
    gets_the_marker(&mut second).await
}

async fn a_refused_message_goes_to_no_other(env: Env) -> Result<()> {
    for (qos, answer) in [(1, first::PUBACK), (2, first::PUBREC)] {
        let (mut first, [message, _], mut second) = begun(&env, false, qos).await?;
        first.send(ack_because(answer, message.id, reason::UNSPECIFIED)).await?;
        first.quiet().await?;
        second.quiet().await?;
        first.leave().await?;
        gets_the_marker(&mut second).await?;
        second.leave().await?;
    }
    Ok(())
}

/// It is done with: its session does not even send it again, and has nothing left to give to others.
async fn a_message_that_a_durable_member_refused_is_gone(env: Env) -> Result<()> {
    for (qos, answer) in [(1, first::PUBACK), (2, first::PUBREC)] {
        let (mut first, [message, _], mut second) = begun(&env, true, qos).await?;
        first.send(ack_because(answer, message.id, reason::UNSPECIFIED)).await?;
        first.quiet().await?;
        second.quiet().await?;
        first.leave().await?;
        let mut first = env.connect(&env.durable("first")).await?;
        first.receives("marker").await?;
        first.leave().await?;
        second.quiet().await?;
        second.leave().await?;
    }
    Ok(())
}

/// A member has left: from its UNSUBACK on, what is accepted is for another. Durable ones are in shards, the others on
/// nodes.
async fn a_message_for_a_member_that_left_goes_to_another(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let shared = format!("$share/g/{topic}");
    let mut publisher = env.client("p").await?;
    for round in 0..10 {
        for durable in [false, true] {
            let hello = if durable { env.durable("first") } else { env.hello("first") };
            let mut first = env.connect(&hello).await?;
            first.subscribe(&[(&shared, 1)]).await?;
            let mut second = env.client("second").await?;
            second.subscribe(&[(&shared, 1)]).await?;
            first.unsubscribe(&[&shared]).await?;
            let text = format!("{durable} {round}");
            publisher.publish(Publish::new(&topic, &text), 1).await?;
            second.receives(&text).await?;
            second.leave().await?;
            first.leave().await?;
            env.connect(&env.hello("first")).await?.leave().await?;
        }
    }
    Ok(())
}
