//! What a pod does when it is told to end and its StatefulSet does not want it any more: it leaves its cluster.
//!
//! Where there is any doubt it only stops: that loses nothing, and `zwerm ctl node remove` says later what was meant.
//! Knows no drain. Start at [`leave_if_scaled_away`].

use std::error::Error;
use std::time::Duration;

use zwerm_cluster::Cluster;

use crate::config::Config;
use crate::kubernetes::{Api, Fate};

/// How long the Kubernetes API may take to answer.
const ASKING: Duration = Duration::from_secs(5);

/// Leaves the cluster if this node's StatefulSet has been made smaller; true when it is no member any more.
pub(crate) async fn leave_if_scaled_away(config: &Config, cluster: &Cluster) -> bool {
    let Some(stateful_set) = config.cluster.kubernetes_statefulset.as_deref() else { return false };
    let fate = match Api::of_this_pod(|name| std::env::var_os(name)) {
        Ok(api) => api.fate(stateful_set, &config.node.name, ASKING).await,
        Err(error) => Err(error),
    };
    match fate {
        Ok(Fate::Restarting) => return false,
        Ok(Fate::Leaving) => {}
        Err(error) => {
            tracing::warn!(
                error = &error as &dyn Error,
                "it is not known whether this node was scaled away: it stops as for a restart"
            );
            return false;
        }
    }
    let grace = Duration::from_secs(config.cluster.leave_grace);
    tracing::info!(stateful_set, ?grace, "this node was scaled away: leaving the cluster");
    if let Err(error) = cluster.leave(cluster.own.id).await {
        tracing::warn!(error = &error as &dyn Error, "this node cannot leave: it stops as for a restart");
        return false;
    }
    let left = tokio::time::timeout(grace, cluster.left()).await.is_ok();
    if !left {
        tracing::warn!("the time to leave is over: the other nodes finish without this one");
    }
    left
}
