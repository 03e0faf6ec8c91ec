//! What a client may send to hurt a trie: the deepest and the widest topics there are.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::thread;

use zwerm_routing::{FilterTrie, Matches, RetainedIndex};
use zwerm_wire::{TopicFilter, TopicName};

/// Runs with a stack far smaller than any that a node uses; a recursion without bound does not survive it.
fn on_a_small_stack(body: impl FnOnce() + Send + 'static) {
    thread::Builder::new().stack_size(256 * 1024).spawn(body).unwrap().join().unwrap();
}

fn slashes() -> String {
    "/".repeat(65_535)
}

#[test]
fn filters_of_65536_levels_are_kept_found_listed_and_dropped() {
    on_a_small_stack(|| {
        let exact = TopicFilter::new(slashes()).unwrap();
        let any = TopicFilter::new(format!("{}+", "+/".repeat(32_767))).unwrap();
        let all = TopicFilter::new(format!("{}#", "/".repeat(65_534))).unwrap();
        let mut trie = FilterTrie::new();
        for (key, filter) in [&exact, &any, &all].into_iter().enumerate() {
            assert_eq!(trie.insert(filter, key, ()), None);
        }
        let snapshot = trie.clone();
        let mut found = Matches::new();
        trie.matches(&TopicName::new(slashes()).unwrap(), &mut found);
        found.plain.sort_unstable();
        assert_eq!(found.plain, [(0, ()), (2, ())]);
        found.clear();
        trie.matches(&TopicName::new("/".repeat(32_767)).unwrap(), &mut found);
        assert_eq!(found.plain, [(1, ())]);
        assert_eq!(trie.filters().count(), 3);
        assert_eq!(trie.remove(&exact, &0), Some(()));
        drop(trie);
        assert_eq!(snapshot.get(&exact, &0), Some(&()));
    });
}

#[test]
fn topics_of_65536_levels_are_retained_found_and_dropped() {
    on_a_small_stack(|| {
        let deep = TopicName::new(slashes()).unwrap();
        let mut index = RetainedIndex::new();
        index.insert(&deep, 1);
        index.insert(&TopicName::new("/".repeat(65_534)).unwrap(), 2);
        let snapshot = index.clone();
        let found = |filter: &str| {
            let filter = TopicFilter::new(filter.to_owned()).unwrap();
            index.matches(&filter).map(|(_, value)| *value).collect::<Vec<_>>()
        };
        assert_eq!(found("#"), [2, 1]);
        assert_eq!(found("/+/#"), [2, 1]);
        assert_eq!(found(&slashes()), [1]);
        assert_eq!(found(&"/".repeat(65_533)), [] as [i32; 0]);
        assert_eq!(index.remove(&deep), Some(1));
        drop(index);
        assert_eq!(snapshot.get(&deep), Some(&1));
    });
}

#[test]
fn every_mix_of_names_and_wildcards_is_visited_once() {
    // 2^12 filters that all match one topic: the work is the number of filters, not of paths through them.
    let mut trie = FilterTrie::new();
    for mask in 0u32..4096 {
        let levels: Vec<_> = (0..12).map(|bit| if mask & (1 << bit) == 0 { "a" } else { "+" }).collect();
        trie.insert(&TopicFilter::new(levels.join("/")).unwrap(), mask, ());
    }
    let mut found = Matches::new();
    trie.matches(&TopicName::new(["a"; 12].join("/")).unwrap(), &mut found);
    found.plain.sort_unstable();
    assert!(found.plain.iter().map(|(mask, ())| *mask).eq(0..4096));
}

#[test]
fn a_kept_filter_does_not_hold_the_buffer_it_came_in() {
    // Both must be copies: a slice of this buffer would keep the other 60,000 bytes alive.
    let packet = bytes_of_a_packet();
    let text = packet.slice_ref(&packet[..14]);
    let filter = TopicFilter::new(text).unwrap();
    let mut trie = FilterTrie::new();
    trie.insert(&filter, 1, ());
    let kept = trie.filters().next().unwrap().0;
    assert_eq!(kept, filter);
    assert_ne!(kept.as_str().as_ptr(), filter.as_str().as_ptr());

    let topic = TopicName::new(packet.slice_ref(&packet[9..14])).unwrap();
    let mut index = RetainedIndex::new();
    index.insert(&topic, ());
    let kept = index.iter().next().unwrap().0;
    assert_eq!(kept, topic);
    assert_ne!(kept.as_ptr(), topic.as_ptr());
}

fn bytes_of_a_packet() -> bytestring::ByteString {
    format!("$share/g/a/b/c{}", "x".repeat(60_000)).into()
}
