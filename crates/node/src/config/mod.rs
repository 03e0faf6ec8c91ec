//! Configuration: what was written (file, environment, flags) becomes what it means.
//!
//! [`Config`] is the meaning; nothing behind it parses or defaults again. `keys` is the one table from
//! which loading, `serve --check` and docs/configuration.md are made, so that none of them can drift.
//! Knows no socket and no broker. Start at [`Config::load`].

mod check;
mod error;
mod keys;
mod load;
mod show;
#[cfg(test)]
mod tests;
mod value;

use std::net::{Ipv4Addr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;

use value::{Limits, Setting, Value, choices};

pub use zwerm_gateway::Bind;

pub use error::{ConfigError, Origin};
pub use load::{Override, Sources};
pub use show::reference;
pub use value::ByteSize;

/// What a node was told, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Who it is.
    pub node: NodeConfig,
    /// How it meets other nodes.
    pub cluster: ClusterConfig,
    /// Where clients connect; at least one.
    pub listeners: Vec<ListenerConfig>,
    /// Where people and probes connect.
    pub http: HttpConfig,
    /// What clients may do.
    pub mqtt: MqttConfig,
    /// How many come in at a time.
    pub limits: LimitsConfig,
    /// Who they are.
    pub auth: AuthConfig,
    /// How it keeps data.
    pub storage: StorageConfig,
    /// What it says about itself.
    pub log: LogConfig,
}

/// `[node]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// For people; in Kubernetes the pod's name.
    pub name: String,
    /// One node's data, used by one process at a time.
    pub data_dir: PathBuf,
    /// Clients sent to other nodes per second when it drains.
    pub drain_rate: NonZeroU32,
    /// Seconds to drain before it stops; 0: it does not.
    pub shutdown_grace: u64,
}

/// `[cluster]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Where other nodes connect.
    pub listen: SocketAddr,
    /// `host:port` that other nodes are told; `None`: the listen address.
    pub advertise: Option<String>,
    /// `host:port` of other nodes; may include this one.
    pub peers: Vec<String>,
    /// How many empty nodes must see each other to form a cluster.
    pub bootstrap_expect: u16,
    /// Number of shards of a cluster that this node helps to form.
    pub shards: u32,
    /// Replicas of its shards: 1, 3, 5 or 7.
    pub replicas: u32,
    /// The newest feature level that this node says it can; `None`: the newest that the program can.
    pub max_level: Option<u32>,
    /// Log entries of a Raft group between two of its snapshots.
    pub snapshot_entries: u64,
    /// The StatefulSet that this node is a pod of, if it may ask Kubernetes for it.
    pub kubernetes_statefulset: Option<String>,
    /// Seconds to give up its shards when it is scaled away.
    pub leave_grace: u64,
}

impl ClusterConfig {
    /// The `host:port` that other nodes use to reach this one.
    #[must_use]
    pub fn advertised(&self) -> String {
        self.advertise.clone().unwrap_or_else(|| self.listen.to_string())
    }
}

/// One `[[listener]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerConfig {
    /// What is spoken there.
    pub kind: ListenerKind,
    /// Where.
    pub bind: Bind,
    /// Clients at a time.
    pub max_connections: usize,
    /// Seconds for what comes before MQTT.
    pub handshake_timeout: u64,
    /// Of a WebSocket.
    pub path: String,
    /// PEM file; there if and only if the kind has TLS.
    pub cert: Option<PathBuf>,
    /// PEM file, likewise.
    pub key: Option<PathBuf>,
    /// The oldest version of TLS.
    pub tls_min_version: TlsVersion,
    /// PEM file of those that sign certificates of clients; `None`: clients are not asked.
    pub client_ca: Option<PathBuf>,
    /// Whether a client must have one.
    pub client_certificate: ClientCertificate,
    /// Whether its name is the user name.
    pub certificate_as_username: bool,
    /// Whether a proxy says first where the client is.
    pub proxy_protocol: bool,
}

choices! {
    /// What a listener speaks.
    ListenerKind {
        /// MQTT over TCP.
        Mqtt = "mqtt",
        /// MQTT over TLS.
        Mqtts = "mqtts",
        /// MQTT over WebSocket.
        Ws = "ws",
        /// MQTT over WebSocket over TLS.
        Wss = "wss",
    }
}

impl ListenerKind {
    /// Whether TLS is spoken.
    #[must_use]
    pub fn has_tls(self) -> bool {
        matches!(self, Self::Mqtts | Self::Wss)
    }

    /// Whether WebSocket is spoken.
    #[must_use]
    pub fn is_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }
}

choices! {
    /// The oldest version of TLS that a listener speaks.
    TlsVersion {
        /// And 1.3.
        V1_2 = "1.2",
        /// Alone.
        V1_3 = "1.3",
    }
}

choices! {
    /// Whether clients need a certificate.
    ClientCertificate {
        /// Without one they are refused.
        Required = "required",
        /// They may have one.
        Optional = "optional",
    }
}

/// `[http]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpConfig {
    /// Where health, metrics and the API are served.
    pub bind: SocketAddr,
    /// What whoever changes something has to know; `None`: to be a program of this machine.
    pub token_file: Option<PathBuf>,
}

/// `[mqtt]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MqttConfig {
    /// Always true in this version: there is no user store yet.
    pub allow_anonymous: bool,
    /// Bytes of a whole packet from a client.
    pub max_packet_size: ByteSize,
    /// Unacknowledged QoS 1/2 messages that the broker takes from a client.
    pub receive_maximum: NonZeroU16,
    /// Topic aliases that a client may set.
    pub topic_alias_maximum: u16,
    /// Highest QoS of a publish: 0, 1 or 2.
    pub max_qos: u16,
    /// Whether retained messages are kept.
    pub retain_available: bool,
    /// Whether filters may hold wildcards.
    pub wildcard_subscriptions: bool,
    /// Whether `$share/…` is served.
    pub shared_subscriptions: bool,
    /// Whether `$exclusive/…` is served.
    pub exclusive_subscriptions: bool,
    /// Whether subscriptions may have identifiers.
    pub subscription_identifiers: bool,
    /// Seconds; a client that asks for more, or for none, is given this. 0: no limit.
    pub keep_alive_maximum: u16,
    /// Unacknowledged QoS 1/2 messages on the way to a client.
    pub max_inflight: NonZeroU16,
    /// Messages that wait in memory for a connected client.
    pub max_queued_messages: usize,
    /// Bytes of topics and payloads that wait in memory for a connected client.
    pub max_queued_bytes: ByteSize,
    /// Seconds that a session may outlive its connection; `u32::MAX`: for ever, 0: not at all.
    pub session_expiry_maximum: u32,
    /// Messages that wait on disk for a durable session.
    pub session_queue_messages: u64,
    /// Bytes of topics and payloads that wait on disk for a durable session.
    pub session_queue_bytes: ByteSize,
    /// What gives way when that queue is full.
    pub session_queue_full: QueueFull,
    /// Which member of a shared group gets a message.
    pub shared_strategy: SharedStrategy,
    /// Whether a client may leave its id to the broker.
    pub allow_zero_length_client_id: bool,
    /// Whether control characters and non-characters in strings are refused.
    pub strict_utf8: bool,
    /// Whether payloads that are said to be text must be UTF-8.
    pub validate_payload_format: bool,
    /// Seconds between two tellings of `$SYS` topics; 0: there are none.
    pub sys_interval: u32,
    /// The beginning of the response topics that clients may use.
    pub response_information: Option<String>,
    /// Where clients go that cannot stay.
    pub server_reference: Option<String>,
    /// What a client with overlapping subscriptions gets.
    pub overlapping: Overlapping,
}

choices! {
    /// How the member of a shared group is chosen.
    SharedStrategy {
        /// Any, with equal chance.
        Random = "random",
        /// One after the other.
        RoundRobin = "round_robin",
        /// The same one as long as it is there.
        Sticky = "sticky",
        /// One on the publisher's node if there is one.
        Local = "local",
        /// By the publisher's client id.
        HashClient = "hash_client",
        /// By the topic.
        HashTopic = "hash_topic",
    }
}

choices! {
    /// What gives way when the queue of a durable session is full.
    QueueFull {
        /// What has waited longest, though it may be under way to the client.
        DropOldest = "drop_oldest",
        /// What comes.
        DropNewest = "drop_newest",
    }
}

choices! {
    /// What a client gets when several of its subscriptions match (MQTT 5.0 section 3.3.4).
    Overlapping {
        /// A copy per matching subscription.
        Each = "each",
        /// One copy with all identifiers and the highest QoS.
        Merged = "merged",
    }
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Connections accepted a second; 0: no limit.
    pub connect_rate: u32,
    /// Connections accepted at once after a pause.
    pub connect_burst: NonZeroU32,
    /// TLS handshakes at a time.
    pub max_tls_handshakes: usize,
    /// CONNECT packets with the cluster at a time.
    pub max_handshakes: usize,
    /// Clients that wait for either.
    pub max_waiting: usize,
    /// Seconds that they wait.
    pub busy_after: u64,
    /// Seconds within which they are told that they are refused.
    pub busy_jitter: u64,
}

/// `[auth]`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuthConfig {
    /// File of users and their credentials, as `zwerm passwd` writes it.
    pub users_file: Option<PathBuf>,
}

/// `[storage]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageConfig {
    /// When a write counts as stored.
    pub sync: SyncMode,
    /// Bytes of the database's page cache.
    pub cache_size: ByteSize,
}

choices! {
    /// When a write counts as stored.
    SyncMode {
        /// When it is on the disk.
        Fsync = "fsync",
        /// When the operating system has it: lost if the machine, not the process, fails.
        Os = "os",
    }
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// Filter directives as tracing-subscriber reads them.
    pub level: String,
    /// Form of a line.
    pub format: LogFormat,
}

choices! {
    /// Form of a log line.
    LogFormat {
        /// For people.
        Text = "text",
        /// For machines.
        Json = "json",
    }
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

impl Default for ListenerConfig {
    fn default() -> Self {
        Self {
            kind: ListenerKind::Mqtt,
            bind: loopback(1883).into(),
            max_connections: 100_000,
            handshake_timeout: 10,
            path: "/mqtt".into(),
            cert: None,
            key: None,
            tls_min_version: TlsVersion::V1_2,
            client_ca: None,
            client_certificate: ClientCertificate::Required,
            certificate_as_username: false,
            proxy_protocol: false,
        }
    }
}

impl Default for MqttConfig {
    fn default() -> Self {
        Self {
            allow_anonymous: true,
            max_packet_size: ByteSize(1 << 20),
            receive_maximum: NonZeroU16::MIN.saturating_add(1023),
            topic_alias_maximum: 64,
            max_qos: 2,
            retain_available: true,
            wildcard_subscriptions: true,
            shared_subscriptions: true,
            exclusive_subscriptions: true,
            subscription_identifiers: true,
            keep_alive_maximum: 0,
            max_inflight: NonZeroU16::MIN.saturating_add(255),
            max_queued_messages: 10_000,
            max_queued_bytes: ByteSize(16 << 20),
            session_expiry_maximum: u32::MAX,
            session_queue_messages: 1_000_000,
            session_queue_bytes: ByteSize(1 << 30),
            session_queue_full: QueueFull::DropOldest,
            shared_strategy: SharedStrategy::Local,
            allow_zero_length_client_id: true,
            strict_utf8: false,
            validate_payload_format: false,
            sys_interval: 10,
            response_information: None,
            server_reference: None,
            overlapping: Overlapping::Each,
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            connect_rate: 1_000,
            connect_burst: NonZeroU32::MIN.saturating_add(999),
            max_tls_handshakes: 128,
            max_handshakes: 1_024,
            max_waiting: 4_096,
            busy_after: 5,
            busy_jitter: 3,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node: NodeConfig {
                name: "node-1".into(),
                data_dir: "./zwerm-data".into(),
                drain_rate: NonZeroU32::MIN.saturating_add(499),
                shutdown_grace: 20,
            },
            cluster: ClusterConfig {
                listen: loopback(7100),
                advertise: None,
                peers: Vec::new(),
                bootstrap_expect: 1,
                shards: 16,
                replicas: 3,
                max_level: None,
                snapshot_entries: 10_000,
                kubernetes_statefulset: None,
                leave_grace: 240,
            },
            listeners: vec![ListenerConfig::default()],
            http: HttpConfig { bind: loopback(8080), token_file: None },
            mqtt: MqttConfig::default(),
            limits: LimitsConfig::default(),
            auth: AuthConfig::default(),
            storage: StorageConfig { sync: SyncMode::Fsync, cache_size: ByteSize(64 << 20) },
            log: LogConfig { level: "info,openraft=error".into(), format: LogFormat::Text },
        }
    }
}
