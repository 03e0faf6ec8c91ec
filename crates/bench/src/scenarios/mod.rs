//! The kinds of load, and what they have in common: where clients connect, what the brokers cost.
//!
//! `flow` is publishers and subscribers that are all there (pub-sub, fan-out, fan-in, shared), `idle` what is there
//! beside them; the other files are a subcommand each. `crew` runs the tasks. Start at [`measure`].

mod churn;
mod connect;
mod crew;
mod durable;
mod flow;
mod idle;
mod progress;
mod retained;

use std::net::SocketAddr;
use std::process;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::arguments::{Common, Places, Scenario};
use crate::connection::Client;
use crate::process::{
    cpu_seconds, listening_at, name, peak_resident_bytes, raise_open_files, resident_bytes,
};
use crate::report::{Broker, Messages, Report};
use crate::tally::Tally;

/// Connections that are opened at a time where that is not what is measured.
const AT_ONCE: u32 = 32;

/// After which memory is looked at that something took: allocators keep for a moment what they were given back.
const SETTLED_AFTER: Duration = Duration::from_millis(500);

/// Runs a scenario.
///
/// # Errors
/// When the broker cannot be reached or ends a connection.
pub(crate) async fn measure(scenario: &Scenario, common: &Common) -> Result<Report> {
    raise_open_files()?;
    match scenario {
        Scenario::PubSub(arguments) => flow::pub_sub(arguments, common).await,
        Scenario::FanOut(arguments) => flow::fan_out(arguments, common).await,
        Scenario::FanIn(arguments) => flow::fan_in(arguments, common).await,
        Scenario::Shared(arguments) => flow::shared(arguments, common).await,
        Scenario::Connect(arguments) => connect::measure(arguments, common).await,
        Scenario::Retained(arguments) => retained::measure(arguments, common).await,
        Scenario::Durable(arguments) => durable::measure(arguments, common).await,
        Scenario::Churn(arguments) => churn::measure(arguments, common).await,
    }
}

/// A run: the broker's nodes, and names that no other run has.
#[derive(Debug, Clone)]
struct Run {
    places: Places,
    login: Option<(String, String)>,
    name: String,
    brokers: Vec<Watched>,
    quiet: bool,
}

/// A process of the broker, as it was at the begin.
#[derive(Debug, Clone)]
struct Watched {
    pid: u32,
    cpu: Duration,
    resident: u64,
}

impl Run {
    async fn prepare(common: &Common) -> Result<Self> {
        let places = Places::resolve(common).await?;
        let mut pids = common.broker_pid.clone();
        if pids.is_empty() {
            let mut addresses: Vec<SocketAddr> = places.all().collect();
            addresses.sort_unstable();
            addresses.dedup();
            pids = addresses.into_iter().filter_map(listening_at).collect();
            pids.sort_unstable();
            pids.dedup();
        }
        let watch = |pid| {
            let watched =
                || anyhow::Ok(Watched { pid, cpu: cpu_seconds(pid)?, resident: resident_bytes(pid)? });
            watched().with_context(|| format!("looking at process {pid} of the broker"))
        };
        let brokers = pids.into_iter().map(watch).collect::<Result<_>>()?;
        let name = unique_name();
        Ok(Self { places, login: common.login(), name, brokers, quiet: common.quiet })
    }

    /// A client that no other run and no other kind has.
    fn client(&self, kind: &str, number: u32) -> Client {
        Client { id: format!("{}-{kind}{number}", self.name), login: self.login.clone(), durable: false }
    }

    fn topic(&self, rest: impl std::fmt::Display) -> String {
        format!("{}/{rest}", self.name)
    }

    /// Processor time of the brokers so far; `None` when they are not known.
    fn cpu(&self) -> Result<Option<Duration>> {
        if self.brokers.is_empty() {
            return Ok(None);
        }
        let sum: Result<Duration> = self.brokers.iter().map(|broker| cpu_seconds(broker.pid)).sum();
        sum.context("the broker ended").map(Some)
    }

    /// Processor time since `before`.
    fn cpu_since(&self, before: Option<Duration>) -> Result<Option<Duration>> {
        Ok(self.cpu()?.zip(before).map(|(now, before)| now.saturating_sub(before)))
    }

    /// Resident memory of the brokers, all together; `None` when they are not known.
    fn resident(&self) -> Result<Option<u64>> {
        if self.brokers.is_empty() {
            return Ok(None);
        }
        let sum: Result<u64> = self.brokers.iter().map(|broker| resident_bytes(broker.pid)).sum();
        sum.context("the broker ended").map(Some)
    }

    /// Resident memory of the brokers as it stays; `None` when they are not known.
    async fn settled(&self) -> Result<Option<u64>> {
        sleep(SETTLED_AFTER).await;
        self.resident()
    }

    /// What the brokers cost until now.
    fn brokers(&self) -> Result<Vec<Broker>> {
        let look = |watched: &Watched| {
            let pid = watched.pid;
            anyhow::Ok(Broker {
                pid,
                name: name(pid),
                cpu_seconds: (cpu_seconds(pid)?.saturating_sub(watched.cpu)).as_secs_f64(),
                resident_before: watched.resident,
                resident: resident_bytes(pid)?,
                resident_peak: peak_resident_bytes(pid)?,
            })
        };
        self.brokers.iter().map(look).collect::<Result<_>>().context("the broker ended")
    }
}

/// Short, and different for each run: broker and topics may be anybody's.
fn unique_name() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("bench{:x}-{:x}", process::id(), now.as_millis() & 0xffff_ffff)
}

/// Counts of subscribers that each get everything.
fn messages(
    (qos, size): (u8, u32),
    published: u64,
    expected: u64,
    tallies: &[Tally],
    sent: impl Fn(u32) -> u64,
) -> Messages {
    let sum = |what: fn(&Tally) -> u64| tallies.iter().map(what).sum();
    Messages {
        qos,
        size,
        published,
        expected,
        delivered: sum(|tally| tally.received),
        lost: tallies.iter().map(|tally| tally.lost(&sent)).sum(),
        repeated: sum(|tally| tally.repeated),
        out_of_order: sum(|tally| tally.disordered),
        strange: sum(|tally| tally.strangers),
    }
}

/// Does something for each number from 0 on, `at_once` at a time; the results in order.
async fn in_parallel<T, F>(count: u32, at_once: u32, mut work: impl FnMut(u32) -> F) -> Result<Vec<T>>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    let mut results: Vec<Option<T>> = (0..count).map(|_| None).collect();
    let mut next = 0;
    loop {
        while next < count && tasks.len() < at_once as usize {
            let (number, doing) = (next, work(next));
            tasks.spawn(async move { (number, doing.await) });
            next += 1;
        }
        let Some(done) = tasks.join_next().await else { break };
        let (number, result) = done?;
        results[number as usize] = Some(result?);
    }
    results.into_iter().collect::<Option<_>>().context("a task has no result")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn parallel_results_come_in_order() {
        let work = |number: u32| async move {
            for _ in 0..(7 - number % 7) {
                tokio::task::yield_now().await;
            }
            Ok(number)
        };
        assert_eq!(in_parallel(50, 8, work).await.unwrap(), (0..50).collect::<Vec<u32>>());
        let failing = |number: u32| async move { if number == 3 { anyhow::bail!("three") } else { Ok(()) } };
        assert_eq!(in_parallel(5, 2, failing).await.unwrap_err().to_string(), "three");
    }
}
