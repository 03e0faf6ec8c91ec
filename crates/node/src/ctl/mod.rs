//! `zwerm ctl`: administration over the HTTP ports of nodes.
//!
//! Here: what can be typed, which node is meant and how it is asked. What is asked of nodes is in `node`, what of the whole
//! cluster in `cluster` and `backup`. Start at [`run`].

mod backup;
mod cluster;
mod node;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, Subcommand};
use hyper::StatusCode;
use hyper::body::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use zwerm_admin::{NodeId, Status, read_token};

use crate::http::{self, HttpAddress};
use crate::status::report::{NodeReport, Report};
use crate::status::{self, NODES_OF_UP};

const EXAMPLES: &str = "\
Examples:
  zwerm ctl node list                            nodes, who leads what, how many clients
  zwerm ctl node drain node-2                    empty node-2 before it is stopped
  zwerm ctl node undrain node-2                  let clients in again
  zwerm ctl node leave node-2                    the cluster shrinks by node-2
  zwerm ctl node remove node-3                   node-3 is dead for ever
  zwerm ctl cluster replicas 5                   each shard on five nodes: any two may fail
  zwerm ctl backup cluster.zwermbak              everything that the cluster keeps, in one file

Nodes take changes from programs of their own machine only, unless http.token_file is set; then --token-file is needed.";

/// How long a node may take to answer.
const WITHIN: Duration = Duration::from_secs(5);

/// Arguments of `zwerm ctl`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    subject: Subject,
}

#[derive(Debug, Subcommand)]
enum Subject {
    /// The nodes of the cluster
    #[command(subcommand, after_help = EXAMPLES)]
    Node(node::Command),
    /// What holds for the whole cluster
    #[command(subcommand, after_help = EXAMPLES)]
    Cluster(cluster::Command),
    /// Take a backup of the whole cluster, or check one
    Backup(backup::Arguments),
}

/// Does what was asked for.
///
/// # Errors
/// No node answers, the one that is meant is not found, or it refuses.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    match arguments.subject {
        Subject::Node(command) => node::run(command).await,
        Subject::Cluster(command) => cluster::run(command).await,
        Subject::Backup(arguments) => backup::run(arguments).await,
    }
}

/// Whom to ask, and how to answer: what every command takes.
#[derive(Debug, Args)]
struct Target {
    /// HTTP addresses of nodes, comma-separated; the first that answers knows the others
    #[arg(long, value_name = "URL", value_delimiter = ',', default_value = NODES_OF_UP, env = "ZWERM_HTTP")]
    http: Vec<String>,
    /// File with the token that nodes want for changes (their http.token_file)
    #[arg(long, value_name = "FILE", env = "ZWERM_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// One node that is to be changed.
struct Chosen {
    name: String,
    address: HttpAddress,
    token: Option<String>,
}

impl Target {
    /// The node of this name (or id), wherever it is; without a name the one at the first address, and no other.
    async fn choose(&self, name: Option<&str>) -> anyhow::Result<Chosen> {
        let token = self.token_file.as_deref().map(read_token).transpose()?;
        let Some(name) = name else {
            let first = self.http.first().map(String::as_str).unwrap_or_default();
            let address = HttpAddress::parse(first)?;
            let status = status::ask(&address, WITHIN).await;
            let name = status.context("name a node, or say with --http which one is meant")?.known.node.name;
            return Ok(Chosen { name, address, token });
        };
        let report = status::collect(&self.http).await?;
        let node = find(&report, name)?;
        // a node in no cluster yet is the one that answered
        let address = match &node.member {
            Some(member) => HttpAddress::parse(&member.http_addr)?,
            None => HttpAddress::parse(self.http.first().map(String::as_str).unwrap_or_default())?,
        };
        let chosen = Chosen { name: node.name.clone(), address, token };
        // who forwards ports may have told the nodes addresses that lead elsewhere from here
        let there = chosen.status().await?.known.node;
        if there.id != node.id {
            bail!(
                "at {}, which {} says is its HTTP port, {} answers; give the right address with --http, and no name",
                chosen.address,
                chosen.name,
                there.name
            );
        }
        Ok(chosen)
    }

    /// The first node that answers, and what it says.
    async fn any(&self) -> anyhow::Result<(Chosen, Status)> {
        let token = self.token_file.as_deref().map(read_token).transpose()?;
        let (address, status) = status::first_answer(&self.http).await?;
        let name = status.known.node.name.clone();
        Ok((Chosen { name, address, token }, status))
    }

    /// The id of a node that does not answer, and one that does, to be asked to remove it.
    async fn choose_dead(&self, name: &str) -> anyhow::Result<(Chosen, NodeId)> {
        let token = self.token_file.as_deref().map(read_token).transpose()?;
        let report = status::collect(&self.http).await?;
        let dead = find(&report, name)?;
        for node in report.nodes.iter().filter(|node| node.id != dead.id && node.status.is_some()) {
            let Some(member) = &node.member else { continue };
            let address = HttpAddress::parse(&member.http_addr)?;
            return Ok((Chosen { name: node.name.clone(), address, token }, dead.id));
        }
        bail!("no other node answers that could remove {name:?}")
    }
}

/// The node of this name or id.
fn find<'a>(report: &'a Report, name: &str) -> anyhow::Result<&'a NodeReport> {
    let called = |node: &&NodeReport| node.name == name || node.id.to_string() == name;
    let mut named = report.nodes.iter().filter(called);
    let Some(node) = named.next() else {
        let known: Vec<&str> = report.nodes.iter().map(|node| node.name.as_str()).collect();
        bail!("there is no node {name:?}; the cluster has {}", known.join(", "));
    };
    if let Some(other) = named.next() {
        bail!("{} and {} are both called {name:?}; name one by its id", node.id, other.id);
    }
    Ok(node)
}

impl Chosen {
    /// Makes a change.
    async fn change<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> anyhow::Result<T> {
        let body = Bytes::from(serde_json::to_vec(body)?);
        let (code, answer) = http::post(&self.address, path, (self.token.as_deref(), body), WITHIN).await?;
        if code.is_success() {
            return serde_json::from_slice(&answer).with_context(|| {
                format!("{} answered what this version of zwerm does not read", self.address)
            });
        }
        Err(self.refusal(code, &answer))
    }

    /// What a node says why it does not do something.
    fn refusal(&self, code: StatusCode, answer: &[u8]) -> anyhow::Error {
        let said: Option<Value> = serde_json::from_slice(answer).ok();
        let why = said.as_ref().and_then(|said| said.get("error")?.as_str());
        match why {
            Some(why) => anyhow!("{} ({}) refused: {why}", self.name, self.address),
            None => anyhow!("{} ({}) answered {code}", self.name, self.address),
        }
    }

    async fn status(&self) -> anyhow::Result<Status> {
        status::ask(&self.address, WITHIN).await
    }
}
