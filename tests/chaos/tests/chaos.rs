//! Short chaos runs: every promise holds while a cluster of real processes is broken and healed, and while it grows and
//! shrinks.
//!
//! The program does it all; here it is only started and its verdict read.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;
use zwerm_tests::Turn;

/// Runs the program; its result, or `None` where it was skipped. Every promise held.
async fn run(arguments: &[&str]) -> Result<Option<Value>> {
    let _turn = Turn::wait().await?;
    let dir = TempDir::with_prefix("zwerm-chaos-test-")?;
    let json = dir.path().join("result.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_zwerm-chaos"));
    command.args(["--no-build", "--pace", "100", "--followers", "12", "--json"]).arg(&json).args(arguments);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}{}", String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "the run ended with {}", output.status);
    if said.starts_with("skipped") {
        return Ok(None);
    }
    let result = serde_json::from_slice(&std::fs::read(&json).context("there is no result")?)?;
    for broken in ["lost", "duplicated", "wills", "double_owners", "other"] {
        ensure!(number(&result, &format!("/total/broken/{broken}")) == 0, "{broken}");
    }
    ensure!(number(&result, "/total/acknowledged") > 1_000, "too few messages to prove anything");
    ensure!(number(&result, "/wills") > 10, "too few wills to prove anything");
    Ok(Some(result))
}

fn number(result: &Value, pointer: &str) -> u64 {
    result.pointer(pointer).and_then(Value::as_u64).unwrap_or_default()
}

#[tokio::test]
async fn no_promise_is_broken_by_a_minute_of_faults() -> Result<()> {
    if let Some(result) = run(&["--seed", "1", "--seconds", "62", "--every", "12"]).await? {
        ensure!(number(&result, "/total/times") >= 4, "too few faults to prove anything");
    }
    Ok(())
}

/// One node becomes three and five, a node is stopped, two of five are cut off, a disk is lost, and five become three.
/// After each of these every shard is where it belongs, and leaders are spread evenly.
#[tokio::test]
async fn no_promise_is_broken_by_a_cluster_that_grows_loses_a_disk_and_shrinks() -> Result<()> {
    if let Some(result) = run(&["--seed", "1", "--plan", "life", "--every", "6", "--cut", "15"]).await? {
        ensure!(number(&result, "/total/times") == 6, "not all that was planned happened");
    }
    Ok(())
}
