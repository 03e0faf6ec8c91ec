//! Topic aliases (5.0 section 3.3.2.3.4), both ways.

use anyhow::{Result, ensure};

use crate::case;
use crate::case::{Case, Env};
use crate::client::Client;
use crate::packet::{Publish, Value, id, reason, two};

pub(crate) const CASES: &[Case] = &[
    case!(a_server_takes_the_aliases_it_allowed, V5["MQTT-3.3.2-12"]),
    case!(an_alias_out_of_range_ends_the_connection, V5 ["MQTT-3.3.2-8", "MQTT-3.3.2-9", "MQTT-3.2.2-17"]),
    case!(aliases_end_with_the_connection, V5["MQTT-3.3.2-7"]),
    case!(a_server_keeps_within_the_alias_maximum, V5 ["MQTT-3.1.2-26", "MQTT-3.3.2-11"]),
    case!(a_client_without_aliases_is_sent_none, V5["MQTT-3.1.2-27"]),
];

/// What the server allows, by its CONNACK.
pub(crate) fn allowed(client: &Client) -> u16 {
    match client.connack.values(id::ALIAS_MAXIMUM)[..] {
        [Value::Two(most)] => most,
        _ => 0,
    }
}

fn aliased(topic: &str, text: &str, alias: u16) -> Publish {
    Publish::new(topic, text).with(two(id::ALIAS, alias))
}

async fn a_server_takes_the_aliases_it_allowed(env: Env) -> Result<()> {
    let mut subscriber = env.client("s").await?;
    subscriber.subscribe(&[(&env.topic("#"), 2)]).await?;
    let mut publisher = env.client("p").await?;
    let most = allowed(&publisher);
    ensure!(most > 0, "no aliases allowed: {:?}", publisher.connack);
    for alias in 1..=most {
        publisher.put(&aliased(&env.topic(&alias.to_string()), "name", alias)).await?;
    }
    for alias in (1..=most).rev() {
        publisher.publish(aliased("", "alias", alias), (alias % 3) as u8).await?;
    }
    publisher.put(&aliased(&env.topic("other"), "name", 1)).await?; // now it stands for this one
    publisher.put(&aliased("", "alias", 1)).await?;
    let numbers = (1..=most).chain((1..=most).rev()).map(|alias| alias.to_string());
    for rest in numbers.chain(["other".to_owned(), "other".to_owned()]) {
        let message = subscriber.receive().await?;
        ensure!(message.topic == env.topic(&rest), "expected {rest}: {message:?}");
        ensure!(message.values(id::ALIAS).is_empty(), "an alias of the publisher: {message:?}");
    }
    Ok(())
}

pub(crate) async fn an_alias_out_of_range_ends_the_connection(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let probe = env.client("probe").await?;
    for alias in [0, allowed(&probe) + 1, u16::MAX] {
        let mut client = env.client("a").await?;
        client.put(&aliased(&topic, "x", alias)).await?;
        client.ended(reason::ALIAS).await?;
    }
    // one that stands for nothing yet
    let mut client = env.client("a").await?;
    client.put(&aliased("", "x", 1)).await?;
    client.ended_by(&[reason::PROTOCOL_ERROR, reason::ALIAS]).await.map(drop)
}

async fn aliases_end_with_the_connection(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let mut client = env.connect(&env.durable("a")).await?;
    client.publish(aliased(&topic, "x", 1), 1).await?;
    client.leave().await?;
    let mut client = env.connect(&env.durable("a")).await?;
    client.put(&aliased("", "x", 1)).await?;
    client.ended_by(&[reason::PROTOCOL_ERROR, reason::ALIAS]).await?;
    // and so do those of the server: what comes on a new connection comes with its name
    let with_aliases = || env.durable("s").with(two(id::ALIAS_MAXIMUM, 5));
    for _ in 0..2 {
        let mut subscriber = env.connect(&with_aliases()).await?;
        subscriber.subscribe(&[(&topic, 1)]).await?;
        env.client("p").await?.publish(Publish::new(&topic, "x"), 1).await?;
        let message = subscriber.receive().await?;
        ensure!(message.topic == topic, "{message:?}");
        subscriber.leave().await?;
    }
    Ok(())
}

async fn a_server_keeps_within_the_alias_maximum(env: Env) -> Result<()> {
    const MOST: u16 = 2;
    let mut subscriber = env.connect(&env.hello("s").with(two(id::ALIAS_MAXIMUM, MOST))).await?;
    subscriber.subscribe(&[(&env.topic("#"), 1)]).await?;
    let mut publisher = env.client("p").await?;
    let mut names = [const { None }; MOST as usize + 1];
    for round in 0..4 {
        for number in 0..4 {
            let topic = env.topic(&number.to_string());
            publisher.publish(Publish::new(&topic, "x"), round % 2).await?;
            let message = subscriber.receive().await?;
            let name = match message.values(id::ALIAS)[..] {
                [Value::Two(alias)] => {
                    ensure!(alias <= MOST, "alias {alias} of {MOST}: {message:?}");
                    let name = &mut names[usize::from(alias)];
                    if !message.topic.is_empty() {
                        *name = Some(message.topic.clone());
                    }
                    name.clone()
                }
                _ => Some(message.topic.clone()),
            };
            ensure!(name.as_ref() == Some(&topic), "expected {topic}, {name:?} came: {message:?}");
        }
    }
    Ok(())
}

async fn a_client_without_aliases_is_sent_none(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let mut publisher = env.client("p").await?;
    for hello in [env.hello("s"), env.hello("s").with(two(id::ALIAS_MAXIMUM, 0))] {
        let mut subscriber = env.connect(&hello).await?;
        subscriber.subscribe(&[(&topic, 1)]).await?;
        for _ in 0..3 {
            publisher.publish(aliased(&topic, "x", 1), 1).await?;
            let message = subscriber.receive().await?;
            ensure!(message.values(id::ALIAS).is_empty() && message.topic == topic, "{message:?}");
        }
    }
    Ok(())
}
