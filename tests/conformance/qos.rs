//! The exchanges of QoS 1 and 2 in both directions (section 4.3), and the order of messages (section 4.6).

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::sleep;

use crate::case;
use crate::case::{Case, Env};
use crate::client::Client;
use crate::packet::{Publish, ack, ack_because, first, four, id, reason, two};

pub(crate) const CASES: &[Case] = &[
    case!(a_qos_1_message_waits_for_its_puback,
        V311 ["MQTT-4.3.2-1"],
        V5 ["MQTT-4.3.2-1", "MQTT-4.3.2-2", "MQTT-4.3.2-3"]),
    case!(after_puback_an_identifier_is_a_new_message,
        V311 ["MQTT-4.3.2-2"],
        V5 ["MQTT-4.3.2-4", "MQTT-4.3.2-5"]),
    case!(a_qos_2_message_goes_its_four_steps_to_a_client,
        V311 ["MQTT-4.3.3-1"],
        V5 ["MQTT-4.3.3-1", "MQTT-4.3.3-2", "MQTT-4.3.3-3", "MQTT-4.3.3-4", "MQTT-4.3.3-5", "MQTT-4.3.3-6"]),
    case!(a_qos_2_message_of_a_client_comes_once,
        V311 ["MQTT-4.3.3-2", "MQTT-2.3.1-3"],
        V5 ["MQTT-4.3.3-8", "MQTT-4.3.3-10", "MQTT-4.3.3-11", "MQTT-4.3.3-12"]),
    case!(a_refused_qos_2_message_is_over, V5["MQTT-4.3.3-4"]),
    case!(after_a_pubrec_that_says_no_an_identifier_is_a_new_message, V5["MQTT-4.3.3-9"]),
    case!(a_message_under_way_does_not_expire, V5 ["MQTT-4.3.3-7", "MQTT-4.3.3-13"]),
    case!(unknown_identifiers_are_answered,
        V311 ["MQTT-4.3.3-2"],
        V5 ["MQTT-3.6.2-1", "MQTT-3.7.2-1"]),
    case!(acknowledgements_of_the_wrong_kind_end_the_connection, V311["MQTT-4.8.0-1"], V5["MQTT-4.13.1-1"]),
    case!(acknowledgements_come_in_order,
        V311 ["MQTT-4.6.0-2", "MQTT-4.6.0-3", "MQTT-4.6.0-4"],
        V5 ["MQTT-4.6.0-2", "MQTT-4.6.0-3", "MQTT-4.6.0-4"]),
    case!(a_client_that_acknowledges_out_of_order_is_served,
        V311 ["MQTT-4.6.0-2", "MQTT-4.6.0-3", "MQTT-4.6.0-4"],
        V5 ["MQTT-4.6.0-2", "MQTT-4.6.0-3", "MQTT-4.6.0-4"]),
    case!(messages_of_a_publisher_keep_their_order,
        V311 ["MQTT-4.6.0-5", "MQTT-4.6.0-6"],
        V5 ["MQTT-4.6.0-5", "MQTT-4.6.0-6"]),
];

/// A subscriber with this QoS and a window of one, and a publisher.
async fn narrow_pair(env: &Env, qos: u8) -> Result<(Client, Client, String)> {
    let topic = env.topic("t");
    let mut hello = env.hello("s");
    if env.is_v5() {
        hello = hello.with(two(id::RECEIVE_MAXIMUM, 1));
    }
    let mut subscriber = env.connect(&hello).await?;
    subscriber.subscribe(&[(&topic, qos)]).await?;
    Ok((subscriber, env.client("p").await?, topic))
}

async fn a_qos_1_message_waits_for_its_puback(env: Env) -> Result<()> {
    let (mut subscriber, mut publisher, topic) = narrow_pair(&env, 1).await?;
    publisher.publish(Publish::new(&topic, "one"), 1).await?;
    let one = subscriber.message().await?;
    ensure!((one.qos, one.dup, one.text()) == (1, false, "one".to_owned()), "{one:?}");
    publisher.publish(Publish::new(&topic, "two"), 1).await?;
    if env.is_v5() {
        // the window is one wide: "two" must not come before the PUBACK
        subscriber.quiet().await?;
        subscriber.send(ack(first::PUBACK, one.id)).await?;
        let two = subscriber.message().await?;
        ensure!((two.text(), two.dup) == ("two".to_owned(), false), "{two:?}");
    } else {
        let two = subscriber.message().await?;
        ensure!(two.text() == "two" && two.id != one.id && !two.dup, "{two:?} after {one:?}");
    }
    subscriber.quiet().await // and nothing is sent again on the same connection
}

async fn after_puback_an_identifier_is_a_new_message(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let (mut subscriber, mut publisher) = (env.client("s").await?, env.client("p").await?);
    subscriber.subscribe(&[(&topic, 1)]).await?;
    for text in ["one", "two", "three"] {
        // DUP changes nothing: the earlier one is acknowledged
        publisher.put(&Publish::new(&topic, text).qos(1, 9).dup()).await?;
        publisher.ack(first::PUBACK, 9).await?;
        subscriber.receives(text).await?;
    }
    Ok(())
}

async fn a_qos_2_message_goes_its_four_steps_to_a_client(env: Env) -> Result<()> {
    let (mut subscriber, mut publisher, topic) = narrow_pair(&env, 2).await?;
    publisher.publish(Publish::new(&topic, "one"), 2).await?;
    let one = subscriber.message().await?;
    ensure!((one.qos, one.dup, one.text()) == (2, false, "one".to_owned()), "{one:?}");
    subscriber.quiet().await?; // no PUBREL before PUBREC
    if env.is_v5() {
        publisher.publish(Publish::new(&topic, "two"), 1).await?;
    }
    for _ in 0..2 {
        subscriber.send(ack(first::PUBREC, one.id)).await?;
        subscriber.acked(first::PUBREL, one.id, 0).await?; // again for a repeated PUBREC, and no PUBLISH
        subscriber.quiet().await?;
    }
    subscriber.send(ack(first::PUBCOMP, one.id)).await?;
    if env.is_v5() {
        subscriber.receives("two").await?; // PUBCOMP has opened the window
    }
    subscriber.quiet().await
}

async fn a_qos_2_message_of_a_client_comes_once(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let mut subscriber = env.client("s").await?;
    subscriber.subscribe(&[(&topic, 2)]).await?;
    for hello in [env.hello("p"), env.durable("d")] {
        let mut publisher = env.connect(&hello).await?;
        for text in ["one", "two"] {
            let publish = Publish::new(&topic, text).qos(2, 9);
            publisher.put(&publish).await?;
            publisher.ack(first::PUBREC, 9).await?;
            for _ in 0..2 {
                publisher.put(&publish.clone().dup()).await?;
                publisher.acked(first::PUBREC, 9, 0).await?;
            }
            publisher.send(ack(first::PUBREL, 9)).await?;
            publisher.acked(first::PUBCOMP, 9, 0).await?;
            // repeated, it is answered again: 5.0 says that the identifier is not known
            publisher.send(ack(first::PUBREL, 9)).await?;
            publisher.ack(first::PUBCOMP, 9).await?;
        }
        publisher.publish(Publish::new(&topic, "fence"), 1).await?;
        for text in ["one", "two", "fence"] {
            subscriber.receives(text).await?;
        }
    }
    Ok(())
}

/// PUBREC with an error: no PUBREL, and the place in the window is free.
async fn a_refused_qos_2_message_is_over(env: Env) -> Result<()> {
    let (mut subscriber, mut publisher, topic) = narrow_pair(&env, 2).await?;
    publisher.publish(Publish::new(&topic, "one"), 2).await?;
    let one = subscriber.message().await?;
    publisher.publish(Publish::new(&topic, "two"), 2).await?;
    subscriber.send(ack_because(first::PUBREC, one.id, reason::UNSPECIFIED)).await?;
    subscriber.receives("two").await?;
    subscriber.quiet().await
}

/// The only error that a PUBREC of ours can be made to carry: its identifier is in use by a QoS 1 message that came in
/// the same read. Whether they came in one read shows in the code; if not, again.
async fn after_a_pubrec_that_says_no_an_identifier_is_a_new_message(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let (mut subscriber, mut publisher) = (env.client("s").await?, env.client("p").await?);
    subscriber.subscribe(&[(&topic, 0)]).await?;
    for id in 1..100 {
        let one = Publish::new(&topic, "one").qos(1, id).bytes(env.version);
        let two = Publish::new(&topic, "two").qos(2, id);
        publisher.send([one, two.bytes(env.version)].concat()).await?;
        let (mut refused, mut answers) = (false, 0);
        while answers < 2 {
            match publisher.next().await? {
                crate::answer::Answer::Ack(ack) if ack.id == id => {
                    refused |= (ack.first, ack.code) == (first::PUBREC, reason::ID_IN_USE);
                }
                other => anyhow::bail!("expected PUBACK and PUBREC, {other:?} came"),
            }
            answers += 1;
        }
        subscriber.receives("one").await?;
        if refused {
            publisher.put(&two).await?;
            publisher.ack(first::PUBREC, id).await?;
        }
        publisher.send(ack(first::PUBREL, id)).await?;
        publisher.acked(first::PUBCOMP, id, 0).await?;
        subscriber.receives("two").await?;
        if refused {
            return Ok(());
        }
    }
    anyhow::bail!("two packets of one write never came in one read")
}

/// The interval passes between PUBLISH and PUBREC, on one connection and over two.
async fn a_message_under_way_does_not_expire(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let message = || Publish::new(&topic, "short-lived").with(four(id::MESSAGE_EXPIRY, 3));
    let expired = Duration::from_millis(4_100);
    let mut publisher = env.client("p").await?;
    for hello in [env.hello("s"), env.durable("d")] {
        let mut subscriber = env.connect(&hello).await?;
        subscriber.subscribe(&[(&topic, 2)]).await?;
        publisher.publish(message(), 2).await?;
        let under_way = subscriber.message().await?;
        sleep(expired).await; // that time passes is what is tested
        subscriber.acknowledge(&under_way).await?;
        subscriber.quiet().await?;
        // or its PUBCOMP may be lost with the connection: then PUBREL comes again first
        subscriber.leave().await?;
    }
    let mut subscriber = env.connect(&env.durable("d")).await?;
    publisher.publish(message(), 2).await?;
    let before = subscriber.message().await?;
    drop(subscriber);
    sleep(expired).await;
    let mut subscriber = env.connect(&env.durable("d")).await?;
    let again = subscriber.message().await?;
    ensure!(
        (again.id, again.dup, again.text()) == (before.id, true, before.text()),
        "{again:?} after {before:?}"
    );
    subscriber.acknowledge(&again).await?;
    subscriber.quiet().await
}

async fn unknown_identifiers_are_answered(env: Env) -> Result<()> {
    let mut client = env.client("a").await?;
    let code = if env.is_v5() { reason::ID_NOT_FOUND } else { 0 };
    client.send(ack(first::PUBREL, 500)).await?;
    client.acked(first::PUBCOMP, 500, code).await?;
    client.send(ack(first::PUBREC, 501)).await?;
    client.acked(first::PUBREL, 501, code).await?;
    client.send(ack(first::PUBCOMP, 501)).await?;
    client.send(ack(first::PUBACK, 502)).await?;
    client.quiet().await
}

async fn acknowledgements_of_the_wrong_kind_end_the_connection(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let mut publisher = env.client("p").await?;
    for (qos, wrong) in [(1, first::PUBREC), (1, first::PUBCOMP), (2, first::PUBACK), (2, first::PUBCOMP)] {
        let mut subscriber = env.client("s").await?;
        subscriber.subscribe(&[(&topic, 2)]).await?;
        publisher.publish(Publish::new(&topic, "x"), qos).await?;
        let message = subscriber.message().await?;
        subscriber.send(ack(wrong, message.id)).await?;
        subscriber.ended(reason::PROTOCOL_ERROR).await?;
    }
    Ok(())
}

/// As a receiver the server acknowledges in the order of the messages, as a sender it releases in that of PUBREC.
async fn acknowledgements_come_in_order(env: Env) -> Result<()> {
    const COUNT: u16 = 40;
    let topic = env.topic("t");
    let mut subscriber = env.connect(&env.durable("s")).await?;
    subscriber.subscribe(&[(&topic, 2)]).await?;
    let mut publisher = env.client("p").await?;
    let all = |qos: u8, first: u16| -> Vec<u8> {
        (first..first + COUNT)
            .flat_map(|id| Publish::new(&topic, "x").qos(qos, id).bytes(env.version))
            .collect()
    };
    publisher.send(all(1, 1)).await?;
    for id in 1..=COUNT {
        publisher.ack(first::PUBACK, id).await?;
    }
    publisher.send(all(2, 1_000)).await?;
    for id in 1_000..1_000 + COUNT {
        publisher.ack(first::PUBREC, id).await?;
    }
    publisher.send((1_000..1_000 + COUNT).flat_map(|id| ack(first::PUBREL, id)).collect::<Vec<u8>>()).await?;
    for id in 1_000..1_000 + COUNT {
        publisher.ack(first::PUBCOMP, id).await?;
    }
    for _ in 0..COUNT {
        subscriber.receive().await?;
    }
    let mut received = Vec::new();
    for _ in 0..COUNT {
        received.push(subscriber.message().await?.id);
    }
    received.reverse(); // the order of PUBREC counts, whatever that of PUBLISH was
    subscriber.send(received.iter().flat_map(|id| ack(first::PUBREC, *id)).collect::<Vec<u8>>()).await?;
    for id in received {
        subscriber.acked(first::PUBREL, id, 0).await?;
    }
    Ok(())
}

async fn a_client_that_acknowledges_out_of_order_is_served(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let mut publisher = env.client("p").await?;
    for hello in [env.hello("s"), env.durable("d")] {
        let mut subscriber = env.connect(&hello).await?;
        subscriber.subscribe(&[(&topic, 2)]).await?;
        let mut messages = Vec::new();
        for number in 0..10 {
            publisher.publish(Publish::new(&topic, number.to_string()), 1 + number % 2).await?;
        }
        for _ in 0..10 {
            messages.push(subscriber.message().await?);
        }
        for message in messages.iter().rev() {
            subscriber.acknowledge(message).await?;
        }
        publisher.publish(Publish::new(&topic, "still served"), 2).await?;
        subscriber.receives("still served").await?;
        subscriber.leave().await?;
    }
    Ok(())
}

/// To subscribers that are present, durable, and away.
async fn messages_of_a_publisher_keep_their_order(env: Env) -> Result<()> {
    const COUNT: u16 = 60;
    let topic = env.topic("t");
    let mut away = env.connect(&env.durable("away")).await?;
    away.subscribe(&[(&topic, 2)]).await?;
    away.leave().await?;
    let mut subscribers = vec![env.client("a").await?, env.client("b").await?];
    subscribers.push(env.connect(&env.durable("c")).await?);
    for subscriber in &mut subscribers {
        subscriber.subscribe(&[(&env.topic("+"), 2)]).await?;
    }
    let mut publisher = env.client("p").await?;
    for qos in [1, 2] {
        let publish = |id: u16| Publish::new(&topic, id.to_string()).qos(qos, id).bytes(env.version);
        publisher.send((1..=COUNT).flat_map(publish).collect::<Vec<u8>>()).await?;
        let answer = if qos == 1 { first::PUBACK } else { first::PUBREC };
        for id in 1..=COUNT {
            publisher.ack(answer, id).await?;
        }
        if qos == 2 {
            publisher.send((1..=COUNT).flat_map(|id| ack(first::PUBREL, id)).collect::<Vec<u8>>()).await?;
            for id in 1..=COUNT {
                publisher.ack(first::PUBCOMP, id).await?;
            }
        }
    }
    subscribers.push(env.connect(&env.durable("away")).await?);
    for subscriber in &mut subscribers {
        for qos in [1, 2] {
            for id in 1..=COUNT {
                let message = subscriber.receives(&id.to_string()).await?;
                ensure!(message.qos == qos, "{message:?} among those of QoS {qos}");
            }
        }
    }
    Ok(())
}
