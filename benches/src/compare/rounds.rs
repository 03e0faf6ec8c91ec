//! The brokers take turns: each scenario with each of them, one after the other, and that several times.
//!
//! In each round another broker begins. Each measurement has a broker that was started for it and an empty folder.
//! Start at [`run`].

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use zwerm_bench::{Report, cpu_seconds};

use super::broker::Broker;
use super::scenario::{Measure, SCENARIOS, Scenario, Work, load};
use super::started::Started;
use super::table::Results;

/// What is compared.
#[derive(Debug)]
pub struct Plan {
    /// Brokers that are installed, zwerm first.
    pub brokers: Vec<Broker>,
    /// Which of [`SCENARIOS`].
    pub scenarios: Vec<&'static Scenario>,
    /// How often each is measured.
    pub rounds: usize,
    /// Only to see that it works.
    pub tiny: bool,
}

impl Plan {
    /// The scenarios whose names contain one of `words`; all without any.
    #[must_use]
    pub fn select(words: &[String]) -> Vec<&'static Scenario> {
        let wanted = |scenario: &&Scenario| {
            words.is_empty() || words.iter().any(|word| scenario.name.contains(word.as_str()))
        };
        SCENARIOS.iter().filter(wanted).collect()
    }
}

/// What one broker did in one scenario.
struct Outcome {
    figures: Vec<Option<f64>>,
    broken: Vec<String>,
    report: Option<Report>,
}

/// Measures everything. `each` gets the report of each measurement, with scenario and broker.
///
/// # Errors
/// When zwerm itself fails; what another broker fails at is noted and left out.
pub async fn run(plan: &Plan, mut each: impl FnMut(&str, Broker, &Report) -> Result<()>) -> Result<Results> {
    let mut results = Results::new(plan);
    for round in 0..plan.rounds {
        for (row, scenario) in plan.scenarios.iter().enumerate() {
            for turn in 0..plan.brokers.len() {
                let broker = plan.brokers[(turn + round) % plan.brokers.len()];
                if scenario.is_beyond(broker).is_some() {
                    continue;
                }
                let began = Instant::now();
                let outcome = measure(scenario, broker, plan.tiny).await;
                let took = began.elapsed().as_secs_f64();
                eprintln!(
                    "round {}/{}: {}: {}: {} ({took:.1} s)",
                    round + 1,
                    plan.rounds,
                    scenario.name,
                    broker.name(),
                    in_words(scenario, &outcome)
                );
                match outcome {
                    Ok(outcome) => {
                        results.add(row, broker, &outcome.figures);
                        outcome.broken.iter().for_each(|broken| results.note(row, broker, broken));
                        if let Some(report) = &outcome.report {
                            each(scenario.name, broker, report)?;
                        }
                    }
                    Err(error) if broker == Broker::Zwerm => return Err(error).context(scenario.name),
                    Err(error) => results.note(row, broker, &format!("failed: {error:#}")),
                }
            }
        }
    }
    Ok(results)
}

fn in_words(scenario: &Scenario, outcome: &Result<Outcome>) -> String {
    match outcome {
        Ok(outcome) => {
            let figures = scenario.measures.iter().zip(&outcome.figures);
            let mut words: Vec<String> = figures
                .map(|(measure, figure)| match figure {
                    Some(figure) => format!("{} {figure:.3}", measure.name()),
                    None => format!("{} unknown", measure.name()),
                })
                .collect();
            words.extend(outcome.broken.iter().cloned());
            words.join(", ")
        }
        Err(error) => format!("failed: {error:#}"),
    }
}

async fn measure(scenario: &'static Scenario, broker: Broker, tiny: bool) -> Result<Outcome> {
    let started = Started::start(broker, scenario.nodes).await?;
    let worked = work(scenario, &started, tiny).await;
    let stopped = started.stop().await;
    let outcome = worked?;
    stopped?;
    Ok(outcome)
}

async fn work(scenario: &'static Scenario, started: &Started, tiny: bool) -> Result<Outcome> {
    match scenario.work {
        Work::Bench(line) => {
            let arguments = load(line, &started.endpoints, &started.pids, tiny)?;
            // it has threads and a runtime of its own
            let report = tokio::task::spawn_blocking(move || zwerm_bench::measure(&arguments)).await??;
            let figures = scenario.measures.iter().map(|measure| measure.of(&report)).collect();
            Ok(Outcome { figures, broken: report.broken(), report: Some(report) })
        }
        Work::Idle(seconds) => {
            let percent = idle(&started.pids, Duration::from_secs(if tiny { 1 } else { seconds })).await?;
            let figure = |measure: &Measure| (*measure == Measure::IdlePercent).then_some(percent);
            let figures = scenario.measures.iter().map(figure).collect();
            Ok(Outcome { figures, broken: Vec::new(), report: None })
        }
    }
}

/// Percent of one core that processes use while nothing is asked of them.
async fn idle(pids: &[u32], time: Duration) -> Result<f64> {
    let used = || pids.iter().map(|pid| cpu_seconds(*pid)).sum::<Result<Duration>>();
    let (before, began) = (used()?, Instant::now());
    tokio::time::sleep(time).await;
    Ok((used()?.saturating_sub(before)).as_secs_f64() / began.elapsed().as_secs_f64() * 100.0)
}
