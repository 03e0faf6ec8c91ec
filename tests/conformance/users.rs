//! What depends on the configuration, on a node that has a list of users: by name and password, and by enhanced
//! authentication (5.0 section 4.12) with SCRAM-SHA-256, whose client's side is here.
//!
//! Start at [`Exchange`].

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use zwerm_tests::zwerm_binary;

use crate::answer::Auth;
use crate::case;
use crate::case::{Case, Env};
use crate::client::Client;
use crate::packet::{
    Connect, DISCONNECT, PINGREQ, Property, Publish, Value, Will, auth, binary, byte, continues, four, id,
    reason, subscribe, text,
};

pub(crate) const CASES: &[Case] = &[
    case!(a_name_needs_its_password,
        V31 ["MQTT31-codes"],
        V311 ["MQTT-3.2.2-4", "MQTT-3.2.2-5"],
        V5 ["MQTT-3.1.4-2"]),
    case!(nothing_of_who_is_refused_is_taken, V31 [], V311["MQTT-3.1.4-5"], V5["MQTT-3.1.4-6"]),
    case!(who_has_a_password_is_sent_no_auth, V5["MQTT-4.12.0-6"]),
    case!(both_sides_prove_who_they_are, V5 ["MQTT-4.12.0-2", "MQTT-4.12.0-5", "MQTT-3.15.2-1"]),
    case!(an_answer_has_the_code_that_continues, V5["MQTT-4.12.0-3"]),
    case!(the_method_of_connect_is_kept_to, V5["MQTT-4.12.0-5"]),
    case!(who_does_not_prove_it_is_refused, V5["MQTT-4.12.0-4"]),
    case!(nothing_but_auth_may_come_in_an_exchange, V5["MQTT-3.1.2-30"]),
    case!(a_client_proves_it_again, V5["MQTT-4.12.1-1"]),
    case!(who_begins_again_keeps_to_the_method, V5["MQTT-4.12.1-1"]),
    case!(who_does_not_prove_it_again_is_cut_off, V5["MQTT-4.12.1-2"]),
    case!(auth_says_no_more_than_fits, V5 ["MQTT-3.15.2-2", "MQTT-3.15.2-3", "MQTT-3.1.2-24", "MQTT-3.14.0-1"]),
    case!(who_wants_no_reasons_gets_none_with_auth, V5["MQTT-3.1.2-29"]),
];

const NAME: &str = "anna";
const PASSWORD: &str = "pencil";
const METHOD: &str = "SCRAM-SHA-256";

/// Writes the list of users as its operator would.
pub(crate) async fn write(file: &Path) -> Result<()> {
    let mut command = Command::new(zwerm_binary()?);
    command.arg("passwd").arg(file).args([NAME, "--iterations", "4096"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).kill_on_drop(true).spawn()?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    stdin.write_all(format!("{PASSWORD}\n").as_bytes()).await?;
    drop(stdin);
    let status = child.wait().await?;
    ensure!(status.success(), "zwerm passwd ended with {status}");
    Ok(())
}

fn named(env: &Env, client: &str) -> Connect {
    env.hello(client).user(NAME).password(PASSWORD)
}

fn mac(key: &[u8], text: &str) -> Result<Vec<u8>> {
    Ok(Hmac::<Sha256>::new_from_slice(key)?.chain_update(text).finalize().into_bytes().to_vec())
}

/// The client's side of SCRAM (RFC 5802) without channel binding.
struct Exchange {
    /// Its first message without the header of RFC 5802.
    bare: String,
    password: &'static str,
}

/// What the client says last, and what the server has to prove.
struct Last {
    client_final: String,
    server_final: String,
}

impl Exchange {
    fn of(name: &str, password: &'static str) -> Self {
        Self { bare: format!("n={name},r=abc"), password }
    }

    fn right() -> Self {
        Self::of(NAME, PASSWORD)
    }

    fn first(&self) -> String {
        format!("n,,{}", self.bare)
    }

    fn last(&self, server_first: &str) -> Result<Last> {
        let part = |key| {
            let found = server_first.split(',').find_map(|part| part.strip_prefix(key));
            found.with_context(|| format!("no {key} in {server_first:?}"))
        };
        let (nonce, salt, rounds) = (part("r=")?, BASE64.decode(part("s=")?)?, part("i=")?.parse()?);
        let ours = self.bare.split_once("r=").map(|(_, nonce)| nonce).unwrap_or_default();
        ensure!(
            nonce.len() > ours.len() && nonce.starts_with(ours),
            "the nonce is not ours: {server_first:?}"
        );
        let mut salted = [0; 32];
        pbkdf2::pbkdf2_hmac::<Sha256>(self.password.as_bytes(), &salt, rounds, &mut salted);
        let client_key = mac(&salted, "Client Key")?;
        let without_proof = format!("c=biws,r={nonce}");
        let said = format!("{},{server_first},{without_proof}", self.bare);
        let signature = mac(&Sha256::digest(&client_key), &said)?;
        let proof: Vec<u8> = client_key.iter().zip(signature).map(|(key, sign)| key ^ sign).collect();
        let server_final = BASE64.encode(mac(&mac(&salted, "Server Key")?, &said)?);
        let client_final = format!("{without_proof},p={}", BASE64.encode(proof));
        Ok(Last { client_final, server_final: format!("v={server_final}") })
    }

    /// Goes on from the server's challenge; says what the server has to prove.
    async fn answer(&self, client: &mut Client) -> Result<String> {
        let challenge = client.auth().await?;
        let last = self.last(&data_of(&challenge, 0x18)?)?;
        client.send(continues(METHOD, &last.client_final)).await?;
        Ok(last.server_final)
    }
}

/// The data of an AUTH with this code and the method of all exchanges here.
fn data_of(auth: &Auth, code: u8) -> Result<String> {
    ensure!(auth.code == code, "expected AUTH {code:#04x}, {auth:?} came");
    proof_of(&auth.properties)
}

/// The data beside that method.
fn proof_of(properties: &[Property]) -> Result<String> {
    let values = |id| crate::packet::values(properties, id);
    ensure!(values(id::AUTH_METHOD) == [Value::Text(METHOD.to_owned())], "another method: {properties:?}");
    match &values(id::AUTH_DATA)[..] {
        [Value::Binary(data)] => Ok(String::from_utf8(data.clone())?),
        _ => anyhow::bail!("no data: {properties:?}"),
    }
}

fn scram(env: &Env, client: &str, exchange: &Exchange) -> Connect {
    let data = binary(id::AUTH_DATA, exchange.first().as_bytes());
    env.hello(client).with(text(id::AUTH_METHOD, METHOD)).with(data)
}

/// A client that has proved who it is.
async fn proved(env: &Env, connect: &Connect) -> Result<Client> {
    let mut client = env.say(connect.bytes()).await?;
    let expected = Exchange::right().answer(&mut client).await?;
    client.connack = client.connack().await?;
    ensure!(client.connack.code == 0, "refused: {:?}", client.connack);
    ensure!(proof_of(&client.connack.properties)? == expected, "the server is not who it should be");
    Ok(client)
}

async fn a_name_needs_its_password(env: Env) -> Result<()> {
    env.connect(&named(&env, "a")).await?.quiet().await?;
    for hello in [
        env.hello("b").user(NAME).password("pen"),
        env.hello("c").user(NAME).password(""),
        env.hello("d").user(NAME),
        env.hello("e").user("ben").password(PASSWORD),
        env.hello("f").user("ANNA").password(PASSWORD),
        env.durable("g").user(NAME).password("pencil "),
    ] {
        let bytes = hello.bytes();
        env.say(bytes).await?.refused(reason::USER_OR_PASSWORD, Some(4)).await?;
    }
    for hello in [env.hello("h"), env.hello("i").user("").password(PASSWORD)] {
        env.say(hello.bytes()).await?.refused(reason::NOT_AUTHORIZED, Some(5)).await?;
    }
    Ok(())
}

/// Neither its session, nor its will, nor what it sends without waiting.
async fn nothing_of_who_is_refused_is_taken(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let mut witness = env.connect(&named(&env, "w")).await?;
    witness.subscribe(&[(&topic, 0)]).await?;
    let mut victim = env.connect(&named(&env, "v")).await?;
    // the id of somebody else, too
    let intruder = env.hello("v").user(NAME).password("pen").will(Will::new(&topic, "will"));
    let early = Publish::new(&topic, "early").retain().bytes(env.version);
    let bytes = [intruder.bytes(), early, subscribe(env.version, 1, &[], &[("#", 0)])].concat();
    env.say(bytes).await?.refused(reason::USER_OR_PASSWORD, Some(4)).await?;
    victim.quiet().await?;
    victim.publish(Publish::new(&topic, "marker"), 1).await?;
    witness.receives("marker").await?;
    witness.quiet().await
}

async fn who_has_a_password_is_sent_no_auth(env: Env) -> Result<()> {
    let mut client = env.connect(&named(&env, "a")).await?; // CONNACK is the first packet
    let named = client.connack.values(id::AUTH_METHOD).len() + client.connack.values(id::AUTH_DATA).len();
    ensure!(named == 0, "authentication in {:?}", client.connack);
    client.quiet().await?;
    client.send(auth(0x19, &[text(id::AUTH_METHOD, METHOD)])).await?;
    client.ended(reason::PROTOCOL_ERROR).await
}

async fn both_sides_prove_who_they_are(env: Env) -> Result<()> {
    let topic = env.topic("t");
    for connect in [scram(&env, "a", &Exchange::right()), scram(&env, "b", &Exchange::right()).keep_alive(0)]
    {
        let mut client = proved(&env, &connect).await?;
        client.subscribe(&[(&topic, 1)]).await?;
        client.publish(Publish::new(&topic, "x"), 1).await?;
        client.receives("x").await?;
        client.leave().await?;
    }
    // a client that says nothing with CONNECT is asked to begin
    let exchange = Exchange::right();
    let mut client = env.say(env.hello("c").with(text(id::AUTH_METHOD, METHOD)).bytes()).await?;
    let question = client.auth().await?;
    ensure!(
        question.code == 0x18 && question.properties == [text(id::AUTH_METHOD, METHOD)],
        "not asked to begin: {question:?}"
    );
    client.send(continues(METHOD, &exchange.first())).await?;
    let expected = exchange.answer(&mut client).await?;
    let connack = client.connack().await?;
    ensure!(connack.code == 0 && proof_of(&connack.properties)? == expected, "{connack:?}");
    client.quiet().await
}

/// An AUTH of the client with any other code is none that the exchange can go on with.
async fn an_answer_has_the_code_that_continues(env: Env) -> Result<()> {
    for code in [0x00, 0x19] {
        let exchange = Exchange::right();
        let mut client = env.say(scram(&env, "a", &exchange).bytes()).await?;
        let last = exchange.last(&data_of(&client.auth().await?, 0x18)?)?;
        let data = binary(id::AUTH_DATA, last.client_final.as_bytes());
        client.send(auth(code, &[text(id::AUTH_METHOD, METHOD), data])).await?;
        client.refused(reason::PROTOCOL_ERROR, None).await?;
    }
    Ok(())
}

async fn the_method_of_connect_is_kept_to(env: Env) -> Result<()> {
    for method in [Some("SCRAM-SHA-512"), Some("scram-sha-256"), Some(""), None] {
        let exchange = Exchange::right();
        let mut client = env.say(scram(&env, "a", &exchange).bytes()).await?;
        let last = exchange.last(&data_of(&client.auth().await?, 0x18)?)?;
        let data = binary(id::AUTH_DATA, last.client_final.as_bytes());
        let properties: Vec<_> = method.map(|method| text(id::AUTH_METHOD, method)).into_iter().collect();
        client.send(auth(0x18, &[properties, vec![data]].concat())).await?;
        client.refused(reason::PROTOCOL_ERROR, None).await?;
    }
    Ok(())
}

async fn who_does_not_prove_it_is_refused(env: Env) -> Result<()> {
    // at the last step; that there is no such user is said no earlier
    for exchange in [Exchange::of(NAME, "pen"), Exchange::of("ben", PASSWORD)] {
        let mut client = env.say(scram(&env, "a", &exchange).bytes()).await?;
        exchange.answer(&mut client).await?;
        client.refused(reason::NOT_AUTHORIZED, None).await?;
    }
    let mut client = env.say(scram(&env, "a", &Exchange::right()).bytes()).await?;
    client.auth().await?;
    client.send(continues(METHOD, "nonsense")).await?;
    client.refused(reason::PROTOCOL_ERROR, None).await?;
    // at the first one
    let connect = env.hello("a").with(text(id::AUTH_METHOD, METHOD));
    let connect = connect.with(binary(id::AUTH_DATA, b"nonsense"));
    env.say(connect.bytes()).await?.refused(reason::PROTOCOL_ERROR, None).await
}

async fn nothing_but_auth_may_come_in_an_exchange(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let mut witness = env.connect(&named(&env, "w")).await?;
    witness.subscribe(&[(&topic, 0)]).await?;
    let connect = scram(&env, "a", &Exchange::right());
    for early in [
        Publish::new(&topic, "early").bytes(env.version),
        subscribe(env.version, 1, &[], &[(&topic, 0)]),
        PINGREQ.to_vec(),
        connect.bytes(),
    ] {
        let mut client = env.say(connect.bytes()).await?;
        client.auth().await?;
        client.send(early).await?;
        client.refused(reason::PROTOCOL_ERROR, None).await?;
    }
    let mut client = env.say(connect.bytes()).await?;
    client.auth().await?;
    client.send(DISCONNECT).await?;
    client.closed().await?;
    env.connect(&named(&env, "m")).await?.publish(Publish::new(&topic, "marker"), 0).await?;
    witness.receives("marker").await.map(drop)
}

/// What goes on meanwhile goes on.
async fn a_client_proves_it_again(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let exchange = Exchange::right();
    let mut client = proved(&env, &scram(&env, "a", &exchange)).await?;
    client.subscribe(&[(&topic, 2)]).await?;
    for round in 0..3 {
        let data = binary(id::AUTH_DATA, exchange.first().as_bytes());
        client.send(auth(0x19, &[text(id::AUTH_METHOD, METHOD), data])).await?;
        let message = format!("round {round}");
        client.publish(Publish::new(&topic, &message), 0).await?;
        let expected = exchange.answer(&mut client).await?;
        let proof = data_of(&client.auth().await?, 0x00)?;
        ensure!(proof == expected, "the server is not who it should be: {proof}");
        client.receives(&message).await?;
    }
    client.publish(Publish::new(&topic, "after"), 2).await?;
    client.receives("after").await?;
    client.quiet().await
}

async fn who_begins_again_keeps_to_the_method(env: Env) -> Result<()> {
    let exchange = Exchange::right();
    let data = || binary(id::AUTH_DATA, exchange.first().as_bytes());
    for (code, method) in [(0x19, "SCRAM-SHA-512"), (0x19, "other"), (0x18, METHOD), (0x00, METHOD)] {
        let mut client = proved(&env, &scram(&env, "a", &exchange)).await?;
        client.send(auth(code, &[text(id::AUTH_METHOD, method), data()])).await?;
        client.ended(reason::PROTOCOL_ERROR).await?;
    }
    // twice at once
    let mut client = proved(&env, &scram(&env, "a", &exchange)).await?;
    let again = auth(0x19, &[text(id::AUTH_METHOD, METHOD), data()]);
    client.send([&again[..], &again].concat()).await?;
    client.auth().await?;
    client.ended(reason::PROTOCOL_ERROR).await
}

async fn who_does_not_prove_it_again_is_cut_off(env: Env) -> Result<()> {
    let topic = env.topic("will");
    let mut witness = env.connect(&named(&env, "w")).await?;
    witness.subscribe(&[(&topic, 0)]).await?;
    for exchange in [Exchange::of(NAME, "pen"), Exchange::of("ben", PASSWORD)] {
        let connect = scram(&env, "a", &Exchange::right()).will(Will::new(&topic, "will"));
        let mut client = proved(&env, &connect).await?;
        let data = binary(id::AUTH_DATA, exchange.first().as_bytes());
        client.send(auth(0x19, &[text(id::AUTH_METHOD, METHOD), data])).await?;
        exchange.answer(&mut client).await?;
        client.ended(reason::NOT_AUTHORIZED).await?;
        witness.receives("will").await?;
    }
    Ok(())
}

/// What does not fit is not sent, and nothing that is sent says more than it has to.
async fn auth_says_no_more_than_fits(env: Env) -> Result<()> {
    // without an id, for CONNACK to be longer than the challenge
    let connect = |most: usize| {
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        let connect = scram(&env, "a", &Exchange::right()).with(four(id::PACKET_SIZE, most));
        Connect { client_id: Vec::new(), ..connect }
    };
    let mut client = env.say(connect(100_000).bytes()).await?;
    let challenge = client.auth().await?.size;
    let granted = proved(&env, &connect(100_000)).await?.connack.size;
    ensure!(granted > challenge, "the case is about a challenge that fits and a CONNACK that does not");
    proved(&env, &connect(granted)).await?.quiet().await?;
    // first the proof does not fit, then not even the challenge: nothing is cut short, and the client is not admitted
    let mut client = env.say(connect(granted - 1).bytes()).await?;
    Exchange::right().answer(&mut client).await?;
    client.closed_with_or_without(reason::TOO_LARGE).await?;
    let mut client = env.say(connect(challenge - 1).bytes()).await?;
    client.closed_with_or_without(reason::TOO_LARGE).await
}

async fn who_wants_no_reasons_gets_none_with_auth(env: Env) -> Result<()> {
    let connect = scram(&env, "a", &Exchange::right()).with(byte(id::REQUEST_PROBLEM, 0));
    let mut client = env.say(connect.bytes()).await?;
    let challenge = client.auth().await?;
    let said = [id::REASON_STRING, id::USER].map(|id| crate::packet::values(&challenge.properties, id).len());
    ensure!(said == [0, 0], "{challenge:?}");
    Ok(())
}
