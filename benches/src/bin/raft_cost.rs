//! Measures what Raft costs on this machine: `cargo run --release -p zwerm-benches --bin raft_cost -- [DIR]`.
//!
//! Three nodes in one process with 17 groups each (control and 16 shards), sled and `fdatasync` under DIR
//! (default: the system's temporary directory). Prints the idle CPU of all three together, then proposals per
//! second and their latency for some numbers of concurrent proposers, with the syncs they took. No network
//! is measured: requests are encoded but carried in memory.

use std::collections::BTreeSet;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinSet;
use zwerm_benches::Nothing;
use zwerm_raft::{Config, Group, GroupId, Host, MemoryNetwork, Role};
use zwerm_store::{SledEngine, SyncMode};

const GROUPS: u32 = 17;
const IDLE: Duration = Duration::from_secs(10);
const LOAD: Duration = Duration::from_secs(4);

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Box<dyn Error>> {
    let root =
        std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from).join("zwerm-raft-cost");
    let network = MemoryNetwork::new();
    let mut hosts = Vec::new();
    for node in 1..=3 {
        let engine = Arc::new(SledEngine::open(&root.join(node.to_string()), 32 << 20, SyncMode::Fsync)?);
        let host = Host::start(node, Config::default(), engine, network.socket(node)).await?;
        network.attach(host.clone());
        for group in 0..GROUPS {
            host.open(GroupId(group), Box::new(Nothing)).await?;
        }
        hosts.push(host);
    }
    let leaders = form(&hosts).await?;
    idle().await?;
    for (groups, proposers) in [(1, 1), (1, 64), (1, 1_024), (16, 64), (16, 1_024)] {
        load(&hosts, &leaders, groups, proposers).await?;
    }
    for host in &hosts {
        host.shutdown().await;
    }
    std::fs::remove_dir_all(root)?;
    Ok(())
}

/// Forms all groups; returns the leader's handle of each.
async fn form(hosts: &[Host]) -> Result<Vec<Group>, Box<dyn Error>> {
    let mut leaders = Vec::new();
    for id in (0..GROUPS).map(GroupId) {
        let groups: Vec<Group> = hosts.iter().filter_map(|host| host.group(id)).collect();
        let first = groups.first().ok_or("no group")?;
        first.initialize(BTreeSet::from([1, 2, 3])).await?;
        let mut status = first.watch();
        let leader = status.wait_for(|status| status.leader.is_some()).await?.leader;
        let leader =
            groups.into_iter().zip(1..).find(|(_, node)| Some(*node) == leader).ok_or("no leader")?.0;
        leader.watch().wait_for(|status| status.state == Role::Leader).await?;
        leaders.push(leader);
    }
    Ok(leaders)
}

/// CPU time of this process in milliseconds.
fn cpu_ms() -> Result<u64, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().ok_or("no stat")?.split_whitespace().collect();
    let ticks: u64 = fields.get(11).ok_or("no utime")?.parse::<u64>()?
        + fields.get(12).ok_or("no stime")?.parse::<u64>()?;
    Ok(ticks * 10)
}

async fn idle() -> Result<(), Box<dyn Error>> {
    let (start, before) = (Instant::now(), cpu_ms()?);
    tokio::time::sleep(IDLE).await;
    let share = (cpu_ms()? - before) as f64 / start.elapsed().as_millis() as f64;
    println!("idle: 3 nodes x {GROUPS} groups use {:.1} % of a core", share * 100.0);
    Ok(())
}

async fn load(
    hosts: &[Host],
    leaders: &[Group],
    groups: usize,
    proposers: usize,
) -> Result<(), Box<dyn Error>> {
    let syncs = || hosts.iter().map(|host| host.flush_stats().syncs).sum::<u64>();
    let (start, cpu, before) = (Instant::now(), cpu_ms()?, syncs());
    let mut work = JoinSet::new();
    for proposer in 0..proposers {
        let group = leaders.get(proposer % groups).ok_or("no such group")?.clone();
        work.spawn(propose_until(group, start + LOAD));
    }
    let mut latencies: Vec<Duration> = work.join_all().await.into_iter().flatten().collect();
    latencies.sort_unstable();
    let seconds = start.elapsed().as_secs_f64();
    let at =
        |share: f64| latencies.get((latencies.len() as f64 * share) as usize).copied().unwrap_or_default();
    println!(
        "{groups:2} groups, {proposers:4} proposers: {:7.0}/s, p50 {:?}, p99 {:?}, {:.0} us CPU each, {:.0} syncs/s (3 nodes)",
        latencies.len() as f64 / seconds,
        at(0.5),
        at(0.99),
        (cpu_ms()? - cpu) as f64 * 1_000.0 / latencies.len().max(1) as f64,
        (syncs() - before) as f64 / seconds,
    );
    Ok(())
}

async fn propose_until(group: Group, end: Instant) -> Vec<Duration> {
    let command = Bytes::from_static(&[7; 300]);
    let mut latencies = Vec::new();
    while Instant::now() < end {
        let start = Instant::now();
        if group.propose(command.clone()).await.is_ok() {
            latencies.push(start.elapsed());
        }
    }
    latencies
}
