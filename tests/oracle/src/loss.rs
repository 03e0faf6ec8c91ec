//! P1, P2 and P4: what was acknowledged reaches who had subscribed before it was sent.
//!
//! A session that was drained must have all of it; of any other, messages after a hole prove the hole, for a
//! stream keeps its order. Of a shared subscription one member must have it as long as one stays, unless another
//! that is gone may have taken it along: see [`took_along`]. Start at [`check`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::book::{Book, Publication, Stream, Subscription};
use crate::history::Ending;
use crate::report::{Breach, Promise, Verdict};

/// What arrived where.
struct Got {
    /// Session and publication.
    all: HashSet<(usize, usize)>,
    /// By session and stream: places in the history and publications of live messages, in order of arrival.
    live: HashMap<(usize, usize), Vec<(usize, usize)>>,
}

/// Finds what was lost.
pub(crate) fn check(book: &Book<'_>) -> Vec<Verdict> {
    let got = Got::of(book);
    let mut by_topic: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (number, stream) in book.streams.iter().enumerate().filter(|(_, stream)| stream.qos > 0) {
        by_topic.entry(stream.topic).or_default().push(number);
    }
    let mut lost: BTreeMap<(usize, usize), Verdict> = BTreeMap::new();
    let mut groups: BTreeMap<&str, Vec<&Subscription<'_>>> = BTreeMap::new();
    for line in &book.subscriptions {
        if line.share.is_some() {
            groups.entry(line.whole()).or_default().push(line);
            continue;
        }
        let matching = by_topic.iter().filter(|(topic, _)| line.matches(topic));
        for stream in matching.flat_map(|(_, streams)| streams) {
            for (publication, verdict) in lost_of(book, &got, line, *stream) {
                lost.entry((line.session, publication)).or_insert(verdict);
            }
        }
    }
    let mut verdicts: Vec<Verdict> = lost.into_values().collect();
    for lines in groups.values() {
        let Some(first) = lines.first() else { continue };
        for stream in
            by_topic.iter().filter(|(topic, _)| first.matches(topic)).flat_map(|(_, streams)| streams)
        {
            verdicts.extend(lost_of_group(book, &got, lines, *stream));
        }
    }
    verdicts
}

impl Got {
    fn of(book: &Book<'_>) -> Self {
        let mut got = Self { all: HashSet::new(), live: HashMap::new() };
        for arrival in &book.arrivals {
            let Some(publication) = arrival.publication else { continue };
            got.all.insert((arrival.session, publication));
            if !arrival.retain {
                let stream = book.publications[publication].stream;
                let live = got.live.entry((arrival.session, stream)).or_default();
                live.push((arrival.event, publication));
            }
        }
        got
    }
}

/// Whether somebody must get it at all.
fn is_owed(published: &Publication<'_>) -> bool {
    published.safe.is_some() && !published.empty && !published.expires
}

/// Publications of a stream that a subscription should have brought and did not.
fn lost_of(book: &Book<'_>, got: &Got, line: &Subscription<'_>, stream: usize) -> Vec<(usize, Verdict)> {
    let Some((acked, granted)) = line.acked.filter(|(_, granted)| *granted > 0) else { return Vec::new() };
    let stream_of = &book.streams[stream];
    let session = &book.sessions[line.session];
    if line.no_local && stream_of.client == session.client {
        return Vec::new();
    }
    let drained = session.drained.filter(|drained| line.until.is_none_or(|until| until > *drained));
    let live = got.live.get(&(line.session, stream)).map_or(&[][..], Vec::as_slice);
    // What came after the end of this subscription may have come through another.
    let until = line.until.unwrap_or(usize::MAX);
    let last = live.iter().filter(|(event, _)| *event < until).map(|(_, publication)| *publication).max();
    let publications = &stream_of.publications;
    let from = publications.partition_point(|publication| book.publications[*publication].sent < acked);
    let owed = publications[from..].iter().copied().filter(|publication| {
        let published = &book.publications[*publication];
        let by_now = drained.is_some_and(|drained| published.safe.is_some_and(|safe| safe < drained));
        let before_another = last.is_some_and(|last| *publication < last) && published.sent < until;
        is_owed(published) && (by_now || before_another)
    });
    let lost = owed.filter(|publication| !got.all.contains(&(line.session, *publication)));
    lost.map(|publication| (publication, verdict(book, got, (line, acked, granted), publication))).collect()
}

fn verdict(
    book: &Book<'_>,
    got: &Got,
    (line, acked, granted): (&Subscription<'_>, usize, u8),
    publication: usize,
) -> Verdict {
    let published = &book.publications[publication];
    let client = &book.sessions[line.session].client;
    let resumed = book.connections.iter().filter(|connection| connection.session == Some(line.session));
    let resumed = resumed.filter_map(|connection| connection.connack).filter(|at| *at < published.sent);
    let since = resumed.max().unwrap_or(0).max(acked);
    let live = got.live.get(&(line.session, published.stream)).map_or(&[][..], Vec::as_slice);
    let has_worked =
        live.iter().any(|(_, other)| *other < publication && book.publications[*other].sent > since);
    let promise = match (published.qos.min(granted), has_worked) {
        (2, _) => Promise::P2,
        (_, true) => Promise::P1,
        (_, false) => Promise::P4,
    };
    let by_then =
        if book.sessions[line.session].drained.is_some() { "and never came" } else { "and a later one came" };
    Verdict {
        promise,
        breach: Breach::Lost,
        client: Arc::clone(client),
        message: Some(published.message),
        says: format!(
            "{} to {} (QoS {}) was acknowledged to {}, {client} had subscribed to {}, {by_then}",
            published.message,
            published.topic,
            published.qos,
            book.streams[published.stream].client,
            line.whole(),
        ),
        events: places([Some(line.sent), Some(acked), Some(since), Some(published.sent), published.safe]),
    }
}

fn places(places: impl IntoIterator<Item = Option<usize>>) -> Vec<usize> {
    let mut places: Vec<usize> = places.into_iter().flatten().collect();
    places.sort_unstable();
    places.dedup();
    places
}

/// Publications of a stream that no member of a shared subscription got, although one must have.
fn lost_of_group(book: &Book<'_>, got: &Got, lines: &[&Subscription<'_>], stream: usize) -> Vec<Verdict> {
    let stream: &Stream<'_> = &book.streams[stream];
    let owed =
        stream.publications.iter().copied().filter(|publication| is_owed(&book.publications[*publication]));
    let lost = owed.filter(|publication| {
        let published = &book.publications[*publication];
        let possible = || lines.iter().filter(|line| may_get(book, line, published.sent));
        let had_subscribed = |line: &Subscription<'_>| {
            line.acked.is_some_and(|(acked, qos)| acked < published.sent && qos > 0)
        };
        let heir = possible().find(|line| had_subscribed(line) && stays(book, line, published));
        let heard_all = heir.and_then(|heir| book.sessions[heir.session].drained);
        heard_all.is_some_and(|drained| {
            possible().all(|line| stays(book, line, published) || !took_along(book, line, published, drained))
        }) && !lines.iter().any(|line| got.all.contains(&(line.session, *publication)))
    });
    let verdict = |publication: usize| {
        let published = &book.publications[publication];
        let member = lines.iter().find(|line| may_get(book, line, published.sent))?;
        Some(Verdict {
            promise: if published.qos == 2 { Promise::P2 } else { Promise::P1 },
            breach: Breach::Lost,
            client: Arc::clone(&book.sessions[member.session].client),
            message: Some(published.message),
            says: format!(
                "{} to {} (QoS {}) was acknowledged to {}, and no member of {} got it",
                published.message,
                published.topic,
                published.qos,
                stream.client,
                member.whole(),
            ),
            events: places([
                Some(member.sent),
                member.acked.map(|(at, _)| at),
                Some(published.sent),
                published.safe,
            ]),
        })
    };
    lost.filter_map(verdict).collect()
}

/// Whether a member may have been given what was published then or later.
fn may_get(book: &Book<'_>, line: &Subscription<'_>, sent: usize) -> bool {
    let gone = [line.until, book.sessions[line.session].gone].into_iter().flatten();
    gone.min().is_none_or(|gone| gone > sent)
}

/// Whether a member that was given a message still had it in the end, and had time to show it.
fn stays(book: &Book<'_>, line: &Subscription<'_>, published: &Publication<'_>) -> bool {
    let session = &book.sessions[line.session];
    let drained = session.drained.filter(|drained| published.safe.is_some_and(|safe| safe < *drained));
    drained.is_some_and(|drained| line.until.is_none_or(|until| until > drained))
        && session.ended.is_none_or(|ended| drained.is_some_and(|drained| ended > drained))
        && line.acked.is_none_or(|(_, granted)| granted > 0)
}

/// Whether a member that does not stay may have been given a message, so that no other gets it. With QoS 1 it is
/// given to another when the session ends, but with the node of a transient one what was not given yet is gone, too:
/// only of one that says farewell it is known that its node lived. What may have been sent with QoS 2 is given to
/// nobody else (MQTT-4.8.2-5). `drained` is when others had got all that was theirs.
fn took_along(book: &Book<'_>, line: &Subscription<'_>, published: &Publication<'_>, drained: usize) -> bool {
    let session = &book.sessions[line.session];
    if line.acked.is_some_and(|(_, granted)| granted == 0) {
        return true;
    }
    let Some(gone) = session.gone.filter(|gone| *gone < drained) else {
        // It holds what it was given still, and showed all of it only if it was drained.
        return session.drained.is_none_or(|showed| published.safe.is_none_or(|safe| safe > showed));
    };
    let mut connections =
        book.connections.iter().filter(|connection| connection.session == Some(line.session));
    let says_farewell = |ending| matches!(ending, Ending::Disconnected { confirmed: true, .. });
    match (published.qos, session.is_durable()) {
        (2, _) => {
            connections.any(|connection| connection.ended.is_none_or(|(ended, _)| ended > published.sent))
        }
        (_, true) => session.ended.is_some_and(|ended| ended > gone),
        (_, false) => {
            !connections.all(|connection| connection.ended.is_some_and(|(_, ending)| says_farewell(ending)))
        }
    }
}
