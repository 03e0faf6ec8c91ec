//! What is accepted, what is refused and in which words.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use super::*;

/// A configuration from a file with this text, named `zwerm.toml` in messages.
struct Written {
    dir: tempfile::TempDir,
}

impl Written {
    fn new(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("zwerm.toml"), text).unwrap();
        Self { dir }
    }

    fn sources(&self) -> Sources {
        Sources { file: Some(self.dir.path().join("zwerm.toml")), ..Sources::default() }
    }

    fn load(&self) -> Result<Config, String> {
        self.load_with(&self.sources())
    }

    /// Loads and shortens the path in the message.
    fn load_with(&self, sources: &Sources) -> Result<Config, String> {
        let prefix = format!("{}/", self.dir.path().display());
        Config::load(sources).map_err(|error| error.to_string().replace(&prefix, ""))
    }
}

fn environment(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn flag(key: &str, value: &str) -> Override {
    Override { flag: "flag --set".into(), key: key.into(), value: value.into() }
}

#[test]
fn nothing_said_is_a_single_node_on_loopback() {
    let config = Config::load(&Sources::default()).unwrap();
    assert_eq!(config, Config::default());
    assert!(config.listeners.iter().all(|listener| listener.bind.tcp().unwrap().ip().is_loopback()));
    assert!(config.http.bind.ip().is_loopback() && config.cluster.listen.ip().is_loopback());
    assert_eq!((config.cluster.bootstrap_expect, config.cluster.shards), (1, 16));
    assert_eq!(config.cluster.advertised(), "127.0.0.1:7100");
}

/// A file that says every key, none of them as by default.
const EVERY_KEY: &str = r#"
[node]
name = "pod-0"
data_dir = "/var/lib/zwerm"
drain_rate = 50
shutdown_grace = 60
[cluster]
listen = "0.0.0.0:7200"
advertise = "pod-0.zwerm:7200"
peers = ["pod-1.zwerm:7200", "[::1]:7100"]
bootstrap_expect = 3
shards = 4
replicas = 5
max_level = 1
snapshot_entries = 500
kubernetes_statefulset = "zwerm"
leave_grace = 30
[[listener]]
kind = "wss"
bind = "127.0.0.1:2885"
max_connections = 10
handshake_timeout = 3
path = "/"
cert = "/etc/zwerm/cert.pem"
key = "/etc/zwerm/key.pem"
tls_min_version = "1.3"
client_ca = "/etc/zwerm/clients.pem"
client_certificate = "optional"
certificate_as_username = true
proxy_protocol = true
[[listener]]
kind = "mqtt"
bind = "0.0.0.0:2883"
[[listener]]
bind = "[::1]:2884"
[[listener]]
kind = "ws"
bind = "unix:/run/zwerm/ws.sock"
[http]
bind = "127.0.0.1:9090"
token_file = "/etc/zwerm/token"
[mqtt]
allow_anonymous = true
max_packet_size = "256KiB"
receive_maximum = 0x10
topic_alias_maximum = 0
max_qos = 1
retain_available = false
wildcard_subscriptions = false
shared_subscriptions = false
exclusive_subscriptions = false
subscription_identifiers = false
keep_alive_maximum = 300
max_inflight = 20
max_queued_messages = 1_000
max_queued_bytes = 1048576
session_expiry_maximum = 86_400
session_queue_messages = 2_000
session_queue_bytes = "2GiB"
session_queue_full = "drop_newest"
shared_strategy = "hash_topic"
allow_zero_length_client_id = false
strict_utf8 = true
validate_payload_format = true
sys_interval = 60
response_information = "answers/"
server_reference = "mqtt.example:1883"
overlapping = "merged"
[limits]
connect_rate = 50
connect_burst = 60
max_tls_handshakes = 7
max_handshakes = 8
max_waiting = 9
busy_after = 10
busy_jitter = 11
[auth]
users_file = "/etc/zwerm/users"
[storage]
sync = "os"
cache_size = "256MiB"
[log]
level = "info,zwerm_raft=debug"
format = "json"
"#;

/// What its `[node]` means.
fn every_key_of_node() -> NodeConfig {
    NodeConfig {
        name: "pod-0".into(),
        data_dir: "/var/lib/zwerm".into(),
        drain_rate: 50.try_into().unwrap(),
        shutdown_grace: 60,
    }
}

/// What its `[limits]` mean.
fn every_limit() -> LimitsConfig {
    LimitsConfig {
        connect_rate: 50,
        connect_burst: 60.try_into().unwrap(),
        max_tls_handshakes: 7,
        max_handshakes: 8,
        max_waiting: 9,
        busy_after: 10,
        busy_jitter: 11,
    }
}

/// What [`EVERY_KEY`] means.
fn every_key() -> Config {
    Config {
        node: every_key_of_node(),
        cluster: ClusterConfig {
            listen: "0.0.0.0:7200".parse().unwrap(),
            advertise: Some("pod-0.zwerm:7200".into()),
            peers: vec!["pod-1.zwerm:7200".into(), "[::1]:7100".into()],
            bootstrap_expect: 3,
            shards: 4,
            replicas: 5,
            max_level: Some(1),
            snapshot_entries: 500,
            kubernetes_statefulset: Some("zwerm".into()),
            leave_grace: 30,
        },
        listeners: vec![
            ListenerConfig {
                kind: ListenerKind::Wss,
                bind: "127.0.0.1:2885".parse().unwrap(),
                handshake_timeout: 3,
                path: "/".into(),
                cert: Some("/etc/zwerm/cert.pem".into()),
                key: Some("/etc/zwerm/key.pem".into()),
                tls_min_version: TlsVersion::V1_3,
                client_ca: Some("/etc/zwerm/clients.pem".into()),
                client_certificate: ClientCertificate::Optional,
                certificate_as_username: true,
                proxy_protocol: true,
                max_connections: 10,
            },
            ListenerConfig { bind: "0.0.0.0:2883".parse().unwrap(), ..ListenerConfig::default() },
            ListenerConfig { bind: "[::1]:2884".parse().unwrap(), ..ListenerConfig::default() },
            ListenerConfig {
                kind: ListenerKind::Ws,
                bind: Bind::Unix("/run/zwerm/ws.sock".into()),
                ..ListenerConfig::default()
            },
        ],
        http: HttpConfig { bind: loopback(9090), token_file: Some("/etc/zwerm/token".into()) },
        mqtt: MqttConfig {
            allow_anonymous: true,
            max_packet_size: ByteSize(262_144),
            receive_maximum: NonZeroU16::new(16).unwrap(),
            topic_alias_maximum: 0,
            max_qos: 1,
            retain_available: false,
            wildcard_subscriptions: false,
            shared_subscriptions: false,
            exclusive_subscriptions: false,
            subscription_identifiers: false,
            keep_alive_maximum: 300,
            max_inflight: NonZeroU16::new(20).unwrap(),
            max_queued_messages: 1_000,
            max_queued_bytes: ByteSize(1 << 20),
            session_expiry_maximum: 86_400,
            session_queue_messages: 2_000,
            session_queue_bytes: ByteSize(2 << 30),
            session_queue_full: QueueFull::DropNewest,
            shared_strategy: SharedStrategy::HashTopic,
            allow_zero_length_client_id: false,
            strict_utf8: true,
            validate_payload_format: true,
            sys_interval: 60,
            response_information: Some("answers/".into()),
            server_reference: Some("mqtt.example:1883".into()),
            overlapping: Overlapping::Merged,
        },
        limits: every_limit(),
        auth: AuthConfig { users_file: Some("/etc/zwerm/users".into()) },
        storage: StorageConfig { sync: SyncMode::Os, cache_size: ByteSize(256 << 20) },
        log: LogConfig { level: "info,zwerm_raft=debug".into(), format: LogFormat::Json },
    }
}

#[test]
fn every_key_is_taken_from_a_file() {
    assert_eq!(Written::new(EVERY_KEY).load().unwrap(), every_key());
}

#[test]
fn the_file_that_says_every_key_forgets_none() {
    let said: toml::Table = EVERY_KEY.parse().unwrap();
    let printed: toml::Table = every_key().to_string().parse().unwrap();
    for (section, keys) in &printed {
        let names = |value: &toml::Value| {
            let table = value.get(0).unwrap_or(value).as_table().unwrap();
            table.keys().cloned().collect::<Vec<_>>()
        };
        assert_eq!(names(&said[section]), names(keys), "{section}");
    }
}

/// What is written, and how the refusal begins.
const WRONG: &[(&str, &str)] = &[
    (
        "\n[mqtt]\nmax_inflght = 3",
        "zwerm.toml:3: mqtt.max_inflght: unknown key; [mqtt] has: allow_anonymous, max_packet_size,",
    ),
    (
        "[mqqt]\nmax_qos = 1",
        "zwerm.toml:1: mqqt: unknown section; there are: node, cluster, http, mqtt, limits, auth, storage, log, listener",
    ),
    ("max_qos = 1", "zwerm.toml:1: max_qos: unknown section; there are:"),
    ("[mqtt]\nmax_qos = 3", "zwerm.toml:2: mqtt.max_qos: 3 is out of range: 0 to 2"),
    ("[mqtt]\nmax_qos = \"1\"", "zwerm.toml:2: mqtt.max_qos: expected an integer, found \"1\""),
    ("[mqtt]\nmax_qos = 1.5", "zwerm.toml:2: mqtt.max_qos: expected an integer, found a float"),
    (
        "[mqtt]\n\n# why\nreceive_maximum = 0",
        "zwerm.toml:4: mqtt.receive_maximum: 0 is out of range: 1 to 65535",
    ),
    ("[mqtt]\nstrict_utf8 = 1", "zwerm.toml:2: mqtt.strict_utf8: expected true or false, found 1"),
    (
        "[mqtt]\nmax_packet_size = \"1 gig\"",
        "zwerm.toml:2: mqtt.max_packet_size: expected a size like 262144, \"256KiB\" or \"1MiB\", found \"1 gig\"",
    ),
    (
        "[mqtt]\nmax_packet_size = \"1GiB\"",
        "zwerm.toml:2: mqtt.max_packet_size: \"1GiB\" is out of range: 128B to 268435460B",
    ),
    (
        "[mqtt]\nshared_strategy = \"fair\"",
        "zwerm.toml:2: mqtt.shared_strategy: expected `\"random\"` or `\"round_robin\"`",
    ),
    (
        "[mqtt]\nallow_anonymous = false",
        "zwerm.toml:2: mqtt.allow_anonymous: with false nobody can connect: name the users in auth.users_file",
    ),
    (
        "[mqtt]\nsession_expiry_maximum = 4294967296",
        "zwerm.toml:2: mqtt.session_expiry_maximum: 4294967296 is out of range: 0 to 4294967295",
    ),
    (
        "[mqtt]\nsession_queue_full = \"block\"",
        "zwerm.toml:2: mqtt.session_queue_full: expected `\"drop_oldest\"` or `\"drop_newest\"`, found \"block\"",
    ),
    (
        "[[listener]]\nkind = \"quic\"",
        "zwerm.toml:2: listener.kind: expected `\"mqtt\"` or `\"mqtts\"` or `\"ws\"` or `\"wss\"`, found \"quic\"",
    ),
    (
        "[[listener]]\nkind = \"mqtts\"\nkey = \"k.pem\"",
        "zwerm.toml:2: listener.0.cert: kind \"mqtts\" needs it: name a PEM file",
    ),
    (
        "[[listener]]\nkind = \"wss\"\ncert = \"c.pem\"",
        "zwerm.toml:2: listener.0.key: kind \"wss\" needs it: name a PEM file",
    ),
    (
        "[[listener]]\nkind = \"wss\"\nkey = \"k.pem\"\ncert = \"\"",
        "zwerm.toml:4: listener.0.cert: is empty; name a PEM file",
    ),
    (
        "[[listener]]\ncert = \"x.pem\"",
        "zwerm.toml:2: listener.0.cert: kind \"mqtt\" has no TLS; did you mean \"mqtts\" or \"wss\"?",
    ),
    (
        "[[listener]]\nkind = \"ws\"\ntls_min_version = \"1.3\"",
        "zwerm.toml:3: listener.0.tls_min_version: kind \"ws\" has no TLS",
    ),
    (
        "[[listener]]\nkind = \"mqtts\"\ncert = \"c\"\nkey = \"k\"\ncertificate_as_username = true",
        "zwerm.toml:5: listener.0.certificate_as_username: clients are asked for certificates only where client_ca is set",
    ),
    (
        "[[listener]]\nkind = \"mqtts\"\ntls_min_version = \"1.1\"",
        "zwerm.toml:3: listener.tls_min_version: expected `\"1.2\"` or `\"1.3\"`, found \"1.1\"",
    ),
    ("[[listener]]\npath = \"/mqtt\"", "zwerm.toml:2: listener.0.path: kind \"mqtt\" has no path"),
    ("[[listener]]\nkind = \"ws\"\npath = \"mqtt\"", "zwerm.toml:3: listener.0.path: \"mqtt\" is no path"),
    ("[[listener]]\nbind = \"unix:\"", "zwerm.toml:2: listener.0.bind: a Unix socket has a path and no TLS"),
    (
        "[[listener]]\nkind = \"mqtts\"\nbind = \"unix:/s\"\ncert = \"c\"\nkey = \"k\"",
        "zwerm.toml:3: listener.0.bind: a Unix socket has a path and no TLS",
    ),
    (
        "[[listener]]\nbind = \"unix:/s\"\n[[listener]]\nbind = \"unix:/s\"",
        "zwerm.toml:4: listener.1.bind: unix:/s is already taken by listener.0.bind",
    ),
    ("[listener]\nkind = \"mqtt\"", "zwerm.toml:1: listener: expected [[listener]], with double brackets"),
    ("listener = []", "zwerm.toml:1: listener: at least one listener is needed"),
    ("[http]\nbind = \"localhost:8080\"", "zwerm.toml:2: http.bind: expected an address and port like"),
    ("[http]\nbind = \"127.0.0.1:0\"", "zwerm.toml:2: http.bind: port 0 is no port"),
    (
        "[http]\nbind = \"127.0.0.1:1883\"",
        "zwerm.toml:2: http.bind: 127.0.0.1:1883 is already taken by listener.0.bind",
    ),
    (
        "[http]\nbind = \"0.0.0.0:8080\"",
        "zwerm.toml:2: http.bind: 0.0.0.0:8080 can be reached from other machines and clients are admitted without a password; set mqtt.allow_anonymous = true",
    ),
    ("[[listener]]\nbind = \"0.0.0.0:1883\"", "zwerm.toml:2: listener.0.bind: 0.0.0.0:1883 can be reached"),
    ("[node]\nname = \"a b\"", "zwerm.toml:2: node.name: \"a b\" is no name"),
    ("[node]\ndata_dir = \"\"", "zwerm.toml:2: node.data_dir: is empty"),
    ("[cluster]\npeers = [\"a\"]", "zwerm.toml:2: cluster.peers: \"a\" is no host:port"),
    ("[cluster]\npeers = [1]", "zwerm.toml:2: cluster.peers: expected a list of strings, found 1"),
    (
        "[cluster]\nbootstrap_expect = 3",
        "zwerm.toml:2: cluster.bootstrap_expect: 3 nodes are expected but cluster.peers is empty",
    ),
    ("[cluster]\nreplicas = 4", "zwerm.toml:2: cluster.replicas: 4 is not possible: 1, 3, 5 or 7"),
    ("[cluster]\nreplicas = 9", "zwerm.toml:2: cluster.replicas: 9 is out of range: 1 to 7"),
    ("[cluster]\nmax_level = 0", "zwerm.toml:2: cluster.max_level: 0 is out of range: 1 to "),
    ("[cluster]\nmax_level = \"new\"", "zwerm.toml:2: cluster.max_level: expected an integer, found"),
    ("[cluster]\nadvertise = \"x:0\"", "zwerm.toml:2: cluster.advertise: \"x:0\" is no host:port"),
    (
        "[cluster]\nlisten = \"0.0.0.0:7100\"",
        "default: cluster.advertise: other nodes cannot dial 0.0.0.0:7100",
    ),
    ("[log]\nlevel = \"loud=very\"", "zwerm.toml:2: log.level: \"loud=very\" is no level"),
    ("[log]\nlevel = \"\"", "zwerm.toml:2: log.level: \"\" is no level"),
    ("[storage]\n\nsync = fsync", "zwerm.toml:3: "),
    ("[storage]\nsync = \"os\"\nsync = \"os\"", "zwerm.toml:3: duplicate key"),
];

#[test]
fn what_is_wrong_in_a_file_is_named_with_key_and_line() {
    for (text, wanted) in WRONG {
        let error = Written::new(text).load().expect_err(text);
        assert!(error.starts_with(wanted), "{text}\n  wanted {wanted}\n  found  {error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn flags_win_over_the_environment_that_over_the_file_that_over_defaults() {
    let written = Written::new("[mqtt]\nmax_qos = 0\nmax_inflight = 1\nkeep_alive_maximum = 10");
    let mut sources = written.sources();
    sources.environment = environment(&[
        ("ZWERM_MQTT__MAX_INFLIGHT", "2"),
        ("ZWERM_MQTT__KEEP_ALIVE_MAXIMUM", "20"),
        ("PATH", "/bin"),
        ("ZWERM_SERVICE_PORT", "tcp://10.0.0.1:1883"),
    ]);
    sources.flags = vec![flag("mqtt.keep_alive_maximum", "30")];
    let mqtt = written.load_with(&sources).unwrap().mqtt;
    assert_eq!((mqtt.max_qos, mqtt.max_inflight.get(), mqtt.keep_alive_maximum), (0, 2, 30));
    assert_eq!(mqtt.receive_maximum, MqttConfig::default().receive_maximum);
}

#[test]
fn lists_sizes_and_listeners_can_come_from_the_environment() {
    let environment = environment(&[
        ("ZWERM_CLUSTER__PEERS", "a:1, b:2"),
        ("ZWERM_MQTT__MAX_PACKET_SIZE", "1MiB"),
        ("ZWERM_MQTT__STRICT_UTF8", "true"),
        ("ZWERM_MQTT__ALLOW_ANONYMOUS", "true"),
        ("ZWERM_LISTENER__BIND", "0.0.0.0:1884"),
    ]);
    let config = Config::load(&Sources { environment, ..Sources::default() }).unwrap();
    assert_eq!(config.cluster.peers, ["a:1", "b:2"]);
    assert_eq!(config.mqtt.max_packet_size, ByteSize(1 << 20));
    assert!(config.mqtt.strict_utf8);
    assert_eq!(config.listeners.iter().map(|l| l.bind.to_string()).collect::<Vec<_>>(), ["0.0.0.0:1884"]);
}

#[test]
fn what_is_wrong_in_the_environment_or_a_flag_is_named_with_variable_or_flag() {
    let cases = [
        (
            "ZWERM_MQTT__MAX_QOS",
            "9",
            "environment variable ZWERM_MQTT__MAX_QOS: mqtt.max_qos: \"9\" is out of range: 0 to 2",
        ),
        (
            "ZWERM_MQTT__MAX_QOS",
            "high",
            "environment variable ZWERM_MQTT__MAX_QOS: mqtt.max_qos: expected an integer, found \"high\"",
        ),
        ("ZWERM_MQTT__QOS", "1", "environment variable ZWERM_MQTT__QOS: mqtt.qos: unknown key; [mqtt] has:"),
        ("ZWERM_MQ__QOS", "1", "environment variable ZWERM_MQ__QOS: mq: unknown section; there are:"),
        (
            "ZWERM_LISTENER__BIND",
            "0.0.0.0:1883",
            "environment variable ZWERM_LISTENER__BIND: listener.0.bind: 0.0.0.0:1883 can be reached",
        ),
        (
            "ZWERM_LISTENER__KEY",
            "x",
            "environment variable ZWERM_LISTENER__KEY: listener.0.key: kind \"mqtt\" has no TLS",
        ),
        ("ZWERM_NODE__NAME", "a b", "environment variable ZWERM_NODE__NAME: node.name: \"a b\" is no name"),
    ];
    for (name, value, wanted) in cases {
        let sources = Sources { environment: environment(&[(name, value)]), ..Sources::default() };
        let error = Config::load(&sources).unwrap_err().to_string();
        assert!(error.starts_with(wanted), "wanted {wanted}\n found {error}");
    }
    for (key, wanted) in [
        ("mqtt.max_qos", "flag --set: mqtt.max_qos: expected an integer, found \"x\""),
        ("max_qos", "flag --set: max_qos: a key is written section.key"),
    ] {
        let sources = Sources { flags: vec![flag(key, "x")], ..Sources::default() };
        assert_eq!(Config::load(&sources).unwrap_err().to_string(), wanted);
    }
}

#[test]
fn a_value_that_is_overruled_must_still_be_right() {
    let written = Written::new("[mqtt]\nmax_qos = 3");
    let mut sources = written.sources();
    sources.flags = vec![flag("mqtt.max_qos", "1")];
    assert!(written.load_with(&sources).unwrap_err().contains("zwerm.toml:2: mqtt.max_qos"));
}

#[test]
fn a_missing_file_is_named() {
    let sources = Sources { file: Some(PathBuf::from("/nowhere/zwerm.toml")), ..Sources::default() };
    let error = Config::load(&sources).unwrap_err().to_string();
    assert_eq!(error, "cannot read the configuration /nowhere/zwerm.toml");
}

#[test]
fn an_open_address_is_fine_once_anonymous_clients_are_wanted() {
    let written = Written::new("[mqtt]\nallow_anonymous = true\n[[listener]]\nbind = \"0.0.0.0:1883\"");
    assert_eq!(written.load().unwrap().listeners[0].bind.to_string(), "0.0.0.0:1883");
}

#[test]
fn the_printed_configuration_is_read_back_as_the_same() {
    let written = Written::new(
        "[cluster]\nadvertise = \"a:1\"\npeers = [\"b:2\", \"c:3\"]\n[node]\nname = \"n\"\n\
         [[listener]]\nbind = \"127.0.0.1:1\"\n[[listener]]\nbind = \"127.0.0.1:2\"\n[mqtt]\nmax_packet_size = 1000",
    );
    for config in [Config::default(), written.load().unwrap()] {
        assert_eq!(Written::new(&config.to_string()).load().unwrap(), config);
    }
}

#[test]
fn the_effective_default_reads_like_this() {
    let printed = Config::default().to_string();
    assert!(
        printed.starts_with(
            "[node]\nname = \"node-1\"\ndata_dir = \"./zwerm-data\"\ndrain_rate = 500\nshutdown_grace = 20\n\n\
             [cluster]\n"
        ),
        "{printed}"
    );
    assert!(printed.contains("\nmax_packet_size = \"1MiB\"\n"), "{printed}");
    assert!(printed.contains("\npeers = []\n"), "{printed}");
    assert!(
        printed.ends_with(
            "\n[[listener]]\nkind = \"mqtt\"\nbind = \"127.0.0.1:1883\"\nmax_connections = 100000\n\
             handshake_timeout = 10\n\
             proxy_protocol = false\n"
        ),
        "{printed}"
    );
}

#[test]
fn the_reference_document_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
    let document = fs::read_to_string(path).unwrap_or_default();
    assert!(
        document == reference(),
        "docs/configuration.md is stale; run: cargo run -p zwerm-node -- serve --print-config-docs > docs/configuration.md"
    );
}
