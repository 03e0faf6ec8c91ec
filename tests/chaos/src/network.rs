//! The networks of a run: one namespace per node, one for the router between them, one (the program's own) for the
//! clients.
//!
//! Every side has a cable to the router and an address of its own, 10.77.SIDE.2. All packets between two sides are
//! forwarded by the router, so a fault is a routing rule there: packets that come in on the cable of one side and
//! go to another are dropped without a word, in one direction only, and nobody's interface goes down.
//! Needs the namespaces of [`crate::sandbox`]. Start at [`Network::build`].

use std::net::Ipv4Addr;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

/// One end of a cable: 0 is the clients, 1 and up are the nodes.
pub(crate) type Side = u8;

/// Where the clients are.
pub(crate) const CLIENTS: Side = 0;

const ROUTER: &str = "router";

/// The cables and what is cut of them.
#[derive(Debug)]
pub(crate) struct Network {
    /// Priority of the last rule; the rules of a run have different ones.
    last: u32,
    cuts: Vec<u32>,
}

impl Network {
    /// Makes the namespaces and connects everything.
    ///
    /// # Errors
    /// When the kernel or the `ip` program refuses.
    pub(crate) async fn build(nodes: u8) -> Result<Self> {
        // /run belongs to the machine; this one is ours, and `ip netns` keeps its names there.
        run("mount", "-t tmpfs none /run", &[]).await?;
        ip("link set lo up").await?;
        ip("netns add router").await?;
        let forward = ["echo 1 >/proc/sys/net/ipv4/ip_forward"];
        run("nsenter", "--net=/run/netns/router sh -c", &forward).await?;
        for side in 0..=nodes {
            connect(side).await?;
        }
        Ok(Self { last: 100, cuts: Vec::new() })
    }

    /// The address of a side.
    pub(crate) fn address(side: Side) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, side, 2)
    }

    /// A command that runs with the network of a node.
    pub(crate) fn command(side: Side) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", name(side)));
        command
    }

    /// Makes a side that was not there at the beginning, or was there before with another number.
    ///
    /// # Errors
    /// When the kernel or the `ip` program refuses, or there is such a side.
    pub(crate) async fn plug(&mut self, side: Side) -> Result<()> {
        connect(side).await
    }

    /// Removes a side; what is sent to its address is dropped without a word from then on.
    ///
    /// # Errors
    /// When the `ip` program refuses, or there is no such side.
    pub(crate) async fn unplug(&mut self, side: Side) -> Result<()> {
        // The cable first: the namespace lives as long as a process is in it.
        ip(&format!("-n {ROUTER} link del port{side}")).await?;
        ip(&format!("-n {ROUTER} route add blackhole 10.77.{side}.0/24")).await?;
        ip(&format!("netns del {}", name(side))).await
    }

    /// Drops what `from` sends to `to`, until [`Network::heal`].
    ///
    /// # Errors
    /// When the `ip` program refuses.
    pub(crate) async fn cut(&mut self, from: Side, to: Side) -> Result<()> {
        self.last += 1;
        let (rule, address) = (self.last, Self::address(to));
        ip(&format!("-n {ROUTER} rule add pref {rule} iif port{from} to {address} blackhole")).await?;
        self.cuts.push(rule);
        Ok(())
    }

    /// Lets everything through again.
    ///
    /// # Errors
    /// When the `ip` program refuses.
    pub(crate) async fn heal(&mut self) -> Result<()> {
        while let Some(rule) = self.cuts.last() {
            ip(&format!("-n {ROUTER} rule del pref {rule}")).await?;
            self.cuts.pop();
        }
        Ok(())
    }
}

fn name(side: Side) -> String {
    format!("node{side}")
}

/// A cable from the router to a side, with addresses and routes.
async fn connect(side: Side) -> Result<()> {
    let cable = format!("link add port{side} netns {ROUTER} type veth peer name eth{side}");
    let node = if side == CLIENTS {
        ip(&cable).await?;
        String::new()
    } else {
        let name = name(side);
        ip(&format!("netns add {name}")).await?;
        ip(&format!("{cable} netns {name}")).await?;
        ip(&format!("-n {name} link set lo up")).await?;
        format!("-n {name} ")
    };
    ip(&format!("-n {ROUTER} addr add 10.77.{side}.1/24 dev port{side}")).await?;
    ip(&format!("-n {ROUTER} link set port{side} up")).await?;
    ip(&format!("{node}addr add {}/24 dev eth{side}", Network::address(side))).await?;
    ip(&format!("{node}link set eth{side} up")).await?;
    ip(&format!("{node}route add default via 10.77.{side}.1")).await
}

async fn ip(arguments: &str) -> Result<()> {
    run("ip", arguments, &[]).await
}

/// Runs a program with arguments separated by blanks, and more that may hold blanks.
pub(crate) async fn run(program: &str, arguments: &str, more: &[&str]) -> Result<()> {
    let mut command = Command::new(program);
    command.args(arguments.split_whitespace()).args(more).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.with_context(|| format!("running {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {arguments}: {}", said.trim());
    Ok(())
}
