//! Exclusive subscriptions of one connection: `$exclusive/filter`, which at most one client of the cluster has.
//!
//! The filter is made this client's before it is subscribed to like any other, and given back after it was
//! unsubscribed from. Should the connection end between the two, the shards know that it holds nothing
//! (`machine/src/exclusive.rs`). Knows no routes. Start at [`Subscribing::subscribe_exclusive`].

use bytestring::ByteString;
use futures::FutureExt;
use futures::future::{BoxFuture, join, join_all, ready};
use tokio::sync::oneshot;
use zwerm_cluster::ShardError;
use zwerm_machine::records::{Holder, Refusal};
use zwerm_wire::{ReasonCode, Subscribe, SubscribeFilter, TopicFilter, Unsubscribe};

use crate::broker::Inner;
use crate::subscribing::Subscribing;

/// The order of what one connection does to exclusive filters: what it asked for later must not overtake.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    last: Option<oneshot::Receiver<()>>,
}

/// A place in that order; the next one comes when it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    before: Option<oneshot::Receiver<()>>,
    _done: oneshot::Sender<()>,
}

impl Turns {
    /// The place behind all that were given.
    pub(crate) fn next(&mut self) -> Turn {
        let (done, last) = oneshot::channel();
        Turn { before: self.last.replace(last), _done: done }
    }
}

impl Turn {
    /// Waits until those before it are over.
    async fn comes(&mut self) {
        if let Some(before) = self.before.take() {
            // Nothing is ever sent: its end is the word.
            drop(before.await);
        }
    }
}

/// A connection as the shards name it.
pub(crate) fn holder(client_id: &ByteString, epoch: u64) -> Holder {
    Holder { client_id: client_id.to_string(), epoch }
}

/// Gives exclusive filters back. What is not given back is found to be free by who asks for it.
pub(crate) async fn vacate(inner: &Inner, filters: Vec<TopicFilter>, by: Holder) {
    for filter in filters {
        if let Err(error) = inner.cluster.vacate(filter.as_str(), &by).await {
            tracing::debug!(%error, %filter, "an exclusive subscription was not given back");
        }
    }
}

impl Subscribing {
    /// SUBSCRIBE with exclusive filters among others. Those of another client are refused with Quota Exceeded.
    pub(crate) fn subscribe_exclusive(
        self,
        subscribe: Subscribe,
        mut turn: Turn,
    ) -> BoxFuture<'static, Vec<ReasonCode>> {
        let order: Vec<bool> = subscribe.filters.iter().map(|line| line.filter.is_exclusive()).collect();
        let (exclusive, others) = subscribe.filters.into_iter().partition(|line| line.filter.is_exclusive());
        let others = Subscribe { filters: others, user: Vec::new(), ..subscribe };
        // A copy of its own: the packet's keeps a whole read buffer.
        let detached = |line: SubscribeFilter| SubscribeFilter { filter: line.filter.detached(), ..line };
        let exclusive: Vec<_> = Vec::into_iter(exclusive).map(detached).collect();
        let exclusive = Subscribe { filters: exclusive, user: Vec::new(), ..others };
        let others = self.clone().subscribe_any(others);
        async move {
            let exclusive = async {
                turn.comes().await;
                self.subscribe_ours(exclusive).await
            };
            let (others, exclusive) = join(others, exclusive).await;
            in_order(&order, exclusive, others)
        }
        .boxed()
    }

    /// UNSUBSCRIBE with exclusive filters among others.
    pub(crate) fn unsubscribe_exclusive(
        self,
        unsubscribe: Unsubscribe,
        mut turn: Turn,
    ) -> BoxFuture<'static, Vec<ReasonCode>> {
        let order: Vec<bool> = unsubscribe.filters.iter().map(TopicFilter::is_exclusive).collect();
        let (exclusive, others): (Vec<_>, Vec<_>) =
            unsubscribe.filters.into_iter().partition(TopicFilter::is_exclusive);
        let exclusive: Vec<_> = exclusive.iter().map(TopicFilter::detached).collect();
        let others = self.clone().unsubscribe_any(others);
        async move {
            let exclusive = async {
                turn.comes().await;
                self.give_back(exclusive).await
            };
            let (others, exclusive) = join(others, exclusive).await;
            in_order(&order, exclusive, others)
        }
        .boxed()
    }

    /// Subscribes to those exclusive filters that become this client's.
    async fn subscribe_ours(self, mut subscribe: Subscribe) -> Vec<ReasonCode> {
        let mut asked = Vec::with_capacity(subscribe.filters.len());
        for line in &subscribe.filters {
            asked.push(self.exclude(&line.filter));
        }
        let refused = join_all(asked).await;
        let is_ours: Vec<bool> = refused.iter().map(Option::is_none).collect();
        let mut ours = is_ours.iter();
        subscribe.filters.retain(|_| ours.next() == Some(&true));
        let had = |line: &SubscribeFilter| self.inner.local.subscriptions.has(&line.filter, self.key);
        let new: Vec<TopicFilter> =
            subscribe.filters.iter().filter(|line| !had(line)).map(|line| line.filter.clone()).collect();
        let filters: Vec<TopicFilter> = subscribe.filters.iter().map(|line| line.filter.clone()).collect();
        let reasons = self.clone().subscribe_any(subscribe).await;
        // The client is told that it does not have it: it must keep nobody from it.
        let failed = filters.into_iter().zip(&reasons).filter(|(_, reason)| reason.is_error());
        let failed: Vec<_> = failed.map(|(filter, _)| filter).filter(|filter| new.contains(filter)).collect();
        self.give_back(failed).await;
        in_order(&is_ours, reasons, refused.into_iter().flatten().collect())
    }

    /// Makes an exclusive filter this client's; why it is not.
    async fn exclude(&self, filter: &TopicFilter) -> Option<ReasonCode> {
        let by = holder(&self.client_id, self.epoch);
        match self.inner.cluster.exclude(filter.as_str(), &by).await {
            Ok(true) => None,
            Ok(false) => Some(ReasonCode::QuotaExceeded),
            // The shard has no room for another filter.
            Err(ShardError::Refused { reason }) if reason == i32::from(Refusal::Busy) => {
                Some(ReasonCode::QuotaExceeded)
            }
            Err(error) => {
                tracing::debug!(%error, %filter, "an exclusive subscription was not agreed on");
                Some(ReasonCode::UnspecifiedError)
            }
        }
    }

    /// Unsubscribes from exclusive filters, then lets others have them.
    async fn give_back(self, filters: Vec<TopicFilter>) -> Vec<ReasonCode> {
        let (inner, by) = (self.inner.clone(), holder(&self.client_id, self.epoch));
        let reasons = self.unsubscribe_any(filters.clone()).await;
        // A durable session that may have the filter still holds it.
        let gone = filters.into_iter().zip(&reasons).filter(|(_, reason)| !reason.is_error());
        let gone = gone.map(|(filter, _)| filter).collect();
        vacate(&inner, gone, by).await;
        reasons
    }

    fn subscribe_any(self, subscribe: Subscribe) -> BoxFuture<'static, Vec<ReasonCode>> {
        if subscribe.filters.is_empty() { ready(Vec::new()).boxed() } else { self.subscribe(subscribe) }
    }

    fn unsubscribe_any(self, filters: Vec<TopicFilter>) -> BoxFuture<'static, Vec<ReasonCode>> {
        if filters.is_empty() { ready(Vec::new()).boxed() } else { self.unsubscribe(filters) }
    }
}

/// One answer for each line: from the first list where `order` says so, else from the second.
fn in_order(order: &[bool], first: Vec<ReasonCode>, second: Vec<ReasonCode>) -> Vec<ReasonCode> {
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let next = |is_first: &bool| if *is_first { first.next() } else { second.next() };
    order.iter().map(next).map(|reason| reason.unwrap_or(ReasonCode::UnspecifiedError)).collect()
}

#[cfg(test)]
mod tests {
    use futures::poll;

    use super::*;

    #[tokio::test]
    async fn turns_come_one_after_the_other_also_when_one_is_given_up() {
        let mut turns = Turns::default();
        let (mut first, mut second, mut third) = (turns.next(), turns.next(), turns.next());
        first.comes().await;
        let mut waiting = Box::pin(second.comes());
        assert!(poll!(&mut waiting).is_pending());
        drop(first);
        assert!(poll!(&mut waiting).is_ready());
        drop(waiting);
        let mut waiting = Box::pin(third.comes());
        assert!(poll!(&mut waiting).is_pending());
        drop(second);
        assert!(poll!(&mut waiting).is_ready());
    }

    #[test]
    fn answers_come_in_the_order_of_the_lines() {
        use ReasonCode as R;
        let (first, second) = (vec![R::QuotaExceeded, R::GrantedQoS1], vec![R::GrantedQoS2]);
        let reasons = in_order(&[true, false, true, false], first, second);
        assert_eq!(reasons, [R::QuotaExceeded, R::GrantedQoS2, R::GrantedQoS1, R::UnspecifiedError]);
    }
}
