//! TLS: versions, resumption, certificates of clients, certificates that change, and what goes wrong.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};
use zwerm_gateway::{Config, Gateway, ListenerConfig, TlsConfig, TlsVersion};
use zwerm_wire::Packet;

use super::certificates::{Authority, Files, TlsClient};
use super::{Mqtt, Node, blocking, connect_packet, dial, listener, rest};

fn secured(tls: TlsConfig) -> ListenerConfig {
    ListenerConfig { tls: Some(tls), ..listener() }
}

/// Connects, is answered and leaves; says how the handshake went.
fn visit(client: &TlsClient, address: std::net::SocketAddr, id: &'static str) -> HandshakeKind {
    let mut mqtt = Mqtt::connect(client.dial(address), id);
    mqtt.ping();
    let kind = mqtt.stream.conn.handshake_kind().unwrap();
    rest(mqtt.goodbye());
    kind
}

/// The client gets no CONNACK; says with what its connection ended.
fn fails(client: &TlsClient, address: std::net::SocketAddr) -> String {
    let mut stream = client.dial(address);
    let written =
        stream.write_all(&super::bytes_of(&connect_packet("refused"))).and_then(|()| stream.flush());
    match written.and_then(|()| stream.read(&mut [0; 16])) {
        Ok(0) => "the end".to_owned(),
        Ok(count) => panic!("{count} bytes came"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_are_spoken_and_sessions_resumed() {
    let authority = Authority::new("zwerm test");
    let files = Files::new(&authority.server());
    let node = Node::start(vec![secured(files.config())]).await;
    let address = node.address();
    blocking(move || {
        for version in [&TLS12, &TLS13] {
            let client = authority.trusting_with(&[version], None);
            let mut mqtt = Mqtt::connect(client.dial(address), "first");
            assert_eq!(mqtt.stream.conn.protocol_version(), Some(version.version));
            assert_eq!(mqtt.stream.conn.handshake_kind(), Some(HandshakeKind::Full));
            mqtt.exchange("t", 300_000);
            rest(mqtt.goodbye());
            assert_eq!(visit(&client, address, "second"), HandshakeKind::Resumed);
            assert_eq!(visit(&client, address, "third"), HandshakeKind::Resumed);
        }
    })
    .await;
    let counters = node.counters();
    assert_eq!((counters.tls_full_total.get(), counters.tls_resumed_total.get()), (2, 4));
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_too_old_is_refused() {
    let authority = Authority::new("zwerm test");
    let files = Files::new(&authority.server());
    let node =
        Node::start(vec![secured(TlsConfig { min_version: TlsVersion::V1_3, ..files.config() })]).await;
    let address = node.address();
    blocking(move || {
        visit(&authority.trusting_with(&[&TLS13], None), address, "new");
        let error = fails(&authority.trusting_with(&[&TLS12], None), address);
        assert!(error.contains("ProtocolVersion"), "{error}");
    })
    .await;
    node.has_refused("tls", 1).await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_tls_is_refused_and_told_so() {
    let authority = Authority::new("zwerm test");
    let files = Files::new(&authority.server());
    let node = Node::start(vec![secured(files.config())]).await;
    let address = node.address();
    blocking(move || {
        for text in [super::bytes_of(&connect_packet("plain")), b"GET /mqtt HTTP/1.1\r\n\r\n".to_vec()] {
            let mut stream = dial(address);
            stream.write_all(&text).unwrap();
            assert_eq!(rest(stream)[..1], [21], "an alert"); // RFC 8446 section 5.1
        }
        // somebody who does not know our authority goes by itself
        let stranger = Authority::new("somebody else");
        let error = fails(&stranger.trusting(), address);
        assert!(error.contains("UnknownIssuer"), "{error}");
    })
    .await;
    node.has_refused("tls", 3).await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_needs_a_certificate_is_refused_without_a_good_one() {
    let (ours, theirs) = (Authority::new("zwerm test"), Authority::new("somebody else"));
    let files = Files::new(&ours.server());
    let node = Node::start(vec![secured(files.config_with(&ours, true, false))]).await;
    let address = node.address();
    blocking(move || {
        for versions in [[&TLS12], [&TLS13]] {
            let good = ours.client("pump-7", None);
            visit(&ours.trusting_with(&versions, Some(&good)), address, "good");
            let error = fails(&ours.trusting_with(&versions, None), address);
            assert!(error.contains("alert"), "{error}");
            let error = fails(&ours.trusting_with(&versions, Some(&theirs.client("pump-7", None))), address);
            assert!(error.contains("alert"), "{error}");
            // one for servers is none for clients
            fails(&ours.trusting_with(&versions, Some(&ours.server())), address);
        }
    })
    .await;
    node.has_refused("client_certificate", 6).await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_it_is_optional_only_a_bad_certificate_is_refused() {
    let (ours, theirs) = (Authority::new("zwerm test"), Authority::new("somebody else"));
    let files = Files::new(&ours.server());
    let node = Node::start(vec![secured(files.config_with(&ours, false, true))]).await;
    let address = node.address();
    blocking(move || {
        visit(&ours.trusting(), address, "without");
        visit(&ours.trusting_with(&[&TLS13], Some(&ours.client("pump-7", None))), address, "with");
        fails(&ours.trusting_with(&[&TLS13], Some(&theirs.client("pump-7", None))), address);
    })
    .await;
    node.has_refused("client_certificate", 1).await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_without_a_name_is_refused_where_names_are_wanted() {
    let ours = Authority::new("zwerm test");
    let files = Files::new(&ours.server());
    let node = Node::start(vec![secured(files.config_with(&ours, true, true))]).await;
    let address = node.address();
    blocking(move || {
        let client = |certified| ours.trusting_with(&[&TLS13], Some(&certified));
        let named = client(ours.client("pump-7", None));
        visit(&named, address, "by-common-name");
        // a resumed session has the certificate of the one before
        assert_eq!(visit(&named, address, "by-ticket"), HandshakeKind::Resumed);
        visit(&client(ours.client("", Some("pump.example"))), address, "by-alternative-name");
        fails(&client(ours.client("", None)), address);
        fails(&client(ours.client("two\nlines", None)), address);
    })
    .await;
    node.has_refused("client_certificate", 2).await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_certificates_come_into_use_and_bad_ones_do_not() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let files = Files::new(&old.server());
    let node = Node::start(vec![secured(files.config())]).await;
    let (address, counters) = (node.address(), node.counters());
    let client = old.trusting();
    let kept = blocking(move || {
        let kept = Mqtt::connect(client.dial(address), "kept");
        visit(&client, address, "old");
        (kept, client)
    })
    .await;
    files.write("cert.pem", "no certificate any more");
    crate::fixture::until("the bad file is seen", || counters.certificates_broken_total.get() == 1).await;
    let (mut kept, client) = blocking(move || {
        visit(&kept.1, address, "still-old");
        kept
    })
    .await;
    files.replace(&new.server());
    crate::fixture::until("the new files are used", || counters.certificates_reloaded_total.get() >= 1).await;
    blocking(move || {
        // not even by a ticket of before
        let error = fails(&client, address);
        assert!(error.contains("UnknownIssuer"), "{error}");
        visit(&new.trusting(), address, "new");
        kept.ping();
    })
    .await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_handshake_is_cut_and_an_abandoned_one_forgotten() {
    let authority = Authority::new("zwerm test");
    let files = Files::new(&authority.server());
    let timeout = Duration::from_millis(50);
    let node =
        Node::start(vec![ListenerConfig { handshake_timeout: timeout, ..secured(files.config()) }]).await;
    let address = node.address();
    let silent = blocking(move || {
        let mut silent = dial(address);
        assert_eq!(silent.read(&mut [0; 8]).unwrap(), 0);
        silent
    })
    .await;
    node.has_refused("timeout", 1).await;
    assert_eq!(node.counters().connections_current.get(), 0, "it was never open");
    drop(silent);
    node.end().await;
    let node = Node::start(vec![secured(files.config())]).await;
    drop(dial(node.address()));
    node.has_refused("closed", 1).await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_all_places_for_handshakes_are_taken_more_are_closed_and_who_is_in_stays() {
    let authority = Authority::new("zwerm test");
    let files = Files::new(&authority.server());
    let (max_tls_handshakes, max_waiting) = (1, 0);
    let listeners = vec![secured(files.config())];
    let node =
        Node::start_with(Config { listeners, max_tls_handshakes, max_waiting, ..Config::default() }).await;
    let address = node.address();
    blocking(move || {
        let client = authority.trusting();
        let mut inside = Mqtt::connect(client.dial(address), "inside");
        let silent = dial(address);
        // the one before may not have given its place back yet
        while !Mqtt::try_connect(client.dial(address), "beside one that says nothing") {}
        // the first byte of a handshake takes the place, unless one of the tries was there before
        let slow = loop {
            let mut slow = dial(address);
            slow.write_all(&[22]).unwrap();
            if !Mqtt::try_connect(client.dial(address), "a try") {
                break slow;
            }
        };
        inside.ping();
        drop((slow, silent));
        while !Mqtt::try_connect(client.dial(address), "another try") {}
    })
    .await;
    assert!(node.refused("busy") >= 1);
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_without_close_notify_is_an_end() {
    let authority = Authority::new("zwerm test");
    let files = Files::new(&authority.server());
    let node = Node::start(vec![secured(files.config())]).await;
    let address = node.address();
    blocking(move || {
        let mqtt = Mqtt::connect(authority.trusting().dial(address), "rude");
        mqtt.stream.sock.shutdown(std::net::Shutdown::Write).unwrap();
        rest(mqtt.stream.sock);
    })
    .await;
    let counters = node.counters();
    crate::fixture::until("it ends", || counters.connections_current.get() == 0).await;
    assert_eq!(counters.endings_total().find(|(cause, _)| *cause == "link_closed").unwrap().1, 1);
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_records_end_the_connection_with_an_alert() {
    let authority = Authority::new("zwerm test");
    let files = Files::new(&authority.server());
    let node = Node::start(vec![secured(files.config())]).await;
    let address = node.address();
    blocking(move || {
        let mut mqtt = Mqtt::connect(authority.trusting().dial(address), "broken");
        mqtt.ping();
        let mut forged = vec![23, 3, 3, 0, 32];
        forged.extend_from_slice(&[7; 32]);
        mqtt.stream.sock.write_all(&forged).unwrap();
        let error = mqtt.stream.read(&mut [0; 8]).unwrap_err();
        assert!(error.to_string().contains("BadRecordMac"), "{error}");
    })
    .await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_says_so_before_it_closes() {
    let authority = Authority::new("zwerm test");
    let files = Files::new(&authority.server());
    let node = Node::start(vec![secured(files.config())]).await;
    let address = node.address();
    let mut mqtt = blocking(move || Mqtt::connect(authority.trusting().dial(address), "told")).await;
    let ending = tokio::spawn(node.end());
    blocking(move || {
        assert!(matches!(mqtt.next(), Packet::Disconnect(_)));
        // 0, not an error: close_notify came before the end
        assert_eq!(mqtt.stream.read(&mut [0; 8]).unwrap(), 0);
    })
    .await;
    ending.await.unwrap();
}

/// What is wrong with the files is said with the key and the file.
#[test]
fn bad_files_are_named_with_their_key() {
    let (authority, other) = (Authority::new("zwerm test"), Authority::new("other"));
    let files = Files::new(&authority.server());
    let problem = |tls: TlsConfig| {
        let listeners = vec![listener(), secured(tls)];
        let config = Config { listeners, ..Config::default() };
        let error = Gateway::check(&config).unwrap_err().to_string();
        error.replace(&files.path("").display().to_string(), "")
    };
    let good = || files.config_with(&authority, true, false);
    files.write("empty.pem", "");
    files.write("other.pem", &other.server().key);
    files.write("garbage.pem", "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n");
    files.write("none.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let with_ca = |name: &str| {
        let mut tls = good();
        tls.client.as_mut().unwrap().ca = files.path(name);
        tls
    };
    let cases = [
        (
            TlsConfig { cert: files.path("gone.pem"), ..good() },
            "listener.1.cert: gone.pem: cannot be read: No such file",
        ),
        (
            TlsConfig { cert: files.path("empty.pem"), ..good() },
            "listener.1.cert: empty.pem: has no certificate in it",
        ),
        (
            TlsConfig { cert: files.path("key.pem"), ..good() },
            "listener.1.cert: key.pem: has no certificate in it",
        ),
        (
            TlsConfig { cert: files.path("garbage.pem"), ..good() },
            "listener.1.cert: garbage.pem: is no PEM file",
        ),
        (
            TlsConfig { cert: files.path("none.pem"), ..good() },
            "listener.1.cert: none.pem: has a certificate that cannot be used",
        ),
        (
            TlsConfig { key: files.path("gone.pem"), ..good() },
            "listener.1.key: gone.pem: cannot be read: No such file",
        ),
        (
            TlsConfig { key: files.path("cert.pem"), ..good() },
            "listener.1.key: cert.pem: has no private key in it",
        ),
        (
            TlsConfig { key: files.path("other.pem"), ..good() },
            "listener.1.key: other.pem: does not belong to the certificate in cert.pem",
        ),
        (with_ca("gone.pem"), "listener.1.client_ca: gone.pem: cannot be read: No such file"),
        (with_ca("key.pem"), "listener.1.client_ca: key.pem: has no certificate in it"),
        (with_ca("none.pem"), "listener.1.client_ca: none.pem: has a certificate that cannot be used"),
    ];
    for (tls, wanted) in cases {
        let found = problem(tls);
        assert!(found.starts_with(wanted), "wanted {wanted}\n found {found}");
    }
}
