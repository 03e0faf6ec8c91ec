//! What depends on the configuration, on a node that merges the copies of overlapping subscriptions and takes no
//! aliases.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use crate::case;
use crate::case::{Case, Env};
use crate::packet::{Publish, Value, id, reason, two, variable};

/// Of the node.
pub(crate) const SETTINGS: &[&str] = &["mqtt.overlapping=merged", "mqtt.topic_alias_maximum=0"];

pub(crate) const CASES: &[Case] = &[
    case!(one_copy_carries_all_identifiers, V5["MQTT-3.3.4-4"]),
    case!(one_copy_has_the_highest_qos, V311["MQTT-3.3.5-1"], V5["MQTT-3.3.4-2"]),
    case!(where_no_alias_is_allowed_one_ends_the_connection, V5["MQTT-3.2.2-18"]),
];

async fn one_copy_carries_all_identifiers(env: Env) -> Result<()> {
    let topic = env.topic("a/b");
    let mut publisher = env.client("p").await?;
    for hello in [env.hello("s"), env.durable("d")] {
        let mut client = env.connect(&hello).await?;
        for (filter, identifier) in [(topic.clone(), 1), (env.topic("a/+"), 2), (env.topic("#"), 300)] {
            client.subscribe_with(&[variable(id::SUBSCRIPTION_ID, identifier)], &[(&filter, 1)]).await?;
        }
        publisher.publish(Publish::new(&topic, "x"), 1).await?;
        publisher.publish(Publish::new(env.topic("fence"), "fence"), 1).await?;
        let message = client.receives("x").await?;
        let identifiers = message.values(id::SUBSCRIPTION_ID);
        let set: BTreeSet<u32> = identifiers
            .iter()
            .filter_map(|value| if let Value::Variable(id) = value { Some(*id) } else { None })
            .collect();
        ensure!(identifiers.len() == 3 && set == BTreeSet::from([1, 2, 300]), "{message:?}");
        client.receives("fence").await?;
        client.leave().await?;
    }
    Ok(())
}

async fn one_copy_has_the_highest_qos(env: Env) -> Result<()> {
    let topic = env.topic("a/b");
    let (mut client, mut publisher) = (env.client("s").await?, env.client("p").await?);
    client.subscribe(&[(&topic, 0), (&env.topic("a/+"), 2), (&env.topic("#"), 1)]).await?;
    for published in 0..=2 {
        publisher.publish(Publish::new(&topic, "x"), published).await?;
        publisher.publish(Publish::new(env.topic("fence"), "fence"), 2).await?;
        let message = client.receives("x").await?;
        ensure!(message.qos == published, "published with {published}: {message:?}");
        client.receives("fence").await?;
    }
    Ok(())
}

async fn where_no_alias_is_allowed_one_ends_the_connection(env: Env) -> Result<()> {
    let mut client = env.client("a").await?;
    let said = client.connack.values(id::ALIAS_MAXIMUM);
    ensure!(said.is_empty() || said == [Value::Two(0)], "{said:?}");
    client.put(&Publish::new(env.topic("t"), "x").with(two(id::ALIAS, 1))).await?;
    client.ended(reason::ALIAS).await
}
