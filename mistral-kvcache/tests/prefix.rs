//! The prefix index against a scan over all sequences.

#![allow(clippy::unwrap_used)] // a test may panic

use mistral_kvcache::{CacheError, Match, PrefixIndex};
use proptest::prelude::*;

/// Every sequence in the order in which it was inserted.
#[derive(Default)]
struct Scan(Vec<(u8, Vec<u32>)>);

impl Scan {
    fn find(&mut self, key: u8) -> Option<&mut Vec<u32>> {
        self.0.iter_mut().find(|(k, _)| *k == key).map(|(_, tokens)| tokens)
    }

    fn remove(&mut self, key: u8) -> bool {
        let before = self.0.len();
        self.0.retain(|(k, _)| *k != key);
        self.0.len() < before
    }

    fn longest(&self, prompt: &[u32], can_fork: impl Fn(&u8, usize) -> bool) -> Option<Match<u8>> {
        let (_, prompt) = prompt.split_last()?;
        let mut best: Option<Match<u8>> = None;
        for (key, tokens) in &self.0 {
            let len = prompt.iter().zip(tokens).take_while(|(a, b)| a == b).count();
            let better = len > 0 && best.as_ref().is_none_or(|best| best.len <= len);
            if better && can_fork(key, len) {
                best = Some(Match { key: *key, len });
            }
        }
        best
    }
}

#[derive(Debug, Clone)]
enum Step {
    Insert(u8, Vec<u32>),
    Extend(u8, Vec<u32>),
    Truncate(u8, usize),
    Remove(u8),
    /// The prompt, and a table of what can be forked.
    Search(Vec<u32>, u64),
}

fn step() -> impl Strategy<Value = Step> {
    // Few keys and fewer tokens: sequences are often equal, or one begins with another.
    let key = 0u8..8;
    let tokens = |len| prop::collection::vec(prop_oneof![Just(0), Just(1), Just(u32::MAX)], 0..len);
    prop_oneof![
        3 => (key.clone(), tokens(12)).prop_map(|(key, tokens)| Step::Insert(key, tokens)),
        3 => (key.clone(), tokens(4)).prop_map(|(key, tokens)| Step::Extend(key, tokens)),
        1 => (key.clone(), 0usize..10).prop_map(|(key, len)| Step::Truncate(key, len)),
        1 => key.prop_map(Step::Remove),
        6 => (tokens(14), any::<u64>()).prop_map(|(prompt, table)| Step::Search(prompt, table)),
    ]
}

fn run(steps: &[Step]) {
    let mut index = PrefixIndex::new();
    let mut scan = Scan::default();
    for step in steps {
        match step {
            Step::Insert(key, tokens) => {
                scan.remove(*key);
                scan.0.push((*key, tokens.clone()));
                index.insert(*key, tokens);
            }
            Step::Extend(key, tokens) => {
                let known = scan.find(*key).map(|known| known.extend_from_slice(tokens));
                assert_eq!(index.extend(key, tokens), known.ok_or(CacheError::UnknownKey));
            }
            Step::Truncate(key, len) => {
                let known = scan.find(*key).map(|known| known.truncate(*len));
                assert_eq!(index.truncate(key, *len), known.ok_or(CacheError::UnknownKey));
            }
            Step::Remove(key) => assert_eq!(index.remove(key), scan.remove(*key)),
            Step::Search(prompt, table) => {
                let can_fork = |key: &u8, len: usize| {
                    let bit = (usize::from(*key) * 7 + len) % 64;
                    (table >> bit) & 1 == 1
                };
                assert_eq!(index.longest(prompt), scan.longest(prompt, |_, _| true));
                assert_eq!(
                    index.longest_with(prompt, can_fork),
                    scan.longest(prompt, can_fork),
                    "{prompt:?} in {index:?}"
                );
            }
        }
        assert_eq!(index.len(), scan.0.len());
        for (key, tokens) in &scan.0 {
            assert_eq!(index.tokens(key), Some(tokens.as_slice()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_search_finds_what_a_scan_over_all_sequences_finds(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        run(&steps);
    }
}

#[test]
fn the_last_token_of_a_prompt_is_never_counted() {
    let mut index = PrefixIndex::new();
    index.insert('a', &[1, 2, 3]);
    let len = |prompt: &[u32]| index.longest(prompt).map_or(0, |found| found.len);
    assert_eq!(len(&[]), 0);
    assert_eq!(len(&[1]), 0);
    assert_eq!(len(&[1, 2]), 1);
    assert_eq!(len(&[1, 2, 3]), 2);
    assert_eq!(len(&[1, 2, 3, 4]), 3);
    assert_eq!(len(&[1, 2, 3, 4, 5]), 3);
    assert_eq!(len(&[2, 1]), 0);
}

#[test]
fn of_equal_sequences_the_one_inserted_last_is_found() {
    let mut index = PrefixIndex::new();
    for key in ["old", "new"] {
        index.insert(key, &[1, 2, 3]);
    }
    let prompt = [1, 2, 3, 4];
    assert_eq!(index.longest(&prompt), Some(Match { key: "new", len: 3 }));
    // The newest may be the one that has been cut or gone on, wherever that puts it in the order.
    index.extend(&"new", &[0]).unwrap();
    assert_eq!(index.longest(&prompt), Some(Match { key: "new", len: 3 }));
    index.extend(&"old", &[9]).unwrap();
    assert_eq!(index.longest(&prompt), Some(Match { key: "new", len: 3 }));
    index.insert("old", &[1, 2, 3]);
    assert_eq!(index.longest(&prompt), Some(Match { key: "old", len: 3 }));
    assert!(index.remove(&"old"));
    assert_eq!(index.longest(&prompt), Some(Match { key: "new", len: 3 }));
    assert!(!index.remove(&"old"));
}

#[test]
fn with_a_window_a_sequence_that_forgot_too_much_gives_way() {
    // Positions that each sequence still holds, as a cache with a window of 4 would say.
    let held = |key: &&str| match *key {
        "long" => 6..10,
        _ => 0..3,
    };
    let mut index = PrefixIndex::new();
    index.insert("long", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    index.insert("short", &[1, 2, 3]);
    let window = 4;
    let can_fork = |key: &&str, len: usize| {
        let held = held(key);
        held.start <= len.saturating_sub(window) && len <= held.end
    };
    let found = |prompt: &[u32]| index.longest_with(prompt, can_fork);
    let all = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];
    assert_eq!(found(&all), Some(Match { key: "long", len: 10 }));
    // At 7 a query needs positions from 3 on; the long one has them from 6 on.
    let parting = [1, 2, 3, 4, 5, 6, 7, 0, 0];
    assert_eq!(index.longest(&parting), Some(Match { key: "long", len: 7 }));
    assert_eq!(found(&parting), Some(Match { key: "short", len: 3 }));
    assert_eq!(index.longest_with(&parting, |_, _| false), None);
}

#[test]
fn removal_frees_memory() {
    let mut index = PrefixIndex::new();
    assert_eq!(index.bytes(), 0);
    for key in 0..1000u32 {
        index.insert(key, &[key; 100]);
    }
    let full = index.bytes();
    assert!(full >= 1000 * 100 * 4);
    for key in 0..900 {
        assert!(index.remove(&key));
    }
    assert!(index.bytes() <= full / 4, "{} of {full} bytes", index.bytes());
    assert_eq!(index.longest(&[950, 950, 0]), Some(Match { key: 950, len: 2 }));
    for key in 900..1000 {
        assert!(index.remove(&key));
    }
    assert_eq!((index.len(), index.bytes()), (0, 0));
    assert!(index.is_empty());
    // As it does for a conversation that replaces its own tokens.
    for _ in 0..10 {
        index.insert(7, &[1; 100]);
    }
    assert_eq!(index.len(), 1);
    assert!(index.bytes() < 4096);
}

#[test]
fn tokens_that_come_one_by_one_are_found_as_if_at_once() {
    let mut index = PrefixIndex::new();
    let text: Vec<u32> = (0..300).collect();
    index.insert("whole", &text);
    index.insert("grown", &[]);
    for token in &text {
        index.extend(&"grown", &[*token]).unwrap();
    }
    let prompt: Vec<u32> = text.iter().copied().chain([7, 8]).collect();
    assert_eq!(index.longest(&prompt), Some(Match { key: "grown", len: 300 }));
    index.truncate(&"grown", 250).unwrap();
    index.truncate(&"grown", 260).unwrap(); // has no more
    assert_eq!(index.tokens(&"grown"), Some(&text[..250]));
    assert_eq!(index.longest(&prompt), Some(Match { key: "whole", len: 300 }));
    assert_eq!(index.tokens(&"nobody"), None);
    assert_eq!(index.extend(&"nobody", &[1]), Err(CacheError::UnknownKey));
}
