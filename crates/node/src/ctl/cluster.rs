//! `zwerm ctl cluster`: what holds for the cluster as a whole. So far the number of replicas of its shards.
//!
//! Start at [`run`].

use anyhow::bail;
use clap::{Args, Subcommand};
use serde_json::json;
use zwerm_admin::Replicas;

use super::Target;
use crate::status::{print, print_json};

const REPLICAS: &str = "\
Examples:
  zwerm ctl cluster replicas                     how many replicas each shard is to have
  zwerm ctl cluster replicas 5                   five from now on: any two nodes may fail at the same time
  zwerm ctl cluster replicas 5 --http http://10.0.0.1:8080

1, 3, 5 or 7; a shard has as many as there are nodes, if these are fewer. Shards get and give up replicas one at a time
while they serve; `zwerm status` shows who votes in which. All nodes must be of a version that can it (`zwerm ctl node
list`): if one is not, the refusal names it.";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Say on how many nodes each shard is, or change it
    #[command(after_help = REPLICAS)]
    Replicas(ReplicasArguments),
}

#[derive(Debug, Args)]
pub(super) struct ReplicasArguments {
    /// How many from now on: 1, 3, 5 or 7; without, nothing is changed
    replicas: Option<u32>,
    #[command(flatten)]
    target: Target,
}

pub(super) async fn run(command: Command) -> anyhow::Result<()> {
    let Command::Replicas(ReplicasArguments { replicas, target }) = command;
    let (node, status) = target.any().await?;
    let (now, nodes) = (status.known.replicas, status.known.nodes.len());
    let replicas = match replicas {
        None if now == 0 => bail!("the cluster is not formed yet, or {} is of an older version", node.name),
        None => now,
        Some(replicas) => {
            let set: Replicas = node.change("/api/v1/cluster/replicas", &Replicas { replicas }).await?;
            set.replicas
        }
    };
    if target.json {
        return print_json(&json!({ "replicas": replicas, "nodes": nodes }));
    }
    print(&said(replicas, nodes))
}

fn said(replicas: u32, nodes: usize) -> String {
    let wanted = format!("each shard is to have {replicas} replica{}", if replicas == 1 { "" } else { "s" });
    if usize::try_from(replicas).is_ok_and(|replicas| replicas > nodes) {
        return format!("{wanted}; there are {nodes} nodes, so it has {nodes}\n");
    }
    wanted + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_when_there_are_too_few_nodes() {
        for (replicas, nodes, wanted) in [
            (1, 3, "each shard is to have 1 replica\n"),
            (3, 3, "each shard is to have 3 replicas\n"),
            (5, 3, "each shard is to have 5 replicas; there are 3 nodes, so it has 3\n"),
        ] {
            assert_eq!(said(replicas, nodes), wanted);
        }
    }
}
