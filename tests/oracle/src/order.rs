//! P9: what one publisher sends to one topic with one QoS arrives in that order.
//!
//! Repeats are excepted, so only the first arrival of a message counts; a retained message that was read at a
//! subscribe is no part of the stream, nor is what was published before the subscribe was answered and comes late, nor
//! what was published when the subscription began to end and is sent again by its publisher when there is a new one;
//! a member of a shared subscription is promised no order; and what was under way on an older connection of a client
//! may come when a newer one has brought something already.
//! Start at [`check`].

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::book::{Book, Subscription};
use crate::report::{Breach, Promise, Verdict};

/// Finds what was overtaken.
pub(crate) fn check(book: &Book<'_>) -> Vec<Verdict> {
    let mut lines_of: HashMap<usize, Vec<usize>> = HashMap::new();
    for (number, line) in book.subscriptions.iter().enumerate() {
        lines_of.entry(line.session).or_default().push(number);
    }
    let mut seen = HashSet::new();
    // By session, stream and the QoS it came with: the newest publication and where it came.
    let mut newest: HashMap<(usize, usize, u8), (usize, usize)> = HashMap::new();
    let mut verdicts = Vec::new();
    for arrival in book.arrivals.iter().filter(|arrival| !arrival.retain) {
        let Some(publication) = arrival.publication.filter(|it| seen.insert((arrival.session, *it))) else {
            continue;
        };
        let published = &book.publications[publication];
        let lines = lines_of.get(&arrival.session).map_or(&[][..], Vec::as_slice);
        let lines = lines.iter().map(|line| &book.subscriptions[*line]);
        let matching = lines.filter(|line| line.matches(published.topic));
        let is_owed = |line: &Subscription<'_>| line.acked.is_some_and(|(acked, _)| acked < published.sent);
        if matching.clone().any(|line| line.share.is_some()) || !matching.clone().any(is_owed) {
            continue;
        }
        let place = newest
            .entry((arrival.session, published.stream, arrival.qos))
            .or_insert((publication, arrival.event));
        if place.0 <= publication {
            *place = (publication, arrival.event);
            continue;
        }
        let held_until = |line: &Subscription<'_>| line.until.is_none_or(|until| until > place.1);
        if !matching.clone().any(|line| is_owed(line) && held_until(line)) {
            continue;
        }
        let connection = |event: usize| book.events[event].connection;
        if connection(arrival.event) < connection(place.1) {
            continue;
        }
        let overtaking = &book.publications[place.0];
        let client = &book.sessions[arrival.session].client;
        let says = format!(
            "{} came to {client} after {}, which {} published to {} later",
            published.message, overtaking.message, book.streams[published.stream].client, published.topic
        );
        verdicts.push(Verdict {
            promise: Promise::P9,
            breach: Breach::Reordered,
            client: Arc::clone(client),
            message: Some(published.message),
            says,
            events: vec![published.sent, overtaking.sent, place.1, arrival.event],
        });
    }
    verdicts
}
