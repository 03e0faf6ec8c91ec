//! What is written of how costs grow into docs/performance.md, between its marks. Start at [`text`].

use zwerm_tests::{Measured, Surroundings};

use super::rounds::Plan;
use super::table::Results;
use crate::heading::heading;

/// Where it is written.
pub const MARKS: Measured = Measured {
    begin: "<!-- measured: written by zwerm-benches growth; do not edit -->\n",
    end: "<!-- end of what was measured by growth -->\n",
};

/// The measured part: machine, method, tables, loads.
#[must_use]
pub fn text(surroundings: &Surroundings, plan: &Plan, results: &Results) -> String {
    let mut lines = heading(surroundings, plan.rounds);
    lines.push(results.tables());
    lines.extend(results.notes().iter().map(|note| format!("* {note}")));
    if !results.notes().is_empty() {
        lines.push(String::new());
    }
    lines.push("| what grows | load |\n|---|---|".to_owned());
    for series in &plan.series {
        for load in series.loads {
            let settings: String =
                series.settings.iter().map(|set| format!(", with `--set {set}`")).collect();
            lines.push(format!("| {} | {}{settings} |", series.name, load.description(series.points)));
        }
    }
    lines.push(String::new());
    let mut text = lines.join("\n");
    text.push('\n');
    text
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
