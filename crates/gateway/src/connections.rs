//! What every connection of one gateway shares, whoever accepts them.
//!
//! Knows no listeners: sockets come from `listener`, the simulation of a cluster brings links of its own.
//! Start at [`Connections`].

use std::sync::Arc;

use zwerm_broker::Broker;
use zwerm_session::Limits;

use crate::admission::Admission;
use crate::authentication::Authenticator;
use crate::doors::{Closed, Doors, Referral};
use crate::{Config, Counters};

/// Serves connections over any [`Link`](crate::Link); see `serve`. Cheap to clone.
///
/// It owns no task: whoever accepts a connection owns the task that serves it.
#[derive(Debug, Clone)]
pub struct Connections(pub(crate) Arc<Shared>);

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    /// Those of the configuration, which every session keeps.
    pub(crate) limits: Arc<Limits>,
    pub(crate) broker: Broker,
    pub(crate) counters: Arc<Counters>,
    pub(crate) authenticator: Authenticator,
    /// Why nobody is let in; `None`: everybody is.
    pub(crate) closed: Closed,
    pub(crate) referral: Referral,
    pub(crate) admission: Arc<Admission>,
}

impl Connections {
    /// Connections to this broker. The listeners of `config` are not opened.
    #[must_use]
    pub fn new(config: Config, broker: Broker) -> Self {
        let admission = Arc::new(Admission::new(&config));
        let authenticator = Authenticator::new(config.allow_anonymous, config.users.clone());
        Self(Arc::new(Shared {
            limits: Arc::new(config.limits),
            config,
            broker,
            counters: Arc::default(),
            authenticator,
            closed: Closed::default(),
            referral: Referral::default(),
            admission,
        }))
    }

    /// Lets clients in, or nobody any more.
    #[must_use]
    pub fn doors(&self) -> Doors {
        Doors(Arc::clone(&self.0))
    }

    /// What they count together.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.0.counters)
    }
}
