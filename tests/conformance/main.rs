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
mod alone;
mod auth;
mod connect;
mod disconnect;
mod exclusive;
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
mod users;
mod v31;
mod websocket;
mod will;

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use tempfile::TempDir;
use tokio::net::TcpStream;
use zwerm_tests::{Brokers, Cluster, DEADLINE, Node, PortBlock, Transport, Turn, until};

use crate::case::Case;

/// What holds under every configuration, by subject.
const ROOMS: &[&[Case]] = &[
    aliases::CASES,
    auth::CASES,
    connect::CASES,
    disconnect::CASES,
    exclusive::CASES,
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

fn rooms() -> impl Iterator<Item = &'static Case> {
    ROOMS.iter().copied().flatten()
}

fn addresses(cluster: &Cluster) -> Vec<SocketAddr> {
    cluster.nodes().iter().map(Node::mqtt).collect()
}

#[test]
fn every_statement_is_covered_or_excused() -> Result<()> {
    let configured = [narrow::CASES, merged::CASES, users::CASES, websocket::CASES, alone::CASES];
    println!("{}", statements::check(rooms().chain(configured.into_iter().flatten()))?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_hold_on_one_node() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    case::run("one node", addresses(&cluster), rooms()).await?;
    cluster.finish().await
}

/// Or any other broker: see [`Brokers`].
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_hold_over_three_nodes() -> Result<()> {
    let brokers = Brokers::three().await?;
    case::run("three nodes", brokers.endpoints(), rooms()).await?;
    brokers.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_hold_where_little_is_allowed() -> Result<()> {
    let cluster = Cluster::start_with(1, narrow::SETTINGS).await?;
    case::run("a node that allows little", addresses(&cluster), narrow::CASES.iter()).await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_hold_with_merged_copies() -> Result<()> {
    let cluster = Cluster::start_with(1, merged::SETTINGS).await?;
    case::run("a node that merges copies", addresses(&cluster), merged::CASES.iter()).await?;
    cluster.finish().await
}

/// One of three that are to form a cluster: it waits for the others, and serves clients meanwhile as well as it can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_hold_without_a_cluster() -> Result<()> {
    let _turn = Turn::wait().await?;
    let (ports, dir) = (PortBlock::reserve()?, TempDir::with_prefix("zwerm-alone-")?);
    let mut node = Node::configure(1, 3, dir.path(), &ports, &[])?;
    node.start()?;
    let address = node.mqtt();
    until("a listener for clients", DEADLINE, async || TcpStream::connect(address).await.ok()).await?;
    case::run("a node without its cluster", vec![address], alone::CASES.iter()).await?;
    let status = node.terminate(DEADLINE).await?;
    ensure!(status.success(), "the node ended with {status}");
    Ok(())
}

/// A node that listens for WebSocket clients, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_hold_over_websocket() -> Result<()> {
    let (cluster, _certificates) = Cluster::start_with_transports(1, &[]).await?;
    let address = cluster.node(1).address(Transport::Ws);
    case::run("WebSocket", vec![address], websocket::CASES.iter()).await?;
    cluster.finish().await
}

/// A node that has a list of users, and admits nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_hold_with_users() -> Result<()> {
    let dir = TempDir::with_prefix("zwerm-users-")?;
    let file = dir.path().join("users");
    users::write(&file).await?;
    let list = format!("auth.users_file={}", file.display());
    let cluster = Cluster::start_with(1, &[&list, "mqtt.allow_anonymous=false"]).await?;
    case::run("a node with users", addresses(&cluster), users::CASES.iter()).await?;
    cluster.finish().await
}
