//! Emptying a node without harm: nobody is let in, leaderships go to other nodes, clients follow at a pace.
//!
//! One task does it, as long as it is wanted; people ask for it over HTTP ([`NodeControl`]), and the end of the process
//! goes through it ([`Drainer::finish`]). Knows no sockets: the gateway's doors and the broker's evacuation are its
//! hands. Start at [`Drainer::run`].

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use zwerm_admin::{
    Archive, Changed, ControlError, Drain, DrainRequest, DrainState, Leaving, NodeControl, NodeId,
    RemoveRequest, Replicas,
};
use zwerm_broker::Broker;
use zwerm_cluster::{Backup, BackupError, LeaveError, ReplicasError};
use zwerm_gateway::{Doors, TokenBucket};
use zwerm_wire::ReasonCode;

/// How long clients wait for the leaderships to be gone: who reconnects elsewhere should not need this node.
const HAND_OVER: Duration = Duration::from_secs(3);
/// How often clients are told to go, and whether something has changed is looked at.
const ROUND: Duration = Duration::from_millis(50);
/// How often the log says how far it is.
const REPORT: Duration = Duration::from_secs(5);
/// At the end of the process so much of the time goes to telling clients, in tenths; the rest to their going.
const TELLING_TENTHS: u32 = 7;

/// How it is to be drained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wish {
    for_good: bool,
    /// By when all clients should have been told, whatever the pace.
    by: Option<Instant>,
}

impl Wish {
    /// What 5.0 clients are told (MQTT 5.0 section 4.11).
    fn reason(self) -> ReasonCode {
        if self.for_good { ReasonCode::ServerMoved } else { ReasonCode::UseAnotherServer }
    }
}

/// Drains the node and takes clients again.
#[derive(Debug)]
pub(crate) struct Drainer {
    broker: Broker,
    doors: Doors,
    /// Clients told to go a second.
    rate: NonZeroU32,
    /// `None`: clients are served.
    wish: watch::Sender<Option<Wish>>,
    state: watch::Sender<DrainState>,
    /// The process ends: nothing is undone any more.
    is_last: AtomicBool,
}

impl Drainer {
    pub(crate) fn new(broker: Broker, doors: Doors, rate: NonZeroU32) -> Self {
        let (wish, state) = (watch::Sender::default(), watch::Sender::default());
        Self { broker, doors, rate, wish, state, is_last: AtomicBool::new(false) }
    }

    /// Does what is wanted until `stop`.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        let mut wishes = self.wish.subscribe();
        loop {
            let wish = *wishes.borrow_and_update();
            let work = async {
                match wish {
                    Some(wish) => self.drain(wish).await,
                    None => self.serve(),
                }
                std::future::pending::<()>().await;
            };
            // What is cut off by a new wish is begun anew; telling a client twice changes nothing.
            tokio::select! {
                () = stop.cancelled() => return,
                changed = wishes.changed() => if changed.is_err() { return },
                () = work => {}
            }
        }
    }

    /// How far it is.
    pub(crate) fn status(&self) -> Drain {
        Drain {
            state: *self.state.borrow(),
            for_good: self.wish.borrow().is_some_and(|wish| wish.for_good),
            clients_left: self.broker.connections() as u64,
            groups_led: self.broker.cluster().groups_led() as u64,
        }
    }

    /// Why no clients may be sent here, if so.
    pub(crate) fn not_ready(&self) -> Option<String> {
        let state = *self.state.borrow();
        match state {
            DrainState::Serving => None,
            DrainState::Draining => {
                Some(format!("this node is draining: {} clients left", self.broker.connections()))
            }
            DrainState::Drained => {
                Some("this node is drained; `zwerm ctl node undrain` makes it take clients again".to_owned())
            }
        }
    }

    /// Drains before the process ends, if clients have somewhere to go; returns when none is left, or after `grace`.
    pub(crate) async fn finish(&self, grace: Duration) {
        self.is_last.store(true, Ordering::Relaxed);
        if grace.is_zero() || self.broker.elsewhere().is_empty() {
            return;
        }
        let by = Instant::now() + grace * TELLING_TENTHS / 10;
        self.wish.send_modify(|wish| {
            let for_good = wish.is_some_and(|wish| wish.for_good);
            *wish = Some(Wish { for_good, by: Some(by) });
        });
        // Not the state of before: the task begins anew with this wish.
        let mut state = self.state.subscribe();
        let drained = async {
            let is_done =
                |state: &DrainState| *state == DrainState::Drained && self.broker.connections() == 0;
            while !is_done(&state.borrow_and_update()) {
                tokio::select! {
                    changed = state.changed() => if changed.is_err() { return },
                    () = sleep(ROUND) => if self.broker.elsewhere().is_empty() {
                        // all nodes are stopping: nobody could be taken
                        return;
                    },
                }
            }
        };
        if timeout(grace, drained).await.is_err() {
            let clients_left = self.broker.connections();
            tracing::warn!(clients_left, ?grace, "the time to drain is over");
        }
    }

    fn serve(&self) {
        if *self.state.borrow() == DrainState::Serving {
            return;
        }
        self.broker.cluster().set_draining(false);
        self.doors.open();
        self.state.send_replace(DrainState::Serving);
        tracing::info!("not draining any more: clients are taken again");
    }

    async fn drain(&self, wish: Wish) {
        self.state.send_replace(DrainState::Draining);
        self.doors.close(wish.reason());
        self.broker.cluster().set_draining(true);
        let Drain { clients_left, groups_led, .. } = self.status();
        tracing::info!(clients_left, groups_led, "draining: nobody is let in");
        if timeout(HAND_OVER, self.handed_over()).await.is_err() {
            let groups_led = self.broker.cluster().groups_led();
            tracing::warn!(groups_led, "leaderships are left that no other node has taken yet");
        }
        self.send_away(wish).await;
        self.state.send_replace(DrainState::Drained);
        tracing::info!("drained: no client is left");
    }

    /// Waits until other nodes lead what this one led, if there are any.
    async fn handed_over(&self) {
        let cluster = self.broker.cluster();
        while cluster.groups_led() > 0 && !cluster.alternatives().is_empty() {
            sleep(ROUND).await;
        }
    }

    /// Tells clients to go, at the pace, until none is left.
    async fn send_away(&self, wish: Wish) {
        let clients = self.broker.connections();
        let rate = pace(self.rate, clients, wish.by.map(|by| by.saturating_duration_since(Instant::now())));
        let mut tokens = TokenBucket::new(rate, per_round(rate), Instant::now().into_std());
        let mut leaving = self.broker.evacuate();
        let mut reported = Instant::now();
        loop {
            let due = tokens.take(usize::MAX, Instant::now().into_std());
            if leaving.tell(due, wish.reason()) < due {
                let clients_left = self.broker.connections();
                if clients_left == 0 {
                    return;
                }
                // some are still going, and some may have been let in just before the doors were closed
                leaving = self.broker.evacuate();
            }
            if reported.elapsed() >= REPORT {
                reported = Instant::now();
                tracing::info!(clients_left = self.broker.connections(), "draining");
            }
            sleep(ROUND).await;
        }
    }
}

/// Clients to tell a second: as configured, or as many as it takes to be through `within` the time.
fn pace(rate: NonZeroU32, clients: usize, within: Option<Duration>) -> NonZeroU32 {
    let Some(within) = within else { return rate };
    let needed = clients as u128 * 1_000 / within.as_millis().max(1) + 1;
    rate.max(NonZeroU32::new(u32::try_from(needed).unwrap_or(u32::MAX)).unwrap_or(rate))
}

/// Clients to tell in one round.
fn per_round(rate: NonZeroU32) -> NonZeroU32 {
    let rounds = u32::try_from(Duration::from_secs(1).as_millis() / ROUND.as_millis()).unwrap_or(1);
    NonZeroU32::MIN.saturating_add(rate.get() / rounds)
}

impl NodeControl for Drainer {
    fn drain(&self, request: DrainRequest) -> Changed<'_, Drain> {
        Box::pin(async move {
            if !request.force && self.broker.elsewhere().is_empty() {
                let reason = "no other node is up that takes clients: they would have nowhere to go; start one first, or force it";
                return Err(ControlError::Refused(reason.to_owned()));
            }
            let wish = Wish { for_good: request.for_good, by: None };
            self.change(Some(wish), DrainState::Draining)
        })
    }

    fn undrain(&self) -> Changed<'_, Drain> {
        Box::pin(async move { self.change(None, DrainState::Serving) })
    }

    fn leave(&self) -> Changed<'_, Leaving> {
        Box::pin(async move {
            let cluster = self.broker.cluster();
            let node = cluster.own.id;
            cluster.leave(node).await.map_err(|error| refused(&error))?;
            Ok(Leaving { node: NodeId(node) })
        })
    }

    fn remove(&self, request: RemoveRequest) -> Changed<'_, Leaving> {
        Box::pin(async move {
            self.broker.cluster().remove(request.node.0).await.map_err(|error| refused(&error))?;
            Ok(Leaving { node: request.node })
        })
    }

    fn set_replicas(&self, request: Replicas) -> Changed<'_, Replicas> {
        Box::pin(async move {
            let set = self.broker.cluster().set_replicas(request.replicas).await;
            set.map(|()| request).map_err(|error| not_set(&error))
        })
    }

    fn backup(&self) -> Changed<'_, Archive> {
        Box::pin(async move {
            let begun = self.broker.cluster().backup(env!("CARGO_PKG_VERSION")).await;
            let backup = begun.map_err(|error| match error {
                BackupError::Refused(_) => ControlError::Refused(error.to_string()),
                _ => ControlError::Unavailable(error.to_string()),
            })?;
            let chunks = async |mut backup: Backup| backup.next().await.map(|chunk| (chunk, backup));
            Ok(Box::pin(futures::stream::unfold(backup, chunks)) as Archive)
        })
    }
}

fn not_set(error: &ReplicasError) -> ControlError {
    match error {
        ReplicasError::Unavailable => ControlError::Unavailable(error.to_string()),
        _ => ControlError::Refused(error.to_string()),
    }
}

fn refused(error: &LeaveError) -> ControlError {
    match error {
        LeaveError::Unavailable => ControlError::Unavailable(error.to_string()),
        _ => ControlError::Refused(error.to_string()),
    }
}

impl Drainer {
    fn change(&self, wish: Option<Wish>, leads_to: DrainState) -> Result<Drain, ControlError> {
        if self.is_last.load(Ordering::Relaxed) {
            return Err(ControlError::Refused("this node is stopping".to_owned()));
        }
        let changed = self.wish.send_if_modified(|now| {
            let changed = *now != wish;
            *now = wish;
            changed
        });
        // the task will see to it; the answer says what is to come and not what was
        let state = if changed { leads_to } else { *self.state.borrow() };
        Ok(Drain { state, ..self.status() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(rate: u32) -> NonZeroU32 {
        NonZeroU32::new(rate).unwrap()
    }

    #[test]
    fn the_pace_is_what_is_configured_unless_time_is_short() {
        let secs = Duration::from_secs;
        assert_eq!(pace(rate(500), 1_000_000, None), rate(500));
        assert_eq!(pace(rate(500), 5_000, Some(secs(20))), rate(500));
        assert_eq!(pace(rate(500), 100_000, Some(secs(20))), rate(5_001));
        assert_eq!(pace(rate(500), 0, Some(Duration::ZERO)), rate(500));
        assert_eq!(pace(rate(500), 1_000, Some(Duration::ZERO)), rate(1_000_001));
    }

    #[test]
    fn a_round_tells_what_comes_in_its_time_and_at_least_one() {
        assert_eq!([per_round(rate(1)), per_round(rate(500))], [rate(1), rate(26)]);
    }
}
