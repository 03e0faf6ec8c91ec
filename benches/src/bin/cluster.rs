//! A cluster of this machine under load: starts nodes, does what `zwerm bench` does, and stops them.
//!
//! Run with `--release`; the nodes are the `zwerm` beside this program, or `ZWERM_BIN`.

use anyhow::{Result, ensure};
use clap::Parser;
use tokio::runtime::Runtime;
use zwerm_bench::Arguments as Load;
use zwerm_tests::Cluster;

const EXAMPLES: &str = "\
Examples:
  cargo run --release -p zwerm-benches --bin cluster -- --nodes 3 pub-sub --pairs 4 -q 1 -m 50000
  cargo run --release -p zwerm-benches --bin cluster -- --set storage.sync=os durable --messages 100000";

/// Starts a cluster and puts a load of `zwerm bench` on it
#[derive(Debug, Parser)]
#[command(after_help = EXAMPLES)]
// its name is that of what it takes in
#[group(skip)]
struct Arguments {
    /// Nodes to start
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=6))]
    nodes: u16,
    /// Configuration of the nodes, as for `zwerm serve`
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    load: Load,
}

fn main() -> Result<()> {
    let Arguments { nodes, set, mut load } = Arguments::parse();
    zwerm_bench::raise_open_files()?;
    let common = &mut load.common;
    ensure!(
        common.endpoint.is_empty() && common.publish_to.is_empty() && common.subscribe_to.is_empty(),
        "the nodes are started here; for a broker that runs already there is zwerm bench"
    );
    let runtime = Runtime::new()?;
    let settings: Vec<&str> = set.iter().map(String::as_str).collect();
    let cluster = runtime.block_on(Cluster::start_with(nodes, &settings))?;
    common.endpoint = cluster.nodes().iter().map(|node| node.mqtt().to_string()).collect();
    common.broker_pid = cluster.nodes().iter().filter_map(zwerm_tests::Node::pid).collect();
    zwerm_bench::run(&load)?;
    runtime.block_on(cluster.finish())
}
