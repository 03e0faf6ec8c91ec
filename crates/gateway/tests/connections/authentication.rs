//! Who may connect: by password, by SCRAM, without a name; and again during a connection.

use std::fs;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use zwerm_auth::{Credential, MIN_ITERATIONS, Mechanism};
use zwerm_gateway::{Config, Gateway, UserFile};
use zwerm_wire::{Auth, Connect, Packet, Protocol, ReasonCode};

use crate::client::{Client, Server, transient};
use crate::fixture::until;

const METHOD: &str = "SCRAM-SHA-256";

/// A file in which anna has this password.
fn users(password: &str) -> (TempDir, Arc<UserFile>) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("users");
    write(&dir, password);
    (dir, Arc::new(UserFile::load(&file).unwrap()))
}

fn write(dir: &TempDir, password: &str) {
    let lines = Mechanism::ALL.map(|mechanism| {
        let credential = Credential::derive(mechanism, password, b"a salt", MIN_ITERATIONS).unwrap();
        format!("anna:{credential}\n")
    });
    fs::write(dir.path().join("users"), lines.concat()).unwrap();
}

async fn server(allow_anonymous: bool) -> (Server, TempDir) {
    let (dir, users) = users("pencil");
    let response_information = Some("answers/".into());
    let config = Config { allow_anonymous, users: Some(users), response_information, ..Config::default() };
    (Server::start_with(config).await, dir)
}

fn named(protocol: Protocol, name: &'static str, password: &'static str) -> Connect {
    let password = Some(Bytes::from_static(password.as_bytes())).filter(|password| !password.is_empty());
    Connect { username: Some(name.into()), password, ..transient(protocol, "c") }
}

fn scram(client_first: &str) -> Connect {
    let mut connect = transient(Protocol::V5, "c");
    connect.properties.authentication_method = Some(METHOD.into());
    connect.properties.authentication_data = Some(Bytes::copy_from_slice(client_first.as_bytes()));
    connect
}

async fn answered(server: &Server, connect: Connect) -> ReasonCode {
    Client::ask(server, connect).await.answer().await.reason
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_needs_its_password_and_nobody_else_comes_in() {
    let (server, _dir) = server(false).await;
    use ReasonCode as R;
    let wrong = R::BadUserNameOrPassword;
    for (protocol, name, password, expected) in [
        (Protocol::V5, "anna", "pencil", R::Success),
        (Protocol::V311, "anna", "pencil", R::Success),
        (Protocol::V31, "anna", "pencil", R::Success),
        (Protocol::V5, "anna", "pen", wrong),
        (Protocol::V311, "anna", "", wrong),
        (Protocol::V5, "ben", "pencil", wrong),
        (Protocol::V5, "", "pencil", R::NotAuthorized),
    ] {
        let reason = answered(&server, named(protocol, name, password)).await;
        assert_eq!(reason, expected, "{protocol:?} {name} {password}");
    }
    assert_eq!(answered(&server, transient(Protocol::V311, "c")).await, R::NotAuthorized);
    assert_eq!(server.connections.counters().authentications_failed_total.get(), 5);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_anonymous_is_a_matter_of_configuration() {
    let (server, _dir) = server(true).await;
    for connect in [transient(Protocol::V5, "c"), named(Protocol::V311, "", ""), named(Protocol::V5, "", "")]
    {
        assert_eq!(answered(&server, connect).await, ReasonCode::Success);
    }
    // who says a name is held to it
    assert_eq!(answered(&server, named(Protocol::V5, "ben", "x")).await, ReasonCode::BadUserNameOrPassword);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_asks_is_told_where_answers_go_mqtt_3_2_2_15() {
    let (server, _dir) = server(true).await;
    for (asks, expected) in [(None, None), (Some(false), None), (Some(true), Some("answers/"))] {
        let mut connect = transient(Protocol::V5, "c");
        connect.properties.request_response_information = asks;
        let (_client, connack) = Client::connect(&server, connect).await;
        assert_eq!(connack.properties.response_information.as_deref(), expected);
    }
    server.end().await;
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    Hmac::<Sha256>::new_from_slice(key).unwrap().chain_update(text).finalize().into_bytes().to_vec()
}

/// What a client answers to server-first, and what it expects of the server.
fn proof(client_first_bare: &str, server_first: &str, password: &str) -> (String, String) {
    let part = |key| server_first.split(',').find_map(|part| part.strip_prefix(key)).unwrap();
    let (nonce, salt) = (part("r="), BASE64.decode(part("s=")).unwrap());
    let mut salted = [0; 32];
    pbkdf2::pbkdf2_hmac::<Sha256>(password.as_bytes(), &salt, part("i=").parse().unwrap(), &mut salted);
    let client_key = mac(&salted, "Client Key");
    let said = format!("{client_first_bare},{server_first},c=biws,r={nonce}");
    let signature = mac(&Sha256::digest(&client_key), &said);
    let proof: Vec<u8> = client_key.iter().zip(signature).map(|(key, sign)| key ^ sign).collect();
    let server = BASE64.encode(mac(&mac(&salted, "Server Key"), &said));
    (format!("c=biws,r={nonce},p={}", BASE64.encode(proof)), format!("v={server}"))
}

async fn next_auth(client: &mut Client) -> Auth {
    match client.next().await {
        Packet::Auth(auth) => auth,
        other => panic!("no AUTH but {other:?}"),
    }
}

fn say(reason: ReasonCode, data: &str) -> Packet {
    let data = Some(Bytes::copy_from_slice(data.as_bytes()));
    Packet::Auth(Auth { reason, method: Some(METHOD.into()), data, reason_string: None, user: Vec::new() })
}

/// Goes on from server-first; what the server has to prove.
async fn prove(client: &mut Client, password: &str) -> String {
    let challenge = next_auth(client).await;
    assert_eq!(
        (challenge.reason, challenge.method.as_deref()),
        (ReasonCode::ContinueAuthentication, Some(METHOD))
    );
    let server_first = String::from_utf8(challenge.data.unwrap().to_vec()).unwrap();
    let (client_final, server_final) = proof("n=anna,r=abc", &server_first, password);
    client.send(say(ReasonCode::ContinueAuthentication, &client_final)).await;
    server_final
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scram_proves_both_sides_at_connect_and_again_later_mqtt_4_12() {
    let (server, _dir) = server(false).await;
    let mut client = Client::ask(&server, scram("n,,n=anna,r=abc")).await;
    let expected = prove(&mut client, "pencil").await;
    let connack = client.answer().await;
    assert_eq!(connack.reason, ReasonCode::Success);
    assert_eq!(connack.properties.authentication_method.as_deref(), Some(METHOD));
    assert_eq!(connack.properties.authentication_data.as_deref(), Some(expected.as_bytes()));

    client.send(say(ReasonCode::ReAuthenticate, "n,,n=anna,r=abc")).await;
    let expected = prove(&mut client, "pencil").await;
    let success = next_auth(&mut client).await;
    assert_eq!((success.reason, success.data.as_deref()), (ReasonCode::Success, Some(expected.as_bytes())));
    client.assert_silence().await;

    client.send(say(ReasonCode::ReAuthenticate, "n,,n=anna,r=abc")).await;
    prove(&mut client, "pen").await;
    let Packet::Disconnect(disconnect) = client.next().await else { panic!("no DISCONNECT") };
    assert_eq!(disconnect.reason, ReasonCode::NotAuthorized);
    assert_eq!(client.next_or_end().await, None);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_prove_it_is_refused_and_an_unknown_method_too_mqtt_4_12_0_1() {
    let (server, _dir) = server(true).await;
    let mut client = Client::ask(&server, scram("n,,n=anna,r=abc")).await;
    prove(&mut client, "pen").await;
    assert_eq!(client.answer().await.reason, ReasonCode::NotAuthorized);
    assert_eq!(client.next_or_end().await, None);

    assert_eq!(answered(&server, scram("nonsense")).await, ReasonCode::ProtocolError);
    let mut unknown = scram("");
    unknown.properties.authentication_method = Some("GS2-KRB5".into());
    assert_eq!(answered(&server, unknown).await, ReasonCode::BadAuthenticationMethod);
    server.end().await;
    let without_users = Server::start().await;
    let reason = answered(&without_users, scram("n,,n=anna,r=abc")).await;
    assert_eq!(reason, ReasonCode::BadAuthenticationMethod);
    without_users.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_are_read_again_when_their_file_changes_and_a_broken_one_changes_nothing() {
    let (dir, users) = users("pencil");
    let file_interval = std::time::Duration::from_millis(10);
    let config = Config { allow_anonymous: false, users: Some(users), file_interval, ..Config::default() };
    let server = Server::start_with(config.clone()).await;
    let gateway = Gateway::start(config, server.broker(), &server.stop).unwrap();
    // what a gateway watches holds for whoever shares it
    fs::write(dir.path().join("users"), "anna\n").unwrap();
    assert_eq!(answered(&server, named(Protocol::V5, "anna", "pencil")).await, ReasonCode::Success);
    write(&dir, "ballpoint");
    while answered(&server, named(Protocol::V5, "anna", "ballpoint")).await != ReasonCode::Success {
        tokio::task::yield_now().await;
    }
    let reason = answered(&server, named(Protocol::V5, "anna", "pencil")).await;
    assert_eq!(reason, ReasonCode::BadUserNameOrPassword);
    until("nobody is connected", || server.connections.counters().connections_current.get() == 0).await;
    server.end().await;
    gateway.stopped().await;
}

#[test]
fn a_file_that_cannot_be_used_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("users");
    let error = UserFile::load(&file).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}: cannot be read", file.display())), "{error}");
    fs::write(&file, "\nanna:pencil\n").unwrap();
    let error = UserFile::load(&file).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}: line 2: expected SCRAM", file.display())), "{error}");
}
