//! MQTT 3.1 where it differs from 3.1.1, and the bridge bit of both.

use anyhow::{Result, ensure};

use crate::case;
use crate::case::{Case, Env};
use crate::packet::{Connect, Publish, Version, Will, ack, first, packet, subscribe, unsubscribe};

pub(crate) const CASES: &[Case] = &[
    case!(the_name_and_level_of_3_1, V31 ["MQTT31-name", "MQTT31-name-mixed", "MQTT31-codes"]),
    case!(client_ids_of_3_1, V31 ["MQTT31-id-empty", "MQTT31-id-23"]),
    case!(sessions_of_3_1, V31["MQTT31-clean"]),
    case!(the_length_goes_before_the_flags_of_user_and_password, V31["MQTT31-user"]),
    case!(wills_of_3_1, V31["MQTT31-will"]),
    case!(dup_may_be_on_packets_that_are_sent_again, V31["MQTT31-dup"]),
    case!(every_qos_of_3_1, V31["MQTT31-qos"]),
    case!(retained_messages_of_3_1, V31["MQTT31-retain"]),
    case!(a_bridge_hears_no_echo_and_sees_the_retain_flag, V31 ["MQTT31-bridge"], V311 []),
];

async fn the_name_and_level_of_3_1(env: Env) -> Result<()> {
    let mut client = env.client("a").await?; // the reader sees that the first byte of CONNACK is not used
    client.quiet().await?;
    for (name, level) in [(&b"MQIsdp"[..], 4), (b"MQIsdp", 5), (b"MQIsdp", 2), (b"MQTT", 3)] {
        let connect = Connect { level, name: name.to_vec(), ..env.hello("x") };
        env.say(connect.bytes()).await?.refused(0x84, Some(1)).await?;
    }
    client.leave().await
}

async fn client_ids_of_3_1(env: Env) -> Result<()> {
    for connect in [Connect::new(env.version, ""), Connect::new(env.version, "").durable()] {
        env.say(connect.bytes()).await?.refused(0x85, Some(2)).await?;
    }
    let long = env.id("0123456789012345678901234567890");
    for length in [env.prefix.len() + 1, 22, 23] {
        env.connect(&Connect::new(env.version, &long[..length])).await?.leave().await?;
    }
    // longer ones are taken, as every broker does
    env.connect(&Connect::new(env.version, &long)).await?.leave().await
}

async fn sessions_of_3_1(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let mut client = env.connect(&env.durable("a")).await?;
    client.leave().await?;
    client = env.connect(&env.durable("a")).await?;
    client.subscribe(&[(&topic, 2)]).await?;
    client.leave().await?;
    let mut publisher = env.client("p").await?;
    for qos in [1, 2] {
        publisher.publish(Publish::new(&topic, qos.to_string()), qos).await?;
    }
    let mut client = env.connect(&env.durable("a")).await?;
    for qos in [1, 2] {
        client.receives(&qos.to_string()).await?;
    }
    client.leave().await?;
    env.client("a").await?.leave().await?; // clean: all is gone
    publisher.publish(Publish::new(&topic, "to nobody"), 1).await?;
    env.connect(&env.durable("a")).await?.quiet().await
}

/// Flags that promise more than is there are no error in 3.1.
async fn the_length_goes_before_the_flags_of_user_and_password(env: Env) -> Result<()> {
    for connect in [
        env.hello("a").flags(0xc2),
        env.hello("b").user("u").flags(0xc2),
        env.hello("c").user("u").password("p"),
    ] {
        env.connect(&connect).await?.quiet().await?;
    }
    Ok(())
}

async fn wills_of_3_1(env: Env) -> Result<()> {
    let topic = env.topic("gone");
    let mut witness = env.client("w").await?;
    witness.subscribe(&[(&topic, 1)]).await?;
    let doomed = |text: &str| env.hello("a").will(Will::new(&topic, text).qos(1));
    env.connect(&doomed("not to be said")).await?.leave().await?;
    drop(env.connect(&doomed("said")).await?);
    witness.receives("said").await.map(drop)
}

async fn dup_may_be_on_packets_that_are_sent_again(env: Env) -> Result<()> {
    const DUP: u8 = 0x08;
    let topic = env.topic("t");
    let again = |mut bytes: Vec<u8>| {
        bytes[0] |= DUP;
        bytes
    };
    let mut client = env.client("a").await?;
    client.send(again(subscribe(env.version, 1, &[], &[(&topic, 0)]))).await?;
    client.suback(1).await?;
    client.put(&Publish::new(&topic, "x").qos(2, 2)).await?;
    client.ack(first::PUBREC, 2).await?;
    client.send(again(ack(first::PUBREL, 2))).await?;
    client.ack(first::PUBCOMP, 2).await?;
    client.receives("x").await?;
    client.send(again(unsubscribe(env.version, 3, &[&topic]))).await?;
    client.unsuback(3).await?;
    // the other reserved bits are not free
    client.send(packet(first::PUBREL | 0x04, &[0, 2])).await?;
    client.closed().await
}

async fn every_qos_of_3_1(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let others = [env.clone(), env.in_version(Version::V311), env.in_version(Version::V5)];
    let mut publisher = env.client("p").await?;
    for (number, other) in others.iter().enumerate() {
        let mut subscriber = other.client(&format!("s{number}")).await?;
        subscriber.subscribe(&[(&topic, 2)]).await?;
        for qos in 0..=2 {
            publisher.publish(Publish::new(&topic, "x"), qos).await?;
            let message = subscriber.receives("x").await?;
            ensure!(message.qos == qos, "{message:?}");
        }
        subscriber.leave().await?;
    }
    Ok(())
}

async fn retained_messages_of_3_1(env: Env) -> Result<()> {
    let topic = env.topic("kept");
    env.client("p").await?.publish(Publish::new(&topic, "kept").retain(), 1).await?;
    let mut client = env.client("s").await?;
    client.subscribe(&[(&topic, 1)]).await?;
    let message = client.receives("kept").await?;
    ensure!(message.retain && message.qos == 1, "{message:?}");
    Ok(())
}

async fn a_bridge_hears_no_echo_and_sees_the_retain_flag(env: Env) -> Result<()> {
    const BRIDGE: u8 = 0x80;
    let topic = env.topic("t");
    let hello = env.hello("bridge");
    let mut bridge = env.connect(&Connect { level: hello.level | BRIDGE, ..hello }).await?;
    bridge.subscribe(&[(&topic, 1)]).await?;
    let mut other = env.client("o").await?;
    other.subscribe(&[(&topic, 1)]).await?;
    bridge.publish(Publish::new(&topic, "own"), 1).await?;
    other.receives("own").await?;
    for retain in [true, false] {
        let publish = Publish { retain, ..Publish::new(&topic, "of another") };
        other.publish(publish, 1).await?;
        let message = bridge.receives("of another").await?;
        ensure!(message.retain == retain, "published with {retain}: {message:?}");
    }
    bridge.quiet().await
}
