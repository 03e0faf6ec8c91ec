//! The figures of what grows: medians, and how much larger the last is than the first. Pure. Start at [`Results`].

use std::collections::{BTreeMap, BTreeSet};

use super::series::Series;
use crate::figures::{median, ratio, short};

/// What was measured.
#[derive(Debug)]
pub struct Results {
    series: Vec<&'static Series>,
    /// By table, row and column.
    figures: BTreeMap<(usize, usize, usize), Vec<f64>>,
    /// By table and column.
    notes: BTreeSet<(usize, usize, String)>,
}

impl Results {
    pub(super) fn new(series: &[&'static Series]) -> Self {
        Self { series: series.to_vec(), figures: BTreeMap::new(), notes: BTreeSet::new() }
    }

    /// The figures of one measurement, from this row on.
    pub(super) fn add(&mut self, (table, row, column): (usize, usize, usize), figures: &[Option<f64>]) {
        for (row, figure) in (row..).zip(figures) {
            if let Some(figure) = figure {
                self.figures.entry((table, row, column)).or_default().push(*figure);
            }
        }
    }

    /// A promise that was not kept.
    pub(super) fn note(&mut self, (table, column): (usize, usize), broken: &str) {
        self.notes.insert((table, column, broken.to_owned()));
    }

    /// The tables with their titles, in Markdown.
    #[must_use]
    pub fn tables(&self) -> String {
        self.series.iter().enumerate().map(|(table, series)| self.table(table, series)).collect()
    }

    fn table(&self, table: usize, series: &Series) -> String {
        let mut header = vec![series.name];
        header.extend(series.points.iter().map(|point| point.name));
        header.extend(["growth", "expected"]);
        let mut lines = vec![header.join(" | "), vec!["---"; header.len()].join(" | ")];
        for (row, (_, figure)) in series.figures().enumerate() {
            let medians: Vec<Option<f64>> = (0..series.points.len())
                .map(|column| self.figures.get(&(table, row, column)).and_then(|all| median(all)))
                .collect();
            let growth = ratio(medians.last().copied().flatten(), medians.first().copied().flatten());
            let mut cells = vec![figure.name.to_owned()];
            cells.extend(medians.iter().map(|median| median.map_or_else(|| "–".to_owned(), short)));
            cells.extend([growth, figure.theory.to_owned()]);
            lines.push(cells.join(" | "));
        }
        let lines: String = lines.iter().map(|line| format!("| {line} |\n")).collect();
        format!("{lines}\n")
    }

    /// What is to be said besides, a line each.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let said = self.notes.iter().map(|(table, column, broken)| {
            let series = self.series[*table];
            format!("{} {}: {broken}", series.points[*column].name, series.name)
        });
        said.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::growth::rounds::Plan;

    #[test]
    fn medians_and_growth_are_in_the_table() {
        let mut results = Results::new(&Plan::select(&["idle connections".to_owned()]));
        for (few, many) in [(40.0, 44.0), (1.0, 90.0), (50.0, 20.0)] {
            results.add((0, 0, 0), &[Some(few), Some(5_000.0)]);
            results.add((0, 0, 2), &[Some(many), None]);
        }
        results.add((0, 2, 1), &[Some(0.5)]);
        results.note((0, 2), "messages lost: 7 (QoS 1)");
        let tables = results.tables();
        let lines: Vec<&str> = tables.lines().collect();
        assert_eq!(lines[0], "| idle connections | 1,000 | 5,000 | 15,000 | growth | expected |");
        let begins = [
            "| CPU s per million connects | 40.0 | – | 44.0 | 1.100 | flat",
            "| bytes each | 5,000 | – | – | – | flat",
            "| CPU s per million deliveries, 10 pairs, QoS 1 | – | 0.500 | – | – | flat",
        ];
        for (line, begin) in lines[2..].iter().zip(begins) {
            assert!(line.starts_with(begin), "{line}");
        }
        assert_eq!(results.notes(), ["15,000 idle connections: messages lost: 7 (QoS 1)"]);
    }
}
