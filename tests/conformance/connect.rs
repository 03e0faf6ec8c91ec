//! CONNECT and CONNACK (section 3.1 and 3.2): what is taken, what is refused, and how.

use anyhow::{Result, ensure};

use crate::answer::{Answer, ConnAck};
use crate::case;
use crate::case::{Case, Env};
use crate::packet::{
    self, Connect, PINGREQ, Publish, Value, Version, Will, ack, byte, field, first, four, id, packet, reason,
    small_packets, subscribe, text, two, unsubscribe, user,
};

pub(crate) const CASES: &[Case] = &[
    case!(plain_tcp_and_no_extension_is_all_it_takes,
        V311 ["MQTT-7.0.0-2", "MQTT-7.1.1-1"],
        V5 ["MQTT-4.2.0-1", "MQTT-2.2.2-1"]),
    case!(the_first_packet_must_be_connect,
        V311 ["MQTT-3.1.0-1"],
        V5 ["MQTT-3.1.0-1", "MQTT-3.14.0-1"]),
    case!(a_second_connect_ends_the_connection,
        V311 ["MQTT-3.1.0-2", "MQTT-4.8.0-1"],
        V5 ["MQTT-3.1.0-2"]),
    case!(another_protocol_name_is_not_served, V311["MQTT-3.1.2-1"], V5["MQTT-3.1.2-1"]),
    case!(another_protocol_level_is_refused, V311["MQTT-3.1.2-2"], V5["MQTT-3.1.2-2"]),
    case!(the_reserved_connect_flag_is_zero, V311["MQTT-3.1.2-3"], V5["MQTT-3.1.2-3"]),
    case!(flags_and_payload_of_connect_agree,
        V311 ["MQTT-3.1.2-9", "MQTT-3.1.2-11", "MQTT-3.1.2-13", "MQTT-3.1.2-14", "MQTT-3.1.2-15",
            "MQTT-3.1.2-18", "MQTT-3.1.2-19", "MQTT-3.1.2-20", "MQTT-3.1.2-21", "MQTT-3.1.2-22",
            "MQTT-3.1.3-3", "MQTT-3.1.4-1", "MQTT-3.2.2-6"],
        V5 ["MQTT-3.1.2-9", "MQTT-3.1.2-11", "MQTT-3.1.2-12", "MQTT-3.1.2-13", "MQTT-3.1.2-16",
            "MQTT-3.1.2-17", "MQTT-3.1.2-18", "MQTT-3.1.2-19", "MQTT-3.1.3-3", "MQTT-3.1.4-1",
            "MQTT-4.13.2-1"]),
    case!(properties_of_connect_are_checked, V5["MQTT-3.1.4-1"]),
    case!(the_fields_of_the_payload_are_read_in_their_order, V311["MQTT-3.1.3-1"], V5["MQTT-3.1.3-1"]),
    case!(client_ids_of_letters_and_digits_are_taken, V311["MQTT-3.1.3-5"], V5["MQTT-3.1.3-5"]),
    case!(an_empty_client_id_gets_one_of_the_server,
        V311 ["MQTT-3.1.3-6"],
        V5 ["MQTT-3.1.3-6", "MQTT-3.1.3-7", "MQTT-3.2.2-16"]),
    case!(an_empty_client_id_needs_a_clean_session,
        V311 ["MQTT-3.1.3-7", "MQTT-3.1.3-8", "MQTT-3.1.3-9", "MQTT-3.2.2-4", "MQTT-3.2.2-5"]),
    case!(the_same_client_id_takes_over, V311["MQTT-3.1.4-2"], V5["MQTT-3.1.4-3"]),
    case!(a_valid_connect_is_answered_first_and_once,
        V311 ["MQTT-3.1.4-4", "MQTT-3.2.0-1"],
        V5 ["MQTT-3.1.4-5", "MQTT-3.2.0-1", "MQTT-3.2.0-2", "MQTT-3.2.2-1"]),
    case!(what_follows_a_refused_connect_is_ignored,
        V311 ["MQTT-3.1.4-5"],
        V5 ["MQTT-3.1.4-6", "MQTT-3.2.2-6", "MQTT-3.2.2-7", "MQTT-3.2.2-8"]),
    case!(no_response_information_is_forced_on_a_client, V5["MQTT-3.1.2-28"]),
    case!(without_problem_information_acknowledgements_are_bare, V5["MQTT-3.1.2-29"]),
];

/// A round trip between two clients that use nothing optional.
async fn plain_tcp_and_no_extension_is_all_it_takes(env: Env) -> Result<()> {
    let (mut one, mut other) = (env.client("a").await?, env.client("b").await?);
    let topic = env.topic("plain");
    one.subscribe(&[(&topic, 0)]).await?;
    other.publish(Publish::new(&topic, "there"), 0).await?;
    // 5.0: the PUBLISH has the property length 0, which the reader needs (MQTT-2.2.2-1)
    one.expect(&Answer::Publish(Publish::new(&topic, "there"))).await?;
    one.leave().await?;
    other.leave().await
}

async fn the_first_packet_must_be_connect(env: Env) -> Result<()> {
    let version = env.version;
    let topic = env.topic("early");
    let mut early = vec![
        Publish::new(&topic, "early").bytes(version),
        Publish::new(&topic, "early").qos(1, 1).bytes(version),
        vec![first::PINGRESP, 0],
        vec![first::CONNACK, 2, 0, 0],
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    ];
    early.extend(small_packets(version, &topic));
    let mut witness = env.client("w").await?;
    witness.subscribe(&[(&topic, 0)]).await?;
    for bytes in early {
        // and the CONNECT behind it does not heal it
        let connect = env.hello("x").bytes();
        env.say([bytes, connect].concat()).await?.closed().await?;
    }
    env.client("m").await?.publish(Publish::new(&topic, "marker"), 0).await?;
    witness.receives("marker").await.map(drop)
}

async fn a_second_connect_ends_the_connection(env: Env) -> Result<()> {
    let mut bystander = env.client("b").await?;
    for second in [env.hello("a"), env.hello("c")] {
        let mut client = env.client("a").await?;
        client.send(second.bytes()).await?;
        client.ended(reason::PROTOCOL_ERROR).await?;
    }
    bystander.quiet().await
}

async fn another_protocol_name_is_not_served(env: Env) -> Result<()> {
    let names: [&[u8]; 8] = [b"", b"MQTt", b"mqtt", b"MQT", b"MQTTX", b"MQIsdP", b"HTTP", b"\xff\xfe"];
    for name in names {
        let connect = Connect { name: name.to_vec(), ..env.hello("x") };
        let mut client = env.say(connect.bytes()).await?;
        client.closed_with_or_without(reason::UNSUPPORTED_VERSION).await?;
    }
    Ok(())
}

async fn another_protocol_level_is_refused(env: Env) -> Result<()> {
    let levels: &[u8] = if env.is_v5() { &[6, 7, 100, 127] } else { &[0, 1, 2, 3] };
    for &level in levels {
        let connect = Connect { level, name: b"MQTT".to_vec(), ..env.hello("x") };
        env.say(connect.bytes()).await?.refused(reason::UNSUPPORTED_VERSION, Some(1)).await?;
    }
    Ok(())
}

async fn the_reserved_connect_flag_is_zero(env: Env) -> Result<()> {
    let connect = env.hello("x");
    let flags = connect.right_flags() | 1;
    env.say(connect.flags(flags).bytes()).await?.refused(reason::MALFORMED, None).await
}

/// Each of these says one thing with its flags and another with its payload.
fn disagreements(env: &Env) -> Vec<(&'static str, Connect)> {
    let hello = || env.hello("x");
    let will = || Will::new(env.topic("w"), "w");
    vec![
        ("will flag without will", hello().flags(0x06)),
        ("will flag, will topic and message, but user name missing", hello().will(will()).flags(0x86)),
        ("will without will flag", hello().will(will()).flags(0x02)),
        ("will QoS 1 without will", hello().flags(0x0a)),
        ("will QoS 2 without will", hello().flags(0x12)),
        ("will retain without will", hello().flags(0x22)),
        ("will QoS 3", hello().will(will()).flags(0x1e)),
        ("will QoS 3 without will", hello().flags(0x1a)),
        ("user name without its flag", hello().user("u").flags(0x02)),
        ("user name flag without user name", hello().flags(0x82)),
        ("password without its flag", hello().user("u").password("p").flags(0x82)),
        ("password flag without password", hello().user("u").flags(0xc2)),
    ]
}

async fn flags_and_payload_of_connect_agree(env: Env) -> Result<()> {
    for (what, connect) in disagreements(&env) {
        let mut client = env.say(connect.bytes()).await?;
        client.refused(reason::MALFORMED, None).await.map_err(|error| error.context(what))?;
    }
    // no payload at all, and half a client id
    for payload in [&[][..], &[0, 9, b'x']] {
        let body = [env.hello("x").header(), payload.to_vec()].concat();
        env.say(packet(first::CONNECT, &body)).await?.refused(reason::MALFORMED, None).await?;
    }
    let lone_password = env.hello("p").password("p");
    if env.is_v5() {
        env.connect(&lone_password).await?.quiet().await
    } else {
        env.say(lone_password.bytes()).await?.refused(reason::MALFORMED, None).await
    }
}

async fn properties_of_connect_are_checked(env: Env) -> Result<()> {
    let hello = || env.hello("x");
    let (malformed, protocol_error) = (reason::MALFORMED, reason::PROTOCOL_ERROR);
    let bad = [
        (malformed, hello().with(two(id::ALIAS, 1))),
        (malformed, hello().with(byte(0x7f, 1))),
        (protocol_error, hello().with(four(id::SESSION_EXPIRY, 1)).with(four(id::SESSION_EXPIRY, 1))),
        (protocol_error, hello().with(two(id::RECEIVE_MAXIMUM, 0))),
        (protocol_error, hello().with(two(id::RECEIVE_MAXIMUM, 1)).with(two(id::RECEIVE_MAXIMUM, 1))),
        (protocol_error, hello().with(four(id::PACKET_SIZE, 0))),
        (protocol_error, hello().with(four(id::PACKET_SIZE, 99)).with(four(id::PACKET_SIZE, 99))),
        (protocol_error, hello().with(two(id::ALIAS_MAXIMUM, 1)).with(two(id::ALIAS_MAXIMUM, 1))),
        (protocol_error, hello().with(byte(id::REQUEST_RESPONSE, 2))),
        (protocol_error, hello().with(byte(id::REQUEST_PROBLEM, 2))),
        (protocol_error, hello().with(byte(id::REQUEST_PROBLEM, 1)).with(byte(id::REQUEST_PROBLEM, 1))),
        (protocol_error, hello().with(packet::binary(id::AUTH_DATA, b"x"))),
        (protocol_error, hello().will(double_delay(&env))),
    ];
    for (code, connect) in bad {
        let mut client = env.say(connect.bytes()).await?;
        let context = format!("{:?}", connect.properties);
        client.refused(code, None).await.map_err(|error| error.context(context))?;
    }
    Ok(())
}

fn double_delay(env: &Env) -> Will {
    Will::new(env.topic("w"), "w").with(four(id::WILL_DELAY, 1)).with(four(id::WILL_DELAY, 1))
}

async fn the_fields_of_the_payload_are_read_in_their_order(env: Env) -> Result<()> {
    let topic = env.topic("last");
    let mut witness = env.client("w").await?;
    witness.subscribe(&[(&topic, 0)]).await?;
    let full = env.hello("f").will(Will::new(&topic, "words")).user("user").password("password");
    drop(env.connect(&full).await?);
    witness.receives("words").await?;
    // will topic and user name changed places: what stands where a topic must be holds a wildcard
    let astray = env.hello("f").will(Will::new("no/#", "words")).user(&topic);
    let mut client = env.say(astray.bytes()).await?;
    client.refused(reason::TOPIC_NAME, None).await
}

/// Of each length, and each letter and digit somewhere. One character alone is nobody else's: each version has its own.
async fn client_ids_of_letters_and_digits_are_taken(env: Env) -> Result<()> {
    const ALL: &str = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let alone = if env.is_v5() { "V" } else { "t" };
    let mut ids = vec![alone.to_owned()];
    ids.extend((2..=23).map(|length| format!("{alone}{}", &ALL[length..2 * length - 1])));
    ids.extend((0..ALL.len()).step_by(15).map(|from| env.id(&ALL[from..ALL.len().min(from + 15)])));
    for client_id in ids {
        ensure!(client_id.len() <= 23, "{client_id} is too long for this case");
        env.connect(&Connect::new(env.version, &client_id)).await?.leave().await?;
    }
    Ok(())
}

async fn an_empty_client_id_gets_one_of_the_server(env: Env) -> Result<()> {
    let empty = Connect::new(env.version, "");
    let (mut one, mut other) = (env.connect(&empty).await?, env.connect(&empty).await?);
    let topic = env.topic("t");
    one.subscribe(&[(&topic, 0)]).await?;
    other.publish(Publish::new(&topic, "both live"), 0).await?;
    one.receives("both live").await?;
    if !env.is_v5() {
        return Ok(());
    }
    let assigned = one.connack.values(id::ASSIGNED_CLIENT_ID);
    ensure!(assigned != other.connack.values(id::ASSIGNED_CLIENT_ID), "the same id twice: {assigned:?}");
    let [Value::Text(assigned)] = &assigned[..] else {
        anyhow::bail!("no assigned client identifier in {:?}", one.connack);
    };
    ensure!(!assigned.is_empty(), "an empty assigned client identifier");
    // it names the session: who comes with it takes over
    let named = env.connect(&Connect::new(env.version, assigned)).await?;
    ensure!(named.connack.values(id::ASSIGNED_CLIENT_ID).is_empty(), "assigned although the client had one");
    one.ended(reason::TAKEN_OVER).await
}

async fn an_empty_client_id_needs_a_clean_session(env: Env) -> Result<()> {
    let connect = Connect::new(env.version, "").durable();
    env.say(connect.bytes()).await?.refused(reason::CLIENT_ID, Some(2)).await
}

async fn the_same_client_id_takes_over(env: Env) -> Result<()> {
    for fresh in [true, false] {
        let connect = if fresh { env.hello("a") } else { env.durable("a") };
        let mut old = env.connect(&connect).await?;
        old.quiet().await?;
        let mut new = env.connect(&connect).await?;
        old.ended(reason::TAKEN_OVER).await?;
        new.quiet().await?;
    }
    Ok(())
}

/// What comes in one piece with CONNECT is served after it.
async fn a_valid_connect_is_answered_first_and_once(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let together = [
        env.hello("a").bytes(),
        subscribe(env.version, 7, &[], &[(&topic, 1)]),
        PINGREQ.to_vec(),
        Publish::new(&topic, "own").bytes(env.version),
    ];
    let mut client = env.say(together.concat()).await?;
    let ConnAck { code, session_present, .. } = client.connack().await?;
    ensure!((code, session_present) == (0, false), "CONNACK {code:#04x}, session present {session_present}");
    let mut others = Vec::new();
    while others.len() < 3 {
        others.push(client.next().await?);
    }
    let connacks = others.iter().filter(|answer| matches!(answer, Answer::ConnAck(_))).count();
    let subacks = others.iter().filter(|answer| matches!(answer, Answer::SubAck(_))).count();
    ensure!((connacks, subacks) == (0, 1), "after CONNACK: {others:?}");
    client.quiet().await
}

async fn what_follows_a_refused_connect_is_ignored(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let mut witness = env.client("w").await?;
    witness.subscribe(&[(&topic, 0)]).await?;
    let refused = if env.is_v5() {
        env.hello("x").with(text(id::AUTH_METHOD, "no-such-method"))
    } else {
        Connect::new(env.version, "").durable()
    };
    let intruder = Publish::new(&topic, "intruder").bytes(env.version);
    let hello = env.hello("y").bytes();
    let together = [refused.bytes(), intruder.clone(), hello, intruder].concat();
    let mut client = env.say(together).await?;
    client.refused(reason::AUTH_METHOD, Some(2)).await?;
    env.client("m").await?.publish(Publish::new(&topic, "marker"), 0).await?;
    witness.receives("marker").await.map(drop)
}

async fn no_response_information_is_forced_on_a_client(env: Env) -> Result<()> {
    for asked in [Some(0), None] {
        let mut connect = env.hello("a");
        connect.properties.extend(asked.map(|value| byte(id::REQUEST_RESPONSE, value)));
        let client = env.connect(&connect).await?;
        let given = client.connack.values(id::RESPONSE_INFORMATION);
        ensure!(given.is_empty(), "response information {given:?} although asked {asked:?}");
        client.leave().await?;
    }
    Ok(())
}

/// Every acknowledgement that says no, to a client that wants no words.
async fn without_problem_information_acknowledgements_are_bare(env: Env) -> Result<()> {
    let connect = env.hello("a").with(byte(id::REQUEST_PROBLEM, 0)).with(user("k", "v"));
    let mut client = env.connect(&connect).await?;
    let topic = env.topic("t");
    let mut acks = Vec::new();
    client.put(&Publish::new(&topic, "x").qos(2, 5)).await?;
    acks.push(client.ack(first::PUBREC, 5).await?);
    client.put(&Publish::new(&topic, "x").qos(1, 5)).await?; // in use
    acks.push(client.ack(first::PUBACK, 5).await?);
    client.send(ack(first::PUBREL, 5)).await?;
    acks.push(client.ack(first::PUBCOMP, 5).await?);
    client.send(ack(first::PUBREL, 99)).await?; // unknown
    acks.push(client.ack(first::PUBCOMP, 99).await?);
    client.send(ack(first::PUBREC, 99)).await?; // unknown
    acks.push(client.ack(first::PUBREL, 99).await?);
    let codes: Vec<u8> = acks.iter().map(|ack| ack.code).collect();
    let expected = [reason::ID_IN_USE, 0, reason::ID_NOT_FOUND, reason::ID_NOT_FOUND];
    ensure!(codes[1..] == expected, "codes {codes:02x?}");
    ensure!(acks.iter().all(|ack| ack.properties.is_empty()), "words in {acks:?}");
    client.send(unsubscribe(Version::V5, 6, &[&topic])).await?;
    let unsuback = client.unsuback(6).await?;
    ensure!(unsuback.codes == [reason::NO_SUBSCRIPTION], "{unsuback:?}");
    ensure!(unsuback.properties.is_empty(), "words in {unsuback:?}");
    client.send(packet(first::SUBSCRIBE, &[&[0, 7, 0][..], &field(&topic), &[0]].concat())).await?;
    let suback = client.suback(7).await?;
    ensure!(suback.properties.is_empty(), "words in {suback:?}");
    Ok(())
}
