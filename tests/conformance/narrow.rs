//! What depends on the configuration, on a node that allows little: what is not allowed is said, and refused when it is
//! asked for all the same.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::aliases::an_alias_out_of_range_ends_the_connection;
use crate::case;
use crate::case::{Case, Env};
use crate::flow::allowed;
use crate::header::ends;
use crate::packet::{
    Connect, Publish, Will, byte, field, first, four, id, packet, reason, subscribe, two, variable,
};
use crate::size::a_packet_that_is_too_large_ends_the_connection;

/// Of the node.
pub(crate) const SETTINGS: &[&str] = &[
    "mqtt.max_qos=1",
    "mqtt.retain_available=false",
    "mqtt.wildcard_subscriptions=false",
    "mqtt.shared_subscriptions=false",
    "mqtt.exclusive_subscriptions=false",
    "mqtt.subscription_identifiers=false",
    "mqtt.keep_alive_maximum=2",
    "mqtt.receive_maximum=5",
    "mqtt.max_packet_size=1024",
    "mqtt.topic_alias_maximum=3",
    "mqtt.allow_zero_length_client_id=false",
    "mqtt.strict_utf8=true",
];

pub(crate) const CASES: &[Case] = &[
    case!(connack_says_what_is_allowed, V5["MQTT-3.2.2-9"]),
    case!(a_higher_qos_is_granted_as_the_highest, V311["MQTT-3.8.4-5"], V5["MQTT-3.2.2-10"]),
    case!(a_message_above_the_maximum_qos_ends_the_connection, V311 [], V5 ["MQTT-3.2.2-11"]),
    case!(a_will_above_the_maximum_qos_is_refused, V311["MQTT-3.2.2-6"], V5["MQTT-3.2.2-12"]),
    case!(a_retained_will_is_refused, V311["MQTT-3.2.2-6"], V5["MQTT-3.2.2-13"]),
    case!(a_retained_message_ends_the_connection, V311 [], V5 ["MQTT-3.2.2-14"]),
    case!(wildcards_are_refused, V311["MQTT-3.8.3-2"], V5["MQTT-3.8.4-7"]),
    case!(shared_subscriptions_are_refused, V311 [], V5 ["MQTT-3.8.4-7"]),
    case!(exclusive_subscriptions_are_refused_alone, V311[], V5[]),
    case!(subscription_identifiers_are_refused, V5["MQTT-4.13.1-1"]),
    case!(a_client_must_have_an_id, V311["MQTT-3.1.3-9"], V5["MQTT-3.1.3-8"]),
    case!(the_keep_alive_of_the_server_counts, V5 ["MQTT-3.1.2-21", "MQTT-3.2.2-21", "MQTT-3.2.2-22"]),
    case!(the_receive_maximum_of_the_server_counts, V5["MQTT-3.3.4-7"]),
    case!(a_packet_that_is_too_large_ends_the_connection, V5["MQTT-3.2.2-15"]),
    case!(an_alias_out_of_range_ends_the_connection, V5["MQTT-3.2.2-17"]),
    case!(a_large_packet_of_3_1_1_ends_the_connection, V311["MQTT-4.8.0-1"]),
    case!(control_characters_are_refused, V311["MQTT-1.5.3-1"], V5["MQTT-1.5.4-1"]),
];

async fn connack_says_what_is_allowed(env: Env) -> Result<()> {
    let client = env.connect(&env.hello("a").keep_alive(1)).await?;
    for expected in [
        byte(id::MAXIMUM_QOS, 1),
        byte(id::RETAIN_AVAILABLE, 0),
        byte(id::WILDCARDS, 0),
        byte(id::SHARED, 0),
        byte(id::SUBSCRIPTION_IDS, 0),
        two(id::RECEIVE_MAXIMUM, 5),
        four(id::PACKET_SIZE, 1024),
        two(id::ALIAS_MAXIMUM, 3),
    ] {
        ensure!(
            client.connack.values(expected.0) == [expected.1.clone()],
            "{expected:?}: {:?}",
            client.connack
        );
    }
    ensure!(client.connack.values(id::SERVER_KEEP_ALIVE).is_empty(), "{:?}", client.connack);
    Ok(())
}

async fn a_higher_qos_is_granted_as_the_highest(env: Env) -> Result<()> {
    let mut client = env.client("a").await?;
    let topics = [env.topic("0"), env.topic("1"), env.topic("2")];
    let filters = [(topics[0].as_str(), 0), (topics[1].as_str(), 1), (topics[2].as_str(), 2)];
    let codes = client.subscribe_codes(&[], &filters).await?;
    ensure!(codes == [0, 1, 1], "codes {codes:02x?}");
    client.publish(Publish::new(&topics[2], "x"), 1).await?;
    let message = client.receives("x").await?;
    ensure!(message.qos == 1, "{message:?}");
    Ok(())
}

async fn a_message_above_the_maximum_qos_ends_the_connection(env: Env) -> Result<()> {
    let bytes = Publish::new(env.topic("t"), "x").qos(2, 1).bytes(env.version);
    ends(&env, "QoS 2", bytes, &[reason::QOS]).await
}

async fn a_will_above_the_maximum_qos_is_refused(env: Env) -> Result<()> {
    let connect = env.hello("a").will(Will::new(env.topic("w"), "w").qos(2));
    env.say(connect.bytes()).await?.refused(reason::QOS, None).await
}

async fn a_retained_will_is_refused(env: Env) -> Result<()> {
    let connect = env.hello("a").will(Will::new(env.topic("w"), "w").retain());
    env.say(connect.bytes()).await?.refused(reason::RETAIN, None).await
}

async fn a_retained_message_ends_the_connection(env: Env) -> Result<()> {
    for qos in 0..=1 {
        let bytes = Publish::new(env.topic("t"), "x").qos(qos, 1).retain().bytes(env.version);
        ends(&env, "retain", bytes, &[reason::RETAIN]).await?;
    }
    Ok(())
}

/// 3.1.1 is refused with a code in SUBACK, beside what is granted; 5.0 was told, so that asking is an error.
async fn is_refused(env: &Env, filter: &str, code: u8) -> Result<()> {
    let fine = env.topic("fine");
    let bytes = subscribe(env.version, 1, &[], &[(&fine, 1), (filter, 1), (&fine, 0)]);
    if env.is_v5() {
        return ends(env, filter, bytes, &[code]).await;
    }
    let mut client = env.client("a").await?;
    client.send(bytes).await?;
    let codes = client.suback(1).await?.codes;
    ensure!(codes == [1, 0x80, 0], "{filter}: codes {codes:02x?}");
    let codes = client.subscribe_codes(&[], &[(filter, 1)]).await?;
    ensure!(codes == [0x80], "{filter}: codes {codes:02x?}");
    Ok(())
}

async fn wildcards_are_refused(env: Env) -> Result<()> {
    for filter in [env.topic("#"), env.topic("+"), "#".to_owned()] {
        is_refused(&env, &filter, reason::WILDCARDS).await?;
    }
    Ok(())
}

async fn shared_subscriptions_are_refused(env: Env) -> Result<()> {
    is_refused(&env, &format!("$share/g/{}", env.topic("t")), reason::SHARED).await
}

/// CONNACK cannot say that there are none, so nobody who asks is at fault.
async fn exclusive_subscriptions_are_refused_alone(env: Env) -> Result<()> {
    let (fine, exclusive) = (env.topic("fine"), format!("$exclusive/{}", env.topic("t")));
    let mut client = env.client("a").await?;
    let codes = client.subscribe_codes(&[], &[(&fine, 1), (&exclusive, 1), (&fine, 0)]).await?;
    let refused = if env.is_v5() { reason::TOPIC_FILTER } else { 0x80 };
    ensure!(codes == [1, refused, 0], "codes {codes:02x?}");
    Ok(())
}

async fn subscription_identifiers_are_refused(env: Env) -> Result<()> {
    let bytes = subscribe(env.version, 1, &[variable(id::SUBSCRIPTION_ID, 1)], &[(&env.topic("t"), 0)]);
    ends(&env, "subscription identifier", bytes, &[reason::SUBSCRIPTION_IDS]).await
}

async fn a_client_must_have_an_id(env: Env) -> Result<()> {
    env.say(Connect::new(env.version, "").bytes()).await?.refused(reason::CLIENT_ID, Some(2)).await
}

async fn the_keep_alive_of_the_server_counts(env: Env) -> Result<()> {
    // a client that asks for less is given it
    let client = env.connect(&env.hello("short").keep_alive(1)).await?;
    ensure!(client.connack.values(id::SERVER_KEEP_ALIVE).is_empty(), "{:?}", client.connack);
    for asked in [0, 3, 60] {
        let mut client = env.connect(&env.hello("a").keep_alive(asked)).await?;
        let told = client.connack.values(id::SERVER_KEEP_ALIVE);
        ensure!(told == [two(id::SERVER_KEEP_ALIVE, 2).1], "asked for {asked}: {told:?}");
        if asked == 60 {
            // and one that does not care is cut off by it
            let since = Instant::now();
            client.quiet().await?;
            client.ended(reason::KEEP_ALIVE).await?;
            let silent = since.elapsed();
            ensure!(silent >= Duration::from_millis(2_990), "cut off after {silent:?}");
        }
    }
    Ok(())
}

/// QoS 1: places are taken as long as nothing is acknowledged, and all six come in one read.
async fn the_receive_maximum_of_the_server_counts(env: Env) -> Result<()> {
    let topic = env.topic("t");
    for _ in 0..100 {
        let mut client = env.client("a").await?;
        let most = allowed(&client);
        let publish = |id: u16| Publish::new(&topic, "x").qos(1, id).bytes(env.version);
        client.send((1..=most + 1).flat_map(publish).collect::<Vec<u8>>()).await?;
        if client.refused_after_acks(reason::RECEIVE_MAXIMUM).await? {
            return Ok(());
        }
        // they came in several reads, and the first were acknowledged before the last came
    }
    anyhow::bail!("six messages of one write never exceeded a receive maximum of five")
}

async fn a_large_packet_of_3_1_1_ends_the_connection(env: Env) -> Result<()> {
    let body = [field(env.topic("t")), vec![b'x'; 1024]].concat();
    ends(&env, "too large", packet(first::PUBLISH, &body), &[reason::TOO_LARGE]).await
}

async fn control_characters_are_refused(env: Env) -> Result<()> {
    for string in ["a\u{1}", "\u{1f}", "a\u{7f}b", "\u{9f}", "\u{fdd0}", "\u{ffff}", "\u{1fffe}"] {
        let bytes = Publish::new(format!("{}{string}", env.prefix), "x").bytes(env.version);
        ends(&env, &format!("{string:?}"), bytes, &[reason::MALFORMED, reason::TOPIC_NAME]).await?;
    }
    // the byte order mark is none of them, and other letters are not either
    let topic = env.topic("\u{feff}\u{e9}\u{4e2d}\u{1f41d}");
    let mut client = env.client("a").await?;
    client.subscribe(&[(&topic, 0)]).await?;
    client.publish(Publish::new(&topic, "x"), 0).await?;
    client.receives("x").await.map(drop)
}
