//! Everything once, and that several times: what disturbs the machine for a while disturbs one round of each figure.
//!
//! Each measurement has a cluster that was started for it. Start at [`run`].

use anyhow::{Context, Result};
use zwerm_bench::Report;

use super::series::{Point, SERIES, Series};
use super::table::Results;
use crate::broker::Broker;
use crate::work::{Measure, Task};

/// What is measured.
#[derive(Debug)]
pub struct Plan {
    /// Which of [`SERIES`].
    pub series: Vec<&'static Series>,
    /// How often each is measured.
    pub rounds: usize,
    /// Only to see that it works: the smallest and the largest size, with tiny numbers.
    pub tiny: bool,
}

impl Plan {
    /// The series whose names contain one of `words`; all without any.
    #[must_use]
    pub fn select(words: &[String]) -> Vec<&'static Series> {
        let wanted = |series: &&Series| {
            words.is_empty() || words.iter().any(|word| series.name.contains(word.as_str()))
        };
        SERIES.iter().filter(wanted).collect()
    }

    /// The sizes that are measured, with their columns; in each round another one is the first.
    fn points(&self, series: &'static Series, round: usize) -> Vec<(usize, &'static Point)> {
        let mut points: Vec<_> = series.points.iter().enumerate().collect();
        if self.tiny {
            points.retain(|(column, _)| *column == 0 || column + 1 == series.points.len());
        }
        let first = round % points.len().max(1);
        points.rotate_left(first);
        points
    }
}

/// Measures everything. `each` gets the report of each measurement, with the name of the series and of the size.
///
/// # Errors
/// When zwerm fails.
pub async fn run(plan: &Plan, mut each: impl FnMut(&str, &str, &Report)) -> Result<Results> {
    let mut results = Results::new(&plan.series);
    for round in 0..plan.rounds {
        for (table, series) in plan.series.iter().enumerate() {
            let mut row = 0;
            for load in series.loads {
                for (column, point) in plan.points(series, round) {
                    let line = load.line(point);
                    let measures: Vec<Measure> = load.figures.iter().map(|figure| figure.measure).collect();
                    let task = Task {
                        broker: Broker::Zwerm,
                        nodes: point.nodes,
                        settings: series.settings,
                        work: load.work(line.as_deref()),
                        measures: &measures,
                        tiny: plan.tiny,
                    };
                    let called =
                        format!("round {}/{}: {}: {}", round + 1, plan.rounds, series.name, point.name);
                    let outcome = task
                        .perform(&called)
                        .await
                        .with_context(|| format!("{}: {}", series.name, point.name))?;
                    results.add((table, row, column), &outcome.figures);
                    outcome.broken.iter().for_each(|broken| results.note((table, column), broken));
                    if let Some(report) = &outcome.report {
                        each(series.name, point.name, report);
                    }
                }
                row += load.figures.len();
            }
        }
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_each_round_another_size_is_first_and_a_tiny_run_has_the_ends() {
        let columns = |tiny, round| {
            let plan = Plan { series: Plan::select(&[]), rounds: 1, tiny };
            plan.points(&SERIES[1], round).iter().map(|(column, _)| *column).collect::<Vec<usize>>()
        };
        assert_eq!(columns(false, 0), [0, 1, 2, 3]);
        assert_eq!(columns(false, 5), [1, 2, 3, 0]);
        assert_eq!(columns(true, 1), [3, 0]);
    }

    #[test]
    fn words_choose_series() {
        let chosen = |word: &str| Plan::select(&[word.to_owned()]).len();
        assert_eq!((chosen("filters"), chosen("e"), chosen("nothing")), (1, SERIES.len(), 0));
    }
}
