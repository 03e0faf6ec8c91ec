//! zwerm beside mosquitto, rumqttd, rmqttd and nats-server: medians and ratios of the same loads.
//!
//! Run with `--release`. What is compared and how is in `zwerm_benches::compare`.

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use serde_json::json;
use tokio::runtime::Runtime;
use zwerm_benches::broker::Broker;
use zwerm_benches::compare::document::{MARKS, text};
use zwerm_benches::compare::rounds::{Plan, run};
use zwerm_benches::options::Options;
use zwerm_tests::Surroundings;

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
    /// Brokers beside zwerm; repeat it for more [default: all that are installed]
    #[arg(long, value_enum)]
    broker: Vec<Broker>,
    /// Measure this broker with several nodes only, to save time; repeat it for more
    #[arg(long, value_enum, value_name = "BROKER")]
    in_clusters: Vec<Broker>,
    #[command(flatten)]
    options: Options,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    arguments.options.prepare()?;
    let plan = plan(&arguments)?;
    let surroundings = Surroundings::look();
    let mut reports = Vec::new();
    let runtime = Runtime::new()?;
    let results = runtime.block_on(run(&plan, |scenario, broker, report| {
        reports.push(json!({ "scenario": scenario, "broker": broker.name(), "report": report }));
        Ok(())
    }))?;
    arguments.options.tell(&surroundings, &reports, &MARKS, &text(&surroundings, &plan, &results))
}

fn plan(arguments: &Arguments) -> Result<Plan> {
    let options = &arguments.options;
    let wanted: &[Broker] = match (options.quick, &*arguments.broker) {
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
    let scenarios = Plan::select(&options.only);
    ensure!(!scenarios.is_empty(), "no scenario has a name with {}", options.only.join(" or "));
    let rounds = if options.quick { 1 } else { usize::from(arguments.rounds) };
    Ok(Plan { brokers, in_clusters: arguments.in_clusters.clone(), scenarios, rounds, tiny: options.quick })
}
