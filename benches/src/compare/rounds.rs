//! The brokers take turns: each scenario with each of them, one after the other, and that several times.
//!
//! In each round another broker begins. Each measurement has a broker that was started for it and an empty folder.
//! Start at [`run`].

use anyhow::{Context, Result};
use zwerm_bench::Report;

use super::scenario::{SCENARIOS, Scenario};
use super::table::Results;
use crate::broker::Broker;
use crate::work::Task;

/// What is compared.
#[derive(Debug)]
pub struct Plan {
    /// Brokers that are installed, zwerm first.
    pub brokers: Vec<Broker>,
    /// Those that are measured with several nodes only.
    pub in_clusters: Vec<Broker>,
    /// Which of [`SCENARIOS`].
    pub scenarios: Vec<&'static Scenario>,
    /// How often each is measured.
    pub rounds: usize,
    /// Only to see that it works.
    pub tiny: bool,
}

impl Plan {
    /// Whether a broker is measured in a scenario: it can do it, and is to.
    fn has(&self, scenario: &Scenario, broker: Broker) -> bool {
        scenario.is_beyond(broker).is_none() && (scenario.nodes > 1 || !self.in_clusters.contains(&broker))
    }

    /// The scenarios whose names contain one of `words`; all without any.
    #[must_use]
    pub fn select(words: &[String]) -> Vec<&'static Scenario> {
        let wanted = |scenario: &&Scenario| {
            words.is_empty() || words.iter().any(|word| scenario.name.contains(word.as_str()))
        };
        SCENARIOS.iter().filter(wanted).collect()
    }
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
                if !plan.has(scenario, broker) {
                    continue;
                }
                let Scenario { name, nodes, work, measures, .. } = **scenario;
                let task = Task { broker, nodes, settings: &[], work, measures, tiny: plan.tiny };
                let called = format!("round {}/{}: {name}: {}", round + 1, plan.rounds, broker.name());
                match task.perform(&called).await {
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
