//! `zwerm bench` against a running node: every kind of load, with small numbers.
//!
//! What is counted must be what was sent, and the verdict must be in the exit code.

use std::net::SocketAddr;
use std::process::{Output, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tokio::process::Command;
use zwerm_tests::{Cluster, zwerm_binary};

async fn run(line: &str, endpoints: &[SocketAddr]) -> Result<Output> {
    let endpoints: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
    let mut command = Command::new(zwerm_binary()?);
    command.arg("bench").args(line.split(' ')).args(["--endpoint", &endpoints.join(","), "--json"]);
    Ok(command.stdin(Stdio::null()).kill_on_drop(true).output().await?)
}

/// Runs a load that must succeed: its report.
async fn report(line: &str, endpoints: &[SocketAddr]) -> Result<Value> {
    let output = run(line, endpoints).await.with_context(|| line.to_owned())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "zwerm bench {line} ended with {}: {said}", output.status);
    serde_json::from_slice(&output.stdout).with_context(|| format!("zwerm bench {line} wrote no JSON"))
}

fn number(report: &Value, pointer: &str) -> Result<u64> {
    report.pointer(pointer).and_then(Value::as_u64).with_context(|| format!("no {pointer} in {report}"))
}

/// What was counted: published, delivered, and that nothing was lost or came twice.
fn whole(report: &Value, published: u64, delivered: u64) -> Result<()> {
    let wanted = [
        ("published", published),
        ("expected", delivered),
        ("delivered", delivered),
        ("lost", 0),
        ("repeated", 0),
        ("strange", 0),
    ];
    for (name, wanted) in wanted {
        let found = number(report, &format!("/messages/{name}"))?;
        ensure!(found == wanted, "{name} is {found} instead of {wanted}: {report}");
    }
    Ok(())
}

#[tokio::test]
async fn every_kind_of_load_finds_its_messages() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    let endpoints = [cluster.mqtt(1)];
    for qos in 0..=2 {
        let line = format!("pub-sub --pairs 3 -q {qos} -m 50");
        let flow = report(&line, &endpoints).await?;
        whole(&flow, 150, 150)?;
        let latencies = flow.pointer("/phases/1/latency/p99").and_then(Value::as_u64);
        ensure!(latencies.is_some(), "no latency in {flow}");
        whole(
            &report(&format!("shared --publishers 2 --subscribers 3 -q {qos} -m 30"), &endpoints).await?,
            60,
            60,
        )?;
        whole(&report(&format!("churn --clients 3 -q {qos} -m 4"), &endpoints).await?, 12, 12)?;
    }
    whole(&report("fan-out --subscribers 5 -q 1 -m 20 -s 1000", &endpoints).await?, 20, 100)?;
    whole(&report("fan-in --publishers 5 -m 20 --threads 2", &endpoints).await?, 100, 100)?;
    whole(&report("retained --topics 50 -q 1", &endpoints).await?, 50, 50)?;
    whole(&report("durable --publishers 2 --sessions 2 -m 30", &endpoints).await?, 60, 120)?;
    whole(&report("durable --publishers 2 --sessions 2 -m 30 --online -q 2", &endpoints).await?, 60, 120)?;
    whole(&report("churn --clients 2 -q 1 -m 3 --durable", &endpoints).await?, 6, 6)?;

    let connect = report("connect --connections 20 --at-once 5 --receive", &endpoints).await?;
    ensure!(number(&connect, "/phases/0/count")? == 20, "{connect}");
    // The node is found by its port.
    let pid = cluster.node(1).pid().context("the node does not run")?;
    ensure!(number(&connect, "/brokers/0/pid")? == u64::from(pid), "another broker than {pid}: {connect}");
    ensure!(number(&connect, "/brokers/0/resident")? > 1 << 20, "{connect}");
    ensure!(connect.pointer("/bytes_per_connection").is_some_and(Value::is_u64), "{connect}");
    cluster.finish().await
}

#[tokio::test]
async fn a_rate_is_kept_and_time_ends_a_run() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    let began = Instant::now();
    let timed = report("pub-sub --pairs 2 --rate 500 --seconds 1 --warm-up 0.2", &[cluster.mqtt(1)]).await?;
    let took = began.elapsed();
    let published = number(&timed, "/messages/published")?;
    // A busy machine sends late, but never more than is due; and each of the two may begin with one.
    let due = 500.0 * took.as_secs_f64() + 2.0;
    ensure!(published > 0 && (published as f64) <= due, "{published} messages in {took:?} at 500/s");
    ensure!(number(&timed, "/phases/0/count")? <= published, "{timed}");
    whole(&timed, published, published)?;
    cluster.finish().await
}

#[tokio::test]
async fn load_crosses_from_node_to_node() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    let endpoints = [1, 2, 3].map(|number| cluster.mqtt(number));
    let flow = report("pub-sub --pairs 3 -q 1 -m 50", &endpoints).await?;
    whole(&flow, 150, 150)?;
    let brokers = flow.pointer("/brokers").and_then(Value::as_array).map_or(0, Vec::len);
    ensure!(brokers == 3, "{brokers} brokers were found: {flow}");
    whole(&report("churn --clients 3 -q 1 -m 4 --durable", &endpoints).await?, 12, 12)?;
    cluster.finish().await
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_an_error_that_says_where() -> Result<()> {
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    let output = run("pub-sub", &[nobody]).await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1) && said.contains("127.0.0.1:1"), "{}: {said}", output.status);
    Ok(())
}

#[tokio::test]
async fn lost_messages_are_told_by_the_exit_code() -> Result<()> {
    // A bound of one message that gives way: what does not fit is dropped although it is acknowledged.
    let cluster = Cluster::start_with(1, &["mqtt.session_queue_messages=1"]).await?;
    let output = run("durable --publishers 1 -m 50 --patience 1", &[cluster.mqtt(1)]).await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(1) && said.contains("messages lost: 49"),
        "{}: {said}",
        output.status
    );
    let json: Value = serde_json::from_slice(&output.stdout).context("the report is written all the same")?;
    ensure!(number(&json, "/messages/lost")? == 49, "{json}");
    cluster.finish().await
}
