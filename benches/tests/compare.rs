//! The comparison with tiny numbers: every scenario runs and has its line.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use zwerm_benches::compare::scenario::SCENARIOS;

#[test]
fn every_scenario_has_its_line() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let json = dir.path().join("reports.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_compare"));
    command.args(["--quick", "--no-build", "--json"]).arg(&json);
    let output = command.output().context("running compare")?;
    let (said, noted) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{said}{noted}");
    ensure!(output.status.success(), "it ended with {}", output.status);
    for scenario in SCENARIOS {
        let line = said.lines().find(|line| line.starts_with(&format!("| {} |", scenario.name)));
        let line = line.with_context(|| format!("no line for {}", scenario.name))?;
        let zwerm = line.split(" | ").nth(2).context("no column for zwerm")?;
        ensure!(zwerm.chars().any(|letter| letter.is_ascii_digit()), "nothing was measured: {line}");
    }
    let reports: Value = serde_json::from_slice(&std::fs::read(&json)?)?;
    let reports = reports.pointer("/reports").and_then(Value::as_array).context("no reports")?;
    let of_zwerm: Vec<&Value> = reports.iter().filter(|report| report["broker"] == "zwerm").collect();
    ensure!(of_zwerm.len() + 1 == SCENARIOS.len(), "{} reports of zwerm", of_zwerm.len());
    for report in of_zwerm {
        let lost = report.pointer("/report/messages/lost").and_then(Value::as_u64).unwrap_or_default();
        ensure!(lost == 0, "zwerm lost messages: {report}");
    }
    Ok(())
}
