//! The tries against a list that is searched with `TopicFilter::matches`, under random changes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use zwerm_routing::{Destination, FilterTrie, Interest, Matches, RetainedIndex, RouteTable};
use zwerm_wire::{TopicFilter, TopicName};

type Model = BTreeMap<(TopicFilter, u64), u32>;
type Members = Vec<(u64, u32)>;

/// Even keys are nodes, odd ones shards.
fn destination(key: u64) -> Destination {
    if key.is_multiple_of(2) {
        Destination::Node(key)
    } else {
        Destination::Shard(u32::try_from(key).unwrap())
    }
}

/// All three fields follow the number, so that every field counts.
fn interest(members: u32) -> Interest {
    Interest {
        members,
        only_qos0: members.is_multiple_of(3),
        since: u64::from(members) * 7,
        online: members / 2,
    }
}

/// Few levels and few names, so that filters meet topics; sometimes below 60 or more equal levels, so that they
/// meet at the depth where tries stop having nodes.
fn path(levels: impl Strategy<Value = &'static str> + 'static) -> impl Strategy<Value = String> {
    let deep = prop_oneof![4 => Just(0usize), 1 => 60usize..67];
    (deep, prop::collection::vec(levels, 1..6))
        .prop_map(|(deep, levels)| format!("{}{}", "a/".repeat(deep), levels.join("/")))
        .prop_filter("a topic has a character", |text| !text.is_empty())
}

fn topic() -> impl Strategy<Value = TopicName> {
    let levels = prop::sample::select(&["a", "b", "", "$a", "a!", "long level"][..]);
    path(levels).prop_map(|text| TopicName::new(text).unwrap())
}

fn filter() -> impl Strategy<Value = TopicFilter> {
    let levels = prop::sample::select(&["a", "b", "", "$a", "a!", "+", "+"][..]);
    let end = prop::sample::select(&["", "", "/#"][..]);
    let share = prop::sample::select(&["", "", "$share/g/", "$share/h/", "$exclusive/"][..]);
    let built = (share, path(levels), end).prop_map(|(share, text, end)| format!("{share}{text}{end}"));
    let text = prop_oneof![20 => built, 1 => Just("#".to_owned()), 1 => Just("$share/g/#".to_owned())];
    text.prop_map(|text| TopicFilter::new(text).unwrap())
}

#[derive(Debug, Clone)]
enum Step {
    Insert(TopicFilter, u64, u32),
    Remove(TopicFilter, u64),
    /// Removes what is there, whichever it is.
    RemoveOne(prop::sample::Index),
    Snapshot,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let insert =
        (filter(), 0u64..12, 1u32..9).prop_map(|(filter, key, value)| Step::Insert(filter, key, value));
    let remove = (filter(), 0u64..12).prop_map(|(filter, key)| Step::Remove(filter, key));
    let remove_one = any::<prop::sample::Index>().prop_map(Step::RemoveOne);
    let step = prop_oneof![6 => insert, 1 => remove, 3 => remove_one, 1 => Just(Step::Snapshot)];
    prop::collection::vec(step, 0..120)
}

fn naive(model: &Model, topic: &TopicName) -> (Members, Vec<(TopicFilter, Members)>) {
    let mut plain = Vec::new();
    let mut shared: BTreeMap<TopicFilter, Members> = BTreeMap::new();
    for ((filter, key), value) in model.iter().filter(|((filter, _), _)| filter.matches(topic)) {
        if filter.is_shared() {
            shared.entry(filter.clone()).or_default().push((*key, *value));
        } else {
            plain.push((*key, *value));
        }
    }
    plain.sort_unstable();
    (plain, shared.into_iter().collect())
}

fn check(trie: &FilterTrie<u64, u32>, model: &Model, topics: &[TopicName], found: &mut Matches<u64, u32>) {
    assert_eq!(trie.len(), model.len());
    assert_eq!(trie.is_empty(), model.is_empty());
    let mut listed: Vec<_> = trie.filters().map(|(filter, key, value)| ((filter, *key), *value)).collect();
    listed.sort_unstable();
    assert!(listed.iter().map(|(pair, value)| (pair, value)).eq(model.iter()));
    for topic in topics {
        found.clear();
        trie.matches(topic, found);
        found.plain.sort_unstable();
        let mut shared: Vec<_> =
            found.shared.iter().map(|group| (group.filter.clone(), group.members.clone())).collect();
        shared.sort_unstable();
        assert_eq!((found.plain.clone(), shared), naive(model, topic), "topic {topic}");
    }
}

proptest! {
    #[test]
    fn a_filter_trie_finds_what_the_specification_says_and_snapshots_stay(
        steps in steps(),
        topics in prop::collection::vec(topic(), 1..12),
    ) {
        let mut trie = FilterTrie::new();
        let mut model = Model::new();
        let mut snapshots = Vec::new();
        let mut found = Matches::new();
        for step in steps {
            match step {
                Step::Insert(filter, key, value) => {
                    prop_assert_eq!(trie.insert(&filter, key, value), model.insert((filter.clone(), key), value));
                    prop_assert_eq!(trie.get(&filter, &key), Some(&value));
                }
                Step::Remove(filter, key) => {
                    prop_assert_eq!(trie.remove(&filter, &key), model.remove(&(filter, key)));
                }
                Step::RemoveOne(index) if !model.is_empty() => {
                    let (filter, key) = model.keys().nth(index.index(model.len())).unwrap().clone();
                    prop_assert_eq!(trie.remove(&filter, &key), model.remove(&(filter, key)));
                }
                Step::RemoveOne(_) => {}
                Step::Snapshot => snapshots.push((trie.clone(), model.clone())),
            }
        }
        check(&trie, &model, &topics, &mut found);
        for (trie, model) in &snapshots {
            check(trie, model, &topics, &mut found);
        }
        for (filter, key) in model.keys() {
            prop_assert!(trie.remove(filter, key).is_some());
        }
        check(&trie, &Model::new(), &topics, &mut found);
    }

    #[test]
    fn a_retained_index_finds_what_the_specification_says_in_order_and_snapshots_stay(
        changes in prop::collection::vec((any::<bool>(), topic(), any::<u32>()), 0..120),
        filters in prop::collection::vec(filter(), 1..12),
        snapshot_at in 0usize..120,
    ) {
        let mut index = RetainedIndex::new();
        // By levels: that is the order of a topic tree.
        let mut model: BTreeMap<Vec<String>, (TopicName, u32)> = BTreeMap::new();
        let mut snapshot = (index.clone(), model.clone());
        for (at, (insert, topic, value)) in changes.into_iter().enumerate() {
            let levels: Vec<_> = topic.levels().map(str::to_owned).collect();
            if insert {
                let old = model.insert(levels, (topic.clone(), value)).map(|(_, old)| old);
                prop_assert_eq!(index.insert(&topic, value), old);
            } else {
                prop_assert_eq!(index.remove(&topic), model.remove(&levels).map(|(_, old)| old));
            }
            prop_assert_eq!(index.get(&topic).copied(), insert.then_some(value));
            if at == snapshot_at {
                snapshot = (index.clone(), model.clone());
            }
        }
        for (index, model) in [(&index, &model), (&snapshot.0, &snapshot.1)] {
            prop_assert_eq!(index.len(), model.len());
            let all = index.iter().map(|(topic, value)| (topic, *value));
            prop_assert!(all.eq(model.values().cloned()));
            for filter in &filters {
                let found = index.matches(filter).map(|(topic, value)| (topic, *value));
                let wanted = model.values().filter(|(topic, _)| filter.matches(topic)).cloned();
                prop_assert_eq!(found.collect::<Vec<_>>(), wanted.collect::<Vec<_>>(), "filter {}", filter);
            }
        }
    }

    #[test]
    fn a_route_table_forgets_and_replaces_destinations_as_if_filter_by_filter(
        steps in steps(),
        full in prop::collection::vec((filter(), 0u32..4), 0..20),
        gone in 0u64..12,
        topics in prop::collection::vec(topic(), 1..8),
    ) {
        let mut table = RouteTable::new();
        let mut model = Model::new();
        for step in steps {
            let before = table.generation();
            let changed = match step {
                Step::Insert(filter, node, members) => {
                    let changed = table.set(destination(node), &filter, interest(members));
                    prop_assert_eq!(changed, model.insert((filter, node), members) != Some(members));
                    changed
                }
                Step::Remove(filter, node) => {
                    let changed = table.set(destination(node), &filter, Interest::NONE);
                    prop_assert_eq!(changed, model.remove(&(filter, node)).is_some());
                    changed
                }
                Step::RemoveOne(_) | Step::Snapshot => false,
            };
            prop_assert_eq!(table.generation() > before, changed);
        }
        model.retain(|(_, node), _| *node != gone);
        let before = table.generation();
        prop_assert_eq!(table.remove(destination(gone)), table.generation() > before);
        let other = (gone + 1) % 12;
        model.retain(|(_, node), _| *node != other);
        model.extend(full.iter().map(|(filter, members)| ((filter.clone(), other), *members)));
        model.retain(|_, members| *members > 0);
        let full: Vec<_> = full.into_iter().map(|(filter, members)| (filter, interest(members))).collect();
        table.replace(destination(other), full.clone());
        let settled = table.generation();
        prop_assert!(!table.replace(destination(other), full), "a repeat changes nothing");
        prop_assert_eq!(table.generation(), settled);

        prop_assert_eq!(table.len(), model.len());
        for node in 0..12 {
            let routes = table.routes_of(destination(node));
            let routes: Vec<_> = routes.map(|(filter, interest)| (filter.clone(), interest)).collect();
            let wanted = model.iter().filter(|((_, of), _)| *of == node);
            let wanted = wanted.map(|((filter, _), members)| (filter.clone(), interest(*members)));
            prop_assert_eq!(routes, wanted.collect::<Vec<_>>());
        }
        for ((filter, key), members) in &model {
            prop_assert_eq!(table.interest(destination(*key), filter), interest(*members));
        }
        prop_assert!(table.destinations().all(|of| table.routes_of(of).next().is_some()));
        let mut found = Matches::new();
        for topic in &topics {
            found.clear();
            table.matches(topic, &mut found);
            found.plain.sort_unstable();
            let (plain, shared) = naive(&model, topic);
            let mut plain: Vec<_> =
                plain.into_iter().map(|(key, members)| (destination(key), interest(members))).collect();
            plain.sort_unstable();
            prop_assert_eq!(&found.plain, &plain);
            prop_assert_eq!(found.shared.len(), shared.len());
        }
    }
}
