//! `zwerm ctl node`: lists nodes, drains them and takes that back, has them leave or removes them.
//!
//! Start at [`run`].

use std::io::{self, Write as _};
use std::time::Duration;

use anyhow::bail;
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;
use tokio::time::{Instant, sleep};
use zwerm_admin::{Drain, DrainRequest, DrainState, Leaving, NodeId, RemoveRequest};

use super::{Chosen, Target};
use crate::status::report::{NodeReport, Report};
use crate::status::table::{Table, features, role, state};
use crate::status::{self, print, print_json};

const LIST: &str = "\
Examples:
  zwerm ctl node list                            through the first node of `zwerm up` that answers
  zwerm ctl node list --http http://10.0.0.1:8080
  zwerm ctl node list --json | jq -r '.[] | select(.state != \"up\") | .name'";

const DRAIN: &str = "\
Examples:
  zwerm ctl node drain                           the node at 127.0.0.1:8080, as in a preStop hook
  zwerm ctl node drain node-2                    the node of this name, and wait until no client is left
  zwerm ctl node drain node-2 --for-good         it does not come back: clients are told to remember another
  zwerm ctl node drain node-2 --no-wait          and look at `zwerm status` meanwhile

The node listens no more and is not ready, other nodes lead what it led, and its clients are disconnected at the pace of
node.drain_rate: 5.0 clients with 0x9C (with --for-good 0x9D) and the address of another node. Wills fire as the
specification says: at once, or after their delay unless the client is back by then. A node that is started again takes
clients.";

const UNDRAIN: &str = "\
Examples:
  zwerm ctl node undrain                         the node at 127.0.0.1:8080
  zwerm ctl node undrain node-2                  the node of this name

The node listens again, where it did before, and may lead again. Clients come back when they connect anew.";

const LEAVE: &str = "\
Examples:
  zwerm ctl node leave node-5                    the cluster shrinks: node-5 gives up its shards and its vote and ends
  zwerm ctl node leave node-5 --no-wait          and look at `zwerm status` meanwhile

What the node holds is taken over by others, one replica at a time, while it serves; then its clients are disconnected
(5.0 clients with 0x9D and the address of another node) and its process ends. Its data directory is of no use any more:
started again with it, the node is a new and empty one, and joins again.";

const REMOVE: &str = "\
Examples:
  zwerm ctl node remove node-3                   node-3 is dead: the others take over what it held
  zwerm ctl node remove 0f3a5b7c9d1e2f40         by its id

The node must be down, and its id never comes back, though its disk be found. A node whose disk was lost need not be
removed: start it with an empty data directory under its old name, and it takes its own place.";

/// How often the progress is looked at.
const POLL: Duration = Duration::from_millis(200);
/// How often it is told.
const REPORT: Duration = Duration::from_secs(2);

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List all nodes with what they lead and how many clients they have
    #[command(after_help = LIST)]
    List(Target),
    /// Send a node's clients and leaderships to other nodes
    #[command(after_help = DRAIN)]
    Drain(DrainArguments),
    /// Let clients in again
    #[command(after_help = UNDRAIN)]
    Undrain(UndrainArguments),
    /// Have a node give up what it holds, end, and be no member any more
    #[command(after_help = LEAVE)]
    Leave(LeaveArguments),
    /// Have the others replace a node that is dead for ever
    #[command(after_help = REMOVE)]
    Remove(RemoveArguments),
}

/// How long to wait for what a node was told to do.
#[derive(Debug, Args)]
struct Patience {
    /// Do not wait until it is done
    #[arg(long)]
    no_wait: bool,
    /// Seconds to wait at most; then it fails, and the node goes on
    #[arg(long, value_name = "SECONDS", conflicts_with = "no_wait")]
    timeout: Option<u64>,
}

impl Patience {
    fn is_over(&self, began: Instant) -> bool {
        self.timeout.is_some_and(|seconds| began.elapsed() >= Duration::from_secs(seconds))
    }
}

#[derive(Debug, Args)]
pub(super) struct LeaveArguments {
    /// Name or id of the node; without, the one at the first address of --http
    name: Option<String>,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
pub(super) struct RemoveArguments {
    /// Name or id of the dead node
    name: String,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
pub(super) struct DrainArguments {
    /// Name or id of the node; without, the one at the first address of --http
    name: Option<String>,
    /// The node does not come back: 5.0 clients are told 0x9D (Server moved) instead of 0x9C (Use another server)
    #[arg(long)]
    for_good: bool,
    /// Also if no other node is up: clients have nowhere to go
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
pub(super) struct UndrainArguments {
    /// Name or id of the node; without, the one at the first address of --http
    name: Option<String>,
    #[command(flatten)]
    target: Target,
}

pub(super) async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::List(target) => {
            let report = status::collect(&target.http).await?;
            let nodes = rows(&report);
            if target.json { print_json(&nodes) } else { print(&(table(&nodes) + &features(&report))) }
        }
        Command::Drain(arguments) => drain(arguments).await,
        Command::Undrain(UndrainArguments { name, target }) => {
            let node = target.choose(name.as_deref()).await?;
            let now: Drain = node.change("/api/v1/node/undrain", &json!({})).await?;
            tell(&target, &node, &now)
        }
        Command::Leave(arguments) => leave(arguments).await,
        Command::Remove(RemoveArguments { name, target }) => {
            let (asked, node) = target.choose_dead(&name).await?;
            let leaving: Leaving = asked.change("/api/v1/node/remove", &RemoveRequest { node }).await?;
            said(&target, &name, leaving, "is removed: the others take over what it held")
        }
    }
}

async fn leave(arguments: LeaveArguments) -> anyhow::Result<()> {
    let LeaveArguments { name, patience, target } = arguments;
    let node = target.choose(name.as_deref()).await?;
    let leaving: Leaving = node.change("/api/v1/node/leave", &json!({})).await?;
    if patience.no_wait {
        return said(&target, &node.name, leaving, "is leaving");
    }
    let began = Instant::now();
    // It ends when it has left; what answers there then, if anything, is another node.
    while node.status().await.is_ok_and(|status| status.known.node.id == leaving.node) {
        if patience.is_over(began) {
            bail!(
                "{} holds something still after {} s; it goes on leaving",
                node.name,
                began.elapsed().as_secs()
            );
        }
        sleep(POLL).await;
    }
    said(&target, &node.name, leaving, "has left and ended")
}

/// Says what became of a node.
fn said(target: &Target, name: &str, leaving: Leaving, what: &str) -> anyhow::Result<()> {
    if target.json {
        return print_json(&json!({ "name": name, "node": leaving.node }));
    }
    print(&format!("{name} ({}) {what}\n", leaving.node))
}

async fn drain(arguments: DrainArguments) -> anyhow::Result<()> {
    let DrainArguments { name, for_good, force, patience, target } = arguments;
    let node = target.choose(name.as_deref()).await?;
    let mut now: Drain = node.change("/api/v1/node/drain", &DrainRequest { for_good, force }).await?;
    let began = Instant::now();
    let mut told = began;
    while now.state == DrainState::Draining && !patience.no_wait {
        if patience.is_over(began) {
            let left = now.clients_left;
            bail!(
                "{} has {left} clients left after {} s; it goes on draining",
                node.name,
                began.elapsed().as_secs()
            );
        }
        sleep(POLL).await;
        now = node.status().await?.known.drain;
        if told.elapsed() >= REPORT && !target.json {
            told = Instant::now();
            let left = now.clients_left;
            // progress is a courtesy
            writeln!(io::stderr(), "{} is draining: {left} clients left", node.name).ok();
        }
    }
    if now.state == DrainState::Serving {
        bail!("{} takes clients again: somebody undid the drain", node.name);
    }
    tell(&target, &node, &now)
}

/// Says how a node is now.
fn tell(target: &Target, node: &Chosen, now: &Drain) -> anyhow::Result<()> {
    if target.json {
        let mut said = serde_json::to_value(now)?;
        if let Some(said) = said.as_object_mut() {
            said.insert("name".to_owned(), node.name.clone().into());
        }
        return print_json(&said);
    }
    let (name, left) = (&node.name, now.clients_left);
    print(&match now.state {
        DrainState::Serving => format!("{name} takes clients\n"),
        DrainState::Draining => format!("{name} is draining: {left} clients left\n"),
        DrainState::Drained => {
            format!(
                "{name} is drained: stop it, or let clients in again with `zwerm ctl node undrain {name}`\n"
            )
        }
    })
}

/// One line of the list.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    id: NodeId,
    /// `up`, `draining`, `drained`, `leaving`, `not ready`, `down`, `being removed`, `unreachable`, or `alone`: in no
    /// cluster yet.
    state: &'static str,
    /// In the control group: `leader`, `voter`, `learner`, or `-`.
    control: &'static str,
    /// Raft groups that it leads.
    leads: usize,
    /// The newest feature level that its program can; `null`: in no cluster yet.
    newest_level: Option<u32>,
    /// That of the cluster.
    cluster_level: u32,
    /// `null`: it did not answer.
    clients: Option<u64>,
    mqtt_addr: Option<String>,
    http_addr: Option<String>,
    cluster_addr: Option<String>,
    /// Why it is not ready, or did not answer.
    reasons: Vec<String>,
}

fn rows(report: &Report) -> Vec<Row> {
    let row = |node: &NodeReport| {
        let status = node.status.as_ref().map(|status| &status.known);
        let unready = status.map(|status| status.readiness.reasons.clone()).unwrap_or_default();
        let member = node.member.as_ref();
        Row {
            name: node.name.clone(),
            id: node.id,
            state: state(node),
            control: role(node),
            leads: report.groups.iter().filter(|group| group.leader == Some(node.id)).count(),
            newest_level: member.map(|member| member.newest_level),
            cluster_level: report.levels.cluster,
            clients: status.map(|status| status.sessions.connected),
            mqtt_addr: member.map(|member| member.mqtt_addr.clone()),
            http_addr: member.map(|member| member.http_addr.clone()),
            cluster_addr: member.map(|member| member.cluster_addr.clone()),
            reasons: node.error.clone().into_iter().chain(unready).collect(),
        }
    };
    report.nodes.iter().map(row).collect()
}

fn table(nodes: &[Row]) -> String {
    let mut table = Table::new(&[
        "<NODE", "<STATE", "<CONTROL", ">LEADS", ">LEVEL", ">CLIENTS", "<MQTT", "<HTTP", "<CLUSTER", "<ID",
    ]);
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    for node in nodes {
        table.row(vec![
            node.name.clone(),
            node.state.to_owned(),
            node.control.to_owned(),
            node.leads.to_string(),
            node.newest_level.map_or_else(|| "-".to_owned(), |level| level.to_string()),
            node.clients.map_or_else(|| "?".to_owned(), |clients| clients.to_string()),
            or_dash(&node.mqtt_addr),
            or_dash(&node.http_addr),
            or_dash(&node.cluster_addr),
            node.id.to_string(),
        ]);
    }
    let reasons = nodes.iter().flat_map(|node| node.reasons.iter().map(move |reason| (&node.name, reason)));
    let reasons: String = reasons.map(|(name, reason)| format!("{name}: {reason}\n")).collect();
    table.draw() + &reasons
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::report::tests::report;

    #[test]
    fn the_list_says_who_leads_how_many_and_why_somebody_is_missing() {
        let page = table(&rows(&report()));
        let wanted = "\
NODE    STATE  CONTROL  LEADS  LEVEL  CLIENTS  MQTT            HTTP            CLUSTER         ID
node-1  up     leader       3      2       10  127.0.0.1:1883  127.0.0.1:8080  127.0.0.1:7100  0000000000000001
node-2  up     voter        0      2       20  127.0.0.1:1884  127.0.0.1:8081  127.0.0.1:7101  0000000000000002
node-3  down   voter        0      1        ?  127.0.0.1:1885  127.0.0.1:8082  127.0.0.1:7102  0000000000000003
node-3: did not answer
";
        assert_eq!(page, wanted, "\n{page}");
    }
}
