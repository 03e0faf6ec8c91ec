//! The normative statements of MQTT 3.1.1 and 5.0, the differences of 3.1, and whether each one is covered.
//!
//! The lists are in `statements/`: id, whom the statement binds, what it says in a few words. Every id is named by a
//! case, or stands in [`NOT_THE_SERVER`] with its reason; never in both. Start at [`check`].

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail, ensure};

use crate::case::Case;
use crate::packet::Version;

const LISTS: [(Version, &str); 3] = [
    (Version::V5, include_str!("statements/mqtt5.tsv")),
    (Version::V311, include_str!("statements/mqtt311.tsv")),
    (Version::V31, include_str!("statements/mqtt31.tsv")),
];

/// Version, id, reason.
type Excuse = (Version, &'static str, &'static str);

/// What binds only a client, and of which a server sees nothing when it is broken; and what binds a server that does
/// something that this one does not.
const NOT_THE_SERVER: &[Excuse] = &[
    (
        Version::V311,
        "MQTT-3.3.5-2",
        "of servers that refuse a client a topic: whoever may connect may publish",
    ),
    (Version::V311, "MQTT-7.0.0-1", "of servers that connect to other servers as clients: zwerm does not"),
    (Version::V311, "MQTT-7.1.2-1", "of the client's transports"),
    (Version::V5, "MQTT-3.2.2-4", "a client closes when it is told of a session that it does not know"),
    (Version::V5, "MQTT-3.2.2-5", "a client forgets its state when the server has none"),
    (Version::V5, "MQTT-3.3.2-10", "a client takes the aliases it allowed"),
];

/// How many statements stand where.
#[derive(Debug, Default)]
pub(crate) struct Coverage {
    covered: BTreeMap<Version, usize>,
    excused: usize,
}

impl std::fmt::Display for Coverage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let of = |version| self.covered.get(&version).copied().unwrap_or_default();
        write!(
            f,
            "{} statements of 5.0 and {} of 3.1.1 covered (and {} differences of 3.1), {} do not bind this server",
            of(Version::V5),
            of(Version::V311),
            of(Version::V31),
            self.excused
        )
    }
}

/// Every statement in exactly one place, and no other id anywhere.
pub(crate) fn check(cases: impl Iterator<Item = &'static Case>) -> Result<Coverage> {
    let lines = cases.flat_map(|case| case.statements);
    let named: BTreeSet<(Version, &str)> =
        lines.flat_map(|(version, ids)| ids.iter().map(|id| (*version, *id))).collect();
    let mut problems = Vec::new();
    let mut coverage = Coverage::default();
    let mut exist = BTreeSet::new();
    for (version, list) in LISTS {
        for id in ids(list)? {
            ensure!(exist.insert((version, id)), "{id} is twice in the list of {}", version.number());
            let covered = usize::from(named.contains(&(version, id)));
            let excused =
                NOT_THE_SERVER.iter().filter(|excuse| (excuse.0, excuse.1) == (version, id)).count();
            match covered + excused {
                0 => problems.push(format!("{id} of {}: no case and no excuse", version.number())),
                1 => {}
                _ => problems.push(format!("{id} of {}: in several places", version.number())),
            }
            *coverage.covered.entry(version).or_default() += covered;
            coverage.excused += excused;
        }
    }
    let excuses = NOT_THE_SERVER.iter().map(|excuse| (excuse.0, excuse.1));
    for (version, id) in named.iter().copied().chain(excuses).filter(|id| !exist.contains(id)) {
        problems.push(format!("{id} is no statement of {}", version.number()));
    }
    if problems.is_empty() { Ok(coverage) } else { bail!("{}", problems.join("\n")) }
}

fn ids(list: &str) -> Result<Vec<&str>> {
    let lines = list.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| match line.split('\t').collect::<Vec<_>>()[..] {
            [id, "client" | "server" | "both", words] if !words.is_empty() => Ok(id),
            _ => bail!("not id, whom it binds, words: {line:?}"),
        })
        .collect()
}
