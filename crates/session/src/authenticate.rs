//! Enhanced authentication (section 4.12): which method a connection has, and whose turn it is.
//!
//! Knows no mechanism: data goes out with [`Output::Authenticate`] and comes back as [`Input::Challenge`],
//! [`Input::Authenticated`] or [`Input::Refused`]. Start at `Session::authenticate`.
//!
//! [`Input::Challenge`]: crate::Input::Challenge
//! [`Input::Authenticated`]: crate::Input::Authenticated
//! [`Input::Refused`]: crate::Input::Refused

use bytes::Bytes;
use bytestring::ByteString;
use zwerm_wire::{Auth, Connect, Packet, ReasonCode};

use crate::session::Phase;
use crate::{Cause, Output, Session};

/// The method of a connection and how far its exchange is.
#[derive(Debug)]
pub(crate) struct Authentication {
    method: ByteString,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// The CONNECT that waits for it.
    Connecting(Box<Connect>),
    /// It succeeded; what CONNACK is to say.
    Attaching(Bytes),
    /// Nothing is under way.
    Done,
    /// The client authenticates again (section 4.12.1).
    Again,
}

impl Session {
    /// The client asked for enhanced authentication.
    pub(crate) fn authenticate(&mut self, method: ByteString, data: Option<Bytes>, connect: Box<Connect>) {
        self.phase = Phase::Authenticating;
        self.put(Output::Authenticate { method: Some(method.clone()), data: data.unwrap_or_default() });
        self.authentication = Some(Box::new(Authentication { method, stage: Stage::Connecting(connect) }));
    }

    /// AUTH of the client: its next message, or a new exchange.
    pub(crate) fn auth(&mut self, auth: Auth) {
        let Some(authentication) = &mut self.authentication else {
            return self.violate(ReasonCode::ProtocolError); // MQTT-4.12.0-7
        };
        if auth.method.as_ref() != Some(&authentication.method) {
            return self.violate(ReasonCode::ProtocolError); // MQTT-4.12.0-5, MQTT-4.12.1-1
        }
        let begins = match (auth.reason, &authentication.stage) {
            (ReasonCode::ContinueAuthentication, Stage::Connecting(_) | Stage::Again) => false,
            (ReasonCode::ReAuthenticate, Stage::Done) => true,
            _ => return self.violate(ReasonCode::ProtocolError),
        };
        let method = begins.then(|| authentication.method.clone());
        if begins {
            authentication.stage = Stage::Again;
        }
        self.put(Output::Authenticate { method, data: auth.data.unwrap_or_default() });
    }

    /// The exchange goes on.
    pub(crate) fn challenge(&mut self, data: Bytes) {
        let Some(authentication) = &self.authentication else { return };
        if matches!(authentication.stage, Stage::Connecting(_) | Stage::Again) {
            self.send(say(ReasonCode::ContinueAuthentication, &authentication.method, data));
        }
    }

    /// The client is who it says.
    pub(crate) fn authenticated(&mut self, name: ByteString, data: Bytes) {
        let Some(authentication) = &mut self.authentication else { return };
        match std::mem::replace(&mut authentication.stage, Stage::Done) {
            Stage::Connecting(mut connect) => {
                authentication.stage = Stage::Attaching(data);
                connect.username = Some(name);
                self.phase = Phase::Attaching;
                self.put(Output::Attach(connect));
            }
            Stage::Again => {
                let answer = say(ReasonCode::Success, &authentication.method, data);
                self.send(answer);
            }
            idle @ (Stage::Attaching(_) | Stage::Done) => authentication.stage = idle,
        }
    }

    /// The client did not prove who it is, the second time (section 4.12.1): the connection ends.
    pub(crate) fn deny_again(&mut self, reason: ReasonCode) {
        let authentication = self.authentication.as_ref();
        if authentication.is_some_and(|authentication| matches!(authentication.stage, Stage::Again)) {
            self.end(Cause::Refused(reason), Some(reason), None);
        }
    }

    /// What CONNACK says of it (MQTT-4.12.0-5): the method and the last data. Once.
    pub(crate) fn take_proof(&mut self) -> (Option<ByteString>, Option<Bytes>) {
        let Some(authentication) = &mut self.authentication else { return (None, None) };
        let method = Some(authentication.method.clone());
        match std::mem::replace(&mut authentication.stage, Stage::Done) {
            Stage::Attaching(data) => (method, Some(data).filter(|data| !data.is_empty())),
            _ => (method, None),
        }
    }
}

fn say(reason: ReasonCode, method: &ByteString, data: Bytes) -> Packet {
    let data = Some(data).filter(|data| !data.is_empty());
    Packet::Auth(Auth { reason, method: Some(method.clone()), data, reason_string: None, user: Vec::new() })
}
