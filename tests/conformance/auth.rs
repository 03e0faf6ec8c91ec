//! Enhanced authentication (5.0 section 4.12) of a server that knows no method; of one that does it is in `users`.

use anyhow::{Result, ensure};

use crate::case;
use crate::case::{Case, Env};
use crate::header::ends;
use crate::packet::{Publish, auth, binary, first, id, packet, reason, text};

pub(crate) const CASES: &[Case] = &[
    case!(an_unknown_method_is_refused,
        V5 ["MQTT-3.1.4-2", "MQTT-4.12.0-1", "MQTT-4.12.0-4"]),
    case!(nothing_but_auth_may_come_before_connack, V5["MQTT-3.1.2-30"]),
    case!(without_a_method_no_auth_is_sent, V5["MQTT-4.12.0-6"]),
    case!(auth_without_a_method_ends_the_connection, V5 ["MQTT-4.12.0-7", "MQTT-3.15.2-1"]),
];

async fn an_unknown_method_is_refused(env: Env) -> Result<()> {
    for data in [None, Some(binary(id::AUTH_DATA, b"data"))] {
        let mut connect = env.hello("a").with(text(id::AUTH_METHOD, "no-such-method"));
        connect.properties.extend(data);
        env.say(connect.bytes()).await?.refused(reason::AUTH_METHOD, None).await?;
    }
    Ok(())
}

/// The client does not wait for CONNACK: nothing of what it sends is taken.
async fn nothing_but_auth_may_come_before_connack(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let mut witness = env.client("w").await?;
    witness.subscribe(&[(&topic, 0)]).await?;
    let connect = env.hello("a").with(text(id::AUTH_METHOD, "no-such-method"));
    let early = Publish::new(&topic, "early").bytes(env.version);
    env.say([connect.bytes(), early].concat()).await?.refused(reason::AUTH_METHOD, None).await?;
    env.client("m").await?.publish(Publish::new(&topic, "marker"), 0).await?;
    witness.receives("marker").await.map(drop)
}

async fn without_a_method_no_auth_is_sent(env: Env) -> Result<()> {
    for hello in [env.hello("a"), env.hello("b").user("user").password("password")] {
        let mut client = env.connect(&hello).await?; // CONNACK is the first packet
        let named = client.connack.values(id::AUTH_METHOD).len() + client.connack.values(id::AUTH_DATA).len();
        ensure!(named == 0, "authentication in {:?}", client.connack);
        client.quiet().await?;
    }
    Ok(())
}

async fn auth_without_a_method_ends_the_connection(env: Env) -> Result<()> {
    let method = [text(id::AUTH_METHOD, "m"), binary(id::AUTH_DATA, b"x")];
    for (what, bytes) in [
        ("AUTH of success, as short as can be", packet(first::AUTH, &[])),
        ("AUTH that continues", auth(0x18, &method)),
        ("AUTH that asks for another round", auth(0x19, &method)),
        ("AUTH without a method", auth(0x18, &[])),
    ] {
        ends(&env, what, bytes, &[reason::PROTOCOL_ERROR]).await?;
    }
    Ok(())
}
