//! An emulated StatefulSet: pods with names and volumes that stay, and addresses that are new with every start.
//!
//! A pod is a `zwerm serve` in a network namespace that is made for it, with the configuration that the Helm chart
//! renders and the environment that it sets; the volume is a directory (`ZWERM_NODE__DATA_DIR`, for `/data` would
//! be the same for all here). Knows how pods start and end, not why. Start at [`StatefulSet::new`].

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use zwerm_tests::{Signal, get, until};

use super::names::{DOMAIN, Names};
use crate::network::{Network, Side};
use crate::node::Node;

/// What the chart renders for three pods; `tests/deploy` keeps it so.
const CONFIG: &str = include_str!("../../../deploy/rendered/zwerm.toml");

/// How long pods may take to get ready.
const STARTING: Duration = Duration::from_secs(90);
/// Between two looks.
const GLANCE: Duration = Duration::from_millis(50);

/// How a pod ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Its machine is gone: no packet comes back, and its name leads nowhere until it is started elsewhere.
    Lost,
    /// Deleted: SIGTERM, and when the process has ended the name is withdrawn.
    Deleted,
}

/// When a pod starts and when its name gets its new address, from the beginning of a rollout.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    pub(super) pod: usize,
    pub(super) starts: Duration,
    pub(super) resolves: Duration,
}

/// The pods of one cluster.
#[derive(Debug)]
pub(super) struct StatefulSet {
    network: Network,
    names: Names,
    pods: Vec<Node>,
    /// The last address that was given to a pod.
    last: Side,
}

impl StatefulSet {
    /// Networks and DNS, and no pod.
    ///
    /// # Errors
    /// When something cannot be built.
    pub(super) async fn new(dir: &Path) -> Result<Self> {
        let network = Network::build(0).await?;
        let names = Names::serve(dir).await?;
        Ok(Self { network, names, pods: Vec::new(), last: 0 })
    }

    /// Gives the set `replicas` pods with empty volumes below a directory, and starts none.
    ///
    /// # Errors
    /// When the directory cannot be written, or pods run.
    pub(super) fn create(&mut self, replicas: usize, dir: &Path, binary: &Path) -> Result<()> {
        ensure!(self.pods.iter().all(|pod| !pod.runs()), "there are pods already");
        let pods = (0..replicas).map(|ordinal| {
            let name = pod_name(ordinal);
            let volume = dir.join(&name);
            let environment = [
                ("ZWERM_CLUSTER__ADVERTISE", format!("{name}.{DOMAIN}:7100")),
                ("ZWERM_NODE__DATA_DIR", volume.join("data").display().to_string()),
                ("ZWERM_NODE__NAME", name),
            ];
            Node::with(
                CONFIG,
                &volume,
                binary,
                environment.map(|(key, value)| (key.to_owned(), value)).into(),
            )
        });
        self.pods = pods.collect::<Result<_>>()?;
        Ok(())
    }

    /// A pod.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn pod(&self, ordinal: usize) -> Result<&Node> {
        self.pods.get(ordinal).context("no such pod")
    }

    fn pod_mut(&mut self, ordinal: usize) -> Result<&mut Node> {
        self.pods.get_mut(ordinal).context("no such pod")
    }

    /// Starts pods, each with a new address, and publishes their names, when it is time.
    ///
    /// # Errors
    /// When one cannot be started.
    pub(super) async fn rollout(&mut self, arrivals: &[Arrival]) -> Result<()> {
        let begin = Instant::now();
        let starts = arrivals.iter().map(|it| (it.starts, it.pod, true));
        let names = arrivals.iter().map(|it| (it.resolves, it.pod, false));
        let mut steps: Vec<_> = starts.chain(names).collect();
        // A pod that starts when its name resolves starts first.
        steps.sort_by_key(|(at, pod, starts)| (*at, !starts, *pod));
        for (at, pod, starts) in steps {
            sleep_until(begin + at).await;
            if starts {
                self.last = self.last.checked_add(1).context("all addresses are used up")?;
                let side = self.last;
                self.network.plug(side).await?;
                let pod = self.pod_mut(pod)?;
                pod.move_to(side);
                pod.start()?;
            } else {
                let address = Network::address(self.pod(pod)?.side());
                self.names.publish(&pod_name(pod), address);
            }
        }
        Ok(())
    }

    /// Ends pods, all at the same time.
    ///
    /// # Errors
    /// When one does not run, or does not stop in time.
    pub(super) async fn end(&mut self, ordinals: &[usize], how: End) -> Result<()> {
        for &ordinal in ordinals {
            let side = self.pod(ordinal)?.side();
            match how {
                // First the cable, so that not even the kernel tells the others.
                End::Lost => self.network.unplug(side).await?,
                End::Deleted => self.pod(ordinal)?.signal(Signal::TERM)?,
            }
        }
        for &ordinal in ordinals {
            match how {
                End::Lost => self.pod_mut(ordinal)?.kill().await?,
                End::Deleted => {
                    let status = self.pod_mut(ordinal)?.stopped().await?;
                    ensure!(status.success(), "{} ended with {status}", pod_name(ordinal));
                    self.names.withdraw(&pod_name(ordinal));
                    let side = self.pod(ordinal)?.side();
                    self.network.unplug(side).await?;
                }
            }
        }
        Ok(())
    }

    /// Waits until every pod is ready; says for how long.
    ///
    /// # Errors
    /// When one has ended, or does not get ready in time: which, and why it says that it is not.
    pub(super) async fn ready(&mut self) -> Result<Duration> {
        let begin = Instant::now();
        for ordinal in 0..self.pods.len() {
            let waited = timeout(STARTING, async {
                while !Node::is_ready(self.pod(ordinal)?.http()).await {
                    let ended = self.pod_mut(ordinal)?.ended();
                    ensure!(ended.is_none(), "{} ended by itself: {ended:?}", pod_name(ordinal));
                    sleep(GLANCE).await;
                }
                Ok(())
            });
            if let Ok(done) = waited.await {
                done?;
                continue;
            }
            let says = get(self.pod(ordinal)?.http(), "/readyz").await.map(|answer| answer.body);
            anyhow::bail!("{} is not ready after {} s: {says:?}", pod_name(ordinal), STARTING.as_secs());
        }
        Ok(begin.elapsed())
    }

    /// The cluster that all pods say they are in, when each knows all members.
    ///
    /// # Errors
    /// When they do not agree.
    pub(super) async fn cluster(&self) -> Result<String> {
        let mut known: Option<String> = None;
        for pod in &self.pods {
            let everybody = async || {
                let status = get(pod.http(), "/api/v1/status").await.ok()?;
                let status: Value = serde_json::from_str(&status.body).ok()?;
                let members = status.get("nodes")?.as_array()?.len();
                (members == self.pods.len()).then(|| status.get("cluster_id")?.as_str().map(str::to_owned))?
            };
            let (says, _) = until("that a pod knows all members", STARTING, everybody).await?;
            let first = known.get_or_insert_with(|| says.clone());
            ensure!(*first == says, "two clusters: {first} and {says}");
        }
        known.context("there are no pods")
    }

    /// Prints the last lines of every pod's log.
    pub(super) fn show_logs(&self) {
        for (ordinal, pod) in self.pods.iter().enumerate() {
            println!("--- {}, the end of its log\n{}", pod_name(ordinal), pod.log_tail());
        }
    }

    /// Lines of the logs that tell of a panic.
    pub(super) fn panics(&self) -> Vec<String> {
        self.pods.iter().flat_map(Node::panics).collect()
    }
}

/// The name of a pod.
pub(super) fn pod_name(ordinal: usize) -> String {
    format!("zwerm-{ordinal}")
}
