//! CONNECT to CONNACK: what is refused at once, what is negotiated, what is answered.
//!
//! Knows nobody's password and no other session: others decide behind `Output::Authenticate` and `Output::Attach`. Start at
//! `Session::connect`.

use bytestring::ByteString;
use zwerm_wire::{ConnAck, ConnAckProperties, Connect, Packet, PacketType, Protocol, QoS, ReasonCode, Will};

use crate::session::{Client, Phase};
use crate::told::told;
use crate::{Attached, Cause, Limits, Output, Session};

/// What a receive maximum is when nobody states one (section 3.1.2.11.3).
const DEFAULT_RECEIVE_MAXIMUM: u16 = u16::MAX;

impl Session {
    pub(crate) fn connect(&mut self, mut connect: Box<Connect>) {
        self.phase = Phase::Attaching;
        self.client.protocol = Some(connect.protocol);
        if let Some(reason) = refuse(&connect, &self.limits) {
            return self.refused(reason);
        }
        let requested = requested_expiry(&connect);
        connect.properties.session_expiry = Some(requested.min(self.limits.session_expiry_maximum));
        self.client = Client { requested_expiry: requested, ..negotiate(&connect, &self.limits) };
        self.outbound.open(window(&connect, &self.limits));
        let aliases = connect.properties.topic_alias_maximum.unwrap_or(0);
        self.aliases_out.open(aliases.min(self.limits.topic_alias_out_maximum));
        let method = connect.properties.authentication_method.take();
        let data = connect.properties.authentication_data.take();
        match method {
            Some(method) => self.authenticate(method, data, connect),
            None => self.put(Output::Attach(connect)),
        }
    }

    pub(crate) fn attached(&mut self, mut attached: Attached) {
        if self.phase != Phase::Attaching {
            return;
        }
        self.phase = Phase::Open;
        self.durable = attached.durable;
        if attached.durable {
            self.inbound.resume(std::mem::take(&mut attached.received));
            self.outbound.resume(std::mem::take(&mut attached.released));
        }
        let session_present = attached.session_present;
        let properties =
            if self.speaks_v5() { self.connack_properties(attached) } else { ConnAckProperties::default() };
        self.send(Packet::ConnAck(Box::new(ConnAck {
            session_present,
            reason: ReasonCode::Success,
            properties,
        })));
    }

    pub(crate) fn refused(&mut self, reason: ReasonCode) {
        match self.phase {
            Phase::Authenticating | Phase::Attaching => self.end(Cause::Refused(reason), Some(reason), None),
            Phase::Open => self.deny_again(reason),
            Phase::Connecting | Phase::Closed => {}
        }
    }

    /// Says no, if `protocol` has a word for it: 3.x has only five (section 3.2.2.3 of 3.1.1).
    pub(crate) fn say_no(&mut self, protocol: Protocol, reason: ReasonCode, text: Option<String>) {
        let reason = told(reason, PacketType::ConnAck);
        if protocol == Protocol::V5 || reason.connack_return_code().is_some() {
            self.send(refusal(reason, text.filter(|_| protocol == Protocol::V5)));
        }
    }

    /// Only what differs from what the specification assumes when nothing is said.
    fn connack_properties(&mut self, attached: Attached) -> ConnAckProperties {
        let (authentication_method, authentication_data) = self.take_proof();
        let limits = &*self.limits;
        let (granted, requested) = (attached.session_expiry, self.client.requested_expiry);
        ConnAckProperties {
            session_expiry: (granted != requested).then_some(granted),
            receive_maximum: Some(limits.receive_maximum).filter(|most| most.get() < DEFAULT_RECEIVE_MAXIMUM),
            maximum_qos: Some(limits.max_qos).filter(|most| *most < QoS::ExactlyOnce),
            retain_available: only_if_not(limits.retain_available),
            maximum_packet_size: limits.stated_packet_size(),
            assigned_client_id: attached.assigned_client_id,
            topic_alias_maximum: Some(limits.topic_alias_maximum).filter(|most| *most > 0),
            wildcard_subscriptions: only_if_not(limits.wildcard_subscriptions),
            subscription_identifiers: only_if_not(limits.subscription_identifiers),
            shared_subscriptions: only_if_not(limits.shared_subscriptions),
            server_keep_alive: self.client.server_keep_alive,
            response_information: attached.response_information,
            authentication_method,
            authentication_data,
            ..ConnAckProperties::default()
        }
    }
}

/// Why a well-formed CONNECT is refused without asking anybody.
fn refuse(connect: &Connect, limits: &Limits) -> Option<ReasonCode> {
    if connect.client_id.is_empty() && !may_be_assigned(connect, limits) {
        return Some(ReasonCode::ClientIdentifierNotValid);
    }
    connect.will.as_ref().and_then(|will| refuse_will(will, limits))
}

/// Whether this client may leave its id to us. A 3.1 client must have one (of 1 to 23 characters; longer
/// ones are taken, as every broker does); a 3.1.1 client may only do without for a clean session (section
/// 3.1.3.1 of 3.1.1).
fn may_be_assigned(connect: &Connect, limits: &Limits) -> bool {
    let by_version = match connect.protocol {
        Protocol::V31 => false,
        Protocol::V311 => connect.clean_start,
        Protocol::V5 => true,
    };
    by_version && limits.allow_zero_length_client_id
}

fn refuse_will(will: &Will, limits: &Limits) -> Option<ReasonCode> {
    if will.qos > limits.max_qos {
        return Some(ReasonCode::QoSNotSupported);
    }
    if will.retain && !limits.retain_available {
        return Some(ReasonCode::RetainNotSupported);
    }
    let is_belied = || will.properties.as_ref().is_some_and(|said| said.belie(&will.payload));
    (limits.validate_payload_format && is_belied()).then_some(ReasonCode::PayloadFormatInvalid)
}

/// What the client asked for, in the terms of 5.0: Clean Session 0 of 3.x is "for ever".
fn requested_expiry(connect: &Connect) -> u32 {
    match connect.protocol {
        Protocol::V5 => connect.properties.session_expiry.unwrap_or(0),
        Protocol::V31 | Protocol::V311 if connect.clean_start => 0,
        Protocol::V31 | Protocol::V311 => u32::MAX,
    }
}

fn negotiate(connect: &Connect, limits: &Limits) -> Client {
    let most = limits.keep_alive_maximum.filter(|_| connect.protocol == Protocol::V5);
    let overruled = most.map(|most| most.get()).filter(|most| {
        let asked = connect.keep_alive;
        asked == 0 || asked > *most
    });
    Client {
        protocol: Some(connect.protocol),
        bridge: connect.bridge,
        keep_alive: overruled.unwrap_or(connect.keep_alive),
        server_keep_alive: overruled,
        maximum_packet_size: connect.properties.maximum_packet_size,
        ..Client::default()
    }
}

/// QoS 1 and 2 messages under way to the client at once (section 4.9).
fn window(connect: &Connect, limits: &Limits) -> u16 {
    let client = connect.properties.receive_maximum.unwrap_or(limits.max_inflight);
    client.min(limits.max_inflight).get()
}

fn only_if_not(available: bool) -> Option<bool> {
    (!available).then_some(false)
}

/// A CONNACK that says no.
fn refusal(reason: ReasonCode, text: Option<String>) -> Packet {
    let properties =
        ConnAckProperties { reason_string: text.map(ByteString::from), ..ConnAckProperties::default() };
    Packet::ConnAck(Box::new(ConnAck { session_present: false, reason, properties }))
}
