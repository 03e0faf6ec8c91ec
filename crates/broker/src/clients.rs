//! The connections of this node by client id, and which of them a newer owner has ended.
//!
//! A kick may overtake the answer to the claim it ends; the fence remembers it until then. Knows no
//! sockets. Start at [`Clients::begin`].

use std::collections::HashMap;
use std::sync::Arc;

use bytestring::ByteString;
use foldhash::fast::RandomState;
use parking_lot::Mutex;
use zwerm_wire::ReasonCode;

use crate::mailbox::Mailbox;

#[derive(Debug, Default)]
struct Slot {
    /// Claims on their way.
    attaching: u32,
    /// Owners with a smaller epoch are outdated.
    fence: u64,
    live: Option<(u64, Arc<Mailbox>)>,
}

/// What came of a claim on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Registered {
    /// A newer owner exists already; nothing is registered.
    No,
    /// It is registered.
    Alone,
    /// It is registered, and an older connection here that was not to end anyway was told to.
    InPlaceOfAnother,
}

/// All connections of this node.
#[derive(Debug, Default)]
pub(crate) struct Clients(Mutex<HashMap<ByteString, Slot, RandomState>>);

impl Clients {
    /// A claim for the client id is on its way; must be followed by [`attach`](Self::attach) or
    /// [`give_up`](Self::give_up).
    pub(crate) fn begin(&self, client_id: &ByteString) {
        self.0.lock().entry(client_id.clone()).or_default().attaching += 1;
    }

    /// The claim failed.
    pub(crate) fn give_up(&self, client_id: &ByteString) {
        self.end(client_id, |slot| slot.attaching -= 1);
    }

    /// The claim gave this epoch: ends an older connection and registers the new one.
    pub(crate) fn attach(&self, client_id: &ByteString, epoch: u64, mailbox: &Arc<Mailbox>) -> Registered {
        let mut attached = false;
        let mut outdated = None;
        self.end(client_id, |slot| {
            slot.attaching -= 1;
            if slot.fence <= epoch {
                slot.fence = epoch;
                attached = true;
                outdated = slot.live.replace((epoch, Arc::clone(mailbox)));
            }
        });
        match outdated {
            Some((_, mailbox)) if mailbox.kick(ReasonCode::SessionTakenOver) => Registered::InPlaceOfAnother,
            _ if attached => Registered::Alone,
            _ => Registered::No,
        }
    }

    /// A newer owner has this epoch: an older connection here ends. True if there is one, and it was not to end
    /// anyway.
    pub(crate) fn kick(&self, client_id: &str, epoch: u64) -> bool {
        let mut clients = self.0.lock();
        let Some(slot) = clients.get_mut(client_id) else { return false };
        slot.fence = slot.fence.max(epoch);
        let outdated = slot.live.as_ref().filter(|(owned, _)| *owned < epoch);
        outdated.is_some_and(|(_, mailbox)| mailbox.kick(ReasonCode::SessionTakenOver))
    }

    /// The connection of this epoch is gone.
    pub(crate) fn detach(&self, client_id: &ByteString, epoch: u64) {
        self.end(client_id, |slot| drop(slot.live.take_if(|(owned, _)| *owned == epoch)));
    }

    fn end(&self, client_id: &ByteString, change: impl FnOnce(&mut Slot)) {
        let mut clients = self.0.lock();
        let Some(slot) = clients.get_mut(client_id) else { return };
        change(slot);
        if slot.attaching == 0 && slot.live.is_none() {
            clients.remove(client_id);
        }
    }

    /// Ends all connections.
    pub(crate) fn kick_all(&self, reason: ReasonCode) {
        self.each(|mailbox| {
            mailbox.kick(reason);
        });
    }

    /// Wakes all connections, as when the lease is back.
    pub(crate) fn wake_all(&self) {
        self.each(|mailbox| mailbox.bell().ring());
    }

    fn each(&self, act: impl Fn(&Mailbox)) {
        self.live().iter().for_each(|mailbox| act(mailbox));
    }

    /// Who is connected now, in an order that no hash decides: a simulation must replay.
    pub(crate) fn live(&self) -> Vec<Arc<Mailbox>> {
        let live = |(id, slot): (&ByteString, &Slot)| {
            slot.live.as_ref().map(|(epoch, mailbox)| (*epoch, id.clone(), Arc::clone(mailbox)))
        };
        let mut live: Vec<_> = self.0.lock().iter().filter_map(live).collect();
        live.sort_unstable_by(|one, other| (one.0, &one.1).cmp(&(other.0, &other.1)));
        live.into_iter().map(|(_, _, mailbox)| mailbox).collect()
    }

    /// Connections there are.
    pub(crate) fn len(&self) -> usize {
        self.0.lock().values().filter(|slot| slot.live.is_some()).count()
    }
}

#[cfg(test)]
mod tests {
    use zwerm_cluster::receipt::Bell;

    use super::*;
    use crate::config::QueueLimits;

    fn mailbox() -> Arc<Mailbox> {
        Arc::new(Mailbox::new(QueueLimits::default(), Bell::new()))
    }

    #[test]
    fn a_newer_connection_ends_the_older_one() {
        let (clients, id) = (Clients::default(), ByteString::from("c"));
        let (old, new) = (mailbox(), mailbox());
        for (epoch, mailbox, how) in [(1, &old, Registered::Alone), (2, &new, Registered::InPlaceOfAnother)] {
            clients.begin(&id);
            assert_eq!(clients.attach(&id, epoch, mailbox), how);
        }
        assert_eq!(old.kicked(), Some(ReasonCode::SessionTakenOver));
        assert_eq!(new.kicked(), None);
        clients.detach(&id, 1);
        assert_eq!(clients.len(), 1, "the older connection's end does not remove the newer one");
        clients.detach(&id, 2);
        assert!(clients.0.lock().is_empty());
    }

    #[test]
    fn a_kick_that_overtakes_its_claim_still_counts() {
        let (clients, id, late) = (Clients::default(), ByteString::from("c"), mailbox());
        clients.begin(&id);
        clients.kick("c", 7);
        assert_eq!(clients.attach(&id, 6, &late), Registered::No);
        assert!(clients.0.lock().is_empty());
    }

    #[test]
    fn a_kick_spares_the_epoch_it_names() {
        let (clients, id, owner) = (Clients::default(), ByteString::from("c"), mailbox());
        clients.begin(&id);
        assert_eq!(clients.attach(&id, 7, &owner), Registered::Alone);
        clients.kick("c", 7);
        assert_eq!(owner.kicked(), None);
    }
}
