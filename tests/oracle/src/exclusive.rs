//! Exclusive subscriptions: one holder of a filter at a time.
//!
//! A client holds `$exclusive/...` from its SUBACK until it unsubscribes or its session ends. Two hold it when a message
//! that was published after the second had its SUBACK comes to the first. Start at [`check`].

use crate::book::{Book, Subscription};
use crate::history::{Rules, What};
use crate::report::{Breach, Promise, Verdict};
use crate::topic::EXCLUSIVE;

/// Finds holders that went on after another client was told that it is the holder.
pub(crate) fn check(book: &Book<'_>, rules: &Rules) -> Vec<Verdict> {
    let exclusive = |line: &&Subscription<'_>| line.whole().starts_with(EXCLUSIVE) && line.acked.is_some();
    let lines: Vec<_> = book.subscriptions.iter().filter(exclusive).collect();
    let mut verdicts = Vec::new();
    for first in &lines {
        let later = lines.iter().filter(|second| is_rival(book, first, second));
        // The earliest of those granted after it shows the most.
        let Some(granted) = later.filter_map(|second| Some(second.acked?.0)).min() else { continue };
        verdicts.extend(served(book, rules, first, granted));
    }
    verdicts
}

/// Another client was granted the same filter while the first had it, as far as the first can know.
fn is_rival(book: &Book<'_>, first: &Subscription<'_>, second: &Subscription<'_>) -> bool {
    let (Some((held, _)), Some((granted, _))) = (first.acked, second.acked) else { return false };
    let (one, other) = (&book.sessions[first.session], &book.sessions[second.session]);
    one.client != other.client
        && first.whole() == second.whole()
        && held < granted
        && ended(book, first).is_none_or(|ended| ended > granted)
}

fn ended(book: &Book<'_>, line: &Subscription<'_>) -> Option<usize> {
    line.until.into_iter().chain(book.sessions[line.session].ended).min()
}

/// A message that only this subscription can have brought, published after `granted`.
fn served(book: &Book<'_>, rules: &Rules, line: &Subscription<'_>, granted: usize) -> Option<Verdict> {
    let end = ended(book, line).unwrap_or(usize::MAX);
    let since = book.at(granted) + rules.under_way;
    let own = |other: &&Subscription<'_>| other.session == line.session && other.whole() != line.whole();
    let others: Vec<_> = book.subscriptions.iter().filter(own).collect();
    book.arrivals.iter().find_map(|arrival| {
        let What::Delivered { topic, .. } = &book.events[arrival.event].what else { return None };
        let published = &book.publications[arrival.publication?];
        let is_served = arrival.session == line.session
            && (granted..end).contains(&arrival.event)
            && published.sent > granted
            && book.at(arrival.event) > since
            && line.matches(topic)
            && !others.iter().any(|other| other.matches(topic));
        let client = &book.sessions[line.session].client;
        is_served.then(|| Verdict {
            promise: Promise::P3,
            breach: Breach::TwoHolders,
            client: client.clone(),
            message: Some(arrival.message),
            says: format!(
                "{client} got {} for {} when another client held it",
                arrival.message,
                line.whole()
            ),
            events: vec![granted, published.sent, arrival.event],
        })
    })
}
