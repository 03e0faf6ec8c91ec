//! Properties that travel with a message (5.0 section 3.3.2.3), and its expiry.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::sleep;

use crate::case;
use crate::case::{Case, Env};
use crate::header::ends;
use crate::packet::{Property, Publish, Value, binary, byte, four, id, reason, text, user};

pub(crate) const CASES: &[Case] = &[
    case!(properties_go_with_the_message,
        V5 ["MQTT-3.3.2-4", "MQTT-3.3.2-15", "MQTT-3.3.2-16", "MQTT-3.3.2-17", "MQTT-3.3.2-18", "MQTT-3.3.2-20"]),
    case!(properties_are_kept_with_a_message_that_waits,
        V5 ["MQTT-3.3.2-4", "MQTT-3.3.2-15", "MQTT-3.3.2-16", "MQTT-3.3.2-17", "MQTT-3.3.2-18", "MQTT-3.3.2-20"]),
    case!(a_response_topic_has_no_wildcards, V5["MQTT-3.3.2-14"]),
    case!(an_expired_message_is_not_delivered, V5["MQTT-3.3.2-5"]),
    case!(what_is_left_of_the_expiry_goes_on, V5["MQTT-3.3.2-6"]),
];

fn all() -> Vec<Property> {
    vec![
        byte(id::PAYLOAD_FORMAT, 1),
        text(id::CONTENT_TYPE, "text/\u{fc}"),
        text(id::RESPONSE_TOPIC, "answers/here"),
        binary(id::CORRELATION, b"\0\xff\x01"),
        user("z", "last"),
        user("a", "first"),
        user("z", "last"),
        user("", ""),
        user("a", "second"),
    ]
}

/// All of them, and the user properties in their order.
fn check(message: &Publish) -> Result<()> {
    for property in &all()[..4] {
        ensure!(message.values(property.0) == [property.1.clone()], "{property:?}: {message:?}");
    }
    let users: Vec<Value> =
        all().into_iter().filter(|(id, _)| *id == id::USER).map(|(_, value)| value).collect();
    ensure!(message.values(id::USER) == users, "{message:?}");
    Ok(())
}

fn message(topic: &str, text: &str) -> Publish {
    all().into_iter().fold(Publish::new(topic, text), Publish::with)
}

async fn properties_go_with_the_message(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let mut publisher = env.client("p").await?;
    for hello in [env.hello("s"), env.durable("d")] {
        let mut subscriber = env.connect(&hello).await?;
        subscriber.subscribe(&[(&topic, 2)]).await?;
        for qos in 0..=2 {
            publisher.publish(message(&topic, "live"), qos).await?;
            check(&subscriber.receives("live").await?)?;
        }
        // format indicator 0 is forwarded too, and what is not there is not invented
        publisher.publish(Publish::new(&topic, "\u{fe}").with(byte(id::PAYLOAD_FORMAT, 0)), 1).await?;
        let binary = subscriber.receive().await?;
        ensure!(binary.properties == [byte(id::PAYLOAD_FORMAT, 0)], "{binary:?}");
        publisher.publish(Publish::new(&topic, "bare"), 1).await?;
        let bare = subscriber.receive().await?;
        ensure!(bare.properties.is_empty(), "{bare:?}");
    }
    Ok(())
}

async fn properties_are_kept_with_a_message_that_waits(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let mut away = env.connect(&env.durable("d")).await?;
    away.subscribe(&[(&topic, 2)]).await?;
    away.leave().await?;
    let mut publisher = env.client("p").await?;
    publisher.publish(message(&topic, "kept").retain(), 2).await?;
    let mut away = env.connect(&env.durable("d")).await?;
    check(&away.receives("kept").await?)?;
    let mut late = env.client("late").await?;
    late.subscribe(&[(&topic, 2)]).await?;
    check(&late.receives("kept").await?)
}

async fn a_response_topic_has_no_wildcards(env: Env) -> Result<()> {
    for bad in ["a/#", "+", "a/+/b", ""] {
        let bytes = Publish::new(env.topic("t"), "x").with(text(id::RESPONSE_TOPIC, bad)).bytes(env.version);
        ends(&env, bad, bytes, &[reason::PROTOCOL_ERROR]).await?;
    }
    Ok(())
}

/// Longer than any interval of one second, whatever is rounded.
const OVER: Duration = Duration::from_millis(2_100);

/// Queued for a client that is away, held back by a full window, and retained.
async fn an_expired_message_is_not_delivered(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let short = |text: &str| Publish::new(&topic, text).with(four(id::MESSAGE_EXPIRY, 1));
    let mut away = env.connect(&env.durable("d")).await?;
    away.subscribe(&[(&topic, 2)]).await?;
    away.leave().await?;
    let mut full = env.connect(&env.hello("s").with(crate::packet::two(id::RECEIVE_MAXIMUM, 1))).await?;
    full.subscribe(&[(&topic, 2)]).await?;
    let mut publisher = env.client("p").await?;
    publisher.publish(Publish::new(&topic, "fills the window"), 1).await?;
    publisher.publish(short("expires").retain(), 1).await?;
    publisher.publish(short("expires"), 2).await?;
    publisher.publish(Publish::new(&topic, "fence").with(four(id::MESSAGE_EXPIRY, 600)), 1).await?;
    sleep(OVER).await; // that time passes is what is tested
    let mut away = env.connect(&env.durable("d")).await?;
    for client in [&mut full, &mut away] {
        client.receives("fills the window").await?;
        client.receives("fence").await?;
        client.quiet().await?;
    }
    let mut late = env.client("late").await?;
    late.subscribe(&[(&topic, 1)]).await?;
    late.quiet().await?;
    publisher.publish(Publish::new(&topic, "second fence"), 1).await?;
    late.receives("second fence").await.map(drop)
}

fn left(message: &Publish) -> Result<u32> {
    match message.values(id::MESSAGE_EXPIRY)[..] {
        [Value::Four(seconds)] => Ok(seconds),
        _ => anyhow::bail!("no message expiry in {message:?}"),
    }
}

async fn what_is_left_of_the_expiry_goes_on(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let mut away = env.connect(&env.durable("d")).await?;
    away.subscribe(&[(&topic, 1)]).await?;
    away.leave().await?;
    let mut present = env.client("s").await?;
    present.subscribe(&[(&topic, 1)]).await?;
    let mut publisher = env.client("p").await?;
    publisher.publish(Publish::new(&topic, "x").with(four(id::MESSAGE_EXPIRY, 100)).retain(), 1).await?;
    let live = left(&present.receive().await?)?;
    ensure!((90..=100).contains(&live), "live, of 100 seconds: {live}");
    sleep(OVER).await; // that time passes is what is tested
    let mut away = env.connect(&env.durable("d")).await?;
    let waited = left(&away.receive().await?)?;
    let mut late = env.client("late").await?;
    late.subscribe(&[(&topic, 1)]).await?;
    let retained = left(&late.receive().await?)?;
    for seconds in [waited, retained] {
        ensure!((60..=98).contains(&seconds), "after more than two of 100 seconds: {seconds}");
    }
    Ok(())
}
