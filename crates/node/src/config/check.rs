//! Rules about one value's content, or about several values together.
//!
//! Types and ranges are checked while loading; here everything is in its place. Start at [`check`].

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tracing_subscriber::EnvFilter;

use super::load::Said;
use super::{Config, ConfigError};

/// Checks what only the whole can tell.
pub(super) fn check(config: &Config, said: &Said) -> Result<(), ConfigError> {
    let rules = Rules { config, said };
    rules.name()?;
    rules.data_dir()?;
    rules.cluster()?;
    rules.addresses()?;
    rules.anonymous()?;
    rules.log()
}

struct Rules<'a> {
    config: &'a Config,
    said: &'a Said,
}

impl Rules<'_> {
    fn refused(&self, key: &str, problem: impl Into<String>) -> Result<(), ConfigError> {
        Err(ConfigError::Key { origin: self.said.origin(key), key: key.to_owned(), problem: problem.into() })
    }

    fn name(&self) -> Result<(), ConfigError> {
        let name = &self.config.node.name;
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if (1..=64).contains(&name.len()) && name.chars().all(fits) {
            return Ok(());
        }
        self.refused(
            "node.name",
            format!("{name:?} is no name: 1 to 64 letters, digits, \".\", \"_\" and \"-\""),
        )
    }

    fn data_dir(&self) -> Result<(), ConfigError> {
        if self.config.node.data_dir.as_os_str().is_empty() {
            return self.refused("node.data_dir", "is empty; name a directory");
        }
        Ok(())
    }

    fn cluster(&self) -> Result<(), ConfigError> {
        let cluster = &self.config.cluster;
        for peer in &cluster.peers {
            if let Err(problem) = host_and_port(peer) {
                return self.refused("cluster.peers", problem);
            }
        }
        match &cluster.advertise {
            Some(address) => {
                if let Err(problem) = host_and_port(address) {
                    return self.refused("cluster.advertise", problem);
                }
            }
            None if cluster.listen.ip().is_unspecified() => {
                let problem = format!(
                    "other nodes cannot dial {}; say under which host:port they reach this node",
                    cluster.listen
                );
                return self.refused("cluster.advertise", problem);
            }
            None => {}
        }
        if cluster.bootstrap_expect > 1 && cluster.peers.is_empty() {
            let problem =
                format!("{} nodes are expected but cluster.peers is empty", cluster.bootstrap_expect);
            return self.refused("cluster.bootstrap_expect", problem);
        }
        Ok(())
    }

    /// Every address this node listens on, with its key.
    fn bound(&self) -> Vec<(String, SocketAddr)> {
        let listeners = self.config.listeners.iter().enumerate();
        let mut bound: Vec<_> =
            listeners.map(|(index, listener)| (format!("listener.{index}.bind"), listener.bind)).collect();
        bound.push(("http.bind".into(), self.config.http.bind));
        bound.push(("cluster.listen".into(), self.config.cluster.listen));
        bound
    }

    fn addresses(&self) -> Result<(), ConfigError> {
        let mut taken = BTreeMap::new();
        for (key, address) in self.bound() {
            if address.port() == 0 {
                return self.refused(&key, "port 0 is no port that anybody could find; choose one");
            }
            if let Some(other) = taken.insert(address, key.clone()) {
                return self.refused(&key, format!("{address} is already taken by {other}"));
            }
        }
        Ok(())
    }

    fn anonymous(&self) -> Result<(), ConfigError> {
        const KEY: &str = "mqtt.allow_anonymous";
        if !self.config.mqtt.allow_anonymous {
            return self.refused(
                KEY,
                "false is not available in this version: there is no user store yet, so no client could connect",
            );
        }
        let open = self.bound().into_iter().find(|(_, address)| !address.ip().is_loopback());
        match open {
            Some((key, address)) if !self.said.explicitly(KEY) => self.refused(
                &key,
                format!(
                    "{address} can be reached from other machines and clients are admitted without a password; \
                     set {KEY} = true if you want that, or bind to 127.0.0.1"
                ),
            ),
            _ => Ok(()),
        }
    }

    fn log(&self) -> Result<(), ConfigError> {
        let level = &self.config.log.level;
        match EnvFilter::builder().parse(level) {
            Ok(_) if !level.trim().is_empty() => Ok(()),
            _ => self.refused(
                "log.level",
                format!("{level:?} is no level: error, warn, info, debug or trace, or directives like \"info,zwerm_raft=debug\""),
            ),
        }
    }
}

/// Checks `host:port`; the host is resolved only when it is dialled.
fn host_and_port(text: &str) -> Result<(), String> {
    let wrong = || format!("{text:?} is no host:port, like \"10.0.0.2:7100\" or \"zwerm-1:7100\"");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let host_fits =
        !host.is_empty() && (bracketed || !host.contains(':')) && !host.contains(char::is_whitespace);
    match port.parse::<u16>() {
        Ok(port) if port != 0 && host_fits => Ok(()),
        _ => Err(wrong()),
    }
}
