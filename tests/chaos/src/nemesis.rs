//! Breaks things: one fault at a time, at regular intervals, each healed before the next.
//!
//! A fault comes only when the whole cluster is ready: with three nodes, two faults at once are no minority.
//! After one that changes who is in the cluster, that is when every shard is where it belongs.
//! Start at [`rage`].

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::cluster::{Cluster, GLANCE};
use crate::fault::{Fault, Kind};
use crate::network::Side;
use crate::world::World;

/// A node that is not ready so long after everything was healed is killed and started again, as an orchestrator
/// would; it is written down.
const PATIENCE: Duration = Duration::from_secs(20);
/// After that many such times there is no hope.
const ATTEMPTS: usize = 3;
/// How long the shards may take to move to where they belong.
const MOVING: Duration = Duration::from_secs(120);

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
    /// No fault begins that would not be healed by then; `None`: all there are.
    pub(crate) until: Option<Duration>,
}

/// Breaks and heals until it is time; all is healed and ready afterwards.
///
/// # Errors
/// When a fault cannot be made or healed, or a node does not recover.
pub(crate) async fn rage(
    cluster: &mut Cluster,
    world: &Rc<World>,
    faults: impl IntoIterator<Item = Fault>,
    schedule: Schedule,
) -> Result<Vec<Incident>> {
    let begin = Instant::now();
    let mut incidents = Vec::new();
    // The load shall be there first.
    let mut next = begin + schedule.every.min(Duration::from_secs(5));
    for fault in faults {
        if schedule.until.is_some_and(|until| (next + fault.lasts).duration_since(begin) > until) {
            break;
        }
        sleep_until(next).await;
        incidents.push(suffer(cluster, world, fault).await.with_context(|| fault.to_string())?);
        next = (next + schedule.every).max(Instant::now());
    }
    // The last one shall be seen to leave no traces.
    sleep_until(schedule.until.map_or(next, |until| begin + until)).await;
    Ok(incidents)
}

/// One fault, from its beginning until all nodes are ready again.
async fn suffer(cluster: &mut Cluster, world: &Rc<World>, fault: Fault) -> Result<Incident> {
    println!("{:8.1} s  {fault}", world.now().as_secs_f64());
    world.fault(&fault.to_string(), true);
    let at = world.now();
    if fault.kind == Kind::Leave {
        // Nobody shall choose it any more; who is there is told to go.
        world.gone(fault.nodes());
    }
    let mut notes = cluster.break_it(&fault).await?;
    let heals = Instant::now() + fault.lasts;
    while Instant::now() < heals {
        notes.extend(cluster.revive());
        sleep(GLANCE.min(heals.saturating_duration_since(Instant::now()))).await;
    }
    notes.extend(cluster.witness(&fault).await?);
    cluster.heal(&fault).await?;
    let healed = world.now();
    recover(cluster, &mut notes).await?;
    let ready = world.now();
    if fault.moves_shards() {
        let leaders =
            timeout(MOVING, cluster.settled()).await.context("the shards are not where they belong")?;
        let moved = world.now().saturating_sub(ready).as_secs_f64();
        notes.push(format!("every shard in its place {moved:.1} s after all nodes were ready; {leaders}"));
    }
    if fault.kind == Kind::Join {
        world.there(fault.nodes());
    }
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
