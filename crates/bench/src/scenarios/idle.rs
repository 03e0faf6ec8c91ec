//! What is there beside a load and does nothing: connections, and filters that nobody publishes to.
//!
//! Start at [`Idle::open`].

use std::time::Instant;

use anyhow::Result;
use mqttbytes::QoS;

use super::connect::{WARM_UP, close, open};
use super::{AT_ONCE, Run, in_parallel};
use crate::arguments::Traffic;
use crate::board::histogram;
use crate::connection::Connection;
use crate::report::Phase;

/// Connections that hold the filters: few, for a filter costs more than the connection that has it alone.
const HOLDERS: u32 = 10;

/// Filters in one SUBSCRIBE.
const TOGETHER: u32 = 500;

/// Idle connections, and what it cost to make them.
#[derive(Debug)]
pub(super) struct Idle {
    connections: Vec<Connection>,
    /// `idle` and `filters`, where there are any.
    pub(super) phases: Vec<Phase>,
}

impl Idle {
    /// Connects and subscribes as the load says.
    ///
    /// # Errors
    /// When the broker does not take a connection or a filter.
    pub(super) async fn open(run: &Run, traffic: &Traffic) -> Result<Self> {
        let mut idle = Self { connections: Vec::new(), phases: Vec::new() };
        if traffic.idle_connections > 0 {
            idle.connect(run, traffic.idle_connections).await?;
        }
        if traffic.idle_filters > 0 {
            idle.subscribe(run, traffic.idle_filters, traffic.qos()).await?;
        }
        Ok(idle)
    }

    /// Lets them go.
    ///
    /// # Errors
    /// When the broker has ended one.
    pub(super) async fn close(self) -> Result<()> {
        close(self.connections, AT_ONCE).await
    }

    async fn connect(&mut self, run: &Run, count: u32) -> Result<()> {
        let opened = |count, kind| async move {
            let opened = open(run, kind, count, AT_ONCE, false).await?;
            anyhow::Ok(opened.into_iter().map(|(connection, _)| connection).collect::<Vec<Connection>>())
        };
        close(opened(WARM_UP, "w").await?, AT_ONCE).await?;
        let (resident, cpu, began) = (run.settled().await?, run.cpu()?, Instant::now());
        self.connections.extend(opened(count, "i").await?);
        let (time, cpu) = (began.elapsed(), run.cpu_since(cpu)?);
        let phase = Phase::new(("idle", "connections"), u64::from(count), time, cpu, &histogram()?);
        self.phases.push(phase.with_memory(resident, run.settled().await?));
        Ok(())
    }

    async fn subscribe(&mut self, run: &Run, count: u32, qos: QoS) -> Result<()> {
        let holders = HOLDERS.min(count);
        let connections = open(run, "f", holders, AT_ONCE, false).await?;
        let mut connections = connections.into_iter().map(|(connection, _)| connection);
        let (resident, cpu, began) = (run.settled().await?, run.cpu()?, Instant::now());
        let held = in_parallel(holders, holders, |number| {
            let (run, connection) = (run.clone(), connections.next());
            async move {
                let Some(mut connection) = connection else { return Ok(None) };
                for filters in shares(count, holders, number) {
                    let filters = filters.map(|filter| run.topic(format_args!("f/{filter:08}")));
                    connection.subscribe_all(filters, qos).await?;
                }
                Ok(Some(connection))
            }
        })
        .await?;
        let (time, cpu) = (began.elapsed(), run.cpu_since(cpu)?);
        self.connections.extend(held.into_iter().flatten());
        let phase = Phase::new(("filters", "filters"), u64::from(count), time, cpu, &histogram()?);
        self.phases.push(phase.with_memory(resident, run.settled().await?));
        Ok(())
    }
}

/// What one of `holders` subscribes to of `count` filters, SUBSCRIBE by SUBSCRIBE.
fn shares(count: u32, holders: u32, number: u32) -> impl Iterator<Item = impl Iterator<Item = u32>> {
    let share = count / holders + u32::from(number < count % holders);
    let first = number * (count / holders) + number.min(count % holders);
    let starts = (first..first + share).step_by(TOGETHER as usize);
    starts.map(move |start| start..(start + TOGETHER).min(first + share))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_filter_is_subscribed_to_once() {
        for (count, holders) in [(1, 1), (7, 7), (1_003, 10), (20_000, 10)] {
            let all: Vec<u32> =
                (0..holders).flat_map(|number| shares(count, holders, number).flatten()).collect();
            assert_eq!(all, (0..count).collect::<Vec<u32>>());
            let most =
                (0..holders).flat_map(|number| shares(count, holders, number).map(Iterator::count)).max();
            assert_eq!(most, Some((count.div_ceil(holders) as usize).min(TOGETHER as usize)));
        }
    }
}
