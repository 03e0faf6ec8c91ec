//! What comes before MQTT on a connection: the PROXY header, the TLS handshake, the WebSocket request, in this order,
//! each if its listener asks for it, all within one deadline.
//!
//! Until it is done a connection is accepted but not open. Knows no MQTT. Start at [`Handshake::serve`].

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::io::AsyncRead;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::certificates::Certificates;
use crate::connections::Connections;
use crate::counters::Refused;
use crate::link::Link;
use crate::output::Output;
use crate::peer::Peer;
use crate::proxy::{self, ProxyError};
use crate::tls::{Broken, Tls};
use crate::upgrade::{self, Upgrade, UpgradeError};
use crate::{farewell, subject};

/// A link of any layers.
type AnyLink = Box<dyn Link + Sync>;

/// What the connections of one listener go through first.
#[derive(Debug, Clone)]
pub(crate) struct Handshake {
    pub(crate) proxy: bool,
    pub(crate) certificates: Option<Arc<Certificates>>,
    pub(crate) upgrade: Option<Upgrade>,
    /// For all of it.
    pub(crate) timeout: Duration,
}

/// Why a connection did not get to MQTT.
#[derive(Debug, Error)]
enum Refusal {
    #[error("not done within {0:?}")]
    Late(Duration),
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    #[error("too many TLS handshakes are under way")]
    Busy,
    #[error("TLS: {0}")]
    Tls(Broken),
    #[error("its certificate has no name that can be a user name")]
    Nameless,
    #[error("WebSocket: {0}")]
    Upgrade(UpgradeError),
}

impl Refusal {
    /// As it is counted.
    fn reason(&self) -> Refused {
        match self {
            Self::Late(_) => Refused::Timeout,
            Self::Busy => Refused::Busy,
            Self::Proxy(ProxyError::Link(_))
            | Self::Tls(Broken::Link(_))
            | Self::Upgrade(UpgradeError::Link(_)) => Refused::Closed,
            Self::Proxy(_) => Refused::ProxyHeader,
            Self::Tls(Broken::Tls(
                rustls::Error::NoCertificatesPresented | rustls::Error::InvalidCertificate(_),
            ))
            | Self::Nameless => Refused::ClientCertificate,
            Self::Tls(_) => Refused::Tls,
            Self::Upgrade(UpgradeError::Path(_)) => Refused::WebSocketPath,
            Self::Upgrade(UpgradeError::Subprotocol) => Refused::WebSocketSubprotocol,
            Self::Upgrade(_) => Refused::WebSocketRequest,
        }
    }
}

/// A refusal, and the link on which the client was told and may still be speaking.
type NotDone = (Refusal, Option<AnyLink>);

/// Keeps a link open for the client to read what it was told.
fn still_open<L: Link + Sync>(link: Option<L>) -> Option<AnyLink> {
    link.map(|link| Box::new(link) as AnyLink)
}

impl Handshake {
    /// Nothing comes before MQTT.
    pub(crate) fn is_empty(&self) -> bool {
        !self.proxy && self.certificates.is_none() && self.upgrade.is_none()
    }

    /// Serves one connection from its first byte to its end, which comes soon after `stop` is cancelled.
    pub(crate) async fn serve<S>(
        self: Arc<Self>,
        connections: Connections,
        stream: S,
        peer: Peer,
        stop: CancellationToken,
    ) where
        S: Link + AsyncRead + Unpin + Sync,
    {
        let shake_hands =
            Box::pin(timeout(self.timeout, self.shake_hands(stream, peer.clone(), &connections)));
        let Some(done) = stop.run_until_cancelled(shake_hands).await else { return };
        match done.unwrap_or_else(|_| Err((Refusal::Late(self.timeout), None))) {
            Ok((link, peer)) => Box::pin(connections.serve(link, peer, stop)).await,
            Err((refusal, link)) => {
                debug!(%peer, error = %refusal, "handshake refused");
                connections.0.counters.refused(refusal.reason());
                if let Some(link) = link {
                    let patience = connections.0.config.close_timeout;
                    let _in_time = timeout(patience, farewell::say(link, Output::default())).await.is_ok();
                }
            }
        }
    }

    async fn shake_hands<S>(
        &self,
        mut stream: S,
        mut peer: Peer,
        connections: &Connections,
    ) -> Result<(AnyLink, Peer), NotDone>
    where
        S: Link + AsyncRead + Unpin + Sync,
    {
        if self.proxy {
            let address = proxy::read(&mut stream).await.map_err(|error| (error.into(), None))?;
            peer = address.map_or(peer, Peer::from);
        }
        let link = match &self.certificates {
            None => self.upgraded(stream).await?,
            Some(certificates) => {
                let (tls, proved) = secured(stream, peer, certificates, connections).await?;
                peer = proved;
                self.upgraded(tls).await?
            }
        };
        Ok((link, peer))
    }

    async fn upgraded<L: Link + Sync>(&self, link: L) -> Result<AnyLink, NotDone> {
        let Some(upgrade) = &self.upgrade else { return Ok(Box::new(link)) };
        match upgrade::accept(link, upgrade).await {
            Ok(websocket) => Ok(Box::new(websocket)),
            Err((error, link)) => Err((Refusal::Upgrade(error), still_open(link))),
        }
    }
}

/// The stream under TLS, and the peer with the name that it has proved.
async fn secured<S: Link + Sync>(
    stream: S,
    peer: Peer,
    certificates: &Certificates,
    connections: &Connections,
) -> Result<(Tls<S>, Peer), NotDone> {
    let (counters, admission) = (&connections.0.counters, &connections.0.admission);
    // who says nothing takes nobody's place
    if let Err(error) = poll_fn(|context| stream.poll_readable(context)).await {
        return Err((Refusal::Tls(Broken::Link(error)), None));
    }
    // closed without a word: any word would take the handshake
    let Some(_place) = admission.tls.place().await else { return Err((Refusal::Busy, None)) };
    let tls = Tls::accept(stream, certificates.current())
        .await
        .map_err(|(broken, link)| (Refusal::Tls(broken), still_open(link)))?;
    if tls.is_resumed() { &counters.tls_resumed_total } else { &counters.tls_full_total }.increment();
    let shown = tls.certificate().filter(|_| certificates.names_users()).map(subject::name);
    match shown {
        None => Ok((tls, peer)),
        Some(Some(name)) => {
            let peer = peer.with_username(name);
            debug!(%peer, "known by its certificate");
            Ok((tls, peer))
        }
        Some(None) => Err((Refusal::Nameless, still_open(Some(tls)))),
    }
}
