//! What goes into a session and what comes out: the whole contract on one page.
//!
//! Knows no bytes. Start at [`Input`] and [`Output`].

use bytes::Bytes;
use bytestring::ByteString;
use zwerm_wire::{
    Connect, Packet, PacketId, PacketType, Protocol, Publish, ReasonCode, Subscribe, Unsubscribe,
};

/// Something that happened to the session.
#[derive(Debug)]
pub enum Input {
    /// The client sent a packet. Not while [`Session::is_attaching`](crate::Session::is_attaching): the
    /// driver leaves the bytes where they are until the session is attached.
    Packet(Packet),
    /// The client sent bytes that are no packet.
    Malformed {
        /// What the specification calls it.
        reason: ReasonCode,
        /// For people; a 5.0 client gets it as reason string. The encoder leaves it out if it does not fit.
        text: String,
        /// Before CONNECT: the version that an answer is understood in, if there is one.
        protocol: Option<Protocol>,
    },
    /// The answer to [`Output::Attach`]: the client id is ours.
    Attached(Attached),
    /// The other answer to [`Output::Attach`], or to [`Output::Authenticate`]: the connection ends.
    Refused(ReasonCode),
    /// The answer to [`Output::Authenticate`]: the client is to go on from this data (section 4.12).
    Challenge(Bytes),
    /// The answer to [`Output::Authenticate`]: the client has proved who it is.
    Authenticated {
        /// Whose user name it has from now on.
        name: ByteString,
        /// For the client, perhaps the proof that the server is who it should be; may be empty.
        data: Bytes,
    },
    /// A message of [`Output::Publish`] with this id is safe, or refused with an error. In order of arrival.
    Accepted {
        /// Of the PUBLISH.
        packet_id: PacketId,
        /// 0x80 and above: refused.
        reason: ReasonCode,
    },
    /// What [`Output::Acknowledged`] said of this id with [`Stage::Received`] is committed: PUBREL follows.
    Received(PacketId),
    /// The answer to [`Output::Complete`].
    Completed {
        /// Of the PUBREL.
        packet_id: PacketId,
        /// 0x92 if the message is not known (any more); any other error ends the connection, for PUBCOMP has
        /// no word for it and the client may ask again.
        reason: ReasonCode,
    },
    /// The answer to [`Output::Subscribe`].
    Subscribed {
        /// Of the SUBSCRIBE.
        packet_id: PacketId,
        /// One per filter that was handed over, in order.
        reasons: Vec<ReasonCode>,
    },
    /// The answer to [`Output::Unsubscribe`].
    Unsubscribed {
        /// Of the UNSUBSCRIBE.
        packet_id: PacketId,
        /// One per filter, in order.
        reasons: Vec<ReasonCode>,
    },
    /// The server ends the connection: 0x8E taken over, 0x8B shutting down, 0x97 quota exceeded, ...
    Kicked(ReasonCode),
    /// A packet that was put out is larger than the client takes, and was not sent (MQTT-3.1.2-24): the connection
    /// ends, for the client would wait for it for ever.
    Unsendable(PacketType),
    /// A sign of life that is no packet: bytes left for the client while the driver did not read, or the
    /// driver did not read for a reason that is not the client's. Its silence until now does not count.
    Alive,
    /// The instant of [`Session::deadline`](crate::Session::deadline) came. Too early does no harm.
    Tick,
    /// The link is gone.
    LinkClosed,
}

/// What was granted to a session that the broker attached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attached {
    /// Earlier state was found.
    pub session_present: bool,
    /// The id given to a client that sent none.
    pub assigned_client_id: Option<ByteString>,
    /// The beginning of the response topics that the client may use, if it asked (section 3.2.2.3.15).
    pub response_information: Option<ByteString>,
    /// Seconds that the session outlives its connection.
    pub session_expiry: u32,
    /// The session outlives its connection, and the broker keeps what is unacknowledged: it names the packet
    /// identifiers of messages to the client ([`Session::deliver_as`](crate::Session::deliver_as)) and is
    /// asked before PUBREL and PUBCOMP are sent.
    pub durable: bool,
    /// QoS 2 identifiers of the client that await its PUBREL since an earlier connection. Durable only.
    pub received: Vec<PacketId>,
    /// QoS 2 identifiers of messages to the client that await its PUBCOMP since an earlier connection: their
    /// PUBREL is sent again right after CONNACK, in this order (section 4.4). Durable only.
    pub released: Vec<PacketId>,
}

/// How far the client acknowledged a message to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// PUBREC: the client has it, the identifier is still in use. Answer with [`Input::Received`].
    Received,
    /// PUBACK, PUBCOMP, or PUBREC with an error: the message and its identifier are done with. Not answered.
    Done,
}

/// Something to do for the session. At most two come of one input; only [`Input::Attached`] brings a PUBREL for
/// each released identifier besides.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// The client's part of an exchange of enhanced authentication (section 4.12). Answer at once with
    /// [`Input::Challenge`], [`Input::Authenticated`] or [`Input::Refused`].
    Authenticate {
        /// A new exchange, with this method; `None`: the one that is under way goes on.
        method: Option<ByteString>,
        /// May be empty.
        data: Bytes,
    },
    /// Claim the client id; answer with [`Input::Attached`] or [`Input::Refused`]. The session expiry is
    /// always `Some`: what 3.x says with Clean Session is put into the terms of 5.0, and the maximum is
    /// applied. An empty client id wants one assigned.
    Attach(Box<Connect>),
    /// Route a message. Its topic is `Some`, its alias `None`. QoS 1 and 2 are answered later with
    /// [`Input::Accepted`].
    Publish(Publish),
    /// The client acknowledged a message that was delivered under an identifier of the broker. Durable only.
    Acknowledged {
        /// Of the PUBLISH.
        packet_id: PacketId,
        /// How far.
        stage: Stage,
    },
    /// PUBREL: the QoS 2 message of the client under this identifier is to be published; answer with
    /// [`Input::Completed`]. Durable only.
    Complete(PacketId),
    /// Subscribe; answer with [`Input::Subscribed`]. Only filters that are allowed; QoS lowered to the
    /// highest that is.
    Subscribe(Subscribe),
    /// Unsubscribe; answer with [`Input::Unsubscribed`].
    Unsubscribe(Unsubscribe),
    /// Send a packet to the client.
    Send(Packet),
    /// Flush what was sent, then close the link. The last output; [`Session::ending`](crate::Session::ending)
    /// says why.
    Close,
}

/// Why a session wants to be woken at an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deadline {
    /// No CONNECT came.
    Connect,
    /// One and a half times the keep alive passed without a packet (section 3.1.2.10).
    KeepAlive,
}

/// How a connection ended, for whoever keeps the session's durable part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// The will is to be published. Only a DISCONNECT 0x00 of the client drops it (section 3.14.4).
    pub fire_will: bool,
    /// A session expiry in seconds that overrules the granted one.
    pub session_expiry: Option<u32>,
    /// Why it ended.
    pub cause: Cause,
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The client said goodbye with this code.
    Disconnected(ReasonCode),
    /// The link went away.
    LinkClosed,
    /// A deadline passed.
    TimedOut(Deadline),
    /// The client broke the protocol or went over a limit; the code it was, or would have been, told.
    Violation(ReasonCode),
    /// CONNECT was refused with this code.
    Refused(ReasonCode),
    /// The server ended it.
    Kicked(ReasonCode),
}

impl Cause {
    /// A short name for logs and counters.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Disconnected(_) => "disconnected",
            Self::LinkClosed => "link_closed",
            Self::TimedOut(Deadline::Connect) => "connect_timeout",
            Self::TimedOut(Deadline::KeepAlive) => "keep_alive_timeout",
            Self::Violation(_) => "violation",
            Self::Refused(_) => "refused",
            Self::Kicked(_) => "kicked",
        }
    }
}
