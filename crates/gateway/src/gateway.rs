//! The whole gateway: its listeners, what they share, and its end.
//!
//! Knows no configuration file and no signals. Start at [`Gateway::start`].

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use thiserror::Error;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;
use zwerm_broker::Broker;

use crate::connections::Connections;
use crate::listener::Listener;
use crate::{Config, Counters, ListenerConfig};

/// Why the gateway did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// An address cannot be listened at: taken, not of this machine, or not allowed.
    #[error("cannot listen for MQTT clients at {bind}: {source}")]
    Bind {
        /// The address.
        bind: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

/// A running gateway. Dropped without [`stopped`](Self::stopped) it cuts every connection.
#[derive(Debug)]
pub struct Gateway {
    addresses: Vec<SocketAddr>,
    counters: Arc<Counters>,
    listeners: JoinSet<()>,
}

impl Gateway {
    /// Opens every listener and serves clients until `shutdown` is cancelled. Must be called within a Tokio
    /// runtime.
    ///
    /// # Errors
    /// An address cannot be listened at; then none is.
    pub fn start(config: Config, broker: Broker, shutdown: &CancellationToken) -> Result<Self, StartError> {
        let connections = Connections::new(config, broker);
        let (config, counters) = (&connections.0.config, connections.counters());
        let open = |listener: &ListenerConfig| {
            let listener = Listener::bind(*listener, config.drain_timeout, Arc::clone(&counters))?;
            Ok((listener.address()?, listener))
        };
        let opened = config.listeners.iter().map(|listener| {
            open(listener).map_err(|source: io::Error| StartError::Bind { bind: listener.bind, source })
        });
        let opened = opened.collect::<Result<Vec<_>, _>>()?;
        let mut gateway = Self { addresses: Vec::new(), counters, listeners: JoinSet::new() };
        for (address, listener) in opened {
            info!(%address, "listening for MQTT clients");
            gateway.addresses.push(address);
            let connections = connections.clone();
            let serve = move |stream, peer, stop| {
                let connections = connections.clone();
                async move { connections.serve(stream, peer, stop).await }
            };
            gateway.listeners.spawn(listener.run(serve, shutdown.child_token()));
        }
        Ok(gateway)
    }

    /// Where clients are waited for, in the order of the configuration, with the ports the system chose.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What it counts.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Returns when, after the shutdown was asked for, every connection has ended.
    pub async fn stopped(mut self) {
        while self.listeners.join_next().await.is_some() {}
    }
}
