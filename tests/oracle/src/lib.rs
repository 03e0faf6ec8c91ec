//! The oracle: holds every acknowledgement that clients got against every message they received.
//!
//! Pure, and without a line of the broker in it: a history goes in, verdicts come out, each naming the promise
//! (P1 to P9, architecture.md) that was broken and the events that show it. Whoever drives clients (the
//! simulation, the chaos run) writes the history with a [`History`] and, when everything is healed and
//! has come to rest, a [`What::Drained`] for every connection that was waited for.
//! It knows no time but what the events say, no network and no cause. Start at [`check`].

mod book;
mod exclusive;
mod history;
mod loss;
mod order;
mod owner;
mod repeat;
mod report;
mod retained;
mod topic;
mod will;

pub use history::{Ending, Event, Filter, Granted, History, RetainedRead, Rules, Stage, What, Will};
pub use report::{Breach, Counts, Promise, Report, Verdict};

use book::Book;

/// Holds a history against the promises.
///
/// # Example
/// ```
/// use std::time::Duration;
/// use zwerm_oracle::{History, Rules, What, check};
///
/// let mut history = History::new();
/// history.push(Duration::ZERO, "a", 1, What::Connect { clean: true, expiry: 0, will: None });
/// history.push(Duration::from_millis(1), "a", 1, What::ConnAck { present: false, expiry: None });
/// assert!(check(&history, &Rules::default()).verdicts.is_empty());
/// ```
#[must_use]
pub fn check(history: &History, rules: &Rules) -> Report {
    let (book, mut verdicts) = Book::read(history, rules);
    verdicts.extend(owner::check(&book, rules));
    verdicts.extend(exclusive::check(&book, rules));
    verdicts.extend(loss::check(&book));
    verdicts.extend(repeat::check(&book));
    verdicts.extend(order::check(&book));
    verdicts.extend(retained::check(&book));
    verdicts.extend(will::check(&book, rules));
    verdicts.sort_by_key(|verdict| verdict.events.last().copied());
    Report { counts: book.counts(), verdicts }
}
