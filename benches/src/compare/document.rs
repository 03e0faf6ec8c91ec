//! What a comparison writes into docs/performance.md, between its marks.
//!
//! Start at [`text`].

use std::process::Command;

use zwerm_tests::{Measured, Surroundings};

use super::rounds::Plan;
use super::table::Results;
use crate::broker::Broker;
use crate::heading::heading;
use crate::work::Work;

/// Where it is written.
pub const MARKS: Measured = Measured {
    begin: "<!-- measured: written by zwerm-benches compare; do not edit -->\n",
    end: "<!-- end of what was measured by compare -->\n",
};

/// The measured part: machine, versions, method, table, notes.
#[must_use]
pub fn text(surroundings: &Surroundings, plan: &Plan, results: &Results) -> String {
    let mut lines = heading(surroundings, plan.rounds);
    lines.push(results.table());
    if !results.notes().is_empty() {
        lines.push("`*`: such figures are not taken for the best other.\n".to_owned());
        lines.extend(results.notes().iter().map(|note| format!("* {note}")));
        lines.push(String::new());
    }
    lines.push("| broker | version | settings |\n|---|---|---|".to_owned());
    for broker in results.brokers() {
        lines.push(format!("| {} | {} | {} |", broker.name(), version(*broker), broker.setting()));
    }
    lines.push("\n| scenario | nodes | load |\n|---|---|---|".to_owned());
    for scenario in &plan.scenarios {
        let load = match scenario.work {
            Work::Bench(line) => format!("`zwerm bench {line}`"),
            Work::Idle(seconds) => format!("none for {seconds} s"),
        };
        lines.push(format!("| {} | {} | {load} |", scenario.name, scenario.nodes));
    }
    lines.push(String::new());
    let mut text = lines.join("\n");
    text.push('\n');
    text
}

/// The first line with a number that the program says of itself.
fn version(broker: Broker) -> String {
    let Some(program) = broker.program() else { return "?".to_owned() };
    let Ok(output) = Command::new(program).arg(broker.version_flag()).output() else { return "?".to_owned() };
    let said =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    let line = said.lines().find(|line| line.chars().any(|letter| letter.is_ascii_digit()));
    line.map_or_else(|| "?".to_owned(), |line| line.trim().replace('|', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_of_this_repository_has_the_marks() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/performance.md");
        let document = std::fs::read_to_string(path).unwrap();
        assert!(MARKS.replace(&document, "").is_some());
    }
}
