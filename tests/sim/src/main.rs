//! `zwerm-sim`: whole clusters in one process, from a seed, and an oracle that holds them to their promises.
//!
//! `--seed N` runs one seed here; `--seeds A..B` and `--forever` run many, each in a process of its own, for then
//! nothing but the seed decides what happens. Start at [`world::run`].

mod client;
mod dice;
mod entropy;
mod nemesis;
mod net;
mod node;
mod record;
mod seeds;
mod workload;
mod world;

use std::process::ExitCode;

use clap::Parser;

use workload::Sessions;
use world::{Outcome, Wanted};

/// Events shown of a client before what broke the promise.
const CONTEXT: usize = 12;
/// Verdicts shown of one run.
const SHOWN: usize = 4;

/// Simulates clusters and checks their promises.
#[derive(Debug, Parser)]
struct Arguments {
    /// Runs this seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Shows everything that happens; the log is added with RUST_LOG.
    #[arg(long)]
    trace: bool,
    /// Runs these seeds, each in a process of its own: 0..200.
    #[arg(long, value_parser = seeds::parse)]
    seeds: Option<std::ops::Range<u64>>,
    /// Runs seeds without end, from the first of --seeds on.
    #[arg(long)]
    forever: bool,
    /// How many at once; as many as there are processors if left out.
    #[arg(long)]
    jobs: Option<usize>,
    /// No session outlives its connection.
    #[arg(long)]
    transient: bool,
    /// Breaks a rule of the broker; needs the feature `sabotage`.
    #[arg(long = "break", value_name = "RULE")]
    broken: Option<String>,
}

impl Arguments {
    /// What a run of one seed is told of it.
    fn of_each_seed(&self) -> Vec<String> {
        let transient = self.transient.then(|| "--transient".to_owned());
        let broken = self.broken.as_ref().map(|rule| format!("--break={rule}"));
        transient.into_iter().chain(broken).collect()
    }
}

#[cfg(feature = "sabotage")]
fn break_rule(name: &str) -> anyhow::Result<()> {
    let rule = zwerm_sabotage::Rule::named(name);
    let rule =
        rule.ok_or_else(|| anyhow::anyhow!("no rule {name:?}; there are {:?}", zwerm_sabotage::Rule::ALL))?;
    zwerm_sabotage::break_rule(rule);
    Ok(())
}

#[cfg(not(feature = "sabotage"))]
fn break_rule(_: &str) -> anyhow::Result<()> {
    anyhow::bail!("only with --features sabotage")
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .without_time()
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    let options = arguments.of_each_seed();
    let Some(seed) = arguments.seed else {
        let seeds = arguments.seeds.unwrap_or(0..200);
        let seeds = if arguments.forever { seeds.start..u64::MAX } else { seeds };
        let passed = seeds::run(seeds, arguments.jobs, &options)?;
        return Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    };
    arguments.broken.as_deref().map_or(Ok(()), break_rule)?;
    let sessions = if arguments.transient { Sessions::Transient } else { Sessions::Mixed };
    let outcome = world::run(Wanted { seed, is_shown: arguments.trace, sessions })?;
    let passed = outcome.report.verdicts.is_empty() && outcome.troubles.is_empty();
    show(seed, &outcome, &options);
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(seed: u64, outcome: &Outcome, options: &[String]) {
    let Outcome { hash, simulated, record, report, troubles, theme } = outcome;
    println!(
        "seed {seed}: {:.1} s simulated, trace {hash:016x}, {:?}; {theme}",
        simulated.as_secs_f64(),
        report.counts
    );
    // What is lost first, what is out of order last.
    let mut verdicts: Vec<_> = report.verdicts.iter().collect();
    verdicts.sort_by_key(|verdict| verdict.promise);
    for verdict in verdicts.into_iter().take(SHOWN) {
        println!("{}", verdict.render(&record.history, CONTEXT));
    }
    troubles.iter().for_each(|trouble| println!("{trouble}"));
    let wrong = report.verdicts.len() + troubles.len();
    if wrong > 0 {
        let features = if cfg!(feature = "sabotage") { " --features sabotage" } else { "" };
        let options: String = options.iter().map(|option| format!(" {option}")).collect();
        println!("{wrong} wrong; replay: cargo run -p zwerm-sim{features} -- --seed {seed}{options} --trace");
    }
}
