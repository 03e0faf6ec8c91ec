//! P6: a will fires when its client is gone for longer than its delay, and only then.
//!
//! That it comes once is judged with the repeats. Who watches is told by the subscriptions: only what a drained
//! session had to see can be missed. Start at [`check`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::book::{Arrival, Book, Connection};
use crate::history::{Ending, Rules, Will};
use crate::report::{Breach, Promise, Verdict};

/// Finds wills that were missed and wills that should not have come.
pub(crate) fn check(book: &Book<'_>, rules: &Rules) -> Vec<Verdict> {
    let mut came: HashMap<u64, Vec<&Arrival>> = HashMap::new();
    for arrival in book.arrivals.iter().filter(|arrival| arrival.publication.is_none()) {
        came.entry(arrival.message).or_default().push(arrival);
    }
    let mut later: HashMap<&str, Vec<&Connection>> = HashMap::new();
    let mut verdicts = Vec::new();
    for connection in book.connections.iter().rev() {
        let later = later.entry(&connection.client).or_default();
        if let Some(will) = &connection.will {
            let arrivals = came.remove(&will.message).unwrap_or_default();
            let fate = Fate { book, rules, connection, will, later };
            verdicts.extend(fate.judge(&arrivals));
        }
        later.push(connection);
    }
    verdicts.extend(came.into_iter().filter_map(|(message, arrivals)| {
        let arrival = arrivals.first()?;
        let client = Arc::clone(&book.sessions[arrival.session].client);
        let says = format!("{message} came to {client}, and nobody published it");
        let (promise, events) = (Promise::P1, vec![arrival.event]);
        Some(Verdict { promise, breach: Breach::Forged, client, message: Some(message), says, events })
    }));
    verdicts.sort_by(|one, other| one.events.cmp(&other.events));
    verdicts
}

/// A will and all that decides over it.
struct Fate<'a, 'h> {
    book: &'a Book<'h>,
    rules: &'a Rules,
    connection: &'a Connection,
    will: &'a Will,
    /// The connections of the client that began later, the last first.
    later: &'a [&'a Connection],
}

impl Fate<'_, '_> {
    fn judge(&self, arrivals: &[&Arrival]) -> Option<Verdict> {
        let connack = self.connection.connack?;
        if let (Some(arrival), Some(why)) = (arrivals.first(), self.must_not(connack)) {
            let says =
                format!("the will {} of {} came although {why}", self.will.message, self.connection.client);
            let events = [Some(connack), self.connection.ended.map(|(place, _)| place), Some(arrival.event)];
            return Some(self.verdict(Breach::WillWrong, &self.connection.client, says, &events));
        }
        let due = self.due()?;
        let patience = self.rules.will_patience + self.rules.clock_slack;
        let missed = self.book.subscriptions.iter().find(|line| {
            let session = &self.book.sessions[line.session];
            let drained = session.drained.filter(|drained| self.book.at(*drained) >= due + patience);
            line.share.is_none()
                && !line.no_local
                && line.acked.is_some_and(|(acked, qos)| self.watches(acked) && qos.min(self.will.qos) > 0)
                && drained.is_some_and(|drained| line.until.is_none_or(|until| until > drained))
                && line.matches(&self.will.topic)
                && !arrivals.iter().any(|arrival| arrival.session == line.session)
        })?;
        let watcher = &self.book.sessions[missed.session];
        let says = format!(
            "the will {} of {} was due at {:.3} s and never came to {}",
            self.will.message,
            self.connection.client,
            due.as_secs_f64(),
            watcher.client
        );
        let ended = self.connection.ended.map(|(place, _)| place);
        let events = [missed.acked.map(|(acked, _)| acked), Some(connack), ended, watcher.drained];
        Some(self.verdict(Breach::WillMissed, &watcher.client, says, &events))
    }

    fn verdict(&self, breach: Breach, client: &Arc<str>, says: String, events: &[Option<usize>]) -> Verdict {
        let mut events: Vec<usize> = events.iter().copied().flatten().collect();
        events.sort_unstable();
        let message = Some(self.will.message);
        Verdict { promise: Promise::P6, breach, client: Arc::clone(client), message, says, events }
    }

    /// Whether a subscription that was acknowledged here was there before the will can have fired: the cluster may
    /// give a node up before the clients of that node notice.
    fn watches(&self, acked: usize) -> bool {
        let ended = self.connection.ended.map_or(Duration::MAX, |(place, _)| self.book.at(place));
        acked < self.connection.connect || self.book.at(acked) + self.rules.under_way < ended
    }

    /// How long the session can be away before the will fires: it fires at the latest when the session ends.
    fn delay(&self) -> Duration {
        Duration::from_secs(self.will.delay.min(self.connection.expiry).into())
    }

    /// Why it must never come, if so.
    fn must_not(&self, connack: usize) -> Option<&'static str> {
        let is_superseded = self.later.iter().any(|later| later.connack.is_some());
        match self.connection.ended {
            Some((_, Ending::Disconnected { confirmed: true, .. })) => {
                // Taken over before, it may have fired before.
                let ended = self.connection.ended.map_or(0, |(place, _)| place);
                let before = self.later.iter().any(|later| later.connect < ended);
                (!before).then_some("its client took its leave")
            }
            Some((_, Ending::Disconnected { .. })) => None,
            None => {
                (self.connection.drained.is_some() && !is_superseded).then_some("its client is connected")
            }
            Some((_, Ending::Lost)) => {
                let heard = self.book.at(self.connection.heard.unwrap_or(connack));
                let in_time = |later: &&&Connection| {
                    let back = later.connack.map(|connack| self.book.at(connack) + self.rules.clock_slack);
                    later.session == self.connection.session
                        && back.is_some_and(|back| back < heard + self.delay())
                };
                // A clean start in between would have ended the session, and the will with it.
                let cleaned = self.later.iter().any(|later| later.clean || later.expiry == 0);
                (!cleaned && self.later.iter().any(|later| in_time(&later)))
                    .then_some("its client was back in time")
            }
        }
    }

    /// When it had to fire, if that is certain.
    fn due(&self) -> Option<Duration> {
        let (place, ending) = self.connection.ended?;
        if ending != Ending::Lost {
            return None;
        }
        let due = self.book.at(place) + self.delay();
        let away = due + self.rules.will_patience + self.rules.clock_slack;
        // Back before it was noticed, or in time: nobody outside knows.
        let back = self.later.iter().any(|later| self.book.at(later.connect) < away);
        (self.delay().is_zero() || !back).then_some(due)
    }
}
