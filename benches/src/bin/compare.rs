//! zwerm beside mosquitto, rumqttd, rmqttd and nats-server: medians and ratios of the same loads.
//!
//! Run with `--release`. What is compared and how is in `zwerm_benches::compare`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use serde_json::json;
use tokio::runtime::Runtime;
use zwerm_benches::compare::broker::Broker;
use zwerm_benches::compare::document::{MARKS, text};
use zwerm_benches::compare::rounds::{Plan, run};
use zwerm_tests::{Surroundings, build_zwerm};

const EXAMPLES: &str = "\
Examples:
  cargo run --release -p zwerm-benches --bin compare -- --document docs/performance.md
  cargo run --release -p zwerm-benches --bin compare -- --rounds 1 --only '50 pairs' --broker zwerm --broker mosquitto
  cargo run -p zwerm-benches --bin compare -- --quick

Brokers are looked for on the PATH; ZWERM_BIN names another zwerm than the one built here.";

/// Compares zwerm with other brokers on this machine
#[derive(Debug, Parser)]
#[command(after_help = EXAMPLES)]
struct Arguments {
    /// How often everything is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Scenarios whose name contains this; repeat it for more [default: all]
    #[arg(long, value_name = "WORDS")]
    only: Vec<String>,
    /// Brokers beside zwerm; repeat it for more [default: all that are installed]
    #[arg(long, value_enum)]
    broker: Vec<Broker>,
    /// Write the table into this document, between its marks
    #[arg(long, value_name = "FILE")]
    document: Option<PathBuf>,
    /// Write every single report into this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// One round with tiny numbers, zwerm and mosquitto only: shows that the tool works, measures nothing
    #[arg(long, conflicts_with = "document")]
    quick: bool,
    /// Take the zwerm that is there
    #[arg(long)]
    no_build: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if !arguments.no_build {
        build_zwerm()?;
    }
    zwerm_bench::raise_open_files()?;
    let plan = plan(&arguments)?;
    let surroundings = Surroundings::look();
    let mut reports = Vec::new();
    let runtime = Runtime::new()?;
    let results = runtime.block_on(run(&plan, |scenario, broker, report| {
        reports.push(json!({ "scenario": scenario, "broker": broker.name(), "report": report }));
        Ok(())
    }))?;
    if let Some(path) = &arguments.json {
        let all = json!({ "surroundings": surroundings, "reports": reports });
        fs::write(path, serde_json::to_vec_pretty(&all)?)
            .with_context(|| format!("writing {}", path.display()))?;
    }
    let text = text(&surroundings, &plan, &results);
    println!("{text}");
    if let Some(path) = &arguments.document {
        MARKS.update(path, &text)?;
    }
    Ok(())
}

fn plan(arguments: &Arguments) -> Result<Plan> {
    let wanted: &[Broker] = match (arguments.quick, &*arguments.broker) {
        (true, _) => &[Broker::Zwerm, Broker::Mosquitto],
        (false, []) => Broker::value_variants(),
        (false, named) => named,
    };
    let mut brokers = vec![Broker::Zwerm];
    for broker in wanted.iter().copied().filter(|broker| *broker != Broker::Zwerm) {
        if broker.program().is_some() {
            brokers.push(broker);
        } else {
            eprintln!("skipped: {} is not installed ({})", broker.name(), broker.install());
        }
    }
    let scenarios = Plan::select(&arguments.only);
    ensure!(!scenarios.is_empty(), "no scenario has a name with {}", arguments.only.join(" or "));
    let rounds = if arguments.quick { 1 } else { usize::from(arguments.rounds) };
    Ok(Plan { brokers, scenarios, rounds, tiny: arguments.quick })
}
