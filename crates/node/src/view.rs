//! What the HTTP port shows of this node: the parts' own numbers, put into the admin's words.
//!
//! Asks no other node and waits for nothing. Start at [`View`].

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use zwerm_admin::{
    DrainState, Exposition, GroupRow, GroupState, Lag, Levels, NodeId, NodeRow, NodeState, NodeStatus,
    NodeView, Readiness, Sessions, Storage, ThisNode, Totals, VoterRole,
};
use zwerm_broker::Broker;
use zwerm_cluster::{ClusterStatus, Formed, GroupId, GroupStatus, Role};
use zwerm_gateway::Counters;
use zwerm_machine::Shard;
use zwerm_store::{Engine, SledEngine};

use crate::config::SyncMode;
use crate::drain::Drainer;
use crate::identity::Identity;

const CONTROL: GroupId = GroupId(0);

/// One node as its HTTP port shows it.
#[derive(Debug)]
pub(crate) struct View {
    id: u64,
    name: String,
    started: Instant,
    broker: Broker,
    gateway: Arc<Counters>,
    sync: SyncMode,
    engine: Arc<SledEngine>,
    drainer: Arc<Drainer>,
    stopping: CancellationToken,
}

impl View {
    pub(crate) fn new(
        identity: &Identity,
        broker: Broker,
        gateway: Arc<Counters>,
        (sync, engine): (SyncMode, Arc<SledEngine>),
        (drainer, stopping): (Arc<Drainer>, CancellationToken),
    ) -> Self {
        let (id, name) = (identity.id, identity.name.clone());
        Self { id, name, started: Instant::now(), broker, gateway, sync, engine, drainer, stopping }
    }

    fn not_ready(&self, cluster: &ClusterStatus) -> Vec<String> {
        let mut reasons: Vec<String> = self.drainer.not_ready().into_iter().collect();
        if self.stopping.is_cancelled() {
            reasons.push("this node is stopping".to_owned());
        } else {
            reasons.extend(cluster.not_ready());
        }
        reasons
    }

    fn groups(&self, cluster: &ClusterStatus) -> Vec<GroupRow> {
        cluster.groups.iter().map(|group| self.group(group)).collect()
    }

    fn group(&self, group: &GroupStatus) -> GroupRow {
        let shard = group.id.0.checked_sub(1);
        let view = shard.and_then(|shard| self.broker.cluster().shard_view(shard)).map(|view| view.state());
        let index = |index: u64| (index > 0).then_some(index);
        let follower = |(node, matched): (&u64, &u64)| Lag {
            node: NodeId(*node),
            entries: group.last_log.saturating_sub(*matched),
        };
        GroupRow {
            group: shard.map_or_else(|| "control".to_owned(), |shard| format!("shard-{shard}")),
            state: match group.state {
                Role::Leader => GroupState::Leader,
                Role::Follower => GroupState::Follower,
                Role::Candidate => GroupState::Candidate,
                Role::Learner => GroupState::Learner,
            },
            leader: group.leader.map(NodeId),
            term: group.term,
            voters: group.voters.iter().copied().map(NodeId).collect(),
            last_log: index(group.last_log),
            committed: index(group.committed),
            applied: index(group.applied),
            snapshot: index(group.snapshot),
            lag: group.matched.iter().filter(|(node, _)| **node != self.id).map(follower).collect(),
            clients: view.as_ref().map(|view| view.clients() as u64),
            retained: view.as_ref().map(|view| view.retained_count() as u64),
            sessions: view.as_ref().map(|view| view.sessions() as u64),
            waiting: view.as_ref().map(|view| waiting(view)),
            queued_messages: view.as_ref().map(|view| view.queued_messages()),
            queued_bytes: view.as_ref().map(|view| view.queued_bytes()),
        }
    }
}

fn nodes(cluster: &ClusterStatus) -> Vec<NodeRow> {
    let control = cluster.groups.iter().find(|group| group.id == CONTROL);
    let role = |id: u64| match control {
        Some(control) if control.leader == Some(id) => VoterRole::Leader,
        Some(control) if !control.voters.contains(&id) => VoterRole::Learner,
        _ => VoterRole::Voter,
    };
    let row = |node: &zwerm_cluster::Node| NodeRow {
        id: NodeId(node.id),
        name: node.name.clone(),
        state: if node.up { NodeState::Up } else { NodeState::Down },
        role: role(node.id),
        incarnation: node.incarnation,
        draining: node.draining,
        leaving: node.leaving,
        newest_level: node.can(),
        since_ms: node.since_ms,
        cluster_addr: node.cluster_addr.clone(),
        mqtt_addr: node.mqtt_addr.clone(),
        http_addr: node.http_addr.clone(),
    };
    cluster.nodes.iter().map(row).collect()
}

impl NodeView for View {
    fn status(&self) -> NodeStatus {
        let cluster = self.broker.cluster().status();
        NodeStatus {
            cluster_id: match &cluster.formed {
                Formed::Yes { cluster_id } => Some(cluster_id.clone()),
                Formed::No { .. } => None,
            },
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: ThisNode {
                id: NodeId(self.id),
                name: self.name.clone(),
                incarnation: cluster.incarnation,
                uptime_s: self.started.elapsed().as_secs(),
            },
            readiness: Readiness::unless(self.not_ready(&cluster)),
            drain: self.drainer.status(),
            levels: Levels {
                cluster: cluster.level,
                oldest: cluster.levels.oldest,
                newest: cluster.levels.newest,
                held_back_by: cluster.held_back_by.clone(),
            },
            replicas: cluster.replicas,
            nodes: nodes(&cluster),
            groups: self.groups(&cluster),
            sessions: Sessions {
                connected: self.broker.connections() as u64,
                subscriptions: self.broker.subscriptions() as u64,
                routes: cluster.routes as u64,
            },
            totals: self.totals(),
            storage: Storage {
                sync: self.sync.as_str().to_owned(),
                survives_power_loss: self.sync == SyncMode::Fsync,
                size_bytes: self.engine.size_on_disk().ok(),
            },
        }
    }

    fn readiness(&self) -> Readiness {
        Readiness::unless(self.not_ready(&self.broker.cluster().status()))
    }

    fn totals(&self) -> Totals {
        let (broker, gateway) = (self.broker.counters(), &self.gateway);
        let dropped_by_gateway = gateway.messages_dropped_too_large_total.get()
            + gateway.messages_dropped_expired_total.get()
            + gateway.messages_dropped_unencodable_total.get();
        let lanes = self.broker.cluster().lanes.counters().dropped_full.load(Ordering::Relaxed);
        let queues = self.broker.cluster().shard_counters.dropped_full.load(Ordering::Relaxed);
        Totals {
            connects: broker.attached.get(),
            messages_in: gateway.messages_received_total.get(),
            messages_out: gateway.messages_sent_total.get(),
            messages_dropped: dropped_by_gateway
                + broker.dropped_queue_full.get()
                + broker.dropped_expired.get()
                + broker.dropped_no_member.get()
                + self.broker.cluster().doubts().1
                + lanes
                + queues,
            bytes_in: gateway.bytes_received_total.get(),
            bytes_out: gateway.bytes_sent_total.get(),
        }
    }

    fn metrics(&self, out: &mut Exposition) {
        let cluster = self.broker.cluster().status();
        out.gauge(
            "uptime_seconds",
            "time since this start of the node",
            self.started.elapsed().as_secs_f64(),
        );
        out.gauge("ready", "1 when clients may be sent here", f64::from(self.not_ready(&cluster).is_empty()));
        let drain = self.drainer.status();
        let is_draining = drain.state != DrainState::Serving;
        out.gauge("draining", "1 while this node sends its clients elsewhere", f64::from(is_draining));
        let left = if is_draining { drain.clients_left } else { 0 };
        out.gauge("drain_clients_left", "clients that a draining node still has", left as f64);
        self.connection_metrics(out);
        self.message_metrics(out);
        cluster_metrics(&cluster, out);
        self.session_metrics(&cluster, out);
        if let Ok(bytes) = self.engine.size_on_disk() {
            out.gauge("store_size_bytes", "the database on disk", bytes as f64);
        }
        out.gauges(
            "store_sync_info",
            "how commits become durable; os is the weaker mode, which a failure of the machine makes forget",
            [([("mode", self.sync.as_str())], 1.0)],
        );
    }
}

impl View {
    fn connection_metrics(&self, out: &mut Exposition) {
        let (broker, gateway) = (self.broker.counters(), &self.gateway);
        out.gauge("connections", "open connections", gateway.connections_current.get() as f64);
        out.gauge("sessions", "clients attached to this node", self.broker.connections() as f64);
        out.gauge(
            "subscriptions",
            "subscriptions of clients of this node",
            self.broker.subscriptions() as f64,
        );
        out.counter("connections", "connections accepted", gateway.connections_total.get());
        out.counter(
            "connections_refused",
            "connections over a limit",
            gateway.connections_refused_total.get(),
        );
        out.counter(
            "accepts_paced",
            "times that accepting waited because connections came faster than limits.connect_rate",
            gateway.accepts_paced_total.get(),
        );
        out.counter(
            "connects_busy",
            "CONNECTs refused as server busy because too many were before them",
            gateway.connects_busy_total.get(),
        );
        out.counter(
            "connects_given_up",
            "CONNECTs of clients that had hung up before their turn came",
            gateway.connects_given_up_total.get(),
        );
        let refused = gateway.handshakes_refused_total().map(|(reason, count)| ([("reason", reason)], count));
        out.counters("handshakes_refused", "connections that did not get to MQTT, by reason", refused);
        let tls = [
            ([("kind", "full")], gateway.tls_full_total.get()),
            ([("kind", "resumed")], gateway.tls_resumed_total.get()),
        ];
        out.counters("tls_handshakes", "TLS handshakes; resumed ones continued a session of before", tls);
        let certificates = [
            ([("result", "used")], gateway.certificates_reloaded_total.get()),
            ([("result", "unusable")], gateway.certificates_broken_total.get()),
        ];
        out.counters("certificate_reloads", "changed certificates that were read again", certificates);
        out.counter(
            "authentications_failed",
            "clients that did not prove who they are",
            gateway.authentications_failed_total.get(),
        );
        out.counter("attached", "clients that became attached", broker.attached.get());
        out.counter("attach_failed", "CONNECTs without an agreed owner", broker.attach_failed.get());
        let endings = gateway.endings_total().map(|(cause, count)| ([("cause", cause)], count));
        out.counters("connections_ended", "connections ended, by cause", endings);
        let malformed: Vec<(String, u64)> =
            gateway.malformed_total().map(|(reason, count)| (format!("{reason:?}"), count)).collect();
        let samples = malformed.iter().map(|(reason, count)| ([("reason", reason.as_str())], *count));
        out.counters("malformed_packets", "packets refused by the codec, by reason code", samples);
    }

    fn message_metrics(&self, out: &mut Exposition) {
        let (broker, gateway) = (self.broker.counters(), &self.gateway);
        out.counter("packets_received", "MQTT packets from clients", gateway.packets_received_total.get());
        out.counter("packets_sent", "MQTT packets to clients", gateway.packets_sent_total.get());
        out.counter("received_bytes", "bytes from clients", gateway.bytes_received_total.get());
        out.counter("sent_bytes", "bytes to clients", gateway.bytes_sent_total.get());
        out.counter("messages_received", "PUBLISH from clients", gateway.messages_received_total.get());
        out.counter("messages_sent", "PUBLISH to clients", gateway.messages_sent_total.get());
        out.counter("messages_refused", "messages refused for topic or payload", broker.refused.get());
        out.counter("messages_unmatched", "messages that nobody wanted", broker.unmatched.get());
        out.counter("messages_forwarded_in", "messages from other nodes", broker.forwarded_in.get());
        out.counter("messages_retained", "retained messages stored or deleted", broker.retained.get());
        out.counter("messages_delayed", "messages kept to be published later", broker.delayed.get());
        out.counter("messages_replayed", "retained messages sent at subscribe", broker.replayed.get());
        out.counter("retained_reads_failed", "retained reads without a leader", broker.replays_failed.get());
        out.counter(
            "outbox_published",
            "wills and released QoS 2 messages of durable sessions that this node published for its shards",
            broker.outbox.get(),
        );
        out.counter(
            "shared_redispatched",
            "messages of shared subscriptions given to another member",
            broker.redispatched.get(),
        );
        let lanes = self.broker.cluster().lanes.counters().dropped_full.load(Ordering::Relaxed);
        let shards = &self.broker.cluster().shard_counters;
        let expired = broker.dropped_expired.get() + gateway.messages_dropped_expired_total.get();
        let dropped = [
            ([("reason", "queue_full")], broker.dropped_queue_full.get()),
            ([("reason", "lane_full")], lanes),
            ([("reason", "session_queue_full")], shards.dropped_full.load(Ordering::Relaxed)),
            ([("reason", "expired")], expired),
            ([("reason", "too_large")], gateway.messages_dropped_too_large_total.get()),
            ([("reason", "unencodable")], gateway.messages_dropped_unencodable_total.get()),
            ([("reason", "no_member")], broker.dropped_no_member.get()),
            ([("reason", "in_doubt")], self.broker.cluster().doubts().1),
        ];
        out.counters("messages_dropped", "copies not delivered, by reason", dropped);
        let counted = [
            ("shard_batches", "batches of commands that shards answered", &shards.batches),
            ("shard_commands", "commands in those batches", &shards.commands),
            ("shard_busy", "commands that waited because too many were before them", &shards.busy),
        ];
        for (name, help, counter) in counted {
            out.counter(name, help, counter.load(Ordering::Relaxed));
        }
        let kicked = [
            ([("reason", "too_slow")], broker.kicked_slow.get()),
            ([("reason", "taken_over")], broker.kicked_taken_over.get()),
            ([("reason", "draining")], broker.kicked_draining.get()),
        ];
        out.counters("clients_kicked", "clients disconnected by the broker, by reason", kicked);
    }
}

impl View {
    /// Durable sessions of the shards that this node leads: each shard is in one node's page.
    fn session_metrics(&self, cluster: &ClusterStatus, out: &mut Exposition) {
        let led: Vec<(String, Arc<Shard>)> = cluster
            .groups
            .iter()
            .filter(|group| group.state == Role::Leader)
            .filter_map(|group| {
                let shard = group.id.0.checked_sub(1)?;
                Some((shard.to_string(), self.broker.cluster().shard_view(shard)?.state()))
            })
            .collect();
        let mut family = |name: &str, help: &str, of: &dyn Fn(&Shard) -> u64| {
            let samples = led.iter().map(|(shard, state)| ([("shard", shard.as_str())], of(state) as f64));
            out.gauges(name, help, samples);
        };
        family("durable_sessions", "durable sessions, connected or not", &|shard| shard.sessions() as u64);
        family("durable_sessions_waiting", "durable sessions whose client is not connected", &waiting);
        family(
            "session_queue_messages",
            "QoS 1 and 2 messages that durable sessions have not acknowledged",
            &Shard::queued_messages,
        );
        family("delayed_messages", "messages that are published later", &|shard| {
            shard.delayed_messages() as u64
        });
        family("session_queue_bytes", "their topics and payloads", &Shard::queued_bytes);
    }
}

/// Durable sessions whose client is not connected.
fn waiting(shard: &Shard) -> u64 {
    shard.entries().filter(|(_, entry)| entry.is_durable() && !entry.owner.connected).count() as u64
}

fn cluster_metrics(cluster: &ClusterStatus, out: &mut Exposition) {
    let up = cluster.nodes.iter().filter(|node| node.up).count();
    let led = cluster.groups.iter().filter(|group| group.state == Role::Leader).count();
    out.gauge(
        "lease_seconds",
        "what is left of this node's lease",
        cluster.lease_left.unwrap_or_default().as_secs_f64(),
    );
    out.gauge("cluster_nodes_up", "nodes that are up", up as f64);
    out.gauge("cluster_nodes", "nodes of the cluster", cluster.nodes.len() as f64);
    out.gauge("cluster_level", "feature level of the cluster; 0: not formed", f64::from(cluster.level));
    out.gauge(
        "node_newest_level",
        "newest feature level that this node can",
        f64::from(cluster.levels.newest),
    );
    out.gauge(
        "cluster_level_held_back",
        "nodes without which the cluster would have the newest level that this one can",
        cluster.held_back_by.len() as f64,
    );
    out.gauge(
        "cluster_replicas",
        "replicas that a shard is to have; 0: not formed",
        f64::from(cluster.replicas),
    );
    out.gauge("cluster_routes", "pairs of node and filter", cluster.routes as f64);
    out.gauge("raft_groups", "Raft groups on this node", cluster.groups.len() as f64);
    out.gauge("raft_groups_led", "Raft groups that this node leads", led as f64);
    out.gauge(
        "retained_led",
        "retained messages in shards that this node leads",
        cluster.retained_led as f64,
    );
    out.gauge("clients_led", "client ids in shards that this node leads", cluster.clients_led as f64);
    out.gauge("lanes_messages", "messages on their way to other nodes", cluster.lanes_held.0 as f64);
    out.gauge("lanes_bytes", "bytes on their way to other nodes", cluster.lanes_held.1 as f64);
    out.counter("messages_forwarded_out", "messages handed to lanes to other nodes", cluster.forwarded);
}
