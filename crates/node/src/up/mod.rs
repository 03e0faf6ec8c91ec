//! `zwerm up`: a whole cluster on this machine, one process per node.
//!
//! [`plan`] says what belongs to the cluster and is kept in DATA/cluster.toml, `process` owns one node's
//! process, `supervisor` owns them all. Knows nothing of what happens inside a node: it asks `/readyz`.
//! Start at [`run`].

mod plan;
mod process;
mod supervisor;

use std::ffi::OsString;
use std::net::TcpListener;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;

use crate::identity;
use plan::{NodePlan, Plan, Wanted};

const EXAMPLES: &str = "\
Examples:
  zwerm up                                  three nodes: MQTT on 1883, 1884, 1885
  zwerm up --nodes 5 --data /tmp/swarm      five nodes, data elsewhere
  zwerm up --mqtt-port 2883 --http-port 9080 --cluster-port 9100 --data ./other
  kill -9 $(cat zwerm-data/node-1/zwerm.pid)
  zwerm up --node 1                         start the killed node again, beside the others
  ZWERM_LOG__LEVEL=debug zwerm up           any configuration key, for all nodes

Node i listens on each port + i - 1. Its pid is in DATA/node-<i>/zwerm.pid, its log in
DATA/node-<i>/zwerm.log, its configuration in DATA/node-<i>/zwerm.toml (edit it freely, except addresses).
Starting again with the same data resumes the cluster. Ctrl-C stops all nodes gracefully.";

/// Arguments of `zwerm up`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Number of nodes of a new cluster [default: 3]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=plan::MOST_NODES))]
    nodes: Option<u16>,
    /// MQTT port of node 1 [default: 1883]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    mqtt_port: Option<u16>,
    /// HTTP port of node 1 [default: 8080]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    http_port: Option<u16>,
    /// Cluster port of node 1 [default: 7100]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    cluster_port: Option<u16>,
    /// Where the cluster keeps its data
    #[arg(long, value_name = "DIR", default_value = "./zwerm-data")]
    data: PathBuf,
    /// Start only this node of an existing cluster, with its data and its ports
    #[arg(long, value_name = "I", conflicts_with_all = ["nodes", "mqtt_port", "http_port", "cluster_port"])]
    node: Option<u16>,
}

/// Starts the nodes and stays until all have ended.
///
/// # Errors
/// When something is in the way, a node fails to start, or all nodes are gone without being asked.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    refuse_shared_environment(std::env::vars_os().map(|(name, _)| name))?;
    let data = &arguments.data;
    let plan = match arguments.node {
        Some(number) => one_of_saved(data, number)?,
        None => Plan::resume_or_create(data, arguments.wanted())?,
    };
    let nodes: Vec<NodePlan> = match arguments.node {
        Some(number) => vec![plan.node(data, number)],
        None => plan.all(data).collect(),
    };
    refuse_running(&nodes)?;
    refuse_taken_ports(&nodes)?;
    for node in &nodes {
        plan.prepare(node)?;
    }
    supervisor::run(data, &nodes, arguments.node.is_none()).await
}

impl Arguments {
    fn wanted(&self) -> Wanted {
        Wanted {
            nodes: self.nodes,
            mqtt_port: self.mqtt_port,
            http_port: self.http_port,
            cluster_port: self.cluster_port,
        }
    }
}

fn one_of_saved(data: &std::path::Path, number: u16) -> anyhow::Result<Plan> {
    let Some(plan) = Plan::load(data)? else {
        bail!(
            "there is no cluster in {}; start one with: zwerm up --data {}",
            data.display(),
            data.display()
        );
    };
    if !(1..=plan.nodes).contains(&number) {
        bail!("{} holds nodes 1 to {}, there is no node {number}", data.display(), plan.nodes);
    }
    Ok(plan)
}

/// Keys that differ from node to node cannot come from an environment that all nodes share.
fn refuse_shared_environment(names: impl Iterator<Item = OsString>) -> anyhow::Result<()> {
    const OWN: [&str; 8] = [
        "ZWERM_NODE__NAME",
        "ZWERM_NODE__DATA_DIR",
        "ZWERM_CLUSTER__LISTEN",
        "ZWERM_CLUSTER__ADVERTISE",
        "ZWERM_CLUSTER__PEERS",
        "ZWERM_CLUSTER__BOOTSTRAP_EXPECT",
        "ZWERM_HTTP__BIND",
        "ZWERM_LISTENER__BIND",
    ];
    for name in names {
        if OWN.iter().any(|own| name == *own) {
            bail!(
                "{} would give every node the same; unset it, `zwerm up` sets it for each node",
                name.display()
            );
        }
    }
    Ok(())
}

fn refuse_running(nodes: &[NodePlan]) -> anyhow::Result<()> {
    let mut running = Vec::new();
    let mut pids = Vec::new();
    for node in nodes {
        if let Some(pid) = identity::in_use_by(&node.dir)? {
            pids.extend(pid.map(|pid| pid.to_string()));
            let pid = pid.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string());
            running.push(format!("node {} (pid {pid})", node.number));
        }
    }
    if running.is_empty() {
        return Ok(());
    }
    bail!(
        "already running: {}; stop with: kill {}, or start only a missing one with: zwerm up --node <i>",
        running.join(", "),
        pids.join(" ")
    );
}

/// Found here it is one clear line; found by a child it would be in a log.
fn refuse_taken_ports(nodes: &[NodePlan]) -> anyhow::Result<()> {
    for node in nodes {
        for (what, address) in node.addresses() {
            TcpListener::bind(address).with_context(|| {
                format!(
                    "cannot use {address} (--{what}-port, node {}); stop what uses it, or choose other ports and \
                     another --data",
                    node.number
                )
            })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(result: anyhow::Result<()>) -> String {
        format!("{:#}", result.unwrap_err())
    }

    #[test]
    fn an_environment_that_would_make_all_nodes_the_same_is_refused() {
        let names = |name: &str| [OsString::from(name)].into_iter();
        let error = message(refuse_shared_environment(names("ZWERM_HTTP__BIND")));
        assert!(error.starts_with("ZWERM_HTTP__BIND would give every node the same"), "{error}");
        refuse_shared_environment(names("ZWERM_MQTT__MAX_QOS")).unwrap();
    }

    #[test]
    fn a_running_node_is_named_with_its_pid() {
        let data = tempfile::tempdir().unwrap();
        let plan = Plan::resume_or_create(data.path(), Wanted::default()).unwrap();
        let nodes: Vec<_> = plan.all(data.path()).collect();
        refuse_running(&nodes).unwrap();
        let identity = identity::open_or_create(&nodes[1].dir, "node-2").unwrap();
        let error = message(refuse_running(&nodes));
        let pid = std::process::id();
        assert!(
            error.starts_with(&format!("already running: node 2 (pid {pid}); stop with: kill {pid}, or")),
            "{error}"
        );
        drop(identity);
        refuse_running(&nodes).unwrap();
    }

    #[test]
    fn a_taken_port_is_named_with_its_flag_and_node() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut node = Plan::new(Wanted::default()).unwrap().node("d".as_ref(), 1);
        node.http = taken.local_addr().unwrap();
        node.mqtt.set_port(0);
        node.cluster.set_port(0);
        let error = message(refuse_taken_ports(std::slice::from_ref(&node)));
        assert!(
            error.starts_with(&format!("cannot use {} (--http-port, node 1); stop what", node.http)),
            "{error}"
        );
        drop(taken);
        refuse_taken_ports(&[node]).unwrap();
    }

    #[test]
    fn a_single_node_needs_a_saved_cluster_that_has_it() {
        let data = tempfile::tempdir().unwrap();
        let error = format!("{:#}", one_of_saved(data.path(), 1).unwrap_err());
        assert!(error.starts_with("there is no cluster in"), "{error}");
        Plan::resume_or_create(data.path(), Wanted::default()).unwrap();
        assert_eq!(one_of_saved(data.path(), 3).unwrap().nodes, 3);
        let error = format!("{:#}", one_of_saved(data.path(), 4).unwrap_err());
        assert!(error.ends_with("holds nodes 1 to 3, there is no node 4"), "{error}");
    }
}
