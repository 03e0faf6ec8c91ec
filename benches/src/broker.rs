//! The brokers: where their programs come from, how they are configured, and what that means for durability.
//!
//! Writes configuration files; `started` runs them. Start at [`Broker`].

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

/// A broker that can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Broker {
    /// This one.
    Zwerm,
    /// Eclipse Mosquitto, from Debian.
    Mosquitto,
    /// rumqttd, from crates.io.
    Rumqttd,
    /// RMQTT's daemon, from crates.io.
    Rmqttd,
    /// nats-server with JetStream, from Debian.
    Nats,
}

/// Ports of a node: MQTT, then what it needs between nodes.
#[derive(Debug, Clone)]
pub struct Ports {
    /// For clients.
    pub mqtt: u16,
    /// For other nodes.
    pub cluster: u16,
    /// Another for other nodes.
    pub second: u16,
}

impl Broker {
    /// All of them, zwerm first.
    pub const ALL: [Self; 5] = [Self::Zwerm, Self::Mosquitto, Self::Rumqttd, Self::Rmqttd, Self::Nats];

    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Zwerm => "zwerm",
            Self::Mosquitto => "mosquitto",
            Self::Rumqttd => "rumqttd",
            Self::Rmqttd => "rmqttd",
            Self::Nats => "nats-server",
        }
    }

    /// The command that installs it.
    #[must_use]
    pub fn install(self) -> &'static str {
        match self {
            Self::Zwerm => "cargo build --release -p zwerm-node",
            Self::Mosquitto => "apt-get install mosquitto",
            Self::Rumqttd => "cargo install rumqttd",
            Self::Rmqttd => "cargo install --locked rmqttd",
            Self::Nats => "apt-get install nats-server",
        }
    }

    /// What it says of its version; a version flag that only this program has.
    #[must_use]
    pub fn version_flag(self) -> &'static str {
        match self {
            Self::Zwerm | Self::Rumqttd | Self::Rmqttd | Self::Nats => "--version",
            Self::Mosquitto => "-h",
        }
    }

    /// How it is set up, and what that makes durable.
    #[must_use]
    pub fn setting(self) -> &'static str {
        match self {
            Self::Zwerm => {
                "defaults (fsync before every acknowledgement of what is durable), queues of durable sessions without bound"
            }
            Self::Mosquitto => {
                "`max_queued_messages 0`, `max_inflight_messages 256` (zwerm's default), `set_tcp_nodelay true`, \
                 `persistence true`: written when it ends and every 30 minutes, so less durable than zwerm"
            }
            Self::Rumqttd => {
                "`max_inflight_count 256`, segments of 100 MiB; keeps everything in memory: nothing is durable"
            }
            Self::Rmqttd => {
                "`max_inflight 256`, `max_mqueue_len 1000000`, no busy check, retainer in memory, \
                 shared subscriptions; three nodes: cluster-raft; sessions and queues are in memory: nothing is durable"
            }
            Self::Nats => {
                "JetStream in files, three nodes: three replicas of everything, `max_ack_pending 256`; it syncs every \
                 two minutes, so less durable than zwerm"
            }
        }
    }

    /// The program; `None` when it is not installed. Looked for on the PATH and where cargo installs.
    #[must_use]
    pub fn program(self) -> Option<PathBuf> {
        if self == Self::Zwerm {
            return zwerm_tests::zwerm_binary().ok();
        }
        let mut places: Vec<PathBuf> = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
        // not everybody's PATH has it
        places.push("/usr/sbin".into());
        places.extend(env::home_dir().map(|home| home.join(".cargo/bin")));
        places.into_iter().map(|place| place.join(self.name())).find(|path| path.is_file())
    }

    /// Writes the configuration of node `index` (from 0) into its folder; the arguments to start it with.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub(crate) fn configure(self, dir: &Path, ports: &[Ports], index: usize) -> Result<Vec<String>> {
        let file = |name: &str, text: String| -> Result<String> {
            let path = dir.join(name);
            fs::write(&path, text)?;
            Ok(path.display().to_string())
        };
        Ok(match self {
            // the harness does it
            Self::Zwerm => Vec::new(),
            Self::Mosquitto => vec!["-c".to_owned(), file("mosquitto.conf", mosquitto(dir, &ports[index]))?],
            Self::Rumqttd => vec!["-c".to_owned(), file("rumqttd.toml", rumqttd(&ports[index]))?],
            Self::Nats => vec!["-c".to_owned(), file("nats.conf", nats(dir, ports, index))?],
            Self::Rmqttd => {
                let plugins = dir.join("plugins");
                fs::create_dir_all(&plugins)?;
                fs::write(plugins.join("rmqtt-retainer.toml"), "storage.type = \"ram\"\n")?;
                if ports.len() > 1 {
                    fs::write(plugins.join("rmqtt-cluster-raft.toml"), rmqtt_raft(ports))?;
                }
                vec!["-f".to_owned(), file("rmqtt.toml", rmqttd(&plugins, ports, index))?]
            }
        })
    }
}

fn mosquitto(dir: &Path, ports: &Ports) -> String {
    // As root it would become another user, who cannot write here.
    format!(
        "listener {} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 256\n\
         set_tcp_nodelay true\nlog_type error\nuser root\npersistence true\npersistence_location {}/\n",
        ports.mqtt,
        dir.display()
    )
}

fn rumqttd(ports: &Ports) -> String {
    format!(
        "id = 0\n[router]\nid = 0\nmax_connections = 20000\nmax_outgoing_packet_count = 200\n\
         max_segment_size = 104857600\nmax_segment_count = 10\n\
         [v4.1]\nname = \"v4-1\"\nlisten = \"127.0.0.1:{}\"\nnext_connection_delay_ms = 0\n\
         [v4.1.connections]\nconnection_timeout_ms = 60000\nmax_payload_size = 1048576\n\
         max_inflight_count = 256\ndynamic_filters = true\n",
        ports.mqtt
    )
}

fn nats(dir: &Path, ports: &[Ports], index: usize) -> String {
    let Ports { mqtt, cluster, second } = &ports[index];
    let mut text = format!(
        "server_name: n{index}\nlisten: \"127.0.0.1:{second}\"\n\
         jetstream {{ store_dir: \"{}\" }}\n\
         mqtt {{ listen: \"127.0.0.1:{mqtt}\", max_ack_pending: 256 }}\n",
        dir.join("jetstream").display()
    );
    if ports.len() > 1 {
        let routes: Vec<String> =
            ports.iter().map(|ports| format!("\"nats://127.0.0.1:{}\"", ports.cluster)).collect();
        // writing to a string cannot fail
        writeln!(
            text,
            "cluster {{ name: compared, listen: \"127.0.0.1:{cluster}\", routes: [{}] }}",
            routes.join(", ")
        )
        .ok();
    }
    text
}

fn rmqttd(plugins: &Path, ports: &[Ports], index: usize) -> String {
    let Ports { mqtt, cluster, .. } = &ports[index];
    let raft = if ports.len() > 1 { ", \"rmqtt-cluster-raft\"" } else { "" };
    format!(
        "[node]\nid = {}\n[node.busy]\ncheck_enable = false\n[rpc]\nserver_addr = \"127.0.0.1:{cluster}\"\n\
         [log]\nto = \"console\"\nlevel = \"error\"\n\
         [plugins]\ndir = \"{}\"\n\
         default_startups = [\"rmqtt-retainer\", \"rmqtt-shared-subscription\"{raft}]\n\
         disabled_default_startups = [\"rmqtt-http-api\", \"rmqtt-acl\", \"rmqtt-counter\"]\n\
         [listener.tcp.external]\naddr = \"127.0.0.1:{mqtt}\"\nallow_anonymous = true\nmin_keepalive = 0\n\
         allow_zero_keepalive = true\nmax_connections = 100000\nmax_handshaking_limit = 10000\n\
         max_inflight = 256\nmax_mqueue_len = 1000000\nmqueue_rate_limit = \"10000000,1s\"\n",
        index + 1,
        plugins.display()
    )
}

fn rmqtt_raft(ports: &[Ports]) -> String {
    let addresses = |port: fn(&Ports) -> u16| {
        let named = (1..).zip(ports).map(|(id, ports)| format!("\"{id}@127.0.0.1:{}\"", port(ports)));
        named.collect::<Vec<String>>().join(", ")
    };
    format!(
        "node_grpc_addrs = [{}]\nraft_peer_addrs = [{}]\nleader_id = 1\n",
        addresses(|ports| ports.cluster),
        addresses(|ports| ports.second)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_gets_a_configuration_with_its_ports() {
        let ports: Vec<Ports> = [100, 200, 300]
            .map(|first| Ports { mqtt: first, cluster: first + 1, second: first + 2 })
            .to_vec();
        let dir = tempfile::tempdir().unwrap();
        for broker in Broker::ALL.into_iter().filter(|broker| *broker != Broker::Zwerm) {
            let arguments = broker.configure(dir.path(), &ports, 1).unwrap();
            let text = fs::read_to_string(&arguments[1]).unwrap();
            assert!(text.contains("200"), "{}: {text}", broker.name());
            assert!(!text.contains("127.0.0.1:100"), "{}: {text}", broker.name());
        }
        let raft = fs::read_to_string(dir.path().join("plugins/rmqtt-cluster-raft.toml")).unwrap();
        assert!(raft.contains("\"3@127.0.0.1:302\""), "{raft}");
    }
}
