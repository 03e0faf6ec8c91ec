//! Publishes what shards publish themselves: the wills that fired.
//!
//! The shard repeats what was not confirmed, so a confirmation is given only when everything that
//! matters has accepted; a repeat is known by its place in the outbox and not delivered again. Start at [`publish_wills`].

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use zwerm_cluster::OutboxMessage;
use zwerm_cluster::receipt::Bell;

use crate::broker::Inner;
use crate::message::Message;
use crate::pipeline::Pipeline;

/// Publishes until the cluster stops.
pub(crate) async fn publish_wills(inner: &Inner, mut outbox: mpsc::Receiver<OutboxMessage>) {
    let bell = Bell::new();
    let mut pipeline: Pipeline<oneshot::Sender<()>> =
        Pipeline::new(Arc::clone(&inner.local), inner.cluster.clone(), bell.clone());
    let mut resumed = inner.cluster.lease.resumed();
    loop {
        while let Some((published, _)) = pipeline.next_accepted() {
            // The shard's keeper may have lost its leadership meanwhile: another repeats.
            published.send(()).unwrap_or_default();
        }
        let busy = pipeline.is_busy();
        tokio::select! {
            message = outbox.recv(), if !busy => match message {
                Some(message) => publish(inner, &mut pipeline, message),
                None => return,
            },
            () = pipeline.has_room() => {}
            () = bell.wait() => {}
            // The sender lives as long as the cluster, which `inner` holds.
            changed = resumed.changed() => drop(changed),
        }
    }
}

fn publish(inner: &Inner, pipeline: &mut Pipeline<oneshot::Sender<()>>, will: OutboxMessage) {
    match Message::recorded(&will.message, inner.cluster.now_ms(), Instant::now()) {
        Ok(message) => {
            inner.local.counters.wills.add(1);
            pipeline.admit(message.of_outbox(will.origin), Some(will.published));
        }
        Err(error) => {
            tracing::error!(%error, topic = will.message.topic, "a will is malformed and is dropped");
            will.published.send(()).unwrap_or_default();
        }
    }
}
