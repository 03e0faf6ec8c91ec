//! Strings (5.0 section 1.5.4, 3.1.1 section 1.5.3): what is no UTF-8 ends the connection, what is stays as it is.

use anyhow::{Result, ensure};

use crate::case;
use crate::case::{Case, Env};
use crate::client::Client;
use crate::header::ends;
use crate::packet::{Connect, Publish, Will, field, first, id, packet, reason};

pub(crate) const CASES: &[Case] = &[
    case!(ill_formed_strings_end_the_connection,
        V311 ["MQTT-1.5.3-1", "MQTT-3.3.2-1", "MQTT-3.8.3-1", "MQTT-3.10.3-1"],
        V5 ["MQTT-1.5.4-1", "MQTT-1.5.7-1", "MQTT-3.3.2-1", "MQTT-3.3.2-13", "MQTT-3.3.2-19", "MQTT-3.8.3-1",
            "MQTT-3.10.3-1"]),
    case!(ill_formed_strings_in_connect_are_refused,
        V311 ["MQTT-1.5.3-1", "MQTT-3.1.3-4", "MQTT-3.1.3-10", "MQTT-3.1.3-11"],
        V5 ["MQTT-1.5.4-1", "MQTT-3.1.3-4", "MQTT-3.1.3-11", "MQTT-3.1.3-12"]),
    case!(strings_with_nul_end_the_connection,
        V311 ["MQTT-1.5.3-2", "MQTT-4.7.3-2"],
        V5 ["MQTT-1.5.4-2", "MQTT-4.7.3-2"]),
    case!(a_byte_order_mark_is_a_character_like_others, V311["MQTT-1.5.3-3"], V5["MQTT-1.5.4-3"]),
];

/// Surrogates, overlong forms, lone and missing continuations, beyond U+10FFFF.
const ILL_FORMED: [&[u8]; 8] = [
    b"a\xed\xa0\x80",
    b"a\xed\xbf\xbfb",
    b"\xc0\x80",
    b"\xe0\x80\xafx",
    b"\x80",
    b"x\xe2\x82",
    b"\xf4\x90\x80\x80",
    b"\xff\xfe",
];

/// A packet for each place of a string, with this one in it.
fn packets_with(env: &Env, string: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let string = field(string);
    let none: &[u8] = if env.is_v5() { &[0] } else { &[] };
    let topic = field(env.topic("t"));
    let mut packets = vec![
        ("topic name", packet(first::PUBLISH, &[&string[..], none, b"x"].concat())),
        ("filter", packet(first::SUBSCRIBE, &[&[0, 1][..], none, &string, &[0]].concat())),
        ("filter to leave", packet(first::UNSUBSCRIBE, &[&[0, 1][..], none, &string].concat())),
    ];
    if env.is_v5() {
        let publish = |property: &[&[u8]]| {
            let property = property.concat();
            packet(first::PUBLISH, &[&topic[..], &[property.len() as u8], &property, b"x"].concat())
        };
        let good = field("good");
        packets.extend([
            ("response topic", publish(&[&[id::RESPONSE_TOPIC], &string])),
            ("content type", publish(&[&[id::CONTENT_TYPE], &string])),
            ("user property name", publish(&[&[id::USER], &string, &good])),
            ("user property value", publish(&[&[id::USER], &good, &string])),
            (
                "reason string",
                packet(
                    first::PUBACK,
                    &[&[0, 1, 0, string.len() as u8 + 1, id::REASON_STRING][..], &string].concat(),
                ),
            ),
        ]);
    }
    packets
}

fn connects_with(env: &Env, string: &[u8]) -> Vec<(&'static str, Connect)> {
    let hello = || env.hello("x");
    vec![
        ("client id", Connect::new(env.version, string)),
        ("will topic", hello().will(Will::new(string, "w"))),
        ("user name", hello().user(string)),
    ]
}

async fn refused(env: &Env, what: &str, connect: &Connect) -> Result<()> {
    let mut client = env.say(connect.bytes()).await?;
    let outcome = client.refused(reason::MALFORMED, None).await;
    outcome.map_err(|error| error.context(what.to_owned()))
}

async fn ill_formed_strings_end_the_connection(env: Env) -> Result<()> {
    for string in ILL_FORMED {
        for (what, bytes) in packets_with(&env, string) {
            ends(&env, what, bytes, &[reason::MALFORMED]).await?;
        }
    }
    Ok(())
}

async fn ill_formed_strings_in_connect_are_refused(env: Env) -> Result<()> {
    for string in ILL_FORMED {
        for (what, connect) in connects_with(&env, string) {
            refused(&env, what, &connect).await?;
        }
    }
    Ok(())
}

async fn strings_with_nul_end_the_connection(env: Env) -> Result<()> {
    for string in [&b"\0"[..], b"a\0b", b"end\0"] {
        for (what, bytes) in packets_with(&env, string) {
            let codes = [reason::MALFORMED, reason::TOPIC_NAME, reason::TOPIC_FILTER];
            ends(&env, what, bytes, &codes).await?;
        }
        for (what, connect) in connects_with(&env, string) {
            refused(&env, what, &connect).await?;
        }
    }
    Ok(())
}

async fn a_byte_order_mark_is_a_character_like_others(env: Env) -> Result<()> {
    let (with, inside) = (format!("\u{feff}{}", env.topic("t")), env.topic("a\u{feff}b"));
    let (without, outside) = (env.topic("t"), env.topic("ab"));
    let mut marked: Client = env.client("m").await?;
    let mut plain = env.client("p").await?;
    marked.subscribe(&[(&with, 0), (&inside, 0)]).await?;
    plain.subscribe(&[(&without, 0), (&outside, 0)]).await?;
    let mut publisher = env.client("pub").await?;
    for topic in [&with, &inside, &without, &outside] {
        publisher.publish(Publish::new(topic, topic), 0).await?;
    }
    for (client, topics) in [(&mut marked, [with, inside]), (&mut plain, [without, outside])] {
        for topic in topics {
            let message = client.receive().await?;
            ensure!(
                (&message.topic, message.text()) == (&topic, topic.clone()),
                "expected {topic:?}: {message:?}"
            );
        }
    }
    Ok(())
}
