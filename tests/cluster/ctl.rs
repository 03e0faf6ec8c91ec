//! `zwerm ctl` as people type it, against one node of a cluster.

use std::process::Output;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::process::Command;
use zwerm_tests::{Cluster, DEADLINE, zwerm_binary};

async fn ctl(cluster: &Cluster, through: usize, arguments: &[&str]) -> Result<Output> {
    let http = format!("http://{}", cluster.node(through).http());
    let mut command = Command::new(zwerm_binary()?);
    command.arg("ctl").args(arguments).args(["--http", &http]).kill_on_drop(true);
    tokio::time::timeout(2 * DEADLINE, command.output()).await?.context("zwerm ctl")
}

/// What it prints as JSON.
pub(crate) async fn ctl_json(cluster: &Cluster, through: usize, arguments: &[&str]) -> Result<Value> {
    let done = ctl(cluster, through, &[arguments, &["--json"]].concat()).await?;
    ensure!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(serde_json::from_slice(&done.stdout)?)
}

/// Why it fails.
pub(crate) async fn ctl_fails(cluster: &Cluster, through: usize, arguments: &[&str]) -> Result<String> {
    let done = ctl(cluster, through, arguments).await?;
    ensure!(done.status.code() == Some(1), "{arguments:?} ended with {}", done.status);
    Ok(String::from_utf8_lossy(&done.stderr).into_owned())
}
