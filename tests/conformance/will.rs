//! Wills (section 3.1.2.5): when they are published, when not, and as what.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::case;
use crate::case::{Case, Env};
use crate::client::Client;
use crate::packet::{
    DISCONNECT, Publish, Value, Will, byte, disconnect, first, four, id, packet, reason, text, user,
};

pub(crate) const CASES: &[Case] = &[
    case!(a_will_is_published_however_the_connection_breaks,
        V311 ["MQTT-3.1.2-8"],
        V5 ["MQTT-3.1.2-7", "MQTT-3.1.2-8"]),
    case!(disconnect_drops_the_will,
        V311 ["MQTT-3.1.2-8", "MQTT-3.1.2-10", "MQTT-3.14.4-3"],
        V5 ["MQTT-3.1.2-10", "MQTT-3.14.4-3"]),
    case!(a_will_is_published_once,
        V311 ["MQTT-3.1.2-10", "MQTT-3.1.2-12"],
        V5 ["MQTT-3.1.2-10"]),
    case!(a_will_is_retained_only_when_it_says_so,
        V311 ["MQTT-3.1.2-16", "MQTT-3.1.2-17"],
        V5 ["MQTT-3.1.2-14", "MQTT-3.1.2-15"]),
    case!(a_will_has_its_quality_of_service, V311["MQTT-3.1.2-8"], V5["MQTT-3.1.2-8"]),
    case!(the_properties_of_a_will_go_with_it, V5["MQTT-3.1.3-10"]),
    case!(disconnect_with_will_publishes_it, V5["MQTT-3.1.2-8"]),
    case!(a_will_waits_for_its_delay, V5["MQTT-3.1.2-8"]),
    case!(who_comes_back_in_time_keeps_his_will_unsaid, V5["MQTT-3.1.3-9"]),
    case!(the_properties_of_a_will_are_checked, V5["MQTT-3.1.4-1"]),
];

async fn witness(env: &Env, filter: &str) -> Result<Client> {
    let mut witness = env.client("w").await?;
    witness.subscribe(&[(filter, 2)]).await?;
    Ok(witness)
}

async fn a_will_is_published_however_the_connection_breaks(env: Env) -> Result<()> {
    let topic = env.topic("gone");
    let mut witness = witness(&env, &topic).await?;
    let doomed = |name: &str| env.hello(name).will(Will::new(&topic, name));
    // the socket closes
    drop(env.connect(&doomed("a")).await?);
    witness.receives("a").await?;
    // it closes in good order, but without a DISCONNECT
    env.connect(&doomed("b")).await?.finish().await?;
    witness.receives("b").await?;
    // the client breaks the protocol
    let mut client = env.connect(&doomed("c")).await?;
    client.send(packet(first::PINGREQ, &[1])).await?;
    client.ended(reason::MALFORMED).await?;
    witness.receives("c").await?;
    // another one takes over, and its session is a new one
    let mut client = env.connect(&doomed("d")).await?;
    let _successor = env.client("d").await?;
    client.ended(reason::TAKEN_OVER).await?;
    witness.receives("d").await?;
    // the client falls silent
    let mut client = env.connect(&doomed("e").keep_alive(1)).await?;
    client.ended(reason::KEEP_ALIVE).await?;
    witness.receives("e").await.map(drop)
}

async fn disconnect_drops_the_will(env: Env) -> Result<()> {
    let topic = env.topic("gone");
    let mut witness = witness(&env, &topic).await?;
    for round in 0..3 {
        let doomed = |text: &str| env.hello("a").will(Will::new(&topic, text));
        env.connect(&doomed("not to be said")).await?.leave().await?;
        // half of the next packet does not bring it back
        let mut client = env.connect(&doomed("not to be said")).await?;
        client.send([DISCONNECT, &[first::PUBLISH, 9]].concat()).await?;
        client.closed().await?;
        let text = format!("round {round}");
        drop(env.connect(&doomed(&text)).await?);
        witness.receives(&text).await?;
    }
    witness.quiet().await
}

async fn a_will_is_published_once(env: Env) -> Result<()> {
    let topic = env.topic("gone");
    let mut witness = witness(&env, &env.topic("#")).await?;
    for round in 0..3 {
        let text = format!("round {round}");
        drop(env.connect(&env.hello("a").will(Will::new(&topic, &text))).await?);
        witness.receives(&text).await?;
        // none, and then none is published
        drop(env.client("a").await?);
        let mut client = env.client("a").await?;
        client.publish(Publish::new(&topic, "marker"), 1).await?;
        witness.receives("marker").await?;
    }
    witness.quiet().await
}

async fn a_will_is_retained_only_when_it_says_so(env: Env) -> Result<()> {
    let (plain, kept) = (env.topic("plain"), env.topic("kept"));
    let mut witness = witness(&env, &env.topic("#")).await?;
    drop(env.connect(&env.hello("a").will(Will::new(&plain, "plain"))).await?);
    ensure!(!witness.receives("plain").await?.retain, "a will that is not retained says it is");
    drop(env.connect(&env.hello("b").will(Will::new(&kept, "kept").retain().qos(1))).await?);
    ensure!(
        !witness.receives("kept").await?.retain,
        "live, to a subscription that does not ask for the flag"
    );
    let mut late = env.client("late").await?;
    late.subscribe(&[(&env.topic("#"), 1)]).await?;
    let message = late.receives("kept").await?;
    ensure!((message.retain, message.topic) == (true, kept), "not the retained will");
    late.quiet().await
}

async fn a_will_has_its_quality_of_service(env: Env) -> Result<()> {
    let topic = env.topic("gone");
    let mut witness = witness(&env, &topic).await?;
    for qos in 0..=2 {
        let will = Will::new(&topic, [qos]).qos(qos);
        drop(env.connect(&env.hello("a").will(will)).await?);
        let message = witness.receive().await?;
        ensure!((message.qos, &message.payload[..]) == (qos, &[qos][..]), "will of QoS {qos}: {message:?}");
    }
    // an empty message is a message
    drop(env.connect(&env.hello("a").will(Will::new(&topic, ""))).await?);
    witness.receives("").await.map(drop)
}

async fn the_properties_of_a_will_go_with_it(env: Env) -> Result<()> {
    let topic = env.topic("gone");
    let mut witness = witness(&env, &topic).await?;
    let properties = [
        byte(id::PAYLOAD_FORMAT, 1),
        four(id::MESSAGE_EXPIRY, 600),
        text(id::CONTENT_TYPE, "text/plain"),
        text(id::RESPONSE_TOPIC, "answers"),
        crate::packet::binary(id::CORRELATION, b"\0\x01"),
        user("z", "1"),
        user("a", "2"),
        user("z", "1"),
        user("a", ""),
    ];
    let will = properties.iter().cloned().fold(Will::new(&topic, "words"), Will::with);
    drop(env.connect(&env.hello("a").will(will.with(four(id::WILL_DELAY, 0)))).await?);
    let message = witness.receives("words").await?;
    for (id, value) in &properties[..5] {
        let came = message.values(*id);
        let same = came == [value.clone()];
        ensure!(same || *id == id::MESSAGE_EXPIRY && in_time(&came, 600), "{value:?} of the will: {came:?}");
    }
    let users: Vec<Value> = properties[5..].iter().map(|(_, value)| value.clone()).collect();
    ensure!(message.values(id::USER) == users, "user properties {:?}", message.values(id::USER));
    Ok(())
}

/// A message expiry that is at most this, and not much less.
fn in_time(came: &[Value], seconds: u32) -> bool {
    matches!(came, [Value::Four(left)] if *left <= seconds && *left + 60 >= seconds)
}

async fn disconnect_with_will_publishes_it(env: Env) -> Result<()> {
    let topic = env.topic("gone");
    let mut witness = witness(&env, &topic).await?;
    for code in [0x04, 0x80, 0x97] {
        let mut client = env.connect(&env.hello("a").will(Will::new(&topic, [code]))).await?;
        client.send(disconnect(code, &[])).await?;
        client.closed().await?;
        ensure!(witness.receive().await?.payload == [code], "not the will of DISCONNECT {code:#04x}");
    }
    Ok(())
}

async fn a_will_waits_for_its_delay(env: Env) -> Result<()> {
    let topic = env.topic("gone");
    let mut witness = witness(&env, &topic).await?;
    let will = Will::new(&topic, "late").with(four(id::WILL_DELAY, 1));
    let client = env.connect(&env.durable("a").will(will.clone())).await?;
    let since = Instant::now();
    drop(client);
    witness.receives("late").await?;
    let waited = since.elapsed();
    ensure!(waited >= Duration::from_millis(990), "published after {waited:?}");
    // a session that ends at once does not wait
    let will = Will::new(&topic, "at once").with(four(id::WILL_DELAY, 1_000));
    drop(env.connect(&env.hello("b").will(will)).await?);
    witness.receives("at once").await?;
    // and one that a clean start ends does not either
    let will = Will::new(&topic, "given up").with(four(id::WILL_DELAY, 1_000));
    drop(env.connect(&env.durable("c").will(will)).await?);
    env.connect(&env.hello("c")).await?.leave().await?;
    witness.receives("given up").await.map(drop)
}

/// Another will with a longer delay, left later, is the proof that this one would have been published.
async fn who_comes_back_in_time_keeps_his_will_unsaid(env: Env) -> Result<()> {
    const DELAY: u32 = 3;
    for round in 0..5 {
        let topic = env.topic(&round.to_string());
        let mut witness = witness(&env, &topic).await?;
        let will = Will::new(&topic, "not to be said").with(four(id::WILL_DELAY, DELAY));
        let client = env.connect(&env.durable("a").will(will.clone())).await?;
        let mut taken_over = env.connect(&env.durable("b").will(will)).await?;
        let since = Instant::now();
        drop(client);
        let _back = env.connect(&env.durable("a")).await?;
        let _successor = env.connect(&env.durable("b")).await?;
        taken_over.ended(reason::TAKEN_OVER).await?;
        if since.elapsed() >= Duration::from_secs(u64::from(DELAY)) {
            continue; // this machine was too slow for it: once more
        }
        let text = format!("fence {round}");
        let fence = Will::new(&topic, &text).with(four(id::WILL_DELAY, DELAY + 1));
        drop(env.connect(&env.durable("f").will(fence)).await?);
        witness.receives(&text).await?;
        return witness.quiet().await;
    }
    anyhow::bail!("no reconnect within {DELAY} s")
}

async fn the_properties_of_a_will_are_checked(env: Env) -> Result<()> {
    let will = || Will::new(env.topic("gone"), "words");
    for (code, will) in [
        (reason::PROTOCOL_ERROR, will().with(text(id::RESPONSE_TOPIC, "a/#"))),
        (reason::PROTOCOL_ERROR, will().with(byte(id::PAYLOAD_FORMAT, 1)).with(byte(id::PAYLOAD_FORMAT, 1))),
        (reason::MALFORMED, will().with(four(id::SESSION_EXPIRY, 1))),
        (reason::TOPIC_NAME, Will::new("a/+", "words")),
    ] {
        let connect = env.hello("a").will(will);
        env.say(connect.bytes()).await?.refused(code, None).await?;
    }
    Ok(())
}
