//! P2 and P6: a QoS 2 message comes once, and a will comes once.
//!
//! In a session, a second PUBLISH is a repeat only under the same packet identifier and before its PUBREL. Of a
//! shared subscription one member gets it, whatever becomes of that. Start at [`check`].

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::book::{Arrival, Book};
use crate::history::What;
use crate::report::{Breach, Promise, Verdict};

/// Finds what came twice.
pub(crate) fn check(book: &Book<'_>) -> Vec<Verdict> {
    let releases = releases(book);
    let mut first: HashMap<(usize, u64), &Arrival> = HashMap::new();
    let mut verdicts = Vec::new();
    let mut known = HashSet::new();
    for arrival in book.arrivals.iter().filter(|arrival| !arrival.retain) {
        let key = (arrival.session, arrival.message);
        let Some(before) = first.get(&key).copied() else {
            first.insert(key, arrival);
            continue;
        };
        let is_will = arrival.publication.is_none();
        let same_id = arrival.packet_id == before.packet_id;
        let allowed = match arrival.qos {
            2 => same_id && !is_released(&releases, before, arrival),
            // At least once, but a will that fires twice comes under two identifiers.
            _ => !is_will || (same_id && arrival.packet_id.is_some()),
        };
        if !allowed && known.insert(key) {
            verdicts.push(twice(book, before, arrival));
        }
    }
    verdicts.extend(twice_in_groups(book, &first));
    verdicts
}

/// By session and packet identifier: where PUBREL came.
fn releases(book: &Book<'_>) -> HashMap<(usize, u16), Vec<usize>> {
    let mut numbers: HashMap<(&str, u32), usize> = HashMap::new();
    let mut connections = 0..book.connections.len();
    let mut releases: HashMap<(usize, u16), Vec<usize>> = HashMap::new();
    for (place, event) in book.events.iter().enumerate() {
        let key = (&*event.client, event.connection);
        match event.what {
            What::Connect { .. } => numbers.extend(connections.next().map(|number| (key, number))),
            What::Released { packet_id } => {
                let connection = numbers.get(&key).map(|number| &book.connections[*number]);
                if let Some(session) = connection.and_then(|connection| connection.session) {
                    releases.entry((session, packet_id)).or_default().push(place);
                }
            }
            _ => {}
        }
    }
    releases
}

fn is_released(releases: &HashMap<(usize, u16), Vec<usize>>, before: &Arrival, again: &Arrival) -> bool {
    let Some(places) = before.packet_id.and_then(|id| releases.get(&(before.session, id))) else {
        return false;
    };
    let next = places.partition_point(|place| *place < before.event);
    places.get(next).is_some_and(|place| *place < again.event)
}

fn twice(book: &Book<'_>, before: &Arrival, again: &Arrival) -> Verdict {
    let client = &book.sessions[again.session].client;
    let (promise, breach, what) = match again.publication {
        Some(_) => (Promise::P2, Breach::Twice, "QoS 2 message"),
        None => (Promise::P6, Breach::WillTwice, "will"),
    };
    let sent = again.publication.map(|publication| book.publications[publication].sent);
    Verdict {
        promise,
        breach,
        client: Arc::clone(client),
        message: Some(again.message),
        says: format!("the {what} {} came to {client} twice", again.message),
        events: sent.into_iter().chain([before.event, again.event]).collect(),
    }
}

/// A message that came to two members. Which of their sessions ended when does not matter: what may have been sent
/// with QoS 2 is sent to nobody else, also when the session has ended (MQTT-4.8.2-5).
fn twice_in_groups(book: &Book<'_>, first: &HashMap<(usize, u64), &Arrival>) -> Vec<Verdict> {
    let mut members: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
    let mut plain: HashMap<usize, Vec<usize>> = HashMap::new();
    for (number, line) in book.subscriptions.iter().enumerate() {
        match line.share {
            Some(_) => drop(members.entry(line.whole()).or_default().insert(line.session)),
            None => plain.entry(line.session).or_default().push(number),
        }
    }
    let mut verdicts = Vec::new();
    for (publication, published) in book.publications.iter().enumerate().filter(|(_, it)| it.qos == 2) {
        let matches = |group: &str| crate::topic::matches(crate::topic::parts(group).1, published.topic);
        for sessions in members.iter().filter(|(group, _)| matches(group)).map(|(_, sessions)| sessions) {
            let is_plain = |session: &usize| {
                let lines = plain.get(session).map_or(&[][..], Vec::as_slice);
                lines.iter().any(|line| book.subscriptions[*line].matches(published.topic))
            };
            // A session that is a member of several groups gets one copy for each.
            let is_in_others = |session: &usize| {
                members.iter().filter(|(group, others)| matches(group) && others.contains(session)).count()
                    > 1
            };
            let own = sessions.iter().filter(|session| !is_plain(session) && !is_in_others(session));
            let mut got: Vec<&Arrival> = own
                .filter_map(|session| first.get(&(*session, published.message)).copied())
                .filter(|arrival| arrival.qos == 2 && arrival.publication == Some(publication))
                .collect();
            got.sort_by_key(|arrival| arrival.event);
            if let [one, other, ..] = got[..] {
                verdicts.push(twice(book, one, other));
            }
        }
    }
    verdicts.sort_by(|one, other| one.events.cmp(&other.events));
    verdicts
}
