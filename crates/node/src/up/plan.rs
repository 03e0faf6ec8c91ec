//! What belongs to a cluster made by `zwerm up`: how many nodes, on which ports, in which directories.
//!
//! Kept in DATA/cluster.toml, because the nodes know each other by these addresses: a later start must not
//! change them by accident. Starts no process. Start at [`Plan::resume_or_create`].

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use crate::identity::{self, CLUSTER_FILE, replace_durably};

/// The format that this version writes and reads.
const FORMAT: u32 = 1;

/// More processes than this on one machine are a mistake.
pub(super) const MOST_NODES: i64 = 64;

/// DATA/cluster.toml.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Plan {
    format: u32,
    pub(super) nodes: u16,
    mqtt_port: u16,
    http_port: u16,
    cluster_port: u16,
}

/// What was asked for on the command line; the rest is saved or default.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wanted {
    pub(super) nodes: Option<u16>,
    pub(super) mqtt_port: Option<u16>,
    pub(super) http_port: Option<u16>,
    pub(super) cluster_port: Option<u16>,
}

/// One node of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NodePlan {
    /// From 1.
    pub(super) number: u16,
    pub(super) dir: PathBuf,
    pub(super) mqtt: SocketAddr,
    pub(super) http: SocketAddr,
    pub(super) cluster: SocketAddr,
}

impl NodePlan {
    pub(super) fn addresses(&self) -> [(&'static str, SocketAddr); 3] {
        [("mqtt", self.mqtt), ("http", self.http), ("cluster", self.cluster)]
    }

    pub(super) fn config_file(&self) -> PathBuf {
        self.dir.join("zwerm.toml")
    }

    pub(super) fn log_file(&self) -> PathBuf {
        self.dir.join("zwerm.log")
    }
}

impl Plan {
    /// The saved plan, which must be what is wanted, or a new one, saved.
    pub(super) fn resume_or_create(data: &Path, wanted: Wanted) -> anyhow::Result<Self> {
        if identity::is_nodes_directory(data) {
            bail!(
                "{} holds the data of a single node; start that with: zwerm serve --data-dir {}, or choose another --data",
                data.display(),
                data.display()
            );
        }
        if let Some(saved) = Self::load(data)? {
            saved.must_be(data, wanted)?;
            return Ok(saved);
        }
        let plan = Self::new(wanted)?;
        plan.save(data)?;
        Ok(plan)
    }

    pub(super) fn new(wanted: Wanted) -> anyhow::Result<Self> {
        let plan = Self {
            format: FORMAT,
            nodes: wanted.nodes.unwrap_or(3),
            mqtt_port: wanted.mqtt_port.unwrap_or(1883),
            http_port: wanted.http_port.unwrap_or(8080),
            cluster_port: wanted.cluster_port.unwrap_or(7100),
        };
        plan.ports_do_not_meet()?;
        Ok(plan)
    }

    pub(super) fn load(data: &Path) -> anyhow::Result<Option<Self>> {
        let path = data.join(CLUSTER_FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let plan: Self = toml::from_str(&text)
            .map_err(|error| anyhow::anyhow!("{} is damaged: {}", path.display(), error.message()))?;
        if plan.format != FORMAT {
            bail!(
                "{} has format {}, this version reads {FORMAT}; start a newer zwerm",
                path.display(),
                plan.format
            );
        }
        plan.ports_do_not_meet().with_context(|| path.display().to_string())?;
        Ok(Some(plan))
    }

    fn save(&self, data: &Path) -> anyhow::Result<()> {
        let path = data.join(CLUSTER_FILE);
        let saving = || format!("cannot write {}", path.display());
        fs::create_dir_all(data).with_context(saving)?;
        replace_durably(&path, &toml::to_string(self)?).with_context(saving)
    }

    fn kinds(&self) -> [(&'static str, u16); 3] {
        [("mqtt", self.mqtt_port), ("http", self.http_port), ("cluster", self.cluster_port)]
    }

    fn ports_do_not_meet(&self) -> anyhow::Result<()> {
        let nodes = u32::from(self.nodes);
        for (index, (what, port)) in self.kinds().into_iter().enumerate() {
            if u32::from(port) + nodes - 1 > u32::from(u16::MAX) {
                bail!("--{what}-port {port} leaves no room for {nodes} nodes; choose a lower one");
            }
            for (other, taken) in self.kinds().into_iter().take(index) {
                if u32::from(port.abs_diff(taken)) < nodes {
                    bail!(
                        "--{what}-port {port} and --{other}-port {taken} overlap with {nodes} nodes; move one"
                    );
                }
            }
        }
        Ok(())
    }

    fn must_be(&self, data: &Path, wanted: Wanted) -> anyhow::Result<()> {
        let differences = [
            ("--nodes", self.nodes, wanted.nodes),
            ("--mqtt-port", self.mqtt_port, wanted.mqtt_port),
            ("--http-port", self.http_port, wanted.http_port),
            ("--cluster-port", self.cluster_port, wanted.cluster_port),
        ];
        for (flag, saved, wanted) in differences {
            if wanted.is_some_and(|wanted| wanted != saved) {
                bail!(
                    "{} holds a cluster made with {flag} {saved}; leave {flag} out to resume it, or choose another --data",
                    data.display()
                );
            }
        }
        Ok(())
    }

    /// Node `number`, from 1. The ports were checked to fit.
    pub(super) fn node(&self, data: &Path, number: u16) -> NodePlan {
        let at = |port: u16| (Ipv4Addr::LOCALHOST, port.saturating_add(number.saturating_sub(1))).into();
        NodePlan {
            number,
            dir: data.join(format!("node-{number}")),
            mqtt: at(self.mqtt_port),
            http: at(self.http_port),
            cluster: at(self.cluster_port),
        }
    }

    pub(super) fn all<'a>(&'a self, data: &'a Path) -> impl Iterator<Item = NodePlan> + 'a {
        (1..=self.nodes).map(|number| self.node(data, number))
    }

    /// Makes the node's directory and its configuration, unless they are there.
    pub(super) fn prepare(&self, node: &NodePlan) -> anyhow::Result<()> {
        fs::create_dir_all(&node.dir).with_context(|| format!("cannot create {}", node.dir.display()))?;
        let path = node.config_file();
        if path.exists() {
            return Ok(());
        }
        let dir =
            fs::canonicalize(&node.dir).with_context(|| format!("cannot find {}", node.dir.display()))?;
        let text = self.configuration(node, &dir);
        replace_durably(&path, &text).with_context(|| format!("cannot write {}", path.display()))
    }

    fn configuration(&self, node: &NodePlan, dir: &Path) -> String {
        let peers: Vec<_> = self.all(Path::new("")).map(|peer| format!("\"{}\"", peer.cluster)).collect();
        let dir = toml::Value::from(dir.to_string_lossy().into_owned());
        let mut text = String::from(
            "# Made by `zwerm up` and never overwritten by it. Keys are explained in docs/configuration.md.\n\
             # Leave the addresses as they are: cluster.toml and the other nodes know them.\n",
        );
        // writing to a String cannot fail
        write!(
            text,
            "\n[node]\nname = \"node-{}\"\ndata_dir = {dir}\n\
             \n[cluster]\nlisten = \"{}\"\npeers = [{}]\nbootstrap_expect = {}\n\
             \n[[listener]]\nkind = \"mqtt\"\nbind = \"{}\"\n\
             \n[http]\nbind = \"{}\"\n",
            node.number,
            node.cluster,
            peers.join(", "),
            self.nodes,
            node.mqtt,
            node.http
        )
        .ok();
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Sources};

    #[test]
    fn a_new_plan_is_saved_and_resumed_without_flags() {
        let data = tempfile::tempdir().unwrap();
        let wanted = Wanted { nodes: Some(5), mqtt_port: Some(2883), ..Wanted::default() };
        let plan = Plan::resume_or_create(data.path(), wanted).unwrap();
        assert_eq!(
            fs::read_to_string(data.path().join(CLUSTER_FILE)).unwrap(),
            "format = 1\nnodes = 5\nmqtt_port = 2883\nhttp_port = 8080\ncluster_port = 7100\n"
        );
        assert_eq!(Plan::resume_or_create(data.path(), Wanted::default()).unwrap(), plan);
        assert_eq!(Plan::resume_or_create(data.path(), wanted).unwrap(), plan);
    }

    #[test]
    fn a_plan_does_not_change_by_a_flag() {
        let data = tempfile::tempdir().unwrap();
        Plan::resume_or_create(data.path(), Wanted::default()).unwrap();
        let error = Plan::resume_or_create(data.path(), Wanted { nodes: Some(4), ..Wanted::default() })
            .unwrap_err()
            .to_string();
        assert!(
            error.ends_with("holds a cluster made with --nodes 3; leave --nodes out to resume it, or choose another --data"),
            "{error}"
        );
    }

    #[test]
    fn node_i_listens_on_each_port_plus_i_minus_1() {
        let node = Plan::new(Wanted::default()).unwrap().node(Path::new("d"), 3);
        assert_eq!((node.mqtt.port(), node.http.port(), node.cluster.port()), (1885, 8082, 7102));
        assert_eq!(node.dir, Path::new("d/node-3"));
    }

    #[test]
    fn ports_that_meet_or_end_are_refused() {
        let refused = |wanted| Plan::new(wanted).unwrap_err().to_string();
        assert_eq!(
            refused(Wanted { http_port: Some(1885), ..Wanted::default() }),
            "--http-port 1885 and --mqtt-port 1883 overlap with 3 nodes; move one"
        );
        assert_eq!(
            refused(Wanted { cluster_port: Some(65_534), ..Wanted::default() }),
            "--cluster-port 65534 leaves no room for 3 nodes; choose a lower one"
        );
        Plan::new(Wanted { http_port: Some(1886), cluster_port: Some(65_533), ..Wanted::default() }).unwrap();
    }

    #[test]
    fn a_damaged_or_newer_plan_is_refused() {
        let data = tempfile::tempdir().unwrap();
        let path = data.path().join(CLUSTER_FILE);
        fs::write(&path, "format = 1\nnodes = 3\n").unwrap();
        assert!(Plan::load(data.path()).unwrap_err().to_string().contains("is damaged: missing field"));
        fs::write(&path, "format = 2\nnodes = 3\nmqtt_port = 1\nhttp_port = 10\ncluster_port = 20\n")
            .unwrap();
        assert!(Plan::load(data.path()).unwrap_err().to_string().contains("has format 2"));
    }

    #[test]
    fn the_directory_of_a_single_node_is_refused() {
        let data = tempfile::tempdir().unwrap();
        drop(identity::open_or_create(data.path(), "node-1").unwrap());
        let error = Plan::resume_or_create(data.path(), Wanted::default()).unwrap_err().to_string();
        assert!(error.contains("holds the data of a single node"), "{error}");
    }

    #[test]
    fn a_prepared_configuration_is_valid_and_survives_edits() {
        let data = tempfile::tempdir().unwrap();
        let plan = Plan::resume_or_create(data.path(), Wanted::default()).unwrap();
        let node = plan.node(data.path(), 2);
        plan.prepare(&node).unwrap();
        let load =
            || Config::load(&Sources { file: Some(node.config_file()), ..Sources::default() }).unwrap();
        let config = load();
        assert_eq!(config.node.name, "node-2");
        assert_eq!(config.node.data_dir, fs::canonicalize(&node.dir).unwrap());
        assert_eq!(config.listeners[0].bind, node.mqtt.into());
        assert_eq!((config.http.bind, config.cluster.listen), (node.http, node.cluster));
        assert_eq!(config.cluster.peers, ["127.0.0.1:7100", "127.0.0.1:7101", "127.0.0.1:7102"]);
        assert_eq!(config.cluster.bootstrap_expect, 3);

        let edited = fs::read_to_string(node.config_file()).unwrap() + "\n[mqtt]\nmax_qos = 1\n";
        fs::write(node.config_file(), edited).unwrap();
        plan.prepare(&node).unwrap();
        assert_eq!(load().mqtt.max_qos, 1);
    }
}
