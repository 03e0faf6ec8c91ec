//! The scoreboard document: what is between its two marks is written by a run, the rest by people.
//!
//! Start at [`update`].

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use zwerm_tests::Measured;

use crate::report::{COLUMNS, Report, Row, seconds};

const MARKS: Measured = Measured {
    begin: "<!-- measured: written by zwerm-chaos --scoreboard; do not edit -->\n",
    end: "<!-- end of what was measured -->\n",
};

/// Replaces the measured part of a document.
///
/// # Errors
/// When the document is not there, or has not both marks.
pub(crate) fn update(path: &Path, report: &Report) -> Result<()> {
    MARKS.update(path, &measured(report))
}

fn measured(report: &Report) -> String {
    let Report { surroundings, total, connections, published, delivered, subscriptions, wills, .. } = report;
    let mut text = String::new();
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    line(format!(
        "\nMeasured {}, commit {}, {} build.",
        surroundings.date, surroundings.commit, surroundings.profile
    ));
    line(format!(
        "Machine: {} cores ({}), {} GiB, {}; nodes, clients and nemesis together on it.\n",
        surroundings.cores, surroundings.processor, surroundings.memory_gib, surroundings.kernel
    ));
    line(format!(
        "Repeat it: `cargo run --release -p zwerm-chaos -- --seconds {} --every {} --seed {}`\n",
        report.seconds, report.every, report.seed
    ));
    line(table(&report.rows, total));
    line(format!(
        "{published} messages published over {connections} connections, {delivered} deliveries, \
         {subscriptions} subscriptions, {wills} wills. Everything was delivered and at rest {} after the load ended.",
        seconds(report.rest_ms)
    ));
    if let (Some(p50), Some(p99), Some(worst)) =
        (total.takeover_p50_ms, total.takeover_p99_ms, total.takeover_worst_ms)
    {
        line(format!(
            "\nTakeover after `kill -9` of the owner: {} durable clients moved; p50 {}, p99 {}, worst {}; \
             {} received nothing until the next fault.",
            total.takeovers,
            seconds(p50),
            seconds(p99),
            seconds(worst),
            total.stranded
        ));
    }
    line(format!(
        "\nThe slowest recovery, from the healing of a fault until all nodes were ready: {}.",
        seconds(total.recovery_ms)
    ));
    if !report.notes.is_empty() {
        line("\nWhat happened besides:\n".to_owned());
        report.notes.iter().for_each(|note| line(format!("* {note}")));
    }
    if !report.held() {
        line("\n**Promises were broken in this run:**\n".to_owned());
        report.broken_promises().iter().for_each(|failure| line(format!("* {failure}")));
    }
    text.push('\n');
    text
}

fn table(rows: &[Row], total: &Row) -> String {
    let mut text = String::new();
    let names: Vec<&str> = COLUMNS.iter().map(|(name, _)| *name).collect();
    let lines = [names.join(" | "), ["---"; COLUMNS.len()].join(" | ")].into_iter();
    for cells in lines.chain(rows.iter().chain([total]).map(|row| row.cells().join(" | "))) {
        // writing to a string cannot fail
        writeln!(text, "| {cells} |").ok();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_of_this_repository_has_the_marks() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reliability.md");
        let document = std::fs::read_to_string(path).unwrap();
        assert!(MARKS.replace(&document, "").is_some());
    }
}
