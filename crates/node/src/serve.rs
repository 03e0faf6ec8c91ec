//! `zwerm serve`: one node in this process.
//!
//! Reads the configuration, takes the data directory and runs the app; what the app is made of is `app`'s
//! business. Start at [`run`].

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::Args;

use crate::config::{self, Config, Override, Sources};
use crate::{app, identity, parts, shutdown, telemetry};

const EXAMPLES: &str = "\
Examples:
  zwerm serve                                   a single node on 127.0.0.1, data in ./zwerm-data
  zwerm serve --config /etc/zwerm.toml          with a configuration file
  zwerm serve --config zwerm.toml --check       is it right, and what does it mean?
  zwerm serve --listen 127.0.0.1:2883 --set mqtt.max_packet_size=256KiB
  ZWERM_LOG__LEVEL=debug zwerm serve            any key by environment: ZWERM_SECTION__KEY

Every key is explained in docs/configuration.md. Flags win over the environment, that over the file.";

/// Arguments of `zwerm serve`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Configuration file (TOML)
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the configuration, print the effective one and end
    #[arg(long)]
    check: bool,
    /// Name of this node (node.name)
    #[arg(long)]
    name: Option<String>,
    /// Data directory (node.data_dir)
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Where clients connect (listener.bind)
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Where HTTP is served (http.bind)
    #[arg(long, value_name = "ADDRESS:PORT")]
    http: Option<String>,
    /// Where other nodes connect (cluster.listen)
    #[arg(long, value_name = "ADDRESS:PORT")]
    cluster_listen: Option<String>,
    /// Another node; repeat for each (cluster.peers)
    #[arg(long = "peer", value_name = "HOST:PORT")]
    peers: Vec<String>,
    /// Form a cluster when this many empty nodes see each other (cluster.bootstrap_expect)
    #[arg(long, value_name = "N")]
    bootstrap_expect: Option<String>,
    /// What to log: error, warn, info, debug, trace (log.level)
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Any other key; repeat for each
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE", value_parser = assignment)]
    set: Vec<(String, String)>,
    /// Print docs/configuration.md
    #[arg(long, hide = true)]
    print_config_docs: bool,
}

fn assignment(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected section.key=value")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

impl Arguments {
    fn overrides(&self) -> Vec<Override> {
        let peers = (!self.peers.is_empty()).then(|| self.peers.join(","));
        let short = [
            ("--name", "node.name", &self.name),
            ("--data-dir", "node.data_dir", &self.data_dir),
            ("--listen", "listener.bind", &self.listen),
            ("--http", "http.bind", &self.http),
            ("--cluster-listen", "cluster.listen", &self.cluster_listen),
            ("--peer", "cluster.peers", &peers),
            ("--bootstrap-expect", "cluster.bootstrap_expect", &self.bootstrap_expect),
            ("--log-level", "log.level", &self.log_level),
        ];
        let short = short.into_iter().filter_map(|(flag, key, value)| {
            let value = value.clone()?;
            Some(Override { flag: format!("flag {flag}"), key: key.to_owned(), value })
        });
        let set = self.set.iter().map(|(key, value)| Override {
            flag: "flag --set".to_owned(),
            key: key.clone(),
            value: value.clone(),
        });
        short.chain(set).collect()
    }

    fn load(&self) -> Result<Config, config::ConfigError> {
        Config::load(&Sources {
            file: self.config.clone(),
            environment: std::env::vars_os().collect(),
            flags: self.overrides(),
        })
    }
}

/// Runs one node until it is told to end.
///
/// # Errors
/// A wrong configuration, a data directory or port in use, or the failure of the node.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.print_config_docs {
        return Ok(io::stdout().write_all(config::reference().as_bytes())?);
    }
    let config = arguments.load()?;
    if arguments.check {
        zwerm_gateway::Gateway::check(&parts::gateway(&config)?)?;
        parts::guard(&config)?;
        return Ok(io::stdout().write_all(config.to_string().as_bytes())?);
    }
    telemetry::start(&config.log)?;
    let identity = identity::open_or_create(&config.node.data_dir, &config.node.name)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let (shutdown, watcher) = shutdown::on_signal()?;
        let done = app::run(config, identity, shutdown).await;
        watcher.abort();
        done
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parsed(arguments: &[&str]) -> Arguments {
        Only::try_parse_from([&["serve"], arguments].concat()).unwrap().arguments
    }

    #[test]
    fn every_short_flag_sets_its_key() {
        let arguments = parsed(&[
            "--name",
            "n",
            "--data-dir",
            "/d",
            "--listen",
            "127.0.0.1:1",
            "--http",
            "127.0.0.1:2",
            "--cluster-listen",
            "127.0.0.1:3",
            "--peer",
            "a:1",
            "--peer",
            "b:2",
            "--bootstrap-expect",
            "3",
            "--log-level",
            "debug",
            "--set",
            "mqtt.max_qos=1",
            "--set",
            "mqtt.overlapping=merged",
        ]);
        let config = Config::load(&Sources { flags: arguments.overrides(), ..Sources::default() }).unwrap();
        assert_eq!((config.node.name.as_str(), config.node.data_dir.to_str()), ("n", Some("/d")));
        assert_eq!(config.listeners[0].bind.to_string(), "127.0.0.1:1");
        assert_eq!((config.http.bind.port(), config.cluster.listen.port()), (2, 3));
        assert_eq!(config.cluster.peers, ["a:1", "b:2"]);
        assert_eq!((config.cluster.bootstrap_expect, config.mqtt.max_qos), (3, 1));
        assert_eq!((config.log.level.as_str(), config.mqtt.overlapping.as_str()), ("debug", "merged"));
    }

    #[test]
    fn a_set_without_a_value_is_wrong_usage() {
        let error = Only::try_parse_from(["serve", "--set", "mqtt.max_qos"]).err().unwrap();
        assert!(error.to_string().contains("expected section.key=value"), "{error}");
    }
}
