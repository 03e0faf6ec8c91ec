//! How costs grow, with tiny numbers: every figure is measured at the smallest and at the largest size.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use zwerm_benches::growth::series::{Doing, SERIES};

#[test]
fn every_figure_is_measured_at_both_ends() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let json = dir.path().join("reports.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_growth"));
    command.args(["--quick", "--no-build", "--json"]).arg(&json);
    let output = command.output().context("running growth")?;
    let (said, noted) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{said}{noted}");
    ensure!(output.status.success(), "it ended with {}", output.status);
    for series in SERIES {
        let from = said
            .lines()
            .skip_while(|line| !line.starts_with(&format!("| {} | {}", series.name, series.points[0].name)));
        let table: Vec<&str> = from.take_while(|line| !line.is_empty()).collect();
        for (_, figure) in series.figures() {
            let line = table.iter().find(|line| line.starts_with(&format!("| {} |", figure.name)));
            let line = line.with_context(|| format!("no line for {} of {}", figure.name, series.name))?;
            let cells: Vec<&str> = line.split(" | ").collect();
            for column in [1, series.points.len()] {
                ensure!(
                    cells[column].starts_with(|digit: char| digit.is_ascii_digit()),
                    "nothing was measured: {line}"
                );
            }
        }
    }
    let reports: Value = serde_json::from_slice(&std::fs::read(&json)?)?;
    let reports = reports.pointer("/reports").and_then(Value::as_array).context("no reports")?;
    let loads = SERIES.iter().flat_map(|series| series.loads);
    let loads = loads.filter(|load| matches!(load.doing, Doing::Bench(_))).count();
    ensure!(reports.len() == 2 * loads, "{} reports of {loads} loads at two sizes", reports.len());
    for report in reports {
        let lost = report.pointer("/report/messages/lost").and_then(Value::as_u64).unwrap_or_default();
        ensure!(lost == 0, "zwerm lost messages: {report}");
    }
    Ok(())
}
