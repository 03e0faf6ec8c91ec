//! Positions of a durable queue that are under way to the client, and the packet identifiers they go by.
//!
//! An identifier is a function of the position, so that whoever owns the session after a failover sends the same
//! message under the same identifier (MQTT 5.0 section 4.4). Positions under way never span as many as there are
//! identifiers, so the function can be undone. Knows no messages. Start at [`packet_id_of`].

use std::collections::BTreeSet;

use zwerm_wire::PacketId;

/// How many identifiers there are.
const IDENTIFIERS: u64 = 65_535;

/// The identifier of a position; positions begin at 1.
pub(crate) fn packet_id_of(position: u64) -> PacketId {
    let index = position.saturating_sub(1) % IDENTIFIERS;
    let id = u16::try_from(index + 1).ok();
    id.and_then(PacketId::new).unwrap_or(PacketId::MIN)
}

/// Positions that were sent, or are to be, and not acknowledged to the end.
#[derive(Debug, Default)]
pub(crate) struct UnderWay(BTreeSet<u64>);

impl UnderWay {
    /// Whether the identifier of this position is free: nothing so old is under way that it has the same.
    pub(crate) fn has_place_for(&self, position: u64) -> bool {
        self.0.first().is_none_or(|oldest| position.saturating_sub(*oldest) < IDENTIFIERS)
    }

    /// Takes note of a position that is sent.
    pub(crate) fn insert(&mut self, position: u64) {
        self.0.insert(position);
    }

    /// The position that goes by an identifier.
    pub(crate) fn position_of(&self, packet_id: PacketId) -> Option<u64> {
        let oldest = *self.0.first()?;
        let (wanted, first) = (u64::from(packet_id.get()) - 1, oldest.saturating_sub(1) % IDENTIFIERS);
        let position = oldest + (wanted + IDENTIFIERS - first) % IDENTIFIERS;
        self.0.contains(&position).then_some(position)
    }

    /// The client is done with a position. False: it was not under way.
    pub(crate) fn remove(&mut self, position: u64) -> bool {
        self.0.remove(&position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_begin_at_1_and_go_round() {
        for (position, id) in [(1, 1), (2, 2), (65_535, 65_535), (65_536, 1), (131_071, 1), (131_070, 65_535)]
        {
            assert_eq!(packet_id_of(position).get(), id, "of {position}");
        }
    }

    #[test]
    fn an_identifier_leads_back_to_its_position() {
        for first in [1, 2, 65_534, 65_535, 65_536, 1_000_000] {
            let mut under_way = UnderWay::default();
            for position in [first, first + 3, first + 65_534] {
                assert!(under_way.has_place_for(position));
                under_way.insert(position);
            }
            assert!(!under_way.has_place_for(first + 65_535));
            for position in [first, first + 3, first + 65_534] {
                assert_eq!(under_way.position_of(packet_id_of(position)), Some(position));
            }
            assert_eq!(under_way.position_of(packet_id_of(first + 4)), None);
            assert!(under_way.remove(first) && !under_way.remove(first));
            assert!(under_way.has_place_for(first + 65_535 + 2));
        }
    }
}
