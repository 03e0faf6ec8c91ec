//! SUBSCRIBE and UNSUBSCRIBE: what is allowed here, and the acknowledgements.
//!
//! Knows no subscriptions: the broker keeps them. Start at `Session::subscribe`.

use zwerm_wire::{
    Packet, PacketId, PacketType, ReasonCode, SubAck, Subscribe, SubscribeFilter, SubscribeOptions,
    TopicFilter, Unsubscribe,
};

use crate::inbound::Taken;
use crate::told::told;
use crate::{Limits, Output, Session};

impl Session {
    pub(crate) fn subscribe(&mut self, mut subscribe: Subscribe) {
        if let Some(reason) = self.forbidden(&subscribe) {
            return self.violate(reason);
        }
        let packet_id = subscribe.packet_id;
        let count = subscribe.filters.len();
        if self.inbound.get(packet_id).is_some() {
            return self.suback(packet_id, vec![ReasonCode::PacketIdentifierInUse; count]);
        }
        let refused = refused_filters(&mut subscribe.filters, &self.limits);
        if subscribe.filters.is_empty() {
            return self.suback(packet_id, merge(refused.as_deref(), Vec::new()));
        }
        for line in &mut subscribe.filters {
            line.options = self.options(&line.filter, line.options);
        }
        self.inbound.insert(packet_id, Taken::Subscribe(refused));
        self.put(Output::Subscribe(subscribe));
    }

    pub(crate) fn subscribed(&mut self, packet_id: PacketId, reasons: Vec<ReasonCode>) {
        if !matches!(self.inbound.get(packet_id), Some(Taken::Subscribe(_))) {
            return;
        }
        if let Some(Taken::Subscribe(refused)) = self.inbound.remove(packet_id) {
            self.suback(packet_id, merge(refused.as_deref(), reasons));
        }
    }

    pub(crate) fn unsubscribe(&mut self, unsubscribe: Unsubscribe) {
        let packet_id = unsubscribe.packet_id;
        if self.inbound.get(packet_id).is_some() {
            let reasons = vec![ReasonCode::PacketIdentifierInUse; unsubscribe.filters.len()];
            return self.unsuback(packet_id, reasons);
        }
        self.inbound.insert(packet_id, Taken::Unsubscribe);
        self.put(Output::Unsubscribe(unsubscribe));
    }

    pub(crate) fn unsubscribed(&mut self, packet_id: PacketId, reasons: Vec<ReasonCode>) {
        if self.inbound.get(packet_id) == Some(&Taken::Unsubscribe) {
            self.inbound.remove(packet_id);
            self.unsuback(packet_id, reasons);
        }
    }

    fn suback(&mut self, packet_id: PacketId, mut reasons: Vec<ReasonCode>) {
        reasons.iter_mut().for_each(|reason| *reason = told(*reason, PacketType::SubAck));
        self.send(Packet::SubAck(SubAck { packet_id, reasons, properties: None }));
    }

    fn unsuback(&mut self, packet_id: PacketId, mut reasons: Vec<ReasonCode>) {
        reasons.iter_mut().for_each(|reason| *reason = told(*reason, PacketType::UnsubAck));
        self.send(Packet::UnsubAck(SubAck { packet_id, reasons, properties: None }));
    }

    /// Why a whole SUBSCRIBE ends the connection. A 5.0 client was told in CONNACK what there is not, so
    /// asking for it is an error of the protocol (sections 3.2.2.3.11 to 3.2.2.3.13).
    fn forbidden(&self, subscribe: &Subscribe) -> Option<ReasonCode> {
        let shared = |line: &SubscribeFilter| line.filter.is_shared() && line.options.no_local;
        if subscribe.filters.is_empty() || subscribe.filters.iter().any(shared) {
            return Some(ReasonCode::ProtocolError);
        }
        if !self.speaks_v5() {
            return None;
        }
        if subscribe.subscription_id.is_some() && !self.limits.subscription_identifiers {
            return Some(ReasonCode::SubscriptionIdentifiersNotSupported);
        }
        subscribe.filters.iter().find_map(|line| unavailable(&line.filter, &self.limits))
    }

    fn options(&self, filter: &TopicFilter, options: SubscribeOptions) -> SubscribeOptions {
        let mut options = SubscribeOptions { qos: options.qos.min(self.limits.max_qos), ..options };
        if self.client.bridge {
            // what a 3.x bridge cannot ask for and every broker gives it: no echo, retain flags kept
            options.retain_as_published = true;
            options.no_local = !filter.is_shared();
        }
        options
    }
}

/// What CONNACK says that there is not.
fn unavailable(filter: &TopicFilter, limits: &Limits) -> Option<ReasonCode> {
    if filter.is_shared() && !limits.shared_subscriptions {
        return Some(ReasonCode::SharedSubscriptionsNotSupported);
    }
    (filter.has_wildcard() && !limits.wildcard_subscriptions)
        .then_some(ReasonCode::WildcardSubscriptionsNotSupported)
}

/// Why a line is answered without asking the broker.
fn refused(filter: &TopicFilter, limits: &Limits) -> Option<ReasonCode> {
    let no_exclusive = filter.is_exclusive() && !limits.exclusive_subscriptions;
    unavailable(filter, limits).or_else(|| no_exclusive.then_some(ReasonCode::TopicFilterInvalid))
}

/// Takes the filters out that are not available; `None` when all are.
fn refused_filters(filters: &mut Vec<SubscribeFilter>, limits: &Limits) -> Option<Box<[Option<ReasonCode>]>> {
    if filters.iter().all(|line| refused(&line.filter, limits).is_none()) {
        return None;
    }
    let codes = filters.iter().map(|line| refused(&line.filter, limits)).collect();
    filters.retain(|line| refused(&line.filter, limits).is_none());
    Some(codes)
}

/// The broker's answers in the gaps between our own.
fn merge(refused: Option<&[Option<ReasonCode>]>, reasons: Vec<ReasonCode>) -> Vec<ReasonCode> {
    let Some(refused) = refused else { return reasons };
    let mut answers = reasons.into_iter();
    refused
        .iter()
        .map(|refusal| refusal.or_else(|| answers.next()).unwrap_or(ReasonCode::UnspecifiedError))
        .collect()
}
