//! What a broker is asked to do, what of it is measured, and the doing of it.
//!
//! A load is a command line of `zwerm bench`, so that anybody can repeat one alone. Knows no other loads and no tables.
//! Start at [`Work`] and [`Measure`]; `Task` does one.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use zwerm_bench::{Arguments, Report, Scenario as Load, cpu_seconds};

use crate::broker::Broker;
use crate::started::Started;

const GIB: f64 = (1 << 30) as f64;

/// What is done with a broker.
#[derive(Debug, Clone, Copy)]
pub enum Work<'a> {
    /// `zwerm bench` with these arguments; publishers on the first node, subscribers on the second if there is one.
    Bench(&'a str),
    /// Nothing for so many seconds.
    Idle(u64),
}

/// A figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// User and system seconds of all nodes for a million of what a phase counts.
    CpuPerMillion(&'static str),
    /// What a phase counts, a second.
    PerSecond(&'static str),
    /// How long a phase took.
    Seconds(&'static str),
    /// Median latency of a phase, microseconds.
    P50(&'static str),
    /// The latency of a phase that one of a hundred exceeds, microseconds.
    P99(&'static str),
    /// Resident bytes of a connection.
    BytesPerConnection,
    /// Resident bytes of each of what a phase counts.
    BytesEach(&'static str),
    /// User and system seconds of all nodes for a GiB of payload of what a phase counts.
    CpuPerGib(&'static str),
    /// Percent of one core that all nodes use together.
    IdlePercent,
}

impl Measure {
    /// For people, with its unit.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::CpuPerMillion(phase) => format!("CPU s per million ({phase})"),
            Self::PerSecond(phase) => format!("per second ({phase})"),
            Self::Seconds(phase) => format!("seconds ({phase})"),
            Self::P50(phase) => format!("p50 latency us ({phase})"),
            Self::P99(phase) => format!("p99 latency us ({phase})"),
            Self::BytesPerConnection => "bytes a connection".to_owned(),
            Self::BytesEach(phase) => format!("bytes each ({phase})"),
            Self::CpuPerGib(phase) => format!("CPU s per GiB ({phase})"),
            Self::IdlePercent => "% of a core".to_owned(),
        }
    }

    /// Whether more is better.
    #[must_use]
    pub fn more_is_better(self) -> bool {
        matches!(self, Self::PerSecond(_))
    }

    /// The figure of a report, if it has it.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    pub fn of(self, report: &Report) -> Option<f64> {
        match self {
            Self::CpuPerMillion(phase) => report.phase(phase)?.cpu_seconds_per_million,
            Self::PerSecond(phase) => Some(report.phase(phase)?.per_second),
            Self::Seconds(phase) => Some(report.phase(phase)?.seconds),
            Self::P50(phase) => Some(report.phase(phase)?.latency?.p50 as f64),
            Self::P99(phase) => Some(report.phase(phase)?.latency?.p99 as f64),
            Self::BytesPerConnection => report.bytes_per_connection.map(|bytes| bytes as f64),
            Self::BytesEach(phase) => report.phase(phase)?.bytes_each.map(|bytes| bytes as f64),
            Self::CpuPerGib(phase) => {
                let size = report.messages.filter(|messages| messages.size > 0)?.size;
                let per_million = report.phase(phase)?.cpu_seconds_per_million?;
                Some(per_million / 1e6 / f64::from(size) * GIB)
            }
            Self::IdlePercent => None,
        }
    }
}

/// A measurement: a broker that is started for it, with an empty folder, and what is done with it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Task<'a> {
    pub(crate) broker: Broker,
    pub(crate) nodes: u16,
    /// Of zwerm, besides those that all measurements have.
    pub(crate) settings: &'a [&'a str],
    pub(crate) work: Work<'a>,
    pub(crate) measures: &'a [Measure],
    /// Only to see that it works.
    pub(crate) tiny: bool,
}

/// What a broker did.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// In the order of the task's measures.
    pub(crate) figures: Vec<Option<f64>>,
    /// Promises that were not kept, in words.
    pub(crate) broken: Vec<String>,
    /// Of a load.
    pub(crate) report: Option<Report>,
}

impl Task<'_> {
    /// Does it, and says on standard error what came of it.
    ///
    /// # Errors
    /// When the broker fails, or does not get ready.
    pub(crate) async fn perform(&self, called: &str) -> Result<Outcome> {
        let began = Instant::now();
        let outcome = self.measure().await;
        let took = began.elapsed().as_secs_f64();
        eprintln!("{called}: {} ({took:.1} s)", self.in_words(&outcome));
        outcome
    }

    async fn measure(&self) -> Result<Outcome> {
        let started = Started::start(self.broker, self.nodes, self.settings).await?;
        let worked = self.work(&started).await;
        let stopped = started.stop().await;
        let outcome = worked?;
        stopped?;
        Ok(outcome)
    }

    async fn work(&self, started: &Started) -> Result<Outcome> {
        match self.work {
            Work::Bench(line) => {
                let arguments = load(line, &started.endpoints, &started.pids, self.tiny)?;
                // it has threads and a runtime of its own
                let report = tokio::task::spawn_blocking(move || zwerm_bench::measure(&arguments)).await??;
                let figures = self.measures.iter().map(|measure| measure.of(&report)).collect();
                Ok(Outcome { figures, broken: report.broken(), report: Some(report) })
            }
            Work::Idle(seconds) => {
                let time = Duration::from_secs(if self.tiny { 1 } else { seconds });
                let percent = idle(&started.pids, time).await?;
                let figure = |measure: &Measure| (*measure == Measure::IdlePercent).then_some(percent);
                let figures = self.measures.iter().map(figure).collect();
                Ok(Outcome { figures, broken: Vec::new(), report: None })
            }
        }
    }

    fn in_words(&self, outcome: &Result<Outcome>) -> String {
        match outcome {
            Ok(outcome) => {
                let figures = self.measures.iter().zip(&outcome.figures);
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
}

/// Percent of one core that processes use while nothing is asked of them.
async fn idle(pids: &[u32], time: Duration) -> Result<f64> {
    let used = || pids.iter().map(|pid| cpu_seconds(*pid)).sum::<Result<Duration>>();
    let (before, began) = (used()?, Instant::now());
    tokio::time::sleep(time).await;
    Ok((used()?.saturating_sub(before)).as_secs_f64() / began.elapsed().as_secs_f64() * 100.0)
}

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    arguments: Arguments,
}

/// The load of a command line on a broker; `tiny`: only to see that it works.
///
/// # Errors
/// When it is no command line of `zwerm bench`.
pub fn load(line: &str, endpoints: &[SocketAddr], pids: &[u32], tiny: bool) -> Result<Arguments> {
    let parsed = Line::try_parse_from(["bench"].into_iter().chain(line.split(' ')))
        .with_context(|| format!("zwerm bench {line}"))?;
    let mut arguments = parsed.arguments;
    if tiny {
        shrink(&mut arguments.scenario);
    }
    let common = &mut arguments.common;
    let name = |index: usize| endpoints[index % endpoints.len()].to_string();
    common.publish_to = vec![name(0)];
    common.subscribe_to = vec![name(1)];
    common.broker_pid = pids.to_vec();
    common.quiet = true;
    Ok(arguments)
}

fn shrink(load: &mut Load) {
    let traffic = match load {
        Load::PubSub(load) => {
            load.pairs = load.pairs.min(3);
            &mut load.traffic
        }
        Load::FanOut(load) => {
            load.subscribers = load.subscribers.min(10);
            &mut load.traffic
        }
        Load::FanIn(load) => {
            load.publishers = load.publishers.min(10);
            &mut load.traffic
        }
        Load::Shared(load) => {
            (load.publishers, load.subscribers) = (load.publishers.min(3), load.subscribers.min(3));
            &mut load.traffic
        }
        Load::Connect(load) => {
            load.connections = load.connections.min(50);
            return;
        }
        Load::Retained(load) => {
            load.topics = load.topics.min(100);
            return;
        }
        Load::Durable(load) => {
            load.messages = load.messages.min(50);
            return;
        }
        Load::Churn(load) => {
            load.messages = Some(3);
            return;
        }
    };
    traffic.idle_connections = traffic.idle_connections.min(50);
    traffic.idle_filters = traffic.idle_filters.min(2_000);
    if traffic.rate > 0.0 {
        traffic.rate = traffic.rate.min(500.0);
    }
    traffic.messages = Some(100);
}
