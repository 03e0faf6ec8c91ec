//! How a reason is put to the client: each packet has its own list of codes it may carry.
//!
//! Knows no sessions. Start at [`told`].

use zwerm_wire::{PacketType, ReasonCode};

/// The reason itself where the packet's table lists it (sections 3.2.2.2, 3.4.2.1, 3.9.3, 3.14.2.1, ...), or
/// what comes closest.
pub(crate) fn told(reason: ReasonCode, packet: PacketType) -> ReasonCode {
    use ReasonCode as R;
    if reason.is_allowed_in(packet) {
        return reason;
    }
    match (packet, reason) {
        (PacketType::ConnAck, R::ServerShuttingDown | R::SessionTakenOver) => R::ServerUnavailable,
        (PacketType::Disconnect, R::ServerUnavailable) => R::ServerBusy,
        (PacketType::Disconnect, R::Banned) => R::AdministrativeAction,
        _ => R::UnspecifiedError,
    }
}
