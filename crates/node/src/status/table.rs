//! A report as tables for people.
//!
//! Columns are as wide as their widest cell; numbers stand right. Start at [`draw`].

use std::fmt::Write as _;

use zwerm_admin::{DrainState, GroupRow, Levels, NodeState, VoterRole};

use super::report::{NodeReport, Report};

/// What stands for a number that nobody told.
const UNKNOWN: &str = "?";

/// The whole page.
pub(crate) fn draw(report: &Report) -> String {
    let mut page = headline(report);
    page.push_str(&features(report));
    page.push('\n');
    page.push_str(&nodes(report));
    for node in &report.nodes {
        if let Some(error) = &node.error {
            line(&mut page, &format!("{} is unreachable: {error}", node.name));
        }
        let reasons = node.status.as_ref().map(|status| &status.known.readiness.reasons);
        if let Some(reasons) = reasons.filter(|reasons| !reasons.is_empty()) {
            line(&mut page, &format!("{} is not ready: {}", node.name, reasons.join(", ")));
        }
        let storage = node.status.as_ref().map(|status| &status.known.storage);
        if let Some(storage) = storage.filter(|storage| !storage.survives_power_loss) {
            line(
                &mut page,
                &format!(
                    "{} is WEAKER: storage.sync = {:?}, so what it acknowledged is lost if its machine fails",
                    node.name, storage.sync
                ),
            );
        }
    }
    if !report.groups.is_empty() {
        page.push('\n');
        page.push_str(&groups(report));
    }
    page
}

fn line(page: &mut String, text: &str) {
    page.push_str(text);
    page.push('\n');
}

fn headline(report: &Report) -> String {
    let up = report.nodes.iter().filter(|node| state(node) == "up").count();
    let routes = report.answers().map(|status| status.known.sessions.routes).max().unwrap_or(0);
    let connected: u64 = report.answers().map(|status| status.known.sessions.connected).sum();
    let sum = |of: fn(&GroupRow) -> Option<u64>| report.groups.iter().filter_map(of).sum::<u64>();
    format!(
        "cluster {}: {up} of {} nodes up, {connected} clients connected, {routes} routes, {} retained messages\n\
         {} durable sessions ({} not connected), {} messages queued for them ({})\n",
        report.cluster_id.as_deref().unwrap_or("(not formed yet)"),
        report.nodes.len(),
        sum(|group| group.retained),
        sum(|group| group.sessions),
        sum(|group| group.waiting),
        sum(|group| group.queued_messages),
        size(sum(|group| group.queued_bytes)),
    )
}

/// What the cluster can, and what keeps it from more; empty until it is formed.
pub(crate) fn features(report: &Report) -> String {
    let Levels { cluster, newest, held_back_by, .. } = &report.levels;
    if *cluster == 0 {
        return String::new();
    }
    let held_back = match held_back_by.as_slice() {
        [] => String::new(),
        nodes => format!(" ({newest} when {} can more)", nodes.join(", ")),
    };
    format!("feature level {cluster}{held_back}, {} replicas of each shard\n", report.replicas)
}

/// In a word.
pub(crate) fn state(node: &NodeReport) -> &'static str {
    match (&node.member, &node.status) {
        (Some(member), _) if member.state == NodeState::Down && member.leaving => "being removed",
        (Some(member), _) if member.state == NodeState::Down => "down",
        (Some(member), Some(_)) if member.leaving => "leaving",
        (_, None) => "unreachable",
        (None, Some(_)) => "alone",
        (Some(_), Some(status)) if status.known.drain.state == DrainState::Draining => "draining",
        (Some(_), Some(status)) if status.known.drain.state == DrainState::Drained => "drained",
        (Some(_), Some(status)) if status.known.readiness.ready => "up",
        (Some(_), Some(_)) => "not ready",
    }
}

/// In the control group.
pub(crate) fn role(node: &NodeReport) -> &'static str {
    node.member.as_ref().map_or("-", |member| match member.role {
        VoterRole::Leader => "leader",
        VoterRole::Voter => "voter",
        VoterRole::Learner => "learner",
    })
}

fn nodes(report: &Report) -> String {
    let mut table = Table::new(&[
        "<NODE",
        "<STATE",
        "<CONTROL",
        ">CLIENTS",
        ">SUBS",
        ">MSG IN/S",
        ">MSG OUT/S",
        ">KIN/S",
        ">KOUT/S",
        ">CONN/S",
        ">DROPPED",
        ">DISK",
        "<SYNC",
        ">UPTIME",
        "<MQTT",
        "<ID",
    ]);
    for node in &report.nodes {
        let told = |of: &dyn Fn(&zwerm_admin::Status) -> String| {
            node.status.as_ref().map_or_else(|| UNKNOWN.to_owned(), of)
        };
        let role = role(node);
        table.row(vec![
            node.name.clone(),
            state(node).to_owned(),
            role.to_owned(),
            told(&|status| status.known.sessions.connected.to_string()),
            told(&|status| status.known.sessions.subscriptions.to_string()),
            told(&|status| rate(status.rates.messages_in)),
            told(&|status| rate(status.rates.messages_out)),
            told(&|status| rate(status.rates.bytes_in / 1000.0)),
            told(&|status| rate(status.rates.bytes_out / 1000.0)),
            told(&|status| rate(status.rates.connects)),
            told(&|status| status.known.totals.messages_dropped.to_string()),
            told(&|status| status.known.storage.size_bytes.map_or(UNKNOWN.to_owned(), size)),
            told(&|status| status.known.storage.sync.clone()),
            told(&|status| uptime(status.known.node.uptime_s)),
            node.member.as_ref().map_or_else(|| "-".to_owned(), |member| member.mqtt_addr.clone()),
            node.id.to_string(),
        ]);
    }
    table.draw()
}

fn groups(report: &Report) -> String {
    let mut table = Table::new(&[
        "<GROUP",
        "<LEADER",
        ">TERM",
        ">LAST",
        ">COMMITTED",
        ">APPLIED",
        ">SNAPSHOT",
        ">CLIENTS",
        ">RETAINED",
        ">SESSIONS",
        ">AWAY",
        ">QUEUED",
        ">BYTES",
        "<VOTERS",
        "<LAG",
    ]);
    for group in &report.groups {
        let mut voters: Vec<_> = group.voters.iter().map(|id| report.name(*id)).collect();
        voters.sort();
        table.row(vec![
            group.group.clone(),
            group.leader.map_or_else(|| "none".to_owned(), |id| report.name(id)),
            group.term.to_string(),
            position(group.last_log),
            position(group.committed),
            position(group.applied),
            position(group.snapshot),
            position(group.clients),
            position(group.retained),
            position(group.sessions),
            position(group.waiting),
            position(group.queued_messages),
            group.queued_bytes.map_or_else(|| "-".to_owned(), size),
            voters.join(" "),
            lag(report, group),
        ]);
    }
    table.draw()
}

/// Only who is behind is named.
fn lag(report: &Report, group: &GroupRow) -> String {
    let behind: Vec<_> = group
        .lag
        .iter()
        .filter(|lag| lag.entries > 0)
        .map(|lag| format!("{} {}", report.name(lag.node), lag.entries))
        .collect();
    match (group.lag.is_empty(), behind.is_empty()) {
        (true, _) => "-".to_owned(),
        (false, true) => "0".to_owned(),
        (false, false) => behind.join(", "),
    }
}

fn position(index: Option<u64>) -> String {
    index.map_or_else(|| "-".to_owned(), |index| index.to_string())
}

fn rate(per_second: f64) -> String {
    if (0.05..9.95).contains(&per_second) { format!("{per_second:.1}") } else { format!("{per_second:.0}") }
}

fn size(bytes: u64) -> String {
    let bytes = bytes as f64;
    let units = ["B", "kB", "MB", "GB", "TB"];
    let step = units.iter().enumerate().take_while(|(step, _)| bytes >= 1000_f64.powi(*step as i32)).last();
    match step {
        Some((step, unit)) if step > 0 => format!("{:.1} {unit}", bytes / 1000_f64.powi(step as i32)),
        _ => format!("{bytes} B"),
    }
}

fn uptime(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// Rows of cells under headings; a heading begins with `<` or `>`, where its column stands.
pub(crate) struct Table {
    headings: &'static [&'static str],
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(headings: &'static [&'static str]) -> Self {
        Self { headings, rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub(crate) fn draw(&self) -> String {
        let titles: Vec<String> =
            self.headings.iter().map(|h| h.trim_start_matches(['<', '>']).to_owned()).collect();
        let mut text = String::new();
        for row in std::iter::once(&titles).chain(&self.rows) {
            let mut line = String::new();
            for (column, (cell, heading)) in row.iter().zip(self.headings).enumerate() {
                let width = self.width(column, &titles);
                // writing to a String cannot fail
                let written = if heading.starts_with('>') {
                    write!(line, "{cell:>width$}  ")
                } else {
                    write!(line, "{cell:<width$}  ")
                };
                written.ok();
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    fn width(&self, column: usize, titles: &[String]) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(column)).chain(titles.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn a_cluster_with_a_dead_node_reads_like_this() {
        let page = draw(&report());
        let wanted = "\
cluster 5f2c: 2 of 3 nodes up, 30 clients connected, 12 routes, 10 retained messages
6 durable sessions (4 not connected), 40000 messages queued for them (10.5 MB)
feature level 1 (2 when node-3 can more), 3 replicas of each shard

NODE    STATE  CONTROL  CLIENTS  SUBS  MSG IN/S  MSG OUT/S  KIN/S  KOUT/S  CONN/S  DROPPED    DISK  SYNC   UPTIME  MQTT            ID
node-1  up     leader        10    20      1234          0      0       0       0        0  1.5 MB  fsync   1h01m  127.0.0.1:1883  0000000000000001
node-2  up     voter         20    20      1234          0      0       0       0        0  1.5 MB  os      1h01m  127.0.0.1:1884  0000000000000002
node-3  down   voter          ?     ?         ?          ?      ?       ?       ?        ?       ?  ?           ?  127.0.0.1:1885  0000000000000003
node-2 is WEAKER: storage.sync = \"os\", so what it acknowledged is lost if its machine fails
node-3 is unreachable: did not answer

GROUP     LEADER  TERM  LAST  COMMITTED  APPLIED  SNAPSHOT  CLIENTS  RETAINED  SESSIONS  AWAY  QUEUED   BYTES  VOTERS         LAG
control   node-1     2   122        120      120         -        -         -         -     -       -       -  node-1 node-2  node-2 3
shard-9   node-1     1     9          7        7         -        4         5         3     2   20000  5.2 MB  node-1 node-2  node-2 3
shard-10  node-1     1     9          7        7         -        4         5         3     2   20000  5.2 MB  node-1 node-2  node-2 3
";
        assert_eq!(page, wanted, "\n{page}");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([rate(0.04), rate(0.25), rate(9.96), rate(1234.4)], ["0", "0.2", "10", "1234"]);
        assert_eq!([size(0), size(999), size(1_000), size(1_500_000)], ["0 B", "999 B", "1.0 kB", "1.5 MB"]);
        assert_eq!(
            [uptime(59), uptime(61), uptime(3_700), uptime(90_000)],
            ["59s", "1m01s", "1h01m", "1d01h"]
        );
    }
}
