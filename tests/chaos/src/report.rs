//! The result of a run: a row per kind of fault, totals, and everything that was not as promised.
//!
//! Start at [`Report::new`].

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;
use zwerm_oracle::{Breach, Counts, Event, History, Report as Verdicts, Verdict, What};
use zwerm_tests::{Surroundings, percentile};

use crate::fault::Kind;
use crate::measure::Effect;
use crate::nemesis::Incident;

/// Verdicts that are shown; JSON has them all.
const SHOWN: usize = 20;

/// What happened in a run, before anybody has judged it.
#[derive(Debug)]
pub(crate) struct Course {
    pub(crate) seed: u64,
    pub(crate) seconds: u64,
    pub(crate) every: u64,
    pub(crate) incidents: Vec<(Incident, Effect)>,
    /// From the end of the load until everything was at rest.
    pub(crate) rest: Duration,
    /// What must not be: panics, a run that did not come to rest.
    pub(crate) notes: Vec<String>,
    /// How connections ended, and how often so.
    pub(crate) endings: BTreeMap<String, u64>,
}

/// How often each promise was broken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Broken {
    /// Acknowledged messages that never came.
    pub(crate) lost: usize,
    /// QoS 2 messages that came twice.
    pub(crate) duplicated: usize,
    /// Wills that did not come, came twice, or came although they must not.
    pub(crate) wills: usize,
    /// Connections that went on although another had taken over.
    pub(crate) double_owners: usize,
    /// Everything else: sessions, retained values, order, forgeries.
    pub(crate) other: usize,
}

impl Broken {
    fn add(&mut self, breach: Breach) {
        *match breach {
            Breach::Lost => &mut self.lost,
            Breach::Twice => &mut self.duplicated,
            Breach::WillMissed | Breach::WillTwice | Breach::WillWrong => &mut self.wills,
            Breach::OldOwner => &mut self.double_owners,
            _ => &mut self.other,
        } += 1;
    }
}

/// One line of the table.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Row {
    pub(crate) fault: String,
    pub(crate) times: usize,
    pub(crate) acknowledged: usize,
    pub(crate) broken: Broken,
    /// Milliseconds; the longest of all times.
    pub(crate) unavailable_ms: u128,
    /// Milliseconds from the healing until all nodes were ready; the longest of all times.
    pub(crate) recovery_ms: u128,
    pub(crate) takeovers: usize,
    pub(crate) takeover_p50_ms: Option<u128>,
    pub(crate) takeover_p99_ms: Option<u128>,
    pub(crate) takeover_worst_ms: Option<u128>,
    /// Durable subscribers that received nothing more until the next fault.
    pub(crate) stranded: usize,
}

/// The whole result.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) surroundings: Surroundings,
    pub(crate) seed: u64,
    pub(crate) seconds: u64,
    pub(crate) every: u64,
    pub(crate) rows: Vec<Row>,
    pub(crate) total: Row,
    pub(crate) connections: usize,
    pub(crate) published: usize,
    pub(crate) delivered: usize,
    pub(crate) subscriptions: usize,
    pub(crate) wills: usize,
    pub(crate) rest_ms: u128,
    /// Each fault as it happened.
    pub(crate) faults: Vec<String>,
    /// What happened besides the faults.
    pub(crate) notes: Vec<String>,
    /// What must not be, besides the verdicts.
    pub(crate) failures: Vec<String>,
    pub(crate) verdicts: Vec<String>,
    pub(crate) endings: BTreeMap<String, u64>,
}

impl Report {
    /// Puts the course of a run and the oracle's verdicts together.
    pub(crate) fn new(
        surroundings: Surroundings,
        course: &Course,
        history: &History,
        verdicts: &Verdicts,
    ) -> Self {
        let blamed = blame(course, history.events(), &verdicts.verdicts);
        let mut kinds: Vec<Kind> = course.incidents.iter().map(|(incident, _)| incident.fault.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let rows = kinds.iter().map(|kind| row(kind.name(), course, &blamed, |of| of == *kind)).collect();
        let mut total = row("all", course, &blamed, |_| true);
        total.broken = Broken::default();
        verdicts.verdicts.iter().for_each(|verdict| total.broken.add(verdict.breach));
        let Counts { connections, published, acknowledged, delivered, subscriptions, wills, .. } =
            verdicts.counts;
        total.acknowledged = acknowledged;
        let incidents = || course.incidents.iter().map(|(incident, _)| incident);
        let seconds = |time: Duration| time.as_secs_f64();
        Self {
            surroundings,
            seed: course.seed,
            seconds: course.seconds,
            every: course.every,
            rows,
            total,
            connections,
            published,
            delivered,
            subscriptions,
            wills,
            rest_ms: course.rest.as_millis(),
            faults: incidents().map(|it| format!("{:.1} s {}", seconds(it.at), it.fault)).collect(),
            notes: incidents()
                .flat_map(|it| it.notes.iter().map(|note| format!("{}: {note}", it.fault)))
                .collect(),
            failures: course.notes.clone(),
            verdicts: verdicts.verdicts.iter().map(ToString::to_string).collect(),
            endings: course.endings.clone(),
        }
    }

    /// What was not as promised: the first of it, and how much more there is.
    pub(crate) fn broken_promises(&self) -> Vec<String> {
        let all = self.failures.len() + self.verdicts.len();
        let shown = self.failures.iter().chain(&self.verdicts).take(SHOWN).cloned();
        let more = (all > SHOWN).then(|| format!("and {} more", all - SHOWN));
        shown.chain(more).collect()
    }

    /// Whether every promise was kept and nothing else went wrong.
    pub(crate) fn held(&self) -> bool {
        self.verdicts.is_empty() && self.failures.is_empty()
    }
}

/// Which fault a verdict falls to: the last one before the message it is about was sent, or before it showed.
fn blame(course: &Course, events: &[Event], verdicts: &[Verdict]) -> Vec<(usize, Breach)> {
    let sent = |number: u64| {
        events.iter().find(|event| match &event.what {
            What::Publish { message, .. } => *message == number,
            What::Connect { will: Some(will), .. } => will.message == number,
            _ => false,
        })
    };
    let shown = |verdict: &Verdict| verdict.events.last().and_then(|place| events.get(*place));
    let blamed = verdicts.iter().filter_map(|verdict| {
        let event = verdict.message.and_then(sent).or_else(|| shown(verdict))?;
        let earlier = course.incidents.iter().take_while(|(incident, _)| incident.at <= event.at).count();
        Some((earlier.checked_sub(1)?, verdict.breach))
    });
    blamed.collect()
}

fn row(name: &str, course: &Course, blamed: &[(usize, Breach)], of: impl Fn(Kind) -> bool) -> Row {
    let mut row = Row { fault: name.to_owned(), ..Row::default() };
    let mut takeovers = Vec::new();
    for (number, (incident, effect)) in course.incidents.iter().enumerate() {
        if !of(incident.fault.kind) {
            continue;
        }
        row.times += 1;
        row.acknowledged += effect.acknowledged;
        row.unavailable_ms = row.unavailable_ms.max(effect.unavailable.as_millis());
        row.recovery_ms = row.recovery_ms.max(incident.ready.saturating_sub(incident.healed).as_millis());
        row.stranded += effect.stranded;
        takeovers.extend(effect.takeovers.iter().copied());
        blamed.iter().filter(|(at, _)| *at == number).for_each(|(_, breach)| row.broken.add(*breach));
    }
    row.takeovers = takeovers.len();
    let mut at = |percent| percentile(&mut takeovers, percent).map(|time| time.as_millis());
    (row.takeover_p50_ms, row.takeover_p99_ms, row.takeover_worst_ms) = (at(50), at(99), at(100));
    row
}

/// A time as people read it.
pub(crate) fn seconds(milliseconds: u128) -> String {
    format!("{}.{:02} s", milliseconds / 1000, milliseconds % 1000 / 10)
}

/// The names of the columns, and how wide they are on a terminal.
pub(crate) const COLUMNS: [(&str, usize); 10] = [
    ("fault", 31),
    ("times", 5),
    ("acknowledged", 12),
    ("lost", 4),
    ("QoS 2 twice", 11),
    ("wills wrong", 11),
    ("two owners", 10),
    ("other", 5),
    ("longest unavailable", 19),
    ("takeover p50 / p99", 18),
];

impl Row {
    /// The row's cells, in the order of [`COLUMNS`].
    pub(crate) fn cells(&self) -> [String; 10] {
        let Broken { lost, duplicated, wills, double_owners, other } = self.broken;
        let takeover = match (self.takeover_p50_ms, self.takeover_p99_ms) {
            (Some(p50), Some(p99)) => format!("{} / {}", seconds(p50), seconds(p99)),
            _ => String::new(),
        };
        let numbers = [self.times, self.acknowledged, lost, duplicated, wills, double_owners, other];
        let [times, acknowledged, lost, duplicated, wills, double_owners, other] =
            numbers.map(|number| number.to_string());
        let unavailable = if self.times == 0 { String::new() } else { seconds(self.unavailable_ms) };
        let fault = self.fault.clone();
        [fault, times, acknowledged, lost, duplicated, wills, double_owners, other, unavailable, takeover]
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        let head = COLUMNS.map(|(name, _)| name.to_owned());
        for cells in [head].into_iter().chain(self.rows.iter().chain([&self.total]).map(Row::cells)) {
            for (cell, (_, width)) in cells.iter().zip(COLUMNS) {
                write!(f, "{cell:<width$}  ")?;
            }
            writeln!(f)?;
        }
        let Self { connections, published, delivered, subscriptions, wills, .. } = self;
        writeln!(
            f,
            "\n{connections} connections, {published} messages published, {delivered} deliveries, \
             {subscriptions} subscriptions, {wills} wills; at rest {} after the load",
            seconds(self.rest_ms)
        )?;
        writeln!(
            f,
            "slowest recovery {}; {} takeovers, {} durable clients received nothing until the next fault",
            seconds(self.total.recovery_ms),
            self.total.takeovers,
            self.total.stranded
        )?;
        for (how, times) in &self.endings {
            writeln!(f, "  {times:>6} connections: {how}")?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        for failure in self.broken_promises() {
            writeln!(f, "FAILED: {failure}")?;
        }
        let result = if self.held() { "every promise held" } else { "PROMISES BROKEN" };
        writeln!(f, "{result} (--seed {})", self.seed)
    }
}
