//! An emulated StatefulSet: it forms once, comes back from nothing with other addresses, pods rejoin under load, and it
//! is scaled.
//!
//! The program does it all; here it is only started and its figures shown.

use std::process::Stdio;

use anyhow::{Result, ensure};
use tokio::process::Command;
use zwerm_tests::Turn;

#[tokio::test]
async fn pods_whose_names_resolve_late_and_whose_addresses_change_are_one_cluster() -> Result<()> {
    let _turn = Turn::wait().await?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_zwerm-chaos"));
    command.args(["--pods", "--no-build", "--seed", "1"]);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}{}", String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "the run ended with {}", output.status);
    if !said.starts_with("skipped") {
        let figures = [
            ("formed once", 3),
            ("at once", 2),
            (" under load, ", 3),
            ("scaled from 3 to 5", 2),
            ("it stayed a member", 2),
            ("killed while it left", 2),
            ("scaled from 5 to 3", 2),
            ("scaled under load", 1),
        ];
        for (figure, times) in figures {
            ensure!(said.matches(figure).count() == times, "{figure}: not {times} times");
        }
    }
    Ok(())
}
