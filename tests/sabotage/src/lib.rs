//! Rules of the broker that the simulation breaks on purpose, to see that its oracle notices.
//!
//! The crates that keep a rule ask [`is_broken`], but only when they are compiled with their feature `sabotage`;
//! no program that serves clients is. Start at [`Rule`].

use std::sync::atomic::{AtomicU8, Ordering};

/// A rule that can be broken, one per process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Rule {
    /// Acknowledgements wait until everything that matters has accepted the message (P1).
    AcknowledgeWhenSafe = 1,
    /// A batch that a shard has applied is not applied again (P2).
    ApplyOnce,
    /// The connection before is closed when a newer one owns the client id (P3).
    OneOwner,
    /// A subscription is acknowledged when every node routes it (P4).
    RouteBarrier,
    /// A will is published once (P6).
    WillOnce,
    /// What a node that was declared down may have with QoS 2 for a shared subscription is given to no other member
    /// before that is known (P2).
    SettleBeforeAnother,
    /// Whoever publishes a QoS 2 message of an outbox again gives it to the members picked first (P2).
    PickOnce,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::AcknowledgeWhenSafe,
        Self::ApplyOnce,
        Self::OneOwner,
        Self::RouteBarrier,
        Self::WillOnce,
        Self::SettleBeforeAnother,
        Self::PickOnce,
    ];

    /// The rule with this name, as [`Debug`](std::fmt::Debug) writes it.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| format!("{rule:?}") == name)
    }
}

static BROKEN: AtomicU8 = AtomicU8::new(0);

/// Breaks a rule for the rest of the process's life.
pub fn break_rule(rule: Rule) {
    BROKEN.store(rule as u8, Ordering::Relaxed);
}

/// Whether a rule is broken.
#[must_use]
pub fn is_broken(rule: Rule) -> bool {
    BROKEN.load(Ordering::Relaxed) == rule as u8
}
