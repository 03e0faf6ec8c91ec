//! Who of a shard's durable sessions wants what: lookup by topic, members of shared subscriptions, and the routes
//! that follow. Knows sessions only by their numbers. Start at [`Interest::set`].

use imbl::OrdMap;
use zwerm_routing::{FilterTrie, Matches};
use zwerm_wire::{TopicFilter, TopicName};

use crate::group::Group;
use crate::routes::{Routes, ShardRoute};
use crate::session::Options;

/// Derived from the subscriptions of all sessions, but for the age of the routes. A clone is O(1).
#[derive(Debug, Clone, Default)]
pub(crate) struct Interest {
    /// Plain subscriptions, those of QoS 0 included: their identifiers travel with what others bring.
    plain: FilterTrie<u64, Options>,
    /// Shared subscriptions with QoS 1 or 2.
    groups: OrdMap<TopicFilter, Group>,
    /// Of the plain filters that more than one session wants with QoS 1 or 2: how many do.
    crowds: OrdMap<TopicFilter, u32>,
    routes: Routes,
    version: u64,
}

impl Interest {
    /// Sets or removes a session's subscription. The filter is kept: it must share no buffer with a log entry.
    pub(crate) fn set(
        &mut self,
        filter: &TopicFilter,
        session: u64,
        options: Option<Options>,
        is_online: bool,
    ) {
        if filter.is_shared() {
            return self.set_member(
                filter,
                session,
                options.filter(|options| options.is_queued()),
                is_online,
            );
        }
        let old = match options {
            Some(options) => self.plain.insert(filter, session, options),
            None => self.plain.remove(filter, &session),
        };
        let was_queued = old.is_some_and(Options::is_queued);
        let is_queued = options.is_some_and(Options::is_queued);
        match (was_queued, is_queued) {
            (false, true) => self.join(filter),
            (true, false) => self.leave(filter),
            _ => {}
        }
    }

    fn join(&mut self, filter: &TopicFilter) {
        if self.routes.contains_key(filter) {
            *self.crowds.entry(filter.clone()).or_insert(1) += 1;
        } else {
            self.set_route(filter, 1, 0);
        }
    }

    fn leave(&mut self, filter: &TopicFilter) {
        match self.crowds.get_mut(filter) {
            None => self.set_route(filter, 0, 0),
            Some(sessions) if *sessions > 2 => *sessions -= 1,
            Some(_) => {
                self.crowds.remove(filter);
            }
        }
    }

    fn set_member(&mut self, filter: &TopicFilter, session: u64, options: Option<Options>, is_online: bool) {
        if options.is_none() && !self.groups.contains_key(filter) {
            return;
        }
        let group = self.groups.entry(filter.clone()).or_default();
        group.set(session, options, is_online);
        let (members, online) = counts(group);
        if members == 0 {
            self.groups.remove(filter);
        }
        self.set_route(filter, members, online);
    }

    /// A session came online or went: says so in a shared subscription that it is a member of.
    pub(crate) fn move_member(&mut self, filter: &TopicFilter, session: u64, is_online: bool) {
        if let Some(group) = self.groups.get_mut(filter) {
            group.move_member(session, is_online);
            let (members, online) = counts(group);
            self.set_route(filter, members, online);
        }
    }

    fn set_route(&mut self, filter: &TopicFilter, members: u32, online: u32) {
        let old = self.routes.get(filter).copied();
        if old.map_or((0, 0), |old| (old.members, old.online)) == (members, online) {
            return;
        }
        self.version += 1;
        if members == 0 {
            self.routes.remove(filter);
        } else {
            let since = old.map_or(self.version, |old| old.since);
            self.routes.insert(filter.clone(), ShardRoute { members, online, since });
        }
    }

    /// The plain subscriptions that match, by session: one entry for each.
    pub(crate) fn matches(&self, topic: &TopicName) -> Vec<(u64, Options)> {
        let mut found = Matches::new();
        self.plain.matches(topic, &mut found);
        found.plain.sort_by_key(|(session, _)| *session);
        found.plain
    }

    /// The member of a shared subscription that gets the next message, with the filter as it is kept here.
    pub(crate) fn pick(
        &mut self,
        filter: &TopicFilter,
        length: impl Fn(u64) -> u64,
    ) -> Option<(TopicFilter, u64, Options)> {
        let (kept, _) = self.groups.get_key_value(filter)?;
        let kept = kept.clone();
        let (session, options) = self.groups.get_mut(filter)?.pick(length)?;
        Some((kept, session, options))
    }

    pub(crate) fn routes(&self) -> &Routes {
        &self.routes
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// The version in which a filter began to have members; 0 if it has none.
    pub(crate) fn since(&self, filter: &TopicFilter) -> u64 {
        self.routes.get(filter).map_or(0, |route| route.since)
    }

    /// The shared subscriptions that remember whom they compared last.
    pub(crate) fn cursors(&self) -> impl Iterator<Item = (&TopicFilter, u64)> {
        self.groups.iter().map(|(filter, group)| (filter, group.cursor())).filter(|(_, cursor)| *cursor > 0)
    }

    /// `None`: there is no such shared subscription.
    pub(crate) fn restore_cursor(&mut self, filter: &TopicFilter, cursor: u64) -> Option<()> {
        self.groups.get_mut(filter)?.restore_cursor(cursor);
        Some(())
    }

    /// Gives a route its age back. `None`: no session wants it so.
    pub(crate) fn restore_route(&mut self, filter: &TopicFilter, wanted: ShardRoute) -> Option<()> {
        let route = self
            .routes
            .get_mut(filter)
            .filter(|route| ShardRoute { since: wanted.since, ..**route } == wanted)?;
        route.since = wanted.since;
        Some(())
    }

    pub(crate) fn restore_version(&mut self, version: u64) {
        self.version = version;
    }
}

fn counts(group: &Group) -> (u32, u32) {
    let count = |members| u32::try_from(members).unwrap_or(u32::MAX);
    (count(group.members()), count(group.online()))
}
