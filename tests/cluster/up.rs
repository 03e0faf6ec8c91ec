//! What the README shows first: `zwerm up`, its clients `pub` and `sub`, `status`, and a node that is killed.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;
use zwerm_tests::{DEADLINE, PortBlock, Signal, Turn, get, send_signal, until, zwerm_binary};

/// `zwerm up` or another long-running command, with its standard output line by line.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(arguments: &[String]) -> Result<Self> {
        let mut child = zwerm(arguments)?.spawn().context("starting zwerm")?;
        let stdout = child.stdout.take().context("no standard output")?;
        Ok(Self { child, lines: BufReader::new(stdout).lines() })
    }

    /// The next line that holds `mark`.
    async fn line_with(&mut self, mark: &str) -> Result<String> {
        timeout(2 * DEADLINE, async {
            while let Some(line) = self.lines.next_line().await? {
                if line.contains(mark) {
                    return Ok(line);
                }
            }
            bail!("the output ended before {mark:?}")
        })
        .await
        .with_context(|| format!("{mark:?} was not printed in time"))?
    }

    /// SIGTERM; the program must end with code 0.
    async fn stop(mut self) -> Result<()> {
        send_signal(self.child.id().context("ended already")?, Signal::TERM)?;
        let status = timeout(2 * DEADLINE, self.child.wait()).await.context("it did not stop")??;
        ensure!(status.success(), "it ended with {status} after SIGTERM");
        Ok(())
    }
}

fn zwerm(arguments: &[String]) -> Result<Command> {
    let mut command = Command::new(zwerm_binary()?);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    Ok(command)
}

/// Runs a command to its end; returns what it printed.
async fn output(arguments: &[String]) -> Result<String> {
    let done = timeout(DEADLINE, zwerm(arguments)?.output()).await.context("it did not end")??;
    ensure!(done.status.success(), "zwerm {arguments:?} ended with {}", done.status);
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// The ports and folder of one cluster, as flags.
struct Flags {
    ports: PortBlock,
    dir: TempDir,
}

impl Flags {
    fn up(&self) -> Vec<String> {
        let [mqtt, http, cluster] = [0, 5, 10].map(|index| self.ports.port(index).to_string());
        let data = self.dir.path().display().to_string();
        let mut flags: Vec<String> =
            ["up", "--mqtt-port", &mqtt, "--http-port", &http, "--cluster-port", &cluster]
                .map(str::to_owned)
                .to_vec();
        flags.extend(["--data".to_owned(), data]);
        flags
    }

    /// Starts one node of the folder again; the folder knows its ports.
    fn node_again(&self, node: u16) -> Vec<String> {
        let data = self.dir.path().display().to_string();
        ["up", "--node", &node.to_string(), "--data", &data].map(str::to_owned).to_vec()
    }

    fn client(&self, command: &str, node: u16, more: &[&str]) -> Vec<String> {
        let port = self.ports.port(node - 1).to_string();
        let fixed = [command, "-p", &port];
        fixed.iter().chain(more).map(|flag| (*flag).to_owned()).collect()
    }

    fn http(&self, node: u16) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports.port(4 + node)))
    }

    fn pid(&self, node: u16) -> Result<u32> {
        let path = self.dir.path().join(format!("node-{node}/zwerm.pid"));
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        text.trim().parse().with_context(|| format!("{} holds {text:?}", path.display()))
    }
}

/// A test that failed half-way leaves no node behind: `zwerm up`, killed, cannot stop its children.
impl Drop for Flags {
    fn drop(&mut self) {
        for node in 1..=3 {
            let Ok(pid) = self.pid(node) else { continue };
            let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if command.contains(&self.dir.path().display().to_string()) {
                drop(send_signal(pid, Signal::KILL));
            }
        }
    }
}

/// A message from node 3 to a subscriber on node 2, with zwerm's own clients.
async fn message_crosses(flags: &Flags, text: &str) -> Result<()> {
    // A topic of its own: what an earlier message left retained would end the subscriber.
    let (topic, filter) = (format!("sensors/{text}/temp"), format!("sensors/{text}/#"));
    let sub = flags.client("sub", 2, &["-t", &filter, "-v", "-q", "1", "-C", "1"]);
    let mut subscriber = Running::start(&sub)?;
    // What is retained is seen whenever the subscription comes about, so nobody has to wait for it.
    let publish = flags.client("pub", 3, &["-t", &topic, "-m", text, "-q", "1", "-r"]);
    output(&publish).await?;
    subscriber.line_with(&format!("{topic} {text}")).await?;
    let status = timeout(DEADLINE, subscriber.child.wait()).await.context("sub -C 1 went on")??;
    ensure!(status.success(), "zwerm sub ended with {status}");
    Ok(())
}

#[tokio::test]
async fn three_nodes_come_up_with_one_command_and_one_may_be_killed_and_rejoin() -> Result<()> {
    let _turn = Turn::wait().await?;
    let flags = Flags { ports: PortBlock::reserve()?, dir: TempDir::with_prefix("zwerm-up-")? };
    let mut up = Running::start(&flags.up())?;
    up.line_with("cluster ready").await?;
    message_crosses(&flags, "21.5").await?;

    send_signal(flags.pid(1)?, Signal::KILL)?;
    message_crosses(&flags, "21.6").await?;
    let mut again = Running::start(&flags.node_again(1))?;
    let http = flags.http(1);
    let (_, took) = until("the return of node 1", 2 * DEADLINE, async || {
        get(http, "/readyz").await.ok().filter(|answer| answer.status == 200)
    })
    .await?;
    println!("node 1 is back after {:.2} s", took.as_secs_f64());
    let kept = flags.client("sub", 1, &["-t", "sensors/21.6/temp", "-q", "1", "-C", "1"]);
    ensure!(output(&kept).await?.trim() == "21.6", "node 1 has no retained message");
    status_shows_the_cluster(&flags).await?;

    if again.child.try_wait()?.is_none() {
        again.stop().await?;
    }
    up.stop().await?;
    for node in [2, 3] {
        ensure!(get(flags.http(node), "/healthz").await.is_err(), "node {node} outlived zwerm up");
    }
    resumes(&flags).await
}

/// A second start on the same data is the same cluster.
async fn resumes(flags: &Flags) -> Result<()> {
    let mut up = Running::start(&flags.up())?;
    up.line_with("cluster ready").await?;
    let kept = flags.client("sub", 3, &["-t", "sensors/21.6/temp", "-q", "1", "-C", "1"]);
    ensure!(output(&kept).await?.trim() == "21.6", "the retained message is gone after a restart");
    up.stop().await
}

async fn status_shows_the_cluster(flags: &Flags) -> Result<()> {
    let url = format!("http://{}", flags.http(2));
    let text = output(&["status", "--http", &url].map(str::to_owned)).await?;
    for node in ["node-1", "node-2", "node-3"] {
        ensure!(text.contains(node), "zwerm status does not name {node}:\n{text}");
    }
    let json = output(&["status", "--http", &url, "--json"].map(str::to_owned)).await?;
    serde_json::from_str::<serde_json::Value>(&json).context("zwerm status --json")?;
    Ok(())
}

#[tokio::test]
async fn a_wrong_key_in_the_configuration_is_named_with_its_line() -> Result<()> {
    let dir = TempDir::new()?;
    let path = dir.path().join("zwerm.toml");
    fs::write(&path, "[node]\nname = \"x\"\n\n[mqtt]\nallow_anonymus = true\n")?;
    let text = refusal(&path).await?;
    ensure!(
        text.contains("allow_anonymus") && text.contains("zwerm.toml") && text.contains('5'),
        "said: {text}"
    );
    Ok(())
}

async fn refusal(config: &Path) -> Result<String> {
    let arguments = ["serve", "--check", "--config", &config.display().to_string()].map(str::to_owned);
    let mut command = zwerm(&arguments)?;
    command.stderr(Stdio::piped());
    let done = timeout(DEADLINE, command.output()).await.context("it did not end")??;
    ensure!(!done.status.success(), "a wrong configuration was accepted");
    Ok(String::from_utf8_lossy(&done.stderr).into_owned())
}
