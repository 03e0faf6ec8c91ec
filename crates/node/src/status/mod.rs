//! `zwerm status`: asks one node, and through what it knows all others, and shows the cluster.
//!
//! A node answers from its own memory only; merging the answers happens here. `report` merges, `table`
//! draws. Start at [`run`].

pub(crate) mod report;
pub(crate) mod table;

use std::io::{self, Write as _};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use futures::future::join_all;
use zwerm_admin::{NodeRow, Status};

use crate::http::{self, HttpAddress};
use report::Report;

const EXAMPLES: &str = "\
Examples:
  zwerm status                              through the first node of `zwerm up` that answers
  zwerm status --http http://10.0.0.1:8080  through this one
  zwerm status --json | jq '.groups[] | {group, leader, term}'

A node that does not answer within a second is shown as unreachable, its numbers as `?`.";

/// Where the nodes of `zwerm up` are, if it was not told otherwise.
pub(crate) const NODES_OF_UP: &str = "http://127.0.0.1:8080,http://127.0.0.1:8081,http://127.0.0.1:8082";
/// How long the first node may take.
const FIRST_WITHIN: Duration = Duration::from_secs(5);
/// How long each of the others may take; they are asked together.
const OTHERS_WITHIN: Duration = Duration::from_secs(1);

/// Arguments of `zwerm status`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// HTTP addresses of nodes, comma-separated; the first that answers is asked about the others
    #[arg(long, value_name = "URL", value_delimiter = ',', default_value = NODES_OF_UP, env = "ZWERM_HTTP")]
    http: Vec<String>,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
}

/// Prints the state of the cluster.
///
/// # Errors
/// When none of the given nodes answers.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let report = collect(&arguments.http).await?;
    if arguments.json { print_json(&report) } else { print(&table::draw(&report)) }
}

/// Writes to standard output; who closes it early has read enough.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// The same for programs.
pub(crate) fn print_json(said: &impl serde::Serialize) -> anyhow::Result<()> {
    print(&(serde_json::to_string_pretty(said)? + "\n"))
}

/// What all nodes say, found through the first of these that answers.
///
/// # Errors
/// When none of them does.
pub(crate) async fn collect(urls: &[String]) -> anyhow::Result<Report> {
    let (_, status) = first_answer(urls).await?;
    let others: Vec<&NodeRow> =
        status.known.nodes.iter().filter(|node| node.id != status.known.node.id).collect();
    let answers = join_all(others.iter().map(|node| ask_other(node))).await;
    let answers = others.iter().map(|node| node.id).zip(answers).collect();
    Ok(Report::merge(status, answers))
}

/// The first node that answers, and its status.
pub(crate) async fn first_answer(urls: &[String]) -> anyhow::Result<(HttpAddress, Status)> {
    let mut failed = Vec::new();
    for url in urls {
        let address = HttpAddress::parse(url)?;
        match ask(&address, FIRST_WITHIN).await {
            Ok(status) => return Ok((address, status)),
            Err(error) => failed.push(format!("{error:#}")),
        }
    }
    let failed = failed.join("; ");
    Err(anyhow!("{failed}; is a node running there? `zwerm up` starts a cluster"))
}

async fn ask_other(node: &NodeRow) -> Result<Status, String> {
    let address = HttpAddress::parse(&node.http_addr).map_err(|error| error.to_string())?;
    ask(&address, OTHERS_WITHIN).await.map_err(|error| format!("{error:#}"))
}

/// What one node says of itself and the cluster.
pub(crate) async fn ask(address: &HttpAddress, within: Duration) -> anyhow::Result<Status> {
    let (code, body) = http::get(address, "/api/v1/status", within).await?;
    if !code.is_success() {
        bail!("{address} answered {code}: it is no node of zwerm, or of another version");
    }
    serde_json::from_slice(&body)
        .with_context(|| format!("{address} answered no status that this version of zwerm reads"))
}
