//! Every key of the configuration, once: its name, its field, its limits and what it does.
//!
//! Loading, showing and the reference document walk these tables. A key that does nothing yet is not here, so that
//! nobody believes it works.

use zwerm_cluster::level::{NEWEST, OLDEST};

use super::{Config, Limits, ListenerConfig, Setting};

/// One key of a section whose fields live in `T`.
pub(super) struct Key<T: 'static> {
    pub(super) name: &'static str,
    pub(super) field: fn(&mut T) -> &mut dyn Setting,
    pub(super) limits: Limits,
    pub(super) doc: &'static str,
}

/// One table of the file.
pub(super) struct Section {
    pub(super) name: &'static str,
    pub(super) doc: &'static str,
    pub(super) keys: &'static [Key<Config>],
}

const fn key<T>(name: &'static str, field: fn(&mut T) -> &mut dyn Setting, doc: &'static str) -> Key<T> {
    Key { name, field, limits: Limits { least: 0, most: u64::MAX }, doc }
}

const fn within<T>(least: u64, most: u64, key: &Key<T>) -> Key<T> {
    Key { name: key.name, field: key.field, limits: Limits { least, most }, doc: key.doc }
}

/// The name of the repeatable table of listeners.
pub(super) const LISTENER: &str = "listener";

/// What `[[listener]]` is for.
pub(super) const LISTENER_DOC: &str = "Where clients connect; repeat the table for each. Tables in the file replace the default one. \
     Environment variables and flags (`ZWERM_LISTENER__BIND`) set the first listener.";

pub(super) const LISTENER_KEYS: &[Key<ListenerConfig>] = &[
    key(
        "kind",
        |l| &mut l.kind,
        "What is spoken there. `mqtt`: MQTT over TCP; `mqtts`: the same under TLS; `ws`: MQTT over WebSocket, in binary \
         frames, subprotocol `mqtt` (or `mqttv3.1`); `wss`: the same under TLS. A WebSocket message may have twice \
         `mqtt.max_packet_size`, and 1 MiB in any case.",
    ),
    key(
        "bind",
        |l| &mut l.bind,
        "Where to listen. Each listener needs its own. A Unix socket (kinds `mqtt` and `ws`) is a file that is made at the \
         start and removed at the end; who may connect is up to the permissions of its directory.",
    ),
    within(
        1,
        10_000_000,
        &key(
            "max_connections",
            |l| &mut l.max_connections,
            "Clients connected at a time; further connections are closed at once.",
        ),
    ),
    within(
        1,
        300,
        &key(
            "handshake_timeout",
            |l| &mut l.handshake_timeout,
            "Seconds for all that comes before MQTT: PROXY header, TLS, WebSocket request. MQTT's CONNECT has a time limit of \
             its own.",
        ),
    ),
    key(
        "path",
        |l| &mut l.path,
        "Kinds `ws` and `wss`: the path of the WebSocket; requests for another are answered with 404.",
    ),
    key(
        "cert",
        |l| &mut l.cert,
        "Kinds `mqtts` and `wss`: PEM file of the server's certificate, followed by those between it and its root. This file, \
         `key` and `client_ca` are looked at every two seconds and read again when they have changed; new connections get \
         the new ones and nobody is disconnected. What cannot be used is logged as an error and changes nothing.",
    ),
    key(
        "key",
        |l| &mut l.key,
        "Kinds `mqtts` and `wss`: PEM file of the private key (PKCS #8, PKCS #1 or SEC 1).",
    ),
    key(
        "tls_min_version",
        |l| &mut l.tls_min_version,
        "Kinds `mqtts` and `wss`: the oldest version of TLS that is spoken.",
    ),
    key(
        "client_ca",
        |l| &mut l.client_ca,
        "Kinds `mqtts` and `wss`: PEM file of the authorities that sign the certificates of clients. Clients are asked for \
         one when it is set; a web page whose browser has none cannot connect then, even if it is optional.",
    ),
    key(
        "client_certificate",
        |l| &mut l.client_certificate,
        "With `client_ca`: `required` refuses clients without a certificate in the TLS handshake, `optional` admits them. A \
         certificate that the authorities have not signed, or that has expired, is refused either way.",
    ),
    key(
        "certificate_as_username",
        |l| &mut l.certificate_as_username,
        "With `client_ca`: the common name in a client's certificate, else its first alternative name, is its user name, and \
         what CONNECT says of user name and password is ignored.",
    ),
    key(
        "proxy_protocol",
        |l| &mut l.proxy_protocol,
        "Every connection begins with a PROXY protocol header (version 1 or 2), which says where the client is. Only the \
         proxy must be able to reach such a listener: who can, can claim any address. Connections without a header are closed.",
    ),
];

/// Why a key means nothing to a listener as it is; `None`: it means something.
pub(super) fn idle(listener: &ListenerConfig, name: &str) -> Option<String> {
    let kind = listener.kind.as_str();
    match name {
        "path" if !listener.kind.is_websocket() => {
            Some(format!("kind \"{kind}\" has no path; only \"ws\" and \"wss\" have"))
        }
        "cert" | "key" | "tls_min_version" | "client_ca" if !listener.kind.has_tls() => {
            Some(format!("kind \"{kind}\" has no TLS; did you mean \"mqtts\" or \"wss\"?"))
        }
        "client_certificate" | "certificate_as_username" if listener.client_ca.is_none() => {
            Some("clients are asked for certificates only where client_ca is set".to_owned())
        }
        _ => None,
    }
}

pub(super) const SECTIONS: &[Section] = &[
    Section { name: "node", doc: "Who this node is.", keys: NODE },
    Section { name: "cluster", doc: "How it meets other nodes.", keys: CLUSTER },
    Section { name: "http", doc: "Health, metrics and the API.", keys: HTTP },
    Section { name: "mqtt", doc: "What clients may do.", keys: MQTT },
    Section {
        name: "limits",
        doc: "How many come in at a time, so that those who are in already do not notice when all others reconnect at once.",
        keys: LIMITS,
    },
    Section { name: "auth", doc: "Who clients are.", keys: AUTH },
    Section { name: "storage", doc: "How data is kept.", keys: STORAGE },
    Section { name: "log", doc: "What the node says on standard error.", keys: LOG },
];

const NODE: &[Key<Config>] = &[
    key(
        "name",
        |c| &mut c.node.name,
        "For people, unique in the cluster; in Kubernetes the pod's name. 1 to 64 letters, digits, `.`, `_` and `-`.",
    ),
    key(
        "data_dir",
        |c| &mut c.node.data_dir,
        "This node's data: identity, log, state. One process uses it at a time.",
    ),
    within(
        1,
        1_000_000,
        &key(
            "drain_rate",
            |c| &mut c.node.drain_rate,
            "Clients that are sent to other nodes per second when this node drains (`zwerm ctl node drain`, SIGTERM). Each \
             has to connect again somewhere: what the other nodes can take is the measure.",
        ),
    ),
    within(
        0,
        3_600,
        &key(
            "shutdown_grace",
            |c| &mut c.node.shutdown_grace,
            "Seconds that SIGTERM gives the node to drain before it stops; if `drain_rate` is too slow for that, it goes \
             faster. What kills the process after SIGTERM should wait some 15 s longer. 0: it stops without draining. A \
             node that no other node can stand in for does not drain either.",
        ),
    ),
];

const CLUSTER: &[Key<Config>] = &[
    key("listen", |c| &mut c.cluster.listen, "Where other nodes connect (gRPC)."),
    key(
        "advertise",
        |c| &mut c.cluster.advertise,
        "`host:port` under which other nodes reach this one; by default `listen`. Required when `listen` is a wildcard \
         address such as 0.0.0.0.",
    ),
    key(
        "peers",
        |c| &mut c.cluster.peers,
        "`host:port` of other nodes; may include this one. Names are resolved again at every dial.",
    ),
    within(
        0,
        1_000,
        &key(
            "bootstrap_expect",
            |c| &mut c.cluster.bootstrap_expect,
            "A new cluster is formed once, when this many empty nodes see each other. A node with data never forms one, nor does an empty one that sees a cluster: it joins that. 0: it only joins.",
        ),
    ),
    within(
        1,
        1_024,
        &key(
            "shards",
            |c| &mut c.cluster.shards,
            "Number of shards; fixed when the cluster is formed and ignored afterwards.",
        ),
    ),
    within(
        1,
        7,
        &key(
            "replicas",
            |c| &mut c.cluster.replicas,
            "Replicas of each shard of a new cluster: 1, 3, 5 or 7; as many as there are nodes, if these are fewer. With 3 one \
             node may fail at a time, with 5 two: what is stored is then on five disks, and acknowledged when three have it. \
             Ignored once the cluster is formed; then `zwerm ctl cluster replicas` changes it.",
        ),
    ),
    within(
        OLDEST as u64,
        NEWEST as u64,
        &key(
            "max_level",
            |c| &mut c.cluster.max_level,
            "Holds the cluster at this feature level while you may want to go back to the version before: the level rises by \
             itself when all nodes can more, and never falls. By default the newest that this version can. See \
             docs/operating.md.",
        ),
    ),
    within(
        100,
        1_000_000,
        &key(
            "snapshot_entries",
            |c| &mut c.cluster.snapshot_entries,
            "A Raft group snapshots after this many log entries and cuts its log, but for a tenth that stays for followers \
             that lag a little; one that lags more is sent the snapshot. An entry is a batch of commands. Fewer: less to \
             replay at a restart, more writing.",
        ),
    ),
    key(
        "kubernetes_statefulset",
        |c| &mut c.cluster.kubernetes_statefulset,
        "The StatefulSet that this node is a pod of. On SIGTERM it then asks the Kubernetes API, with its service account, \
         whether the StatefulSet still wants it: if not, it leaves the cluster before it stops. Empty: it only stops.",
    ),
    within(
        1,
        86_400,
        &key(
            "leave_grace",
            |c| &mut c.cluster.leave_grace,
            "Seconds that it may take to give up its shards then. When they are over it stops, and the others finish without \
             it.",
        ),
    ),
];

const HTTP: &[Key<Config>] = &[
    key(
        "bind",
        |c| &mut c.http.bind,
        "Address and port of the HTTP API, `/healthz`, `/readyz` and `/metrics`.",
    ),
    key(
        "token_file",
        |c| &mut c.http.token_file,
        "File with one line, a secret of 16 or more characters. Whoever changes something over HTTP (`zwerm ctl`) must send \
         it (`Authorization: Bearer`); it is read each time, so it can be replaced. Without it, changes are taken from \
         programs of this machine only: neither through a proxy nor from web pages. Reading is open to all who reach the \
         port.",
    ),
];

/// Largest MQTT packet: a remaining length of 268,435,455 and its header of five bytes (section 2.1.4).
const LARGEST_PACKET: u64 = 268_435_460;

const MQTT: &[Key<Config>] = &[
    key(
        "allow_anonymous",
        |c| &mut c.mqtt.allow_anonymous,
        "Admit clients that come without a user name (or an empty one), and with any name where there is no \
         `auth.users_file`. Must be said explicitly as soon as any address of this node is not loopback. `false` needs \
         users, or a listener with `certificate_as_username`.",
    ),
    within(
        128,
        LARGEST_PACKET,
        &key(
            "max_packet_size",
            |c| &mut c.mqtt.max_packet_size,
            "Largest packet a client may send; a larger one closes its connection (0x95).",
        ),
    ),
    within(
        1,
        65_535,
        &key(
            "receive_maximum",
            |c| &mut c.mqtt.receive_maximum,
            "QoS 1 and 2 messages a client may send without waiting for acknowledgement.",
        ),
    ),
    within(
        0,
        65_535,
        &key(
            "topic_alias_maximum",
            |c| &mut c.mqtt.topic_alias_maximum,
            "Topic aliases a client may use; 0: none.",
        ),
    ),
    within(
        0,
        2,
        &key("max_qos", |c| &mut c.mqtt.max_qos, "Highest QoS a client may publish with (0x9B above it)."),
    ),
    key(
        "retain_available",
        |c| &mut c.mqtt.retain_available,
        "Keep retained messages; otherwise they are refused (0x9A).",
    ),
    key(
        "wildcard_subscriptions",
        |c| &mut c.mqtt.wildcard_subscriptions,
        "Serve filters with `+` and `#`; otherwise they are refused (0xA2).",
    ),
    key(
        "shared_subscriptions",
        |c| &mut c.mqtt.shared_subscriptions,
        "Serve `$share/group/filter`; otherwise it is refused (0x9E).",
    ),
    key(
        "exclusive_subscriptions",
        |c| &mut c.mqtt.exclusive_subscriptions,
        "Serve `$exclusive/filter`, which at most one client of the cluster has at a time (0x97 for others); otherwise it is \
         refused (0x8F).",
    ),
    key(
        "subscription_identifiers",
        |c| &mut c.mqtt.subscription_identifiers,
        "Serve subscription identifiers; otherwise they are refused (0xA1).",
    ),
    within(
        0,
        65_535,
        &key(
            "keep_alive_maximum",
            |c| &mut c.mqtt.keep_alive_maximum,
            "Seconds; a client that asks for a longer keep alive, or for none, is given this one (5.0 clients are told: \
             Server Keep Alive). 0: no limit.",
        ),
    ),
    within(
        1,
        65_535,
        &key(
            "max_inflight",
            |c| &mut c.mqtt.max_inflight,
            "QoS 1 and 2 messages sent to a client that it has not acknowledged; its own receive maximum may be lower.",
        ),
    ),
    within(
        1,
        10_000_000,
        &key(
            "max_queued_messages",
            |c| &mut c.mqtt.max_queued_messages,
            "Messages that wait in memory for one connected client. Over it QoS 0 is dropped, and a publisher of QoS 1 or 2 \
             waits until the client has caught up or is disconnected (0x97). What waits for a durable session with QoS 1 \
             or 2 is not among them: see `session_queue_messages`.",
        ),
    ),
    within(
        1 << 10,
        1 << 40,
        &key(
            "max_queued_bytes",
            |c| &mut c.mqtt.max_queued_bytes,
            "Bytes that wait in memory for one connected client, likewise.",
        ),
    ),
    within(
        0,
        u32::MAX as u64,
        &key(
            "session_expiry_maximum",
            |c| &mut c.mqtt.session_expiry_maximum,
            "Seconds that a session may outlive its connection; a client that asks for more is given this (5.0 clients are \
             told), and so is every 3.1.1 client with clean session 0. 4294967295: for ever. 0: no durable sessions.",
        ),
    ),
    within(
        0,
        1_000_000_000,
        &key(
            "session_queue_messages",
            |c| &mut c.mqtt.session_queue_messages,
            "QoS 1 and 2 messages that wait on disk for one durable session, those included that it has not acknowledged yet. \
             The node that a client connects to sets the bounds of its session. 0: no bound.",
        ),
    ),
    within(
        0,
        1 << 50,
        &key(
            "session_queue_bytes",
            |c| &mut c.mqtt.session_queue_bytes,
            "Bytes of their topics and payloads, likewise. 0: no bound.",
        ),
    ),
    key(
        "session_queue_full",
        |c| &mut c.mqtt.session_queue_full,
        "What gives way when a message finds the queue of a durable session full; it is counted \
         (`zwerm_messages_dropped_total{reason=\"session_queue_full\"}`).",
    ),
    key(
        "shared_strategy",
        |c| &mut c.mqtt.shared_strategy,
        "Which member of a shared group gets a message. `local`: one on the publisher's node if there is one; \
         `hash_client` and `hash_topic`: always the same one for a publisher or a topic.",
    ),
    key(
        "allow_zero_length_client_id",
        |c| &mut c.mqtt.allow_zero_length_client_id,
        "Give clients that send no client id one; otherwise they are refused (0x85).",
    ),
    key(
        "strict_utf8",
        |c| &mut c.mqtt.strict_utf8,
        "Refuse control characters and Unicode non-characters in strings (section 1.5.4).",
    ),
    key(
        "validate_payload_format",
        |c| &mut c.mqtt.validate_payload_format,
        "Refuse messages and wills whose payload format indicator says UTF-8 and whose payload is none (0x99).",
    ),
    within(
        0,
        86_400,
        &key(
            "sys_interval",
            |c| &mut c.mqtt.sys_interval,
            "Seconds after which a node tells the values of its `$SYS` topics that have changed: `$SYS/broker/...` to its own \
             clients, `$SYS/brokers/<node name>/...` to those of all nodes. 0: there are none.",
        ),
    ),
    key(
        "response_information",
        |c| &mut c.mqtt.response_information,
        "What a 5.0 client that asks for Response Information is told: by convention the beginning of the response topics \
         that it may use. Not said if not set.",
    ),
    key(
        "server_reference",
        |c| &mut c.mqtt.server_reference,
        "Where 5.0 clients are sent that cannot stay on this node, because it drains or has lost the others (0x9C and 0x9D, \
         Server Reference): `host:port`, or several with spaces between them. If not set, the addresses of the other nodes \
         that take clients, each client with another one first: of each its first listener of kind and address as the \
         clients know it, so set this where clients come through other addresses or need TLS. Nothing is said of nodes \
         that listen on a wildcard address.",
    ),
    key(
        "overlapping",
        |c| &mut c.mqtt.overlapping,
        "A client with several matching subscriptions gets a copy for each, or one merged copy with all identifiers.",
    ),
];

const LIMITS: &[Key<Config>] = &[
    within(
        0,
        1_000_000,
        &key(
            "connect_rate",
            |c| &mut c.limits.connect_rate,
            "Connections that this node accepts per second, all listeners together. Those that come faster wait in the \
             system's backlog. 0: no limit.",
        ),
    ),
    within(
        1,
        1_000_000,
        &key(
            "connect_burst",
            |c| &mut c.limits.connect_burst,
            "Connections that it accepts at once after a pause.",
        ),
    ),
    within(
        1,
        1_000_000,
        &key(
            "max_tls_handshakes",
            |c| &mut c.limits.max_tls_handshakes,
            "TLS handshakes at a time; others wait until one is done. One takes a millisecond or two of a processor.",
        ),
    ),
    within(
        1,
        1_000_000,
        &key(
            "max_handshakes",
            |c| &mut c.limits.max_handshakes,
            "CONNECT packets at a time that are answered with the help of the cluster; others wait until one is done.",
        ),
    ),
    within(
        0,
        1_000_000,
        &key(
            "max_waiting",
            |c| &mut c.limits.max_waiting,
            "Clients that may wait for either at a time. More are refused: before TLS they are closed, a CONNECT is answered \
             with 0x89 Server busy (3.x: 3, server unavailable).",
        ),
    ),
    within(
        1,
        60,
        &key(
            "busy_after",
            |c| &mut c.limits.busy_after,
            "Seconds that one of them waits at most; then it is refused likewise.",
        ),
    ),
    within(
        0,
        60,
        &key(
            "busy_jitter",
            |c| &mut c.limits.busy_jitter,
            "Seconds: that it is refused a client is told after a time by chance between none and this, so that not all come \
             back at once. So many as may wait are told so; more are told at once.",
        ),
    ),
];

const AUTH: &[Key<Config>] = &[key(
    "users_file",
    |c| &mut c.auth.users_file,
    "File of the users that may connect with a name, one `name:credential` a line; `zwerm passwd` writes it. They prove \
     who they are by password, or by SCRAM-SHA-256 or SCRAM-SHA-512 (enhanced authentication, MQTT 5.0 section 4.12). It \
     is read again when it changes. Without it, a name is only a name.",
)];

const STORAGE: &[Key<Config>] = &[
    key(
        "sync",
        |c| &mut c.storage.sync,
        "When a write counts as stored, and may be acknowledged. `fsync`: on the disk. `os`: with the operating system, which \
         is faster and weaker: if the machine fails, not only the process, it may lose what was acknowledged. \
         `zwerm status` and `zwerm_store_sync_info` say which one is on.",
    ),
    within(
        8 << 20,
        1 << 40,
        &key(
            "cache_size",
            |c| &mut c.storage.cache_size,
            "Memory of the database's page cache. Queues of durable sessions live on disk and are read through it.",
        ),
    ),
];

const LOG: &[Key<Config>] = &[
    key(
        "level",
        |c| &mut c.log.level,
        "`error`, `warn`, `info`, `debug` or `trace`; parts of the program can differ, as in the default.",
    ),
    key("format", |c| &mut c.log.format, "Form of a line."),
];
