//! What a pod does when it is told to end and its StatefulSet does not want it any more: it leaves its cluster.
//!
//! Where there is any doubt it only stops: that loses nothing, and `zwerm ctl node remove` says later what was meant.
//! Knows no drain. Start at [`leave_if_scaled_away`].

use std::error::Error;
use std::time::Duration;

use zwerm_cluster::Cluster;

use crate::config::Config;
use crate::kubernetes::{Api, Fate, KubernetesError};

/// How long the Kubernetes API may take to answer.
const ASKING: Duration = Duration::from_secs(5);

/// Leaves the cluster if this node's StatefulSet has been made smaller; true when it is no member any more.
pub(crate) async fn leave_if_scaled_away(config: &Config, cluster: &Cluster) -> bool {
    let Some(stateful_set) = config.cluster.kubernetes_statefulset.as_deref() else { return false };
    let api = Api::of_this_pod(|name| std::env::var_os(name));
    if !is_scaled_away(api, stateful_set, &config.node.name, ASKING).await {
        return false;
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

/// Whether a pod will not come back; where that cannot be found out it will.
async fn is_scaled_away(
    api: Result<Api, KubernetesError>,
    stateful_set: &str,
    pod: &str,
    within: Duration,
) -> bool {
    let fate = match api {
        Ok(api) => api.fate(stateful_set, pod, within).await,
        Err(error) => Err(error),
    };
    match fate {
        Ok(fate) => fate == Fate::Leaving,
        Err(error) => {
            tracing::warn!(
                error = &error as &dyn Error,
                "it is not known whether this node was scaled away: it stops as for a restart"
            );
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::kubernetes::fake::fake;

    const PATIENCE: Duration = Duration::from_secs(20);

    async fn leaves(pod: &str, status: &str, body: &str) -> bool {
        let fake = fake(status, body).await;
        is_scaled_away(Ok(fake.api), "zwerm", pod, PATIENCE).await
    }

    #[tokio::test]
    async fn only_a_pod_that_is_surely_not_wanted_leaves() {
        let three = r#"{"kind":"StatefulSet","spec":{"replicas":3}}"#;
        let refusal = r#"{"kind":"Status","status":"Failure","message":"forbidden"}"#;
        let cases = [
            ("zwerm-3", "200 OK", three, true),
            ("zwerm-2", "200 OK", three, false),
            // Not of this StatefulSet.
            ("other-3", "200 OK", three, false),
            ("zwerm-3", "200 OK", r#"{"spec":{"replicas":0}}"#, false),
            ("zwerm-3", "401 Unauthorized", refusal, false),
            ("zwerm-3", "403 Forbidden", refusal, false),
            ("zwerm-3", "404 Not Found", refusal, false),
            // What a refusal holds is not believed.
            ("zwerm-3", "503 Service Unavailable", three, false),
            ("zwerm-3", "200 OK", "", false),
            ("zwerm-3", "200 OK", "<html>", false),
            ("zwerm-3", "200 OK", r#"{"spec":{"replicas":"three"}}"#, false),
        ];
        for (pod, status, body, wanted) in cases {
            assert_eq!(leaves(pod, status, body).await, wanted, "{pod}: {status} {body}");
        }
    }

    #[tokio::test]
    async fn a_pod_that_gets_no_answer_stays_a_member() {
        let nobody = Api::of_this_pod(|_| None);
        assert!(!is_scaled_away(nobody, "zwerm", "zwerm-3", PATIENCE).await);
        let body = r#"{"spec":{"replicas":3}}"#;
        let mut silent = fake("200 OK", body).await;
        // Accepted by the kernel, answered by nobody.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        silent.api.move_to(port);
        assert!(
            !is_scaled_away(Ok(silent.api.clone()), "zwerm", "zwerm-3", Duration::from_millis(100)).await
        );
        // And now the port is closed.
        drop(listener);
        assert!(!is_scaled_away(Ok(silent.api), "zwerm", "zwerm-3", PATIENCE).await);
    }
}
