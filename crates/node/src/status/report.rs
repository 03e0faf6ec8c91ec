//! One picture of the cluster from the answers of its nodes.
//!
//! Of each group the leader's view counts, or failing that the view that is furthest. Draws nothing, asks
//! nobody. Start at [`Report::merge`].

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::Serialize;
use zwerm_admin::{GroupRow, GroupState, Levels, NodeId, NodeRow, Status};

/// The cluster as its nodes describe it.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// `None` until the cluster is formed.
    pub(crate) cluster_id: Option<String>,
    /// As the node that was asked first knows: the others may hear of it a moment later.
    pub(crate) levels: Levels,
    /// How many replicas shards are to have; 0 until the cluster is formed.
    pub(crate) replicas: u32,
    /// All known nodes, by name.
    pub(crate) nodes: Vec<NodeReport>,
    /// All groups that an answering node hosts, control first, then by number.
    pub(crate) groups: Vec<GroupRow>,
}

/// One node: what the cluster says of it, and what it says itself.
#[derive(Debug, Serialize)]
pub(crate) struct NodeReport {
    pub(crate) id: NodeId,
    pub(crate) name: String,
    /// What the control group says; `None` for a node that is in no cluster yet.
    pub(crate) member: Option<NodeRow>,
    /// What it says; `None` when it did not answer.
    pub(crate) status: Option<Status>,
    /// Why it did not answer.
    pub(crate) error: Option<String>,
}

impl Report {
    /// Joins the status of the node that was asked first and the answers of the others.
    pub(crate) fn merge(first: Status, answers: Vec<(NodeId, Result<Status, String>)>) -> Self {
        let cluster_id = first.known.cluster_id.clone();
        let (own_id, own_name) = (first.known.node.id, first.known.node.name.clone());
        let (levels, replicas) = (first.known.levels.clone(), first.known.replicas);
        let members = first.known.nodes.clone();
        let mut answers: BTreeMap<NodeId, Result<Status, String>> = answers.into_iter().collect();
        answers.insert(own_id, Ok(first));
        let groups = furthest(answers.values().filter_map(|answer| answer.as_ref().ok()));
        let mut nodes: Vec<NodeReport> = Vec::new();
        for member in members {
            let (status, error) = match answers.remove(&member.id) {
                Some(Ok(status)) => (Some(status), None),
                Some(Err(error)) => (None, Some(error)),
                None => (None, Some("was not asked".to_owned())),
            };
            nodes.push(NodeReport {
                id: member.id,
                name: member.name.clone(),
                member: Some(member),
                status,
                error,
            });
        }
        // a node that is in no cluster yet does not list itself
        if let Some(Ok(status)) = answers.remove(&own_id) {
            nodes.push(NodeReport {
                id: own_id,
                name: own_name,
                member: None,
                status: Some(status),
                error: None,
            });
        }
        nodes.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        Self { cluster_id, levels, replicas, nodes, groups }
    }

    /// The name of a node, or its id when it has none here.
    pub(crate) fn name(&self, id: NodeId) -> String {
        self.nodes.iter().find(|node| node.id == id).map_or_else(|| id.to_string(), |node| node.name.clone())
    }

    pub(crate) fn answers(&self) -> impl Iterator<Item = &Status> {
        self.nodes.iter().filter_map(|node| node.status.as_ref())
    }
}

fn furthest<'a>(answers: impl Iterator<Item = &'a Status>) -> Vec<GroupRow> {
    let mut best: BTreeMap<(u64, String), &GroupRow> = BTreeMap::new();
    for row in answers.flat_map(|status| &status.known.groups) {
        let kept = best.entry((number(&row.group), row.group.clone())).or_insert(row);
        if rank(row) > rank(kept) {
            *kept = row;
        }
    }
    best.into_values().cloned().collect()
}

/// A leader of an old term that has not heard of its successor ranks below the new term's followers.
fn rank(row: &GroupRow) -> (u64, bool, Option<u64>, Reverse<bool>) {
    (row.term, row.state == GroupState::Leader, row.committed, Reverse(row.leader.is_none()))
}

/// Control is 0, shard n is n + 1, so that shard-10 comes after shard-9.
fn number(group: &str) -> u64 {
    group.rsplit_once('-').and_then(|(_, number)| number.parse::<u64>().ok()).map_or(0, |number| number + 1)
}

#[cfg(test)]
pub(crate) mod tests {
    use zwerm_admin::*;

    use super::*;

    fn group(name: &str, state: GroupState, term: u64, committed: u64) -> GroupRow {
        GroupRow {
            group: name.into(),
            state,
            leader: Some(NodeId(1)),
            term,
            voters: vec![NodeId(1), NodeId(2)],
            last_log: Some(committed + 2),
            committed: Some(committed),
            applied: Some(committed),
            snapshot: None,
            lag: if state == GroupState::Leader { vec![Lag { node: NodeId(2), entries: 3 }] } else { vec![] },
            clients: (name != "control").then_some(4),
            retained: (name != "control").then_some(5),
            sessions: (name != "control").then_some(3),
            waiting: (name != "control").then_some(2),
            queued_messages: (name != "control").then_some(20_000),
            queued_bytes: (name != "control").then_some(5_240_000),
        }
    }

    fn member(id: u64, state: NodeState) -> NodeRow {
        NodeRow {
            id: NodeId(id),
            name: format!("node-{id}"),
            state,
            role: if id == 1 { VoterRole::Leader } else { VoterRole::Voter },
            incarnation: 1,
            draining: false,
            leaving: false,
            newest_level: if id == 3 { 1 } else { 2 },
            since_ms: 0,
            cluster_addr: format!("127.0.0.1:{}", 7099 + id),
            mqtt_addr: format!("127.0.0.1:{}", 1882 + id),
            http_addr: format!("127.0.0.1:{}", 8079 + id),
        }
    }

    /// What node `id` of three answers; node 3 is down.
    pub(crate) fn status(id: u64) -> Status {
        let state = if id == 1 { GroupState::Leader } else { GroupState::Follower };
        Status {
            known: NodeStatus {
                cluster_id: Some("5f2c".into()),
                version: "0.1.0".into(),
                node: ThisNode {
                    id: NodeId(id),
                    name: format!("node-{id}"),
                    incarnation: 1,
                    uptime_s: 3_700,
                },
                readiness: Readiness::unless(vec![]),
                drain: Drain::default(),
                levels: Levels { cluster: 1, oldest: 1, newest: 2, held_back_by: vec!["node-3".into()] },
                replicas: 3,
                nodes: vec![member(1, NodeState::Up), member(2, NodeState::Up), member(3, NodeState::Down)],
                groups: vec![
                    group("shard-10", state, 1, 7),
                    group("shard-9", state, 1, 7),
                    group("control", state, 2, if id == 1 { 120 } else { 118 }),
                ],
                sessions: Sessions { connected: 10 * id, subscriptions: 20, routes: 12 },
                totals: Totals::default(),
                storage: Storage {
                    sync: if id == 1 { "fsync".into() } else { "os".into() },
                    survives_power_loss: id == 1,
                    size_bytes: Some(1_500_000),
                },
            },
            rates: Rates { messages_in: 1234.5, ..Rates::default() },
        }
    }

    pub(crate) fn report() -> Report {
        Report::merge(status(2), vec![(NodeId(1), Ok(status(1))), (NodeId(3), Err("did not answer".into()))])
    }

    #[test]
    fn the_leaders_view_of_a_group_counts_and_groups_are_in_order() {
        let report = report();
        let groups: Vec<_> = report.groups.iter().map(|group| group.group.as_str()).collect();
        assert_eq!(groups, ["control", "shard-9", "shard-10"]);
        assert_eq!((report.groups[0].state, report.groups[0].committed), (GroupState::Leader, Some(120)));
    }

    #[test]
    fn a_newer_term_counts_more_than_an_old_leader() {
        let mut old = status(1);
        old.known.groups = vec![group("control", GroupState::Leader, 2, 120)];
        let mut new = status(2);
        new.known.groups = vec![group("control", GroupState::Follower, 3, 100)];
        let report = Report::merge(old, vec![(NodeId(2), Ok(new))]);
        assert_eq!((report.groups.len(), report.groups[0].term), (1, 3));
    }

    #[test]
    fn nodes_come_by_name_with_their_answer_or_their_error() {
        let report = report();
        let nodes: Vec<_> = report
            .nodes
            .iter()
            .map(|node| (node.name.as_str(), node.status.is_some(), node.error.as_deref()))
            .collect();
        assert_eq!(
            nodes,
            [("node-1", true, None), ("node-2", true, None), ("node-3", false, Some("did not answer"))]
        );
    }

    #[test]
    fn a_node_in_no_cluster_yet_is_shown_alone() {
        let mut alone = status(1);
        alone.known.nodes.clear();
        let report = Report::merge(alone, vec![]);
        assert_eq!(report.nodes.len(), 1);
        assert!(report.nodes[0].member.is_none() && report.nodes[0].status.is_some());
    }
}
