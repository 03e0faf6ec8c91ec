//! A short chaos run: every promise holds while a cluster of real processes is broken and healed.
//!
//! The program does it all; here it is only started and its verdict read.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;
use zwerm_tests::Turn;

#[tokio::test]
async fn no_promise_is_broken_by_a_minute_of_faults() -> Result<()> {
    let _turn = Turn::wait().await?;
    let dir = TempDir::with_prefix("zwerm-chaos-test-")?;
    let json = dir.path().join("result.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_zwerm-chaos"));
    command.args(["--no-build", "--seed", "1", "--seconds", "62", "--every", "12"]);
    command.args(["--pace", "100", "--followers", "12", "--json"]).arg(&json);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}{}", String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "the run ended with {}", output.status);
    if said.starts_with("skipped") {
        return Ok(());
    }
    let result: Value = serde_json::from_slice(&std::fs::read(&json).context("there is no result")?)?;
    let number = |pointer: &str| result.pointer(pointer).and_then(Value::as_u64).unwrap_or_default();
    ensure!(number("/total/times") >= 4, "too few faults to prove anything");
    ensure!(number("/total/acknowledged") > 1_000, "too few messages to prove anything");
    ensure!(number("/wills") > 10, "too few wills to prove anything");
    for broken in ["lost", "duplicated", "wills", "double_owners", "other"] {
        ensure!(number(&format!("/total/broken/{broken}")) == 0, "{broken}");
    }
    Ok(())
}
