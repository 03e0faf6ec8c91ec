//! An emulated StatefulSet: pods with names and volumes that stay, and addresses that are new with every start.
//!
//! A pod is a `zwerm serve` in a network namespace that is made for it, with the configuration that the Helm chart
//! renders and the environment that it sets; the volume is a directory (`ZWERM_NODE__DATA_DIR`, for `/data` would
//! be the same for all here). Knows how pods start and end, not why. Start at [`StatefulSet::new`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use zwerm_tests::{Signal, get, until};

use super::api::ApiServer;
use super::names::{DOMAIN, Names};
use crate::network::{Network, Side};
use crate::node::{LEAVING, Node, STOPPING};
use crate::spread::leaders;

/// What the chart renders for three pods; `tests/deploy` keeps it so.
const CONFIG: &str = include_str!("../../../deploy/rendered/zwerm.toml");

/// How long pods may take to get ready.
const STARTING: Duration = Duration::from_secs(90);
/// How long shards may take to get where they belong.
const MOVING: Duration = Duration::from_secs(120);
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
    api: ApiServer,
    /// Where the volumes are.
    dir: PathBuf,
    binary: PathBuf,
    /// All that there ever were; by ordinal.
    pods: Vec<Node>,
    /// The last address that was given to a pod.
    last: Side,
}

impl StatefulSet {
    /// Networks, DNS and API, and no pod.
    ///
    /// # Errors
    /// When something cannot be built.
    pub(super) async fn new(dir: &Path, binary: &Path) -> Result<Self> {
        let network = Network::build(0).await?;
        let (names, api) = (Names::serve(dir).await?, ApiServer::serve(dir).await?);
        let (dir, binary) = (dir.to_owned(), binary.to_owned());
        Ok(Self { network, names, api, dir, binary, pods: Vec::new(), last: 0 })
    }

    /// Gives the set `replicas` pods with empty volumes below a directory, and starts none.
    ///
    /// # Errors
    /// When the directory cannot be written, or pods run.
    pub(super) fn create(&mut self, replicas: usize, dir: &Path) -> Result<()> {
        ensure!(self.ordinals().is_empty(), "there are pods already");
        self.pods.clear();
        dir.clone_into(&mut self.dir);
        self.scale(replicas)
    }

    /// From now on the set wants this many pods. Starts and ends none; one that comes again has the volume that it had.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub(super) fn scale(&mut self, replicas: usize) -> Result<()> {
        for ordinal in self.pods.len()..replicas {
            self.pods.push(self.pod_of(ordinal)?);
        }
        self.api.want(replicas);
        Ok(())
    }

    fn pod_of(&self, ordinal: usize) -> Result<Node> {
        let name = pod_name(ordinal);
        let volume = self.dir.join(&name);
        let environment = [
            ("ZWERM_CLUSTER__ADVERTISE", format!("{name}.{DOMAIN}:7100")),
            ("ZWERM_NODE__DATA_DIR", volume.join("data").display().to_string()),
            ("ZWERM_NODE__NAME", name),
        ];
        let environment = environment.into_iter().chain(ApiServer::environment());
        let environment = environment.map(|(key, value)| (key.to_owned(), value)).collect();
        Node::with(CONFIG, &volume, &self.binary, environment)
    }

    /// The pods that run.
    fn ordinals(&self) -> Vec<usize> {
        (0..self.pods.len()).filter(|ordinal| self.pods.get(*ordinal).is_some_and(Node::runs)).collect()
    }

    fn running(&self) -> impl Iterator<Item = (usize, &Node)> {
        self.pods.iter().enumerate().filter(|(_, pod)| pod.runs())
    }

    /// Where MQTT clients connect to the pods that run.
    pub(super) fn brokers(&self) -> Vec<SocketAddr> {
        self.running().map(|(_, pod)| pod.mqtt()).collect()
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

    /// Ends pods, all at the same time. One that is deleted asks whether it comes back.
    ///
    /// # Errors
    /// When one does not run, does not stop in time, or was not told how many replicas are wanted.
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
                    let within = if self.api.wants(ordinal) { STOPPING } else { LEAVING };
                    let status = self.pod_mut(ordinal)?.stopped(within).await?;
                    ensure!(status.success(), "{} ended with {status}", pod_name(ordinal));
                    self.names.withdraw(&pod_name(ordinal));
                    let side = self.pod(ordinal)?.side();
                    self.network.unplug(side).await?;
                    let told = self.api.told(Network::address(side));
                    ensure!(told == 1, "{} was told {told} times how many are wanted", pod_name(ordinal));
                }
            }
        }
        Ok(())
    }

    /// Waits until every pod that was started is ready; says for how long.
    ///
    /// # Errors
    /// When one has ended, or does not get ready in time: which, and why it says that it is not.
    pub(super) async fn ready(&mut self) -> Result<Duration> {
        let begin = Instant::now();
        for ordinal in self.ordinals() {
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

    /// Waits until a pod is ready. If its process ends before, and well, it is started again, as a kubelet does.
    ///
    /// # Errors
    /// When it does not get ready in time, or ends badly.
    pub(super) async fn revived(&mut self, ordinal: usize) -> Result<()> {
        let begin = Instant::now();
        while !Node::is_ready(self.pod(ordinal)?.http()).await {
            if let Some(status) = self.pod_mut(ordinal)?.ended() {
                ensure!(status.success(), "{} ended with {status}", pod_name(ordinal));
                self.pod_mut(ordinal)?.start()?;
            }
            ensure!(begin.elapsed() < STARTING, "{} does not get ready", pod_name(ordinal));
            sleep(GLANCE).await;
        }
        Ok(())
    }

    /// Tells a pod to end, and waits until another one knows that it is leaving.
    ///
    /// # Errors
    /// When that takes too long.
    pub(super) async fn begin_to_leave(&self, ordinal: usize, seen_by: usize) -> Result<()> {
        self.pod(ordinal)?.signal(Signal::TERM)?;
        let (name, witness) = (pod_name(ordinal), self.pod(seen_by)?);
        let is_leaving = async || {
            let status = status(witness).await?;
            let rows = status.get("nodes")?.as_array()?;
            let row = rows.iter().find(|row| row.get("name").is_some_and(|said| *said == name));
            // Or it has left already.
            row.is_none_or(|row| row.get("leaving") == Some(&Value::Bool(true))).then_some(())
        };
        until("that a pod begins to leave", STARTING, is_leaving).await.map(drop)
    }

    /// The cluster that all pods that run say they are in, when each knows them all as its members and no other.
    ///
    /// # Errors
    /// When they do not agree.
    pub(super) async fn cluster(&self) -> Result<String> {
        let names: Vec<String> = self.running().map(|(ordinal, _)| pod_name(ordinal)).collect();
        let mut known: Option<String> = None;
        for (_, pod) in self.running() {
            let everybody = async || {
                let status = status(pod).await?;
                let members = members(&status)?;
                members.into_keys().eq(names.iter().cloned()).then(|| cluster_id(&status))?
            };
            let (says, _) = until("that a pod knows all members", STARTING, everybody).await?;
            let first = known.get_or_insert_with(|| says.clone());
            ensure!(*first == says, "two clusters: {first} and {says}");
        }
        known.context("there are no pods")
    }

    /// The ids of the members by name, as a pod knows them now.
    ///
    /// # Errors
    /// When it does not say.
    pub(super) async fn members(&self, ordinal: usize) -> Result<BTreeMap<String, String>> {
        let status = status(self.pod(ordinal)?).await;
        status.as_ref().and_then(members).with_context(|| format!("{} does not say", pod_name(ordinal)))
    }

    /// Waits until every shard is where it belongs, leaders are spread evenly over the pods that run, and all of these
    /// vote in the control group (which an odd number of up to five does); says how many shards each leads.
    ///
    /// # Errors
    /// When that takes too long: what is still missing.
    pub(super) async fn settled(&self) -> Result<Vec<usize>> {
        let begin = Instant::now();
        loop {
            match self.spread().await {
                Ok(leaders) => return Ok(leaders),
                Err(error) if begin.elapsed() > MOVING => return Err(error),
                Err(_) => sleep(GLANCE).await,
            }
        }
    }

    async fn spread(&self) -> Result<Vec<usize>> {
        let leaders = leaders(self.running().map(|(ordinal, pod)| (ordinal, pod.http()))).await?;
        for (ordinal, pod) in self.running() {
            let status = status(pod).await.context("no status")?;
            let rows = status.get("nodes").and_then(Value::as_array).context("no nodes")?;
            let votes = |row: &&Value| row.get("role").is_some_and(|role| role != "learner");
            let voters = rows.iter().filter(votes).count();
            ensure!(voters == leaders.len(), "{} says that {voters} members vote", pod_name(ordinal));
        }
        Ok(leaders.into_values().collect())
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

async fn status(pod: &Node) -> Option<Value> {
    serde_json::from_str(&get(pod.http(), "/api/v1/status").await.ok()?.body).ok()
}

fn cluster_id(status: &Value) -> Option<String> {
    status.get("cluster_id")?.as_str().map(str::to_owned)
}

/// Ids by name. Two of one name are no members that could be told apart.
fn members(status: &Value) -> Option<BTreeMap<String, String>> {
    let rows = status.get("nodes")?.as_array()?;
    let id = |row: &Value| Some((row.get("name")?.as_str()?.to_owned(), row.get("id")?.to_string()));
    let members: BTreeMap<_, _> = rows.iter().map(id).collect::<Option<_>>()?;
    (members.len() == rows.len()).then_some(members)
}
