//! Breaks things: one fault at a time, at regular intervals, each healed before the next.
//!
//! A fault comes only when the whole cluster is ready: with three nodes, two faults at once are no minority.
//! Start at [`rage`].

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::{Instant, sleep, sleep_until};

use crate::cluster::{Cluster, GLANCE};
use crate::fault::{Deck, Fault};
use crate::network::Side;
use crate::world::World;

/// A node that is not ready so long after everything was healed is killed and started again, as an orchestrator
/// would; it is written down.
const PATIENCE: Duration = Duration::from_secs(20);
/// After that many such times there is no hope.
const ATTEMPTS: usize = 3;

/// A fault as it happened. Times are since the run began.
#[derive(Debug, Clone)]
pub(crate) struct Incident {
    pub(crate) fault: Fault,
    pub(crate) at: Duration,
    /// When it was healed.
    pub(crate) healed: Duration,
    /// When all nodes were ready again.
    pub(crate) ready: Duration,
    /// What happened besides.
    pub(crate) notes: Vec<String>,
}

/// When things are broken.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    pub(crate) every: Duration,
    /// No fault begins that would not be healed by then.
    pub(crate) until: Duration,
}

/// Breaks and heals until it is time; all is healed and ready afterwards.
///
/// # Errors
/// When a fault cannot be made or healed, or a node does not recover.
pub(crate) async fn rage(
    cluster: &mut Cluster,
    world: &Rc<World>,
    deck: &mut Deck,
    schedule: Schedule,
) -> Result<Vec<Incident>> {
    let begin = Instant::now();
    let mut incidents = Vec::new();
    // The load shall be there first.
    let mut next = begin + schedule.every.min(Duration::from_secs(5));
    while let Some(fault) = deck.deal() {
        if (next + fault.lasts).duration_since(begin) > schedule.until {
            break;
        }
        sleep_until(next).await;
        incidents.push(suffer(cluster, world, fault).await.with_context(|| fault.to_string())?);
        next = (next + schedule.every).max(Instant::now());
    }
    sleep_until(begin + schedule.until).await;
    Ok(incidents)
}

/// One fault, from its beginning until all nodes are ready again.
async fn suffer(cluster: &mut Cluster, world: &Rc<World>, fault: Fault) -> Result<Incident> {
    println!("{:8.1} s  {fault}", world.now().as_secs_f64());
    world.fault(&fault.to_string(), true);
    let at = world.now();
    cluster.break_it(&fault).await?;
    let mut notes = Vec::new();
    let heals = Instant::now() + fault.lasts;
    while Instant::now() < heals {
        notes.extend(cluster.revive());
        sleep(GLANCE.min(heals.saturating_duration_since(Instant::now()))).await;
    }
    cluster.heal(&fault).await?;
    let healed = world.now();
    recover(cluster, &mut notes).await?;
    let ready = world.now();
    world.fault(&format!("healed: {fault}"), false);
    for note in &notes {
        println!("            {note}");
    }
    Ok(Incident { fault, at, healed, ready, notes })
}

/// Waits until all nodes are ready.
async fn recover(cluster: &mut Cluster, notes: &mut Vec<String>) -> Result<()> {
    for _ in 0..=ATTEMPTS {
        let begin = Instant::now();
        let mut unready: Vec<Side> = Vec::new();
        while begin.elapsed() < PATIENCE {
            notes.extend(cluster.revive());
            unready = cluster.unready().await;
            if unready.is_empty() {
                return Ok(());
            }
            sleep(GLANCE).await;
        }
        for side in unready {
            notes.push(format!(
                "node {side} was not ready {} s after it was healed; restarted",
                PATIENCE.as_secs()
            ));
            cluster.replace(side).await?;
        }
    }
    anyhow::bail!("the cluster does not recover: {}", notes.join("; "))
}
