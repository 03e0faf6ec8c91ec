//! Rules about one value's content, or about several values together.
//!
//! Types and ranges are checked while loading; here everything is in its place. Start at [`check`].

use std::collections::BTreeMap;

use tracing_subscriber::EnvFilter;
use zwerm_cluster::level::REPLICA_CHOICES;

use super::keys::{LISTENER_KEYS, idle};
use super::load::Said;
use super::{Bind, Config, ConfigError, ListenerConfig};

/// Checks what only the whole can tell.
pub(super) fn check(config: &Config, said: &Said) -> Result<(), ConfigError> {
    let rules = Rules { config, said };
    rules.name()?;
    rules.data_dir()?;
    rules.cluster()?;
    rules.listeners()?;
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
        if !REPLICA_CHOICES.contains(&cluster.replicas) {
            let problem = format!(
                "{} is not possible: 1, 3, 5 or 7 replicas are (of an even number no more may fail than of one less)",
                cluster.replicas
            );
            return self.refused("cluster.replicas", problem);
        }
        if cluster.bootstrap_expect > 1 && cluster.peers.is_empty() {
            let problem =
                format!("{} nodes are expected but cluster.peers is empty", cluster.bootstrap_expect);
            return self.refused("cluster.bootstrap_expect", problem);
        }
        Ok(())
    }

    fn listeners(&self) -> Result<(), ConfigError> {
        for (index, listener) in self.config.listeners.iter().enumerate() {
            let key = |name: &str| format!("listener.{index}.{name}");
            for name in LISTENER_KEYS.iter().map(|key| key.name) {
                match idle(listener, name) {
                    Some(problem) if self.said.explicitly(&key(name)) => {
                        return self.refused(&key(name), problem);
                    }
                    _ => {}
                }
            }
            self.files(index, listener)?;
            if !listener.path.starts_with('/') || listener.path.contains(['?', '#', ' ']) {
                let problem = format!("{:?} is no path; it begins with \"/\", like \"/mqtt\"", listener.path);
                return self.refused(&key("path"), problem);
            }
            if let Bind::Unix(path) = &listener.bind
                && (listener.kind.has_tls() || path.as_os_str().is_empty())
            {
                let problem = "a Unix socket has a path and no TLS: kind \"mqtt\" or \"ws\"";
                return self.refused(&key("bind"), problem);
            }
        }
        Ok(())
    }

    /// TLS needs a certificate and a key. What is in the files is seen at the start.
    fn files(&self, index: usize, listener: &ListenerConfig) -> Result<(), ConfigError> {
        let files = [("cert", &listener.cert), ("key", &listener.key), ("client_ca", &listener.client_ca)];
        for (name, file) in files {
            let key = format!("listener.{index}.{name}");
            match file {
                None if listener.kind.has_tls() && name != "client_ca" => {
                    let kind = listener.kind.as_str();
                    // where the kind was said, for the key itself was not
                    let origin = self.said.origin(&format!("listener.{index}.kind"));
                    let problem = format!("kind \"{kind}\" needs it: name a PEM file");
                    return Err(ConfigError::Key { origin, key, problem });
                }
                Some(file) if file.as_os_str().is_empty() => {
                    return self.refused(&key, "is empty; name a PEM file");
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Every place this node listens at, with its key.
    fn bound(&self) -> Vec<(String, Bind)> {
        let listeners = self.config.listeners.iter().enumerate();
        let mut bound: Vec<_> = listeners
            .map(|(index, listener)| (format!("listener.{index}.bind"), listener.bind.clone()))
            .collect();
        bound.push(("http.bind".into(), self.config.http.bind.into()));
        bound.push(("cluster.listen".into(), self.config.cluster.listen.into()));
        bound
    }

    fn addresses(&self) -> Result<(), ConfigError> {
        let mut taken = BTreeMap::new();
        for (key, place) in self.bound() {
            if place.tcp().is_some_and(|address| address.port() == 0) {
                return self.refused(&key, "port 0 is no port that anybody could find; choose one");
            }
            if let Some(other) = taken.insert(place.clone(), key.clone()) {
                return self.refused(&key, format!("{place} is already taken by {other}"));
            }
        }
        Ok(())
    }

    fn anonymous(&self) -> Result<(), ConfigError> {
        const KEY: &str = "mqtt.allow_anonymous";
        let Config { mqtt, auth, listeners, .. } = self.config;
        if !mqtt.allow_anonymous {
            let named = listeners.iter().any(|listener| listener.certificate_as_username);
            if auth.users_file.is_none() && !named {
                return self.refused(
                    KEY,
                    "with false nobody can connect: name the users in auth.users_file (see zwerm passwd --help), or have \
                     a listener with certificate_as_username",
                );
            }
            return Ok(());
        }
        let is_open = |place: &Bind| place.tcp().is_some_and(|address| !address.ip().is_loopback());
        let open = self.bound().into_iter().find(|(_, place)| is_open(place));
        match open {
            Some((key, place)) if !self.said.explicitly(KEY) => self.refused(
                &key,
                format!(
                    "{place} can be reached from other machines and clients are admitted without a password; \
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
