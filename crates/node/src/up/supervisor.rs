//! All processes of a cluster: tells what happens to them and ends them together.
//!
//! One loop owns the state; each process has a task that reports to it. Start at [`run`].

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitStatus;

use anyhow::bail;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::plan::NodePlan;
use super::process::{Event, Process, last_line};
use crate::shutdown::EndSignals;

/// Events on their way to the loop. Policy: the processes' tasks wait; there is nothing to lose by it.
const EVENTS: usize = 64;

/// Starts the nodes and stays until all have ended. `whole`: they are the whole cluster.
pub(super) async fn run(data: &Path, nodes: &[NodePlan], whole: bool) -> anyhow::Result<()> {
    let mut signals = EndSignals::listen()?;
    let (sender, mut events) = mpsc::channel(EVENTS);
    let (stop, kill) = (CancellationToken::new(), CancellationToken::new());
    let mut tasks = JoinSet::new();
    let mut cluster = Cluster::new(data, nodes, whole);
    for node in nodes {
        match Process::spawn(node.clone()) {
            Ok(process) => {
                tasks.spawn(process.watch(sender.clone(), stop.clone(), kill.clone()));
            }
            Err(error) => {
                cluster.ended_early(node.number, &format!("{error:#}"));
                stop.cancel();
                break;
            }
        }
    }
    drop(sender);
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => cluster.happened(event),
                None => break,
            },
            name = signals.next() => {
                if stop.is_cancelled() {
                    say(&format!("{name} again: killing all nodes"));
                    kill.cancel();
                } else {
                    say(&format!("{name}: stopping {}", if whole { "all nodes" } else { "the node" }));
                }
                cluster.told_to_stop = true;
                stop.cancel();
            }
        }
        if cluster.failure.is_some() {
            stop.cancel();
        }
    }
    while tasks.join_next().await.is_some() {}
    cluster.result()
}

/// What is known of the nodes.
struct Cluster<'a> {
    data: &'a Path,
    nodes: BTreeMap<u16, &'a NodePlan>,
    running: BTreeSet<u16>,
    ready: BTreeSet<u16>,
    /// All running nodes were ready once: from then on a node that ends does not end the others.
    started: bool,
    whole: bool,
    told_to_stop: bool,
    failure: Option<String>,
}

impl<'a> Cluster<'a> {
    fn new(data: &'a Path, nodes: &'a [NodePlan], whole: bool) -> Self {
        let nodes: BTreeMap<_, _> = nodes.iter().map(|node| (node.number, node)).collect();
        Self {
            data,
            running: nodes.keys().copied().collect(),
            nodes,
            ready: BTreeSet::new(),
            started: false,
            whole,
            told_to_stop: false,
            failure: None,
        }
    }

    fn happened(&mut self, event: Event) {
        match event {
            Event::Ready { number, pid } => {
                if let Some(node) = self.nodes.get(&number) {
                    say(&format!("node {number} ready: mqtt {}, http {}, pid {pid}", node.mqtt, node.http));
                }
                self.ready.insert(number);
            }
            Event::Waiting { number, reasons } => {
                say(&format!("node {number} is still starting: {reasons}"));
            }
            Event::Ended { number, pid, how, asked } => {
                self.running.remove(&number);
                if asked {
                    say(&format!("node {number} stopped"));
                } else {
                    self.ended(number, pid, how);
                }
            }
        }
        if !self.started
            && !self.running.is_empty()
            && self.running.is_subset(&self.ready)
            && !self.told_to_stop
        {
            self.started = true;
            if self.whole {
                say("cluster ready");
            }
        }
    }

    /// A process ended that nobody asked to.
    fn ended(&mut self, number: u16, pid: u32, how: io::Result<ExitStatus>) {
        let killed = how.as_ref().ok().and_then(ExitStatus::signal);
        let how = match (killed, how) {
            (Some(signal), _) => format!("was killed by signal {signal}"),
            (None, Ok(status)) => format!("ended with exit code {}", status.code().unwrap_or_default()),
            (None, Err(error)) => format!("cannot be waited for: {error}"),
        };
        let why = match killed {
            Some(_) => String::new(),
            None => self.nodes.get(&number).and_then(|node| last_line(&node.log_file())).unwrap_or_default(),
        };
        if killed.is_none() && !self.started {
            return self.ended_early(number, if why.is_empty() { &how } else { &why });
        }
        let gap = if why.is_empty() { "" } else { ": " };
        say(&format!(
            "node {number} (pid {pid}) {how}{gap}{why}; start it again with: zwerm up --node {number} --data {}",
            self.data.display()
        ));
    }

    /// A node failed before the cluster stood: there is nothing to keep running.
    fn ended_early(&mut self, number: u16, why: &str) {
        let log =
            self.nodes.get(&number).map(|node| node.log_file().display().to_string()).unwrap_or_default();
        self.failure.get_or_insert(format!("node {number} did not start: {why} (log: {log})"));
    }

    fn result(self) -> anyhow::Result<()> {
        if let Some(failure) = self.failure {
            bail!(failure);
        }
        if !self.told_to_stop {
            let what = if self.whole { "all nodes are gone" } else { "the node is gone" };
            bail!("{what}; resume with: zwerm up --data {}", self.data.display());
        }
        Ok(())
    }
}

/// One line on standard output, at once. Nobody reading it is no reason to end a cluster.
fn say(line: &str) {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).ok();
}

#[cfg(test)]
mod tests {
    use super::super::plan::{Plan, Wanted};
    use super::*;

    fn two_nodes(data: &Path) -> Vec<NodePlan> {
        Plan::new(Wanted { nodes: Some(2), ..Wanted::default() }).unwrap().all(data).collect()
    }

    fn ready(number: u16) -> Event {
        Event::Ready { number, pid: 1 }
    }

    /// `status` as waitpid gives it: a signal, or an exit code times 256.
    fn ended(number: u16, status: i32, asked: bool) -> Event {
        Event::Ended { number, pid: 1, how: Ok(ExitStatus::from_raw(status)), asked }
    }

    #[test]
    fn a_node_that_fails_before_the_cluster_stands_fails_the_start_with_its_last_words() {
        let data = tempfile::tempdir().unwrap();
        let nodes = two_nodes(data.path());
        std::fs::create_dir_all(&nodes[1].dir).unwrap();
        std::fs::write(nodes[1].log_file(), "zwerm: no space left\n").unwrap();
        let mut cluster = Cluster::new(data.path(), &nodes, true);
        cluster.happened(ready(1));
        cluster.happened(ended(2, 256, false));
        let failure = cluster.failure.clone().unwrap();
        assert!(failure.starts_with("node 2 did not start: no space left (log: "), "{failure}");
        cluster.happened(ended(1, 15, true));
        assert_eq!(cluster.result().unwrap_err().to_string(), failure);
    }

    #[test]
    fn a_killed_node_stays_down_and_the_others_go_on() {
        let data = tempfile::tempdir().unwrap();
        let nodes = two_nodes(data.path());
        let mut cluster = Cluster::new(data.path(), &nodes, true);
        cluster.happened(ready(1));
        assert!(!cluster.started);
        cluster.happened(ready(2));
        assert!(cluster.started);
        cluster.happened(ended(1, 9, false));
        assert_eq!((cluster.failure.clone(), cluster.running.len()), (None, 1));
        cluster.told_to_stop = true;
        cluster.happened(ended(2, 0, true));
        cluster.result().unwrap();
    }

    #[test]
    fn a_node_killed_during_the_start_does_not_keep_the_others_from_being_ready() {
        let data = tempfile::tempdir().unwrap();
        let nodes = two_nodes(data.path());
        let mut cluster = Cluster::new(data.path(), &nodes, true);
        cluster.happened(ended(1, 9, false));
        assert!(!cluster.started);
        cluster.happened(ready(2));
        assert!(cluster.started && cluster.failure.is_none());
    }

    #[test]
    fn nodes_that_all_end_unasked_are_a_failure() {
        let data = tempfile::tempdir().unwrap();
        let nodes = two_nodes(data.path());
        let mut cluster = Cluster::new(data.path(), &nodes, true);
        for number in [1, 2] {
            cluster.happened(ready(number));
        }
        for number in [1, 2] {
            cluster.happened(ended(number, 9, false));
        }
        let error = cluster.result().unwrap_err().to_string();
        assert!(error.starts_with("all nodes are gone; resume with: zwerm up --data "), "{error}");
    }
}
