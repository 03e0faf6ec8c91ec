//! What the oracle says: which promise was broken, and which events show it.
//!
//! Start at [`Report`].

use std::fmt;
use std::sync::Arc;

use crate::History;

/// The promises of architecture.md that a history can break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Promise {
    /// Acknowledged means safe.
    P1,
    /// Exactly once.
    P2,
    /// One owner.
    P3,
    /// SUBACK and Session Present mean routed.
    P4,
    /// Retained reads are linearizable.
    P5,
    /// Wills fire once.
    P6,
    /// Order.
    P9,
}

/// How it was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Breach {
    /// An acknowledged message never came.
    Lost,
    /// A QoS 2 message came twice.
    Twice,
    /// A session was gone that should have been there, or there that should have been gone.
    Session,
    /// An old connection went on.
    OldOwner,
    /// Two clients had one exclusive subscription.
    TwoHolders,
    /// A subscribe saw nothing of a retained message, or an older one.
    Stale,
    /// A will that was due never came.
    WillMissed,
    /// A will came twice.
    WillTwice,
    /// A will came although its client had left or was back.
    WillWrong,
    /// A message overtook another.
    Reordered,
    /// A message came that nobody published so.
    Forged,
}

/// One broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Which promise.
    pub promise: Promise,
    /// How.
    pub breach: Breach,
    /// Who saw it.
    pub client: Arc<str>,
    /// The message it is about.
    pub message: Option<u64>,
    /// In a sentence.
    pub says: String,
    /// Places in the history that show it, in order.
    pub events: Vec<usize>,
}

/// What was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Events in the history.
    pub events: usize,
    /// Connections that were accepted.
    pub connections: usize,
    /// Messages that clients published.
    pub published: usize,
    /// Those of QoS 1 and 2 whose acknowledgement came.
    pub acknowledged: usize,
    /// Messages that came to clients, repeats included.
    pub delivered: usize,
    /// Subscriptions that were acknowledged.
    pub subscriptions: usize,
    /// Wills that clients left with the broker.
    pub wills: usize,
}

/// All that the oracle has to say about a history.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What was looked at.
    pub counts: Counts,
    /// What was broken, in the order in which it showed.
    pub verdicts: Vec<Verdict>,
}

impl Report {
    /// How often a promise was broken in this way.
    #[must_use]
    pub fn count(&self, breach: Breach) -> usize {
        self.verdicts.iter().filter(|verdict| verdict.breach == breach).count()
    }
}

impl Verdict {
    /// The verdict with the events that show it, and up to `context` of its client's events before the last one.
    #[must_use]
    pub fn render(&self, history: &History, context: usize) -> String {
        let mut text = format!("{self}\n");
        let shown = self.events.iter().copied().collect::<std::collections::BTreeSet<_>>();
        let last = self.events.last().copied().unwrap_or_default();
        let before = history.events.iter().enumerate().take(last + 1).rev();
        let own = before.filter(|(_, event)| event.client == self.client).map(|(index, _)| index);
        let mut places: Vec<usize> = own.take(context).chain(shown.iter().copied()).collect();
        places.sort_unstable();
        places.dedup();
        for place in places {
            let Some(event) = history.events.get(place) else { continue };
            let mark = if shown.contains(&place) { '>' } else { ' ' };
            text.push_str(&format!("{mark} [{place}] {event}\n"));
        }
        text
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}: {}", self.promise, self.breach, self.says)
    }
}
