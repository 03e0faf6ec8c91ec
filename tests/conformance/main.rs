//! Every normative statement of MQTT 3.1.1 and 5.0, held against real processes.
//!
//! Each case (`case.rs`) names the statements it is about, sends literal bytes (`packet.rs`, `client.rs`) and reads the
//! answers strictly (`answer.rs`). All run against one node, and again with the clients of each case spread over
//! three. What depends on the configuration runs against nodes with another one. `statements.rs` counts what is
//! covered, and fails when a statement is not. CONTRIBUTING.md says how a case is added.

mod answer;
mod case;
mod client;
mod packet;
mod statements;

mod aliases;
mod auth;
mod connect;
mod disconnect;
mod flow;
mod header;
mod keep_alive;
mod merged;
mod narrow;
mod properties;
mod publish;
mod qos;
mod retained;
mod session;
mod shared;
mod size;
mod strings;
mod subscribe;
mod topics;
mod unsubscribe;
mod v31;
mod will;

use std::net::SocketAddr;

use anyhow::Result;
use zwerm_tests::{Cluster, Node};

use crate::case::{Case, Known};

/// What holds under every configuration, by subject.
const ROOMS: &[&[Case]] = &[
    aliases::CASES,
    auth::CASES,
    connect::CASES,
    disconnect::CASES,
    flow::CASES,
    header::CASES,
    keep_alive::CASES,
    properties::CASES,
    publish::CASES,
    qos::CASES,
    retained::CASES,
    session::CASES,
    shared::CASES,
    size::CASES,
    strings::CASES,
    subscribe::CASES,
    topics::CASES,
    unsubscribe::CASES,
    v31::CASES,
    will::CASES,
];

/// Cases that fail because the broker is wrong: name, version, what is wrong.
const KNOWN_FAILURES: Known = &[];

fn rooms() -> impl Iterator<Item = &'static Case> {
    ROOMS.iter().copied().flatten()
}

fn addresses(cluster: &Cluster) -> Vec<SocketAddr> {
    cluster.nodes().iter().map(Node::mqtt).collect()
}

#[test]
fn every_statement_is_covered_or_excused() -> Result<()> {
    let all = rooms().chain(narrow::CASES).chain(merged::CASES);
    println!("{}", statements::check(all)?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_hold_on_one_node() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    case::run("one node", addresses(&cluster), rooms(), KNOWN_FAILURES).await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_hold_over_three_nodes() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    case::run("three nodes", addresses(&cluster), rooms(), KNOWN_FAILURES).await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_hold_where_little_is_allowed() -> Result<()> {
    let cluster = Cluster::start_with(1, narrow::SETTINGS).await?;
    case::run("a node that allows little", addresses(&cluster), narrow::CASES.iter(), KNOWN_FAILURES).await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_hold_with_merged_copies() -> Result<()> {
    let cluster = Cluster::start_with(1, merged::SETTINGS).await?;
    case::run("a node that merges copies", addresses(&cluster), merged::CASES.iter(), KNOWN_FAILURES).await?;
    cluster.finish().await
}
