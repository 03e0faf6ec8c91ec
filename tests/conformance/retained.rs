//! Retained messages (section 3.3.1.3): what is kept, what is cleared, who is sent it and with which flag.

use anyhow::{Result, ensure};

use crate::case;
use crate::case::{Case, Env};
use crate::client::Client;
use crate::packet::{Publish, id, options, user, variable};

pub(crate) const CASES: &[Case] = &[
    case!(the_last_retained_message_is_sent_to_new_subscriptions,
        V311 ["MQTT-3.3.1-5", "MQTT-3.3.1-6", "MQTT-3.3.1-8"],
        V5 ["MQTT-3.3.1-5", "MQTT-3.3.1-9"]),
    case!(a_retained_message_of_qos_0_replaces_an_older_one, V311["MQTT-3.3.1-7"], V5["MQTT-3.3.1-5"]),
    case!(live_messages_are_not_flagged_as_retained, V311["MQTT-3.3.1-9"], V5["MQTT-3.3.1-12"]),
    case!(retain_as_published_keeps_the_flag, V5["MQTT-3.3.1-13"]),
    case!(an_empty_payload_clears_and_is_not_kept,
        V311 ["MQTT-3.3.1-10", "MQTT-3.3.1-11"],
        V5 ["MQTT-3.3.1-6", "MQTT-3.3.1-7"]),
    case!(without_the_flag_nothing_is_kept_or_cleared, V311["MQTT-3.3.1-12"], V5["MQTT-3.3.1-8"]),
    case!(retain_handling_says_when_they_are_sent, V5 ["MQTT-3.3.1-9", "MQTT-3.3.1-10", "MQTT-3.3.1-11"]),
    case!(subscribing_again_sends_them_again, V311["MQTT-3.8.4-3"], V5["MQTT-3.8.4-4"]),
    case!(a_retained_message_carries_the_identifier_of_its_subscription, V5["MQTT-3.3.4-3"]),
    case!(shared_subscriptions_are_sent_none, V5["MQTT-3.3.1-9"]),
];

/// What a new client is sent for a filter, up to a fence.
async fn kept(env: &Env, filter: &str, qos: u8) -> Result<Vec<Publish>> {
    let fence = env.topic("the-fence-of-this-case");
    let mut client = env.client("kept").await?;
    client.subscribe(&[(filter, qos), (&fence, 1)]).await?;
    client.publish(Publish::new(&fence, "fence"), 1).await?;
    let mut seen = until_fence(&mut client).await?;
    seen.retain(|message| message.topic != fence);
    client.leave().await?;
    Ok(seen)
}

async fn until_fence(client: &mut Client) -> Result<Vec<Publish>> {
    let mut seen = Vec::new();
    loop {
        let message = client.receive().await?;
        if message.text() == "fence" {
            return Ok(seen);
        }
        seen.push(message);
    }
}

async fn the_last_retained_message_is_sent_to_new_subscriptions(env: Env) -> Result<()> {
    let topic = env.topic("kept/here");
    let mut publisher = env.client("p").await?;
    for (qos, text) in [(1, "first"), (2, "second"), (1, "last")] {
        publisher.publish(Publish::new(&topic, text).retain(), qos).await?;
    }
    for (filter, granted) in [(topic.clone(), 2), (env.topic("kept/+"), 1), (env.topic("#"), 0)] {
        let seen = kept(&env, &filter, granted).await?;
        ensure!(seen.len() == 1, "{filter}: {seen:?}");
        let Publish { retain, qos, dup, .. } = seen[0];
        ensure!(
            (seen[0].text(), retain, qos, dup) == ("last".to_owned(), true, granted.min(1), false),
            "{seen:?}"
        );
    }
    let seen = kept(&env, &env.topic("else"), 2).await?;
    ensure!(seen.is_empty(), "to a filter that does not match: {seen:?}");
    Ok(())
}

async fn a_retained_message_of_qos_0_replaces_an_older_one(env: Env) -> Result<()> {
    let topic = env.topic("kept");
    let mut publisher = env.client("p").await?;
    publisher.publish(Publish::new(&topic, "old").retain(), 2).await?;
    publisher.publish(Publish::new(&topic, "new").retain(), 0).await?;
    // QoS 0 is not acknowledged: what comes behind it is
    publisher.publish(Publish::new(env.topic("behind"), "x"), 1).await?;
    let seen = kept(&env, &topic, 2).await?;
    ensure!(seen.len() == 1 && seen[0].text() == "new" && seen[0].qos == 0, "{seen:?}");
    Ok(())
}

async fn live_messages_are_not_flagged_as_retained(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let (mut subscriber, mut publisher) = (env.client("s").await?, env.client("p").await?);
    subscriber.subscribe(&[(&topic, 1)]).await?;
    for publish in [Publish::new(&topic, "a").retain(), Publish::new(&topic, "b")] {
        publisher.publish(publish, 1).await?;
        let message = subscriber.receive().await?;
        ensure!(!message.retain, "{message:?}");
    }
    Ok(())
}

async fn retain_as_published_keeps_the_flag(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let (mut subscriber, mut publisher) = (env.client("s").await?, env.client("p").await?);
    subscriber.subscribe(&[(&topic, 1 | options::AS_PUBLISHED)]).await?;
    for retain in [true, false] {
        let publish = Publish { retain, ..Publish::new(&topic, "x") };
        publisher.publish(publish, 1).await?;
        let message = subscriber.receive().await?;
        ensure!(message.retain == retain, "published with {retain}: {message:?}");
    }
    // and what is sent because it is retained says so, asked or not
    let seen = kept(&env, &topic, 1).await?;
    ensure!(seen.len() == 1 && seen[0].retain, "{seen:?}");
    Ok(())
}

async fn an_empty_payload_clears_and_is_not_kept(env: Env) -> Result<()> {
    let topic = env.topic("kept");
    let (mut subscriber, mut publisher) = (env.client("s").await?, env.client("p").await?);
    subscriber.subscribe(&[(&topic, 1)]).await?;
    for clear_with in 0..=2 {
        publisher.publish(Publish::new(&topic, "kept").retain(), 1).await?;
        subscriber.receives("kept").await?;
        publisher.publish(Publish::new(&topic, "").retain(), clear_with).await?;
        let message = subscriber.receives("").await?;
        ensure!(!message.retain, "{message:?}");
        publisher.publish(Publish::new(env.topic("behind"), "x"), 1).await?;
        let seen = kept(&env, &topic, 1).await?;
        ensure!(seen.is_empty(), "cleared with QoS {clear_with}, but {seen:?}");
    }
    Ok(())
}

async fn without_the_flag_nothing_is_kept_or_cleared(env: Env) -> Result<()> {
    let (topic, never) = (env.topic("kept"), env.topic("never"));
    let mut publisher = env.client("p").await?;
    publisher.publish(Publish::new(&topic, "kept").retain(), 1).await?;
    publisher.publish(Publish::new(&topic, "passing"), 1).await?;
    publisher.publish(Publish::new(&topic, ""), 1).await?;
    publisher.publish(Publish::new(&never, "passing"), 1).await?;
    let seen = kept(&env, &topic, 1).await?;
    ensure!(seen.len() == 1 && seen[0].text() == "kept", "{seen:?}");
    let seen = kept(&env, &never, 1).await?;
    ensure!(seen.is_empty(), "{seen:?}");
    Ok(())
}

async fn retain_handling_says_when_they_are_sent(env: Env) -> Result<()> {
    let (topic, fence) = (env.topic("kept"), env.topic("fence"));
    let mut publisher = env.client("p").await?;
    publisher.publish(Publish::new(&topic, "kept").retain(), 1).await?;
    for durable in [false, true] {
        let hello = if durable { env.durable("d") } else { env.hello("s") };
        let mut client = env.connect(&hello).await?;
        client.subscribe(&[(&fence, 1)]).await?;
        for (options, expected) in [
            (options::NO_RETAINED, 0),
            (options::RETAINED_IF_NEW, 0), // the subscription is there
            (0, 1),
            (0, 1),
            (options::RETAINED_IF_NEW, 0),
        ] {
            client.subscribe(&[(&topic, 1 | options)]).await?;
            client.publish(Publish::new(&fence, "fence"), 1).await?;
            let seen = until_fence(&mut client).await?.len();
            ensure!(
                seen == expected,
                "options {options:#04x}: {seen} retained messages, expected {expected}"
            );
        }
        client.unsubscribe(&[&topic]).await?;
        client.subscribe(&[(&topic, 1 | options::RETAINED_IF_NEW)]).await?;
        client.receives("kept").await?;
    }
    Ok(())
}

async fn subscribing_again_sends_them_again(env: Env) -> Result<()> {
    let topic = env.topic("kept");
    let mut publisher = env.client("p").await?;
    publisher.publish(Publish::new(&topic, "kept").retain(), 1).await?;
    for hello in [env.hello("s"), env.durable("d")] {
        let mut client = env.connect(&hello).await?;
        for qos in [0, 1, 1, 2] {
            client.subscribe(&[(&topic, qos)]).await?;
            let message = client.receives("kept").await?;
            ensure!(message.retain && message.qos == qos.min(1), "granted {qos}: {message:?}");
        }
        client.quiet().await?;
    }
    Ok(())
}

async fn a_retained_message_carries_the_identifier_of_its_subscription(env: Env) -> Result<()> {
    let topic = env.topic("kept");
    let mut publisher = env.client("p").await?;
    publisher.publish(Publish::new(&topic, "kept").retain().with(user("k", "v")), 1).await?;
    for hello in [env.hello("s"), env.durable("d")] {
        let mut client = env.connect(&hello).await?;
        client.subscribe_with(&[variable(id::SUBSCRIPTION_ID, 300)], &[(&topic, 1)]).await?;
        let message = client.receives("kept").await?;
        let expected = [variable(id::SUBSCRIPTION_ID, 300).1];
        ensure!(message.values(id::SUBSCRIPTION_ID) == expected, "{message:?}");
        ensure!(message.values(id::USER) == [user("k", "v").1], "{message:?}");
    }
    Ok(())
}

/// Section 4.8.2: no retained messages with a subscription that is shared.
async fn shared_subscriptions_are_sent_none(env: Env) -> Result<()> {
    let topic = env.topic("kept");
    let mut client = env.client("s").await?;
    client.publish(Publish::new(&topic, "kept").retain(), 1).await?;
    client.subscribe(&[(&format!("$share/group/{topic}"), 1)]).await?;
    client.publish(Publish::new(&topic, "fence"), 1).await?;
    client.receives("fence").await.map(drop)
}
