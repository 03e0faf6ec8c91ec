//! P5: a subscribe that is sent after a retained publish was acknowledged sees it or a newer one.
//!
//! A value is stale when another was published after its acknowledgement and acknowledged itself before the
//! subscribe was sent. A value that was never acknowledged may take effect at any time. Start at [`check`].

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::book::{Arrival, Book, Publication, Subscription};
use crate::history::RetainedRead;
use crate::report::{Breach, Promise, Verdict};

/// The retained publications of one topic.
#[derive(Default)]
struct Values {
    all: Vec<usize>,
    /// In the order of their acknowledgements: where it came, and the last that was sent of those until here.
    safe: Vec<(usize, usize)>,
}

impl Values {
    /// The newest publication that is safe at a place in the history.
    fn newest_before(&self, book: &Book<'_>, place: usize) -> Option<usize> {
        let safe = self.safe.partition_point(|(safe, _)| *safe < place);
        let (_, newest) = self.safe.get(safe.checked_sub(1)?)?;
        debug_assert!(book.publications[*newest].sent < place);
        Some(*newest)
    }

    /// Whether a read that begins at a place may not see a value any more.
    fn is_stale(&self, book: &Book<'_>, value: &Publication<'_>, place: usize) -> bool {
        let newest = self.newest_before(book, place).map(|newest| book.publications[newest].sent);
        newest.is_some_and(|newest| value.kept.is_some_and(|kept| kept < newest))
    }
}

/// Finds reads that saw nothing, or something old.
pub(crate) fn check(book: &Book<'_>) -> Vec<Verdict> {
    let values = values(book);
    let mut by_topic: HashMap<(usize, &str), Vec<&Arrival>> = HashMap::new();
    for arrival in &book.arrivals {
        if let Some(publication) = arrival.publication {
            let topic = book.publications[publication].topic;
            by_topic.entry((arrival.session, topic)).or_default().push(arrival);
        }
    }
    let mut lines: HashMap<usize, Vec<&Subscription<'_>>> = HashMap::new();
    for line in book.subscriptions.iter().filter(|line| line.share.is_none()) {
        lines.entry(line.session).or_default().push(line);
    }
    let mut verdicts = Vec::new();
    for ((session, topic), arrivals) in &by_topic {
        let Some(values) = values.get(topic) else { continue };
        let reads = lines.get(session).map_or(&[][..], Vec::as_slice);
        let first = reads.iter().find(|line| line.retained != RetainedRead::Never && line.matches(topic));
        verdicts.extend(first.and_then(|line| old_value(book, values, line, arrivals)));
    }
    let wills: BTreeSet<&str> = book
        .connections
        .iter()
        .filter_map(|connection| connection.will.as_ref().filter(|will| will.retain).map(|will| &*will.topic))
        .collect();
    for line in lines.values().flatten() {
        for (topic, values) in
            values.iter().filter(|(topic, _)| line.matches(topic) && !wills.contains(*topic))
        {
            let arrivals = by_topic.get(&(line.session, *topic)).map_or(&[][..], Vec::as_slice);
            verdicts.extend(missed(book, values, (line, topic), arrivals));
        }
    }
    verdicts.sort_by(|one, other| one.events.cmp(&other.events));
    verdicts
}

fn values<'h>(book: &Book<'h>) -> BTreeMap<&'h str, Values> {
    let mut topics: BTreeMap<&str, Values> = BTreeMap::new();
    for (number, publication) in book.publications.iter().enumerate().filter(|(_, it)| it.retain) {
        let values = topics.entry(publication.topic).or_default();
        values.all.push(number);
        values.safe.extend(publication.kept.map(|kept| (kept, number)));
    }
    for values in topics.values_mut() {
        values.safe.sort_unstable();
        // Publications are numbered as they were sent.
        let mut newest = 0;
        for (_, number) in &mut values.safe {
            newest = newest.max(*number);
            *number = newest;
        }
    }
    topics
}

/// The first arrival that is older than what the session had to see, or than what it has seen.
fn old_value(
    book: &Book<'_>,
    values: &Values,
    line: &Subscription<'_>,
    arrivals: &[&Arrival],
) -> Option<Verdict> {
    let mut seen = HashSet::new();
    let mut newest: Option<(usize, usize)> = None;
    for arrival in arrivals.iter().filter(|arrival| arrival.event > line.sent) {
        let first = arrival.publication.filter(|publication| seen.insert(*publication));
        let Some(publication) = first else { continue };
        let value = &book.publications[publication];
        let is_behind = newest.is_some_and(|(sent, _)| value.kept.is_some_and(|kept| kept < sent));
        if arrival.retain && (is_behind || values.is_stale(book, value, line.sent)) {
            let other = newest.filter(|_| is_behind).map(|(_, event)| event);
            let newer = values.newest_before(book, line.sent).map(|newest| book.publications[newest].sent);
            let says = format!("the retained message {} of {} is an old value", value.message, value.topic);
            let events = [Some(value.sent), value.kept, newer, Some(line.sent), other, Some(arrival.event)];
            return Some(verdict(book, (line, value.message), &says, events));
        }
        if value.retain && newest.is_none_or(|(sent, _)| sent < value.sent) {
            newest = Some((value.sent, arrival.event));
        }
    }
    None
}

/// What a subscription had to see of a topic and did not.
fn missed(
    book: &Book<'_>,
    values: &Values,
    (line, topic): (&Subscription<'_>, &str),
    arrivals: &[&Arrival],
) -> Option<Verdict> {
    let (acked, _) = line.acked.filter(|(_, granted)| *granted > 0)?;
    let drained = book.sessions[line.session].drained?;
    let reads = line.retained == RetainedRead::Always && !line.no_local;
    if !reads || line.until.is_some_and(|until| until < drained) {
        return None;
    }
    let newest = &book.publications[values.newest_before(book, line.sent)?];
    // Gone again, or allowed to get lost: then there may be nothing to see.
    let may_be_gone = |value: &Publication<'_>| {
        (value.empty || value.expires || value.qos == 0)
            && value.sent < drained
            && !values.is_stale(book, value, line.sent)
    };
    if values.all.iter().any(|value| may_be_gone(&book.publications[*value])) {
        return None;
    }
    let saw = arrivals.iter().filter(|arrival| arrival.event > line.sent).any(|arrival| {
        let value = arrival.publication.map(|publication| &book.publications[publication]);
        value.is_some_and(|value| value.retain && !values.is_stale(book, value, line.sent))
    });
    if saw {
        return None;
    }
    let says =
        format!("a subscribe saw neither the retained message {} of {topic} nor a newer one", newest.message);
    let events = [Some(newest.sent), newest.kept, Some(line.sent), Some(acked), None, Some(drained)];
    Some(verdict(book, (line, newest.message), &says, events))
}

fn verdict(
    book: &Book<'_>,
    (line, message): (&Subscription<'_>, u64),
    says: &str,
    events: [Option<usize>; 6],
) -> Verdict {
    let client = &book.sessions[line.session].client;
    let mut events: Vec<usize> = events.into_iter().flatten().collect();
    events.sort_unstable();
    events.dedup();
    Verdict {
        promise: Promise::P5,
        breach: Breach::Stale,
        client: Arc::clone(client),
        message: Some(message),
        says: format!("{client}: {says}"),
        events,
    }
}
