//! The figures of a comparison: medians, and zwerm's ratios to the others.
//!
//! Pure. Start at [`Results`].

use std::collections::{BTreeMap, BTreeSet};

use super::rounds::Plan;
use super::scenario::Scenario;
use crate::broker::Broker;
use crate::figures::{median, ratio, short};
use crate::work::Measure;

/// What was measured.
#[derive(Debug)]
pub struct Results {
    brokers: Vec<Broker>,
    scenarios: Vec<&'static Scenario>,
    figures: BTreeMap<(usize, usize, Broker), Vec<f64>>,
    notes: BTreeSet<(usize, Broker, String)>,
}

impl Results {
    pub(super) fn new(plan: &Plan) -> Self {
        let (brokers, scenarios) = (plan.brokers.clone(), plan.scenarios.clone());
        Self { brokers, scenarios, figures: BTreeMap::new(), notes: BTreeSet::new() }
    }

    /// The figures of one measurement, in the order of the scenario's measures.
    pub(super) fn add(&mut self, scenario: usize, broker: Broker, figures: &[Option<f64>]) {
        for (measure, figure) in figures.iter().enumerate() {
            if let Some(figure) = figure {
                self.figures.entry((scenario, measure, broker)).or_default().push(*figure);
            }
        }
    }

    /// Something to be said of a broker in a scenario; once, however often it happens.
    pub(super) fn note(&mut self, scenario: usize, broker: Broker, what: &str) {
        // counts differ from round to round
        let words: String =
            what.chars().map(|letter| if letter.is_ascii_digit() { '#' } else { letter }).collect();
        let said = self.notes.iter().any(|(row, of, said)| {
            let masked: String =
                said.chars().map(|letter| if letter.is_ascii_digit() { '#' } else { letter }).collect();
            (*row, *of) == (scenario, broker) && masked == words
        });
        if !said {
            self.notes.insert((scenario, broker, what.replace(['\n', '|'], " ")));
        }
    }

    /// Brokers with a column, zwerm first.
    #[must_use]
    pub fn brokers(&self) -> &[Broker] {
        &self.brokers
    }

    /// The table, in Markdown.
    #[must_use]
    pub fn table(&self) -> String {
        let mut header = vec!["scenario".to_owned(), "measured".to_owned()];
        header.extend(self.brokers.iter().map(|broker| broker.name().to_owned()));
        header.push("zwerm : mosquitto".to_owned());
        header.push("zwerm : best other".to_owned());
        let mut lines = vec![header.join(" | "), vec!["---"; header.len()].join(" | ")];
        for (row, scenario) in self.scenarios.iter().enumerate() {
            for (index, measure) in scenario.measures.iter().enumerate() {
                let name = if index == 0 { scenario.name } else { "" };
                lines.push(self.line(name, (row, index), *measure).join(" | "));
            }
        }
        lines.iter().map(|line| format!("| {line} |\n")).collect()
    }

    fn line(&self, name: &str, (row, index): (usize, usize), measure: Measure) -> Vec<String> {
        let median = |broker: Broker| self.figures.get(&(row, index, broker)).and_then(|all| median(all));
        let zwerm = median(Broker::Zwerm);
        let others = self.brokers.iter().filter(|broker| **broker != Broker::Zwerm);
        let others =
            others.filter(|broker| !self.is_noted(row, **broker)).filter_map(|broker| median(*broker));
        let best = if measure.more_is_better() { others.reduce(f64::max) } else { others.reduce(f64::min) };
        let mut cells = vec![name.to_owned(), measure.name()];
        cells.extend(self.brokers.iter().map(|broker| {
            let mark = if self.is_noted(row, *broker) { "*" } else { "" };
            median(*broker).map_or_else(|| format!("–{mark}"), |figure| format!("{}{mark}", short(figure)))
        }));
        cells.push(ratio(zwerm, median(Broker::Mosquitto)));
        cells.push(ratio(zwerm, best));
        cells
    }

    fn is_noted(&self, row: usize, broker: Broker) -> bool {
        self.notes.iter().any(|(noted, of, _)| (*noted, *of) == (row, broker))
    }

    /// What is to be said besides, a line each.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let said = self
            .notes
            .iter()
            .map(|(row, broker, what)| format!("{}, {}: {what}", broker.name(), self.scenarios[*row].name));
        said.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results() -> Results {
        let scenarios = Plan::select(&["1 to 1, QoS 0".to_owned()]);
        let brokers = vec![Broker::Zwerm, Broker::Mosquitto, Broker::Rumqttd];
        Results::new(&Plan { brokers, in_clusters: Vec::new(), scenarios, rounds: 3, tiny: false })
    }

    #[test]
    fn medians_and_ratios_are_in_the_table() {
        let mut results = results();
        for (cpu, rate) in [(0.5, 900_000.0), (0.4, 1_000_000.0), (9.0, 1_100_000.0)] {
            results.add(0, Broker::Zwerm, &[Some(cpu), Some(rate)]);
            results.add(0, Broker::Mosquitto, &[Some(5.0), Some(500_000.0)]);
            results.add(0, Broker::Rumqttd, &[Some(1.0), None]);
        }
        let table = results.table();
        let lines: Vec<&str> = table.lines().skip(2).collect();
        assert_eq!(
            lines,
            [
                "| 1 to 1, QoS 0 | CPU s per million (deliver) | 0.500 | 5.000 | 1.000 | 0.100 | 0.500 |",
                "|  | per second (deliver) | 1,000,000 | 500,000 | – | 2.000 | 2.000 |",
            ]
        );
    }

    #[test]
    fn a_broker_that_broke_a_promise_is_marked_and_no_yardstick() {
        let mut results = results();
        results.add(0, Broker::Zwerm, &[Some(1.0), Some(10.0)]);
        results.add(0, Broker::Mosquitto, &[Some(2.0), Some(20.0)]);
        results.add(0, Broker::Rumqttd, &[Some(0.1), Some(99.0)]);
        results.note(0, Broker::Rumqttd, "messages lost: 12");
        results.note(0, Broker::Rumqttd, "messages lost: 13");
        assert!(
            results.table().contains("| 1.000 | 2.000 | 0.100* | 0.500 | 0.500 |"),
            "{}",
            results.table()
        );
        assert_eq!(results.notes(), ["rumqttd, 1 to 1, QoS 0: messages lost: 12"]);
    }
}
