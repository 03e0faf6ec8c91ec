//! The members of one shared subscription in a shard, and which of them gets a message. Knows no queues but their
//! lengths. Start at [`Group::pick`].

use imbl::OrdMap;

use crate::limits::MAX_COMPARED;
use crate::session::Options;

/// Members by session, those with a connection apart: they come first. A clone is O(1).
#[derive(Debug, Clone, Default)]
pub(crate) struct Group {
    online: OrdMap<u64, Options>,
    offline: OrdMap<u64, Options>,
    /// The member that was compared last, if there are more than are compared at once; 0 is none.
    cursor: u64,
}

impl Group {
    pub(crate) fn members(&self) -> usize {
        self.online.len() + self.offline.len()
    }

    pub(crate) fn online(&self) -> usize {
        self.online.len()
    }

    /// Sets or removes a member.
    pub(crate) fn set(&mut self, session: u64, options: Option<Options>, is_online: bool) {
        self.online.remove(&session);
        self.offline.remove(&session);
        if let Some(options) = options {
            let pool = if is_online { &mut self.online } else { &mut self.offline };
            pool.insert(session, options);
        }
    }

    /// A member came online or went.
    pub(crate) fn move_member(&mut self, session: u64, is_online: bool) {
        let from = if is_online { &mut self.offline } else { &mut self.online };
        if let Some(options) = from.remove(&session) {
            self.set(session, Some(options), is_online);
        }
    }

    /// The member for the next message: of those online, else of all, the one with the shortest queue, of equals
    /// the oldest session. Of many members [`MAX_COMPARED`] are compared, the next time those behind them.
    pub(crate) fn pick(&mut self, length: impl Fn(u64) -> u64) -> Option<(u64, Options)> {
        let pool = if self.online.is_empty() { &self.offline } else { &self.online };
        let behind = pool.range(self.cursor.saturating_add(1)..);
        let round = behind.chain(pool.range(..=self.cursor)).take(MAX_COMPARED);
        let (picked, last) = round.fold((None, 0), |(best, _), (session, options)| {
            let candidate = (length(*session), *session, *options);
            let better =
                best.is_none_or(|best: (u64, u64, Options)| (candidate.0, candidate.1) < (best.0, best.1));
            (if better { Some(candidate) } else { best }, *session)
        });
        self.cursor = if pool.len() > MAX_COMPARED { last } else { 0 };
        picked.map(|(_, session, options)| (session, options))
    }

    pub(crate) fn cursor(&self) -> u64 {
        self.cursor
    }

    pub(crate) fn restore_cursor(&mut self, cursor: u64) {
        self.cursor = cursor;
    }
}

#[cfg(test)]
mod tests {
    use zwerm_wire::QoS;

    use super::*;

    const OPTIONS: Options =
        Options { qos: QoS::AtLeastOnce, no_local: false, retain_as_published: false, identifier: 0 };

    fn picks(group: &mut Group, lengths: &[u64]) -> Option<u64> {
        let length = |session: u64| lengths.get(session as usize).copied().unwrap_or_default();
        group.pick(length).map(|(session, _)| session)
    }

    #[test]
    fn the_online_come_first_then_the_shortest_queue_then_the_oldest_session() {
        let mut group = Group::default();
        assert_eq!(picks(&mut group, &[]), None);
        for session in 1..5 {
            group.set(session, Some(OPTIONS), session > 2);
        }
        assert_eq!(picks(&mut group, &[0, 0, 0, 5, 5]), Some(3));
        assert_eq!(picks(&mut group, &[0, 0, 0, 5, 4]), Some(4));
        group.move_member(4, false);
        assert_eq!(picks(&mut group, &[0, 0, 0, 5, 4]), Some(3));
        group.set(3, None, true);
        assert_eq!(picks(&mut group, &[0, 7, 6, 0, 6]), Some(2));
        assert_eq!((group.members(), group.cursor()), (3, 0));
    }

    #[test]
    fn in_a_large_group_every_member_has_its_turn() {
        let mut group = Group::default();
        let members = 3 * MAX_COMPARED as u64;
        for session in 1..=members {
            group.set(session, Some(OPTIONS), true);
        }
        let mut lengths = vec![0; members as usize + 1];
        for _ in 0..2 * members {
            let session = picks(&mut group, &lengths).unwrap();
            lengths[session as usize] += 1;
        }
        assert!(lengths[1..].iter().all(|length| *length == 2), "{lengths:?}");
    }
}
