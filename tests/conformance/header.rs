//! Fixed headers, packet identifiers and lengths (sections 2 and 4.8, 4.13): what cannot be a packet ends its connection
//! and no other.

use anyhow::{Result, ensure};

use crate::case;
use crate::case::{Case, Env};
use crate::packet::{
    Publish, ack, block, field, first, id, packet, reason, small_packets, subscribe, text, unsubscribe, user,
    varint,
};

pub(crate) const CASES: &[Case] = &[
    case!(reserved_flags_carry_their_value,
        V311 ["MQTT-2.2.2-1", "MQTT-2.2.2-2", "MQTT-3.6.1-1", "MQTT-3.8.1-1", "MQTT-3.10.1-1", "MQTT-3.14.1-1"],
        V5 ["MQTT-2.1.3-1", "MQTT-3.6.1-1", "MQTT-3.8.1-1", "MQTT-3.10.1-1", "MQTT-3.14.1-1", "MQTT-3.15.1-1"]),
    case!(packet_identifiers_are_not_zero, V311["MQTT-2.3.1-1"], V5["MQTT-2.2.1-3"]),
    case!(integers_are_as_short_as_can_be, V5["MQTT-1.5.5-1"]),
    case!(a_remaining_length_has_four_bytes_at_most, V311["MQTT-4.8.0-1"], V5["MQTT-4.13.1-1"]),
    case!(what_only_a_server_sends_ends_the_connection, V311["MQTT-4.8.0-1"], V5["MQTT-4.13.1-1"]),
    case!(packets_that_are_cut_or_go_on_end_the_connection,
        V311 ["MQTT-4.8.0-1"],
        V5 ["MQTT-4.13.1-1", "MQTT-4.13.2-1"]),
    case!(undefined_and_misplaced_properties_end_the_connection, V5["MQTT-4.13.1-1"]),
    case!(reason_codes_that_are_not_listed_end_the_connection,
        V5 ["MQTT-3.4.2-1", "MQTT-3.5.2-1", "MQTT-3.6.2-1", "MQTT-3.7.2-1", "MQTT-3.14.2-1", "MQTT-3.15.2-1"]),
    case!(lengths_at_the_borders_of_their_encoding_are_kept, V311["MQTT-4.5.0-1"], V5["MQTT-1.5.5-1"]),
    case!(a_packet_may_come_byte_by_byte, V311["MQTT-7.1.1-1"], V5["MQTT-4.2.0-1"]),
];

/// Sends bytes to a connected client's server, which ends the connection with one of these codes, and lives on.
pub(crate) async fn ends(env: &Env, what: &str, bytes: impl AsRef<[u8]>, codes: &[u8]) -> Result<()> {
    let mut client = env.client("x").await?;
    client.send(bytes).await?;
    client.ended_by(codes).await.map(drop).map_err(|error| error.context(what.to_owned()))
}

async fn reserved_flags_carry_their_value(env: Env) -> Result<()> {
    let version = env.version;
    let topic = env.topic("t");
    let mut bystander = env.client("b").await?;
    for bytes in small_packets(version, &topic) {
        for flags in (0..16).filter(|flags| *flags != bytes[0] & 0x0f) {
            let mut wrong = bytes.clone();
            wrong[0] = bytes[0] & 0xf0 | flags;
            ends(&env, &format!("first byte {:#04x}", wrong[0]), wrong, &[reason::MALFORMED]).await?;
        }
    }
    for flags in 1..16 {
        let mut connect = env.hello("y").bytes();
        connect[0] |= flags;
        env.say(connect).await?.closed().await?;
    }
    bystander.quiet().await
}

async fn packet_identifiers_are_not_zero(env: Env) -> Result<()> {
    let version = env.version;
    let topic = env.topic("t");
    let zero = [
        Publish::new(&topic, "x").qos(1, 0).bytes(version),
        Publish::new(&topic, "x").qos(2, 0).bytes(version),
        subscribe(version, 0, &[], &[(&topic, 0)]),
        unsubscribe(version, 0, &[&topic]),
        ack(first::PUBREL, 0),
        ack(first::PUBACK, 0),
    ];
    for bytes in zero {
        ends(&env, "packet identifier 0", bytes, &[reason::MALFORMED, reason::PROTOCOL_ERROR]).await?;
    }
    Ok(())
}

async fn integers_are_as_short_as_can_be(env: Env) -> Result<()> {
    let topic = field(env.topic("t"));
    // remaining length, property length, subscription identifier, each with a byte too many
    let publish = [&topic[..], &[0]].concat();
    let mut long_remaining = vec![first::PUBLISH, publish.len() as u8 | 0x80, 0];
    long_remaining.extend(&publish);
    let long_properties = packet(first::PUBLISH, &[&topic[..], &[0x80, 0]].concat());
    let long_identifier =
        packet(first::SUBSCRIBE, &[&[0, 1, 3, id::SUBSCRIPTION_ID, 0x81, 0][..], &topic, &[0]].concat());
    for (what, bytes) in [
        ("remaining length", long_remaining),
        ("property length", long_properties),
        ("subscription identifier", long_identifier),
    ] {
        ends(&env, what, bytes, &[reason::MALFORMED]).await?;
    }
    Ok(())
}

async fn a_remaining_length_has_four_bytes_at_most(env: Env) -> Result<()> {
    for first in [first::PUBLISH, first::SUBSCRIBE, first::PINGREQ] {
        ends(&env, "five bytes of length", [first, 0x80, 0x80, 0x80, 0x80, 0x01], &[reason::MALFORMED])
            .await?;
    }
    Ok(())
}

async fn what_only_a_server_sends_ends_the_connection(env: Env) -> Result<()> {
    let mut packets = vec![
        packet(first::CONNACK, &[0, 0]),
        packet(first::SUBACK, &[0, 1, 0]),
        packet(first::UNSUBACK, &[0, 1]),
        packet(first::PINGRESP, &[]),
        packet(0x00, &[]),
    ];
    if !env.is_v5() {
        packets.push(packet(first::AUTH, &[]));
    }
    for bytes in packets {
        let what = format!("first byte {:#04x}", bytes[0]);
        ends(&env, &what, bytes, &[reason::MALFORMED, reason::PROTOCOL_ERROR]).await?;
    }
    Ok(())
}

async fn packets_that_are_cut_or_go_on_end_the_connection(env: Env) -> Result<()> {
    let version = env.version;
    let topic = env.topic("t");
    let whole = [
        ("PUBLISH", Publish::new(&topic, "").qos(1, 1).bytes(version)),
        ("SUBSCRIBE", subscribe(version, 1, &[], &[(&topic, 0)])),
        ("UNSUBSCRIBE", unsubscribe(version, 1, &[&topic])),
        ("PUBACK", ack(first::PUBACK, 1)),
        ("PUBREL", ack(first::PUBREL, 1)),
    ];
    for (name, bytes) in whole {
        for length in 0..bytes.len() - 2 {
            // two bytes are an acknowledgement, and a QoS 1 PUBLISH of 5.0 needs its property length
            if matches!(name, "PUBACK" | "PUBREL") && length == 2 {
                continue;
            }
            let cut = packet(bytes[0], &bytes[2..2 + length]);
            let codes = [reason::MALFORMED, reason::PROTOCOL_ERROR, reason::TOPIC_FILTER];
            ends(&env, &format!("{name} cut to {length} bytes"), cut, &codes).await?;
        }
    }
    for (name, first, body) in [
        ("PINGREQ", first::PINGREQ, vec![0]),
        (
            "SUBSCRIBE",
            first::SUBSCRIBE,
            [subscribe(version, 1, &[], &[(&topic, 0)])[2..].to_vec(), vec![0]].concat(),
        ),
        (
            "UNSUBSCRIBE",
            first::UNSUBSCRIBE,
            [unsubscribe(version, 1, &[&topic])[2..].to_vec(), vec![0]].concat(),
        ),
        ("PUBACK", first::PUBACK, vec![0, 1, 0, 0, 0]),
    ] {
        ends(&env, &format!("{name} that goes on"), packet(first, &body), &[reason::MALFORMED]).await?;
    }
    // the end of the connection inside a packet is the end, and of nobody else
    let mut bystander = env.client("b").await?;
    let mut client = env.client("x").await?;
    client.send([first::PUBLISH, 100, 0]).await?;
    client.finish().await?;
    client.closed().await?;
    bystander.quiet().await
}

async fn undefined_and_misplaced_properties_end_the_connection(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let publish = |properties: &[u8]| {
        packet(first::PUBLISH, &[&field(&topic), &varint(properties.len())[..], properties].concat())
    };
    let subscribe = |properties: &[u8]| {
        let head = [&[0, 1][..], &varint(properties.len()), properties].concat();
        packet(first::SUBSCRIBE, &[head, field(&topic), vec![0]].concat())
    };
    let malformed = [
        ("undefined", publish(&[0x00, 1])),
        ("undefined", publish(&[0x7f, 1])),
        ("of CONNECT", publish(&[id::SESSION_EXPIRY, 0, 0, 0, 1])),
        ("of CONNACK", subscribe(&[id::MAXIMUM_QOS, 1])),
        ("cut short", publish(&[id::MESSAGE_EXPIRY, 0, 0])),
        ("longer than the packet", packet(first::PUBLISH, &[&field(&topic)[..], &[9, 1, 1]].concat())),
        ("of PUBLISH in PUBACK", packet(first::PUBACK, &[0, 1, 0, 2, id::PAYLOAD_FORMAT, 0])),
        ("of CONNECT in DISCONNECT", packet(first::DISCONNECT, &[0, 3, id::RECEIVE_MAXIMUM, 0, 1])),
    ];
    for (what, bytes) in malformed {
        ends(&env, what, bytes, &[reason::MALFORMED]).await?;
    }
    let twice = [
        publish(&[id::PAYLOAD_FORMAT, 1, id::PAYLOAD_FORMAT, 1]),
        publish(&[id::MESSAGE_EXPIRY, 0, 0, 0, 9, id::MESSAGE_EXPIRY, 0, 0, 0, 9]),
        publish(&[id::ALIAS, 0, 1, id::ALIAS, 0, 1]),
        publish(&block(&[text(id::CONTENT_TYPE, "a"), text(id::CONTENT_TYPE, "a")])[1..]),
        publish(&block(&[text(id::RESPONSE_TOPIC, "a"), text(id::RESPONSE_TOPIC, "a")])[1..]),
        subscribe(&[id::SUBSCRIPTION_ID, 1, id::SUBSCRIPTION_ID, 2]),
        subscribe(&[id::SUBSCRIPTION_ID, 0]),
        publish(&[id::PAYLOAD_FORMAT, 2]),
    ];
    for bytes in twice {
        ends(&env, "twice, or no value of it", bytes, &[reason::PROTOCOL_ERROR]).await?;
    }
    // the one that may come again and again
    let mut client = env.client("x").await?;
    client.send(publish(&block(&[user("a", "1"), user("a", "1"), user("a", "2")])[1..])).await?;
    client.quiet().await
}

async fn reason_codes_that_are_not_listed_end_the_connection(env: Env) -> Result<()> {
    let codes = [reason::MALFORMED, reason::PROTOCOL_ERROR];
    for (first, bad) in [
        (first::PUBACK, &[0x01, 0x11, 0x81, 0x92, 0xff][..]),
        (first::PUBREC, &[0x01, 0x11, 0x81, 0x92, 0xff]),
        (first::PUBREL, &[0x01, 0x10, 0x80, 0x91]),
        (first::PUBCOMP, &[0x01, 0x10, 0x80, 0x91]),
    ] {
        for code in bad {
            let bytes = packet(first, &[0, 1, *code]);
            ends(&env, &format!("{first:#04x} with {code:#04x}"), bytes, &codes).await?;
        }
    }
    for code in [0x01, 0x18, 0x92, 0xff] {
        let bytes = packet(first::DISCONNECT, &[code]);
        ends(&env, &format!("DISCONNECT with {code:#04x}"), bytes, &codes).await?;
    }
    for code in [0x01, 0x8c, 0xff] {
        let bytes = packet(first::AUTH, &[&[code][..], &block(&[text(id::AUTH_METHOD, "m")])].concat());
        ends(&env, &format!("AUTH with {code:#04x}"), bytes, &codes).await?;
    }
    Ok(())
}

async fn a_packet_may_come_byte_by_byte(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let mut witness = env.client("w").await?;
    witness.subscribe(&[(&topic, 0)]).await?;
    let mut client = env.open().await?;
    let bytes = [env.hello("slow").bytes(), Publish::new(&topic, "in pieces").bytes(env.version)].concat();
    for byte in &bytes {
        client.send([*byte]).await?;
    }
    let connack = client.connack().await?;
    ensure!(connack.code == 0, "{connack:?}");
    witness.receives("in pieces").await.map(drop)
}

/// Remaining lengths of one, two and three bytes, in both directions.
async fn lengths_at_the_borders_of_their_encoding_are_kept(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let (mut subscriber, mut publisher) = (env.client("s").await?, env.client("p").await?);
    subscriber.subscribe(&[(&topic, 1)]).await?;
    let around = field(&topic).len() + usize::from(env.is_v5());
    for remaining in [126, 127, 128, 129, 16_382, 16_383, 16_384, 16_385, 70_000] {
        for qos in 0..=1 {
            let publish = Publish::new(&topic, vec![b'x'; remaining - around - 2 * usize::from(qos)]);
            publisher.publish(publish.clone(), qos).await?;
            let message = subscriber.receive().await?;
            let whole = message.payload == publish.payload;
            ensure!(whole, "remaining length {remaining}: {} bytes came", message.payload.len());
        }
    }
    Ok(())
}
