//! P3: one owner per client id.
//!
//! A connection is over when a newer one of its client id, whose CONNECT was sent after it was accepted, is
//! accepted; then nothing comes on it any more but what was under way. Start at [`check`].

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::book::Book;
use crate::history::Rules;
use crate::report::{Breach, Promise, Verdict};

/// Finds connections that went on.
pub(crate) fn check(book: &Book<'_>, rules: &Rules) -> Vec<Verdict> {
    let superseded = superseded(book);
    let mut numbers: HashMap<(&str, u32), usize> = HashMap::new();
    let mut verdicts = BTreeMap::new();
    let mut connections = 0..book.connections.len();
    for (place, event) in book.events.iter().enumerate() {
        if matches!(event.what, crate::What::Connect { .. }) {
            numbers.extend(connections.next().map(|number| ((&*event.client, event.connection), number)));
            continue;
        }
        let number = numbers.get(&(&*event.client, event.connection)).copied();
        let Some((number, newer)) = number.and_then(|number| Some((number, superseded[number]?))) else {
            continue;
        };
        let since = book.at(newer);
        if place < newer || !event.what.is_received() || event.at <= since + rules.under_way {
            continue;
        }
        verdicts.entry(number).or_insert_with(|| Verdict {
            promise: Promise::P3,
            breach: Breach::OldOwner,
            client: Arc::clone(&event.client),
            message: None,
            says: format!(
                "{}: connection {} was served {:?} after a newer one was accepted",
                event.client,
                event.connection,
                event.at.saturating_sub(since)
            ),
            events: vec![book.connections[number].connect, newer, place],
        });
    }
    verdicts.into_values().collect()
}

/// For each connection the CONNACK of the first that took its place.
fn superseded(book: &Book<'_>) -> Vec<Option<usize>> {
    let mut superseded = vec![None; book.connections.len()];
    // By client, the later connections from the last to the first: CONNECT, and the first CONNACK from there on.
    let mut later: HashMap<&str, Vec<(usize, usize)>> = HashMap::new();
    for (number, connection) in book.connections.iter().enumerate().rev() {
        let Some(connack) = connection.connack else { continue };
        let later = later.entry(&connection.client).or_default();
        let mut nearest_first = later.iter().rev();
        superseded[number] =
            nearest_first.find(|(connect, _)| *connect > connack).map(|(_, accepted)| *accepted);
        let first = later.last().map_or(connack, |(_, accepted)| connack.min(*accepted));
        later.push((connection.connect, first));
    }
    superseded
}
