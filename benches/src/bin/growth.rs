//! How zwerm's costs grow with connections, filters, nodes, bytes of a payload, and messages in a queue.
//!
//! Run with `--release`. What is measured and how is in `zwerm_benches::growth`.

use anyhow::{Result, ensure};
use clap::Parser;
use serde_json::json;
use tokio::runtime::Runtime;
use zwerm_benches::growth::document::{MARKS, text};
use zwerm_benches::growth::rounds::{Plan, run};
use zwerm_benches::options::Options;
use zwerm_tests::Surroundings;

const EXAMPLES: &str = "\
Examples:
  cargo run --release -p zwerm-benches --bin growth -- --document docs/performance.md
  cargo run --release -p zwerm-benches --bin growth -- --rounds 1 --only filters --json /tmp/filters.json
  cargo run -p zwerm-benches --bin growth -- --quick

ZWERM_BIN names another zwerm than the one built here.";

/// Measures how zwerm's costs grow on this machine
#[derive(Debug, Parser)]
#[command(after_help = EXAMPLES)]
struct Arguments {
    /// How often everything is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    #[command(flatten)]
    options: Options,
}

fn main() -> Result<()> {
    let Arguments { rounds, options } = Arguments::parse();
    let series = Plan::select(&options.only);
    ensure!(!series.is_empty(), "nothing that grows has a name with {}", options.only.join(" or "));
    options.prepare()?;
    let rounds = if options.quick { 1 } else { usize::from(rounds) };
    let plan = Plan { series, rounds, tiny: options.quick };
    let surroundings = Surroundings::look();
    let mut reports = Vec::new();
    let results = Runtime::new()?.block_on(run(&plan, |series, size, report| {
        reports.push(json!({ "series": series, "size": size, "report": report }));
    }))?;
    options.tell(&surroundings, &reports, &MARKS, &text(&surroundings, &plan, &results))
}
