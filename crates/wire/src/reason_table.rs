//! Which packet may carry which reason code (the tables of MQTT 5.0 sections 3.2.2.2 to 3.15.2.1), and the
//! CONNACK return codes of 3.x (MQTT 3.1.1 table 3.1).
//!
//! Both directions of the codec hold to it. Start at [`ReasonCode::is_allowed_in`].

use crate::read::Reader;
use crate::{DecodeError, EncodeError, PacketType, ReasonCode};

use ReasonCode as R;

const CONNACK: &[R] = &[
    R::Success,
    R::UnspecifiedError,
    R::MalformedPacket,
    R::ProtocolError,
    R::ImplementationSpecificError,
    R::UnsupportedProtocolVersion,
    R::ClientIdentifierNotValid,
    R::BadUserNameOrPassword,
    R::NotAuthorized,
    R::ServerUnavailable,
    R::ServerBusy,
    R::Banned,
    R::BadAuthenticationMethod,
    R::TopicNameInvalid,
    R::PacketTooLarge,
    R::QuotaExceeded,
    R::PayloadFormatInvalid,
    R::RetainNotSupported,
    R::QoSNotSupported,
    R::UseAnotherServer,
    R::ServerMoved,
    R::ConnectionRateExceeded,
];

const PUBACK_PUBREC: &[R] = &[
    R::Success,
    R::NoMatchingSubscribers,
    R::UnspecifiedError,
    R::ImplementationSpecificError,
    R::NotAuthorized,
    R::TopicNameInvalid,
    R::PacketIdentifierInUse,
    R::QuotaExceeded,
    R::PayloadFormatInvalid,
];

const PUBREL_PUBCOMP: &[R] = &[R::Success, R::PacketIdentifierNotFound];

const SUBACK: &[R] = &[
    R::Success,
    R::GrantedQoS1,
    R::GrantedQoS2,
    R::UnspecifiedError,
    R::ImplementationSpecificError,
    R::NotAuthorized,
    R::TopicFilterInvalid,
    R::PacketIdentifierInUse,
    R::QuotaExceeded,
    R::SharedSubscriptionsNotSupported,
    R::SubscriptionIdentifiersNotSupported,
    R::WildcardSubscriptionsNotSupported,
];

const UNSUBACK: &[R] = &[
    R::Success,
    R::NoSubscriptionExisted,
    R::UnspecifiedError,
    R::ImplementationSpecificError,
    R::NotAuthorized,
    R::TopicFilterInvalid,
    R::PacketIdentifierInUse,
];

const DISCONNECT: &[R] = &[
    R::Success,
    R::DisconnectWithWill,
    R::UnspecifiedError,
    R::MalformedPacket,
    R::ProtocolError,
    R::ImplementationSpecificError,
    R::NotAuthorized,
    R::ServerBusy,
    R::ServerShuttingDown,
    R::KeepAliveTimeout,
    R::SessionTakenOver,
    R::TopicFilterInvalid,
    R::TopicNameInvalid,
    R::ReceiveMaximumExceeded,
    R::TopicAliasInvalid,
    R::PacketTooLarge,
    R::MessageRateTooHigh,
    R::QuotaExceeded,
    R::AdministrativeAction,
    R::PayloadFormatInvalid,
    R::RetainNotSupported,
    R::QoSNotSupported,
    R::UseAnotherServer,
    R::ServerMoved,
    R::SharedSubscriptionsNotSupported,
    R::ConnectionRateExceeded,
    R::MaximumConnectTime,
    R::SubscriptionIdentifiersNotSupported,
    R::WildcardSubscriptionsNotSupported,
];

const AUTH: &[R] = &[R::Success, R::ContinueAuthentication, R::ReAuthenticate];

impl ReasonCode {
    /// Whether the packet's table lists the code (MQTT-3.2.2-8, 3.4.2-1, 3.9.3-2, 3.14.2-1, ...).
    /// [`encode`](crate::encode()) refuses the others.
    #[must_use]
    pub fn is_allowed_in(self, packet: PacketType) -> bool {
        let listed = match packet {
            PacketType::ConnAck => CONNACK,
            PacketType::PubAck | PacketType::PubRec => PUBACK_PUBREC,
            PacketType::PubRel | PacketType::PubComp => PUBREL_PUBCOMP,
            PacketType::SubAck => SUBACK,
            PacketType::UnsubAck => UNSUBACK,
            PacketType::Disconnect => DISCONNECT,
            PacketType::Auth => AUTH,
            _ => &[],
        };
        listed.contains(&self)
    }

    /// The CONNACK return code that tells a 3.x client the same, `None` if there is none: then the
    /// connection is closed without a CONNACK (MQTT 3.1.1, MQTT-3.2.2-6).
    #[must_use]
    pub fn connack_return_code(self) -> Option<u8> {
        match self {
            Self::Success => Some(0),
            Self::UnsupportedProtocolVersion => Some(1),
            Self::ClientIdentifierNotValid => Some(2),
            Self::ServerUnavailable
            | Self::ServerBusy
            | Self::QuotaExceeded
            | Self::UseAnotherServer
            | Self::ServerMoved
            | Self::ConnectionRateExceeded => Some(3),
            Self::BadUserNameOrPassword => Some(4),
            Self::NotAuthorized | Self::Banned | Self::BadAuthenticationMethod => Some(5),
            _ => None,
        }
    }

    /// The reason of a 3.x CONNACK return code.
    pub(crate) fn of_connack_return_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::Success,
            1 => Self::UnsupportedProtocolVersion,
            2 => Self::ClientIdentifierNotValid,
            3 => Self::ServerUnavailable,
            4 => Self::BadUserNameOrPassword,
            5 => Self::NotAuthorized,
            _ => return None,
        })
    }
}

impl Reader {
    /// A reason code that this packet's table lists.
    pub(crate) fn reason(&mut self) -> Result<ReasonCode, DecodeError> {
        let field = "reason code";
        let byte = self.u8(field)?;
        let reason = ReasonCode::from_byte(byte).ok_or_else(|| self.malformed(field, "is not defined"))?;
        if reason.is_allowed_in(self.context().packet) {
            Ok(reason)
        } else {
            Err(self.protocol_error(field, "is not one of this packet's"))
        }
    }
}

/// The code, if the packet's table lists it.
pub(crate) fn check(packet: PacketType, reason: ReasonCode) -> Result<ReasonCode, EncodeError> {
    if reason.is_allowed_in(packet) {
        return Ok(reason);
    }
    Err(EncodeError::Invalid { packet, field: "reason code", fault: "is not one of this packet's" })
}
