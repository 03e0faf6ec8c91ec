//! What the configuration means for each part of a node: one function per crate.
//!
//! Knows the defaults that no key sets. Start at [`cluster`].

use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use zwerm_gateway::UserFile;
use zwerm_wire::QoS;

use crate::config::{self, Config};
use crate::identity::Identity;

/// The part of the cluster that this node is.
pub(crate) fn cluster(config: &Config, identity: &Identity) -> zwerm_cluster::Config {
    // what others show of this node; an address says more than a file of this machine
    let by_address = config.listeners.iter().find(|listener| listener.bind.tcp().is_some());
    let mqtt_addr = by_address.or(config.listeners.first()).map(|listener| listener.bind.to_string());
    zwerm_cluster::Config {
        id: identity.id,
        name: identity.name.clone(),
        start: identity.incarnation,
        cluster_addr: config.cluster.advertised(),
        mqtt_addr: mqtt_addr.unwrap_or_default(),
        http_addr: found_at(config.http.bind, &config.cluster.advertised()),
        peers: config.cluster.peers.clone(),
        bootstrap_expect: usize::from(config.cluster.bootstrap_expect),
        shards: config.cluster.shards,
        replicas: config.cluster.replicas,
        levels: zwerm_cluster::level::Levels::up_to(config.cluster.max_level),
        raft: zwerm_cluster::RaftConfig {
            snapshot_after_entries: config.cluster.snapshot_entries,
            keep_entries: config.cluster.snapshot_entries / 10,
            ..zwerm_cluster::RaftConfig::default()
        },
        lease: zwerm_cluster::LeaseConfig::default(),
        lanes: zwerm_cluster::forward::LaneLimits::default(),
        clock: Arc::new(wall_clock_ms),
    }
}

/// Where a port is found that listens on every address: on the host where other nodes find this one.
fn found_at(bind: SocketAddr, advertised: &str) -> String {
    match advertised.rsplit_once(':') {
        Some((host, _)) if bind.ip().is_unspecified() => format!("{host}:{}", bind.port()),
        _ => bind.to_string(),
    }
}

fn wall_clock_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The broker.
pub(crate) fn broker(config: &Config) -> zwerm_broker::Config {
    use zwerm_broker::{Overlapping, QueueFull, QueueLimits, SessionQueue, SharedStrategy};
    let mqtt = &config.mqtt;
    let defaults = zwerm_broker::Config::default();
    zwerm_broker::Config {
        queue: QueueLimits {
            messages: mqtt.max_queued_messages,
            bytes: usize::try_from(mqtt.max_queued_bytes.0).unwrap_or(usize::MAX),
            ..defaults.queue
        },
        session_queue: SessionQueue {
            messages: mqtt.session_queue_messages,
            bytes: mqtt.session_queue_bytes.0,
            full: match mqtt.session_queue_full {
                config::QueueFull::DropOldest => QueueFull::DropOldest,
                config::QueueFull::DropNewest => QueueFull::DropNewest,
            },
        },
        validate_payload_format: mqtt.validate_payload_format,
        overlapping: match mqtt.overlapping {
            config::Overlapping::Each => Overlapping::Each,
            config::Overlapping::Merged => Overlapping::Merged,
        },
        shared_strategy: match mqtt.shared_strategy {
            config::SharedStrategy::Random => SharedStrategy::Random,
            config::SharedStrategy::RoundRobin => SharedStrategy::RoundRobin,
            config::SharedStrategy::Sticky => SharedStrategy::Sticky,
            config::SharedStrategy::Local => SharedStrategy::Local,
            config::SharedStrategy::HashClient => SharedStrategy::HashClient,
            config::SharedStrategy::HashTopic => SharedStrategy::HashTopic,
        },
        ..defaults
    }
}

/// The gateway. Reads the file of users.
///
/// # Errors
/// That file cannot be used.
pub(crate) fn gateway(config: &Config) -> anyhow::Result<zwerm_gateway::Config> {
    let users = config.auth.users_file.as_deref().map(UserFile::load).transpose();
    let taken = &config.limits;
    Ok(zwerm_gateway::Config {
        connect_rate: NonZeroU32::new(taken.connect_rate).map(|rate| (rate, taken.connect_burst)),
        max_tls_handshakes: taken.max_tls_handshakes,
        max_handshakes: taken.max_handshakes,
        max_waiting: taken.max_waiting,
        busy_after: Duration::from_secs(taken.busy_after),
        busy_jitter: Duration::from_secs(taken.busy_jitter),
        allow_anonymous: config.mqtt.allow_anonymous,
        users: users.context("auth.users_file")?.map(Arc::new),
        server_reference: config.mqtt.server_reference.clone().map(Into::into),
        response_information: config.mqtt.response_information.clone().map(Into::into),
        listeners: config.listeners.iter().map(listener).collect(),
        limits: limits(&config.mqtt),
        strict_utf8: config.mqtt.strict_utf8,
        ..zwerm_gateway::Config::default()
    })
}

fn listener(listener: &config::ListenerConfig) -> zwerm_gateway::ListenerConfig {
    zwerm_gateway::ListenerConfig {
        bind: listener.bind.clone(),
        max_connections: listener.max_connections,
        proxy_protocol: listener.proxy_protocol,
        tls: listener.kind.has_tls().then(|| tls(listener)).flatten(),
        websocket: listener.kind.is_websocket().then(|| listener.path.clone()),
        handshake_timeout: Duration::from_secs(listener.handshake_timeout),
    }
}

/// `None` only for what the check of the configuration has refused.
fn tls(listener: &config::ListenerConfig) -> Option<zwerm_gateway::TlsConfig> {
    let client = |ca: &PathBuf| zwerm_gateway::ClientCertificates {
        ca: ca.clone(),
        required: listener.client_certificate == config::ClientCertificate::Required,
        as_username: listener.certificate_as_username,
    };
    Some(zwerm_gateway::TlsConfig {
        cert: listener.cert.clone()?,
        key: listener.key.clone()?,
        min_version: match listener.tls_min_version {
            config::TlsVersion::V1_2 => zwerm_gateway::TlsVersion::V1_2,
            config::TlsVersion::V1_3 => zwerm_gateway::TlsVersion::V1_3,
        },
        client: listener.client_ca.as_ref().map(client),
    })
}

fn limits(mqtt: &config::MqttConfig) -> zwerm_session::Limits {
    zwerm_session::Limits {
        keep_alive_maximum: NonZeroU16::new(mqtt.keep_alive_maximum),
        receive_maximum: mqtt.receive_maximum,
        topic_alias_maximum: mqtt.topic_alias_maximum,
        max_packet_size: u32::try_from(mqtt.max_packet_size.0).unwrap_or(u32::MAX),
        max_qos: match mqtt.max_qos {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        },
        retain_available: mqtt.retain_available,
        validate_payload_format: mqtt.validate_payload_format,
        wildcard_subscriptions: mqtt.wildcard_subscriptions,
        shared_subscriptions: mqtt.shared_subscriptions,
        exclusive_subscriptions: mqtt.exclusive_subscriptions,
        subscription_identifiers: mqtt.subscription_identifiers,
        session_expiry_maximum: mqtt.session_expiry_maximum,
        max_inflight: mqtt.max_inflight,
        allow_zero_length_client_id: mqtt.allow_zero_length_client_id,
        ..zwerm_session::Limits::default()
    }
}

/// Who may change the node over HTTP. Reads the token once, to see whether it can be.
///
/// # Errors
/// The file of the token cannot be used.
pub(crate) fn guard(config: &Config) -> anyhow::Result<zwerm_admin::Guard> {
    let guard = zwerm_admin::Guard::new(config.http.token_file.clone());
    guard.check().context("http.token_file")?;
    Ok(guard)
}

/// How commits become durable.
pub(crate) fn sync_mode(config: &Config) -> zwerm_store::SyncMode {
    match config.storage.sync {
        config::SyncMode::Fsync => zwerm_store::SyncMode::Fsync,
        config::SyncMode::Os => zwerm_store::SyncMode::Os,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_is_found_where_the_node_is() {
        let found = |bind: &str, advertised| found_at(bind.parse().unwrap(), advertised);
        assert_eq!(found("0.0.0.0:8080", "zwerm-1.zwerm:7100"), "zwerm-1.zwerm:8080");
        assert_eq!(found("[::]:8080", "[fd00::1]:7100"), "[fd00::1]:8080");
        assert_eq!(found("10.0.0.1:8080", "zwerm-1.zwerm:7100"), "10.0.0.1:8080");
    }
}
