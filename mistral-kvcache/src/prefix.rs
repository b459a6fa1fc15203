//! The longest common prefix of a new prompt with any known sequence.
//!
//! Here are token ids alone. Which keys and values belong to them, and whether a cache can still
//! be forked at some length, is for the caller to know: that is what
//! [`PrefixIndex::longest_with`] asks.
//!
//! # How it is found
//!
//! The sequences stand in lexicographic order, each with the number of tokens that it has in
//! common with the one before it. A prompt is compared from the first on, and every comparison
//! goes on where the last one ended:
//!
//! ```text
//!                common with      the prompt 1 2 3 4 has        tokens compared
//!                the one before   this many in common
//!     1 1 5            0          1   compared from 0           1 1
//!     1 2 3 9          1          3   1 = 1, so go on at 1      2 3 9
//!     1 2 3 9 9        4          3   4 > 3: differs as well    none
//!     1 2 7            2          2   2 < 3: past the prompt    none, and the walk ends
//!     1 8              1
//! ```
//!
//! A token of the prompt that matched is never compared again, so a search costs the length of the
//! prompt and a step for each sequence, however long the sequences are. From where the walk ends
//! common prefixes only get shorter on both sides: the next best is the better of two neighbours.

use crate::error::CacheError;

/// A sequence that begins as a prompt does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Match<K> {
    /// Whose tokens they are.
    pub key: K,
    /// How many of the first tokens are the same; at least 1.
    pub len: usize,
}

/// The token ids of live or saved sequences, in which a prompt's longest known prefix is found.
///
/// The caller keeps it in step with the sequences: [`insert`](Self::insert) one when its prompt is
/// committed, [`extend`](Self::extend) it as tokens are generated, [`truncate`](Self::truncate) it
/// on a rewind, [`remove`](Self::remove) it when the sequence ends. Keys are the caller's: a
/// [`SequenceId`](crate::SequenceId), a file's path.
///
/// ```
/// use mistral_kvcache::{Match, PrefixIndex};
///
/// let mut index = PrefixIndex::new();
/// index.insert("chat", &[1, 733, 16289, 28793, 22557]);
/// index.insert("tools", &[1, 733, 5, 6]);
/// index.extend(&"tools", &[7, 8])?;
///
/// let prompt = [1, 733, 5, 6, 7, 9];
/// assert_eq!(index.longest(&prompt), Some(Match { key: "tools", len: 5 }));
/// // The last token is always computed, or there would be no logits to go on from.
/// assert_eq!(index.longest(&[1, 733, 5]), Some(Match { key: "tools", len: 2 }));
/// // What cannot be forked there gives way to the next best.
/// let chat = index.longest_with(&prompt, |key, _len| *key != "tools");
/// assert_eq!(chat, Some(Match { key: "chat", len: 2 }));
/// # Ok::<(), mistral_kvcache::CacheError>(())
/// ```
#[derive(Debug, Clone)]
pub struct PrefixIndex<K> {
    /// In the order of their tokens, equal ones in the order in which they came.
    entries: Vec<Entry<K>>,
    /// Sequences inserted so far.
    inserted: u64,
}

#[derive(Debug, Clone)]
struct Entry<K> {
    key: K,
    tokens: Vec<u32>,
    /// How many of its first tokens are those of the entry before it; 0 for the first.
    common: usize,
    /// A later one was inserted later.
    serial: u64,
}

impl<K> Default for PrefixIndex<K> {
    fn default() -> Self {
        Self { entries: Vec::new(), inserted: 0 }
    }
}

impl<K: Clone + Eq> PrefixIndex<K> {
    /// An index of no sequence. Allocates nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sequences in it.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no sequence in it.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The tokens of a sequence, if it is known.
    pub fn tokens(&self, key: &K) -> Option<&[u32]> {
        self.entries.iter().find(|entry| entry.key == *key).map(|entry| entry.tokens.as_slice())
    }

    /// Bytes allocated for sequences and their tokens, without what keys themselves may own.
    pub fn bytes(&self) -> usize {
        let tokens: usize = self.entries.iter().map(|entry| entry.tokens.capacity()).sum();
        self.entries.capacity() * size_of::<Entry<K>>() + tokens * size_of::<u32>()
    }

    /// Remembers the tokens of a sequence; those of one with the same key are replaced.
    ///
    /// # Cost
    ///
    /// `O(tokens log sequences)`, and a step for each sequence.
    pub fn insert(&mut self, key: K, tokens: &[u32]) {
        self.remove(&key);
        let serial = self.inserted;
        self.inserted += 1;
        self.place(Entry { key, tokens: tokens.to_vec(), common: 0, serial });
    }

    /// Appends tokens to a sequence.
    ///
    /// # Errors
    ///
    /// - [`CacheError::UnknownKey`]: no such sequence.
    ///
    /// # Cost
    ///
    /// A step for each sequence, and the tokens; as [`insert`](Self::insert) if another sequence
    /// begins with all of this one.
    pub fn extend(&mut self, key: &K, tokens: &[u32]) -> Result<(), CacheError> {
        let index = self.find(key)?;
        let len = self.entries[index].tokens.len();
        // Only where the next one begins with all of this one may the two change places. What is
        // shared with the one before ended earlier, or with that one's last token.
        if self.entries.get(index + 1).is_some_and(|next| next.common == len) {
            let mut entry = self.take(index);
            entry.tokens.extend_from_slice(tokens);
            self.place(entry);
        } else {
            self.entries[index].tokens.extend_from_slice(tokens);
        }
        Ok(())
    }

    /// Forgets all but the first `len` tokens of a sequence; nothing if it has no more.
    ///
    /// # Errors
    ///
    /// - [`CacheError::UnknownKey`]: no such sequence.
    ///
    /// # Cost
    ///
    /// As [`insert`](Self::insert).
    pub fn truncate(&mut self, key: &K, len: usize) -> Result<(), CacheError> {
        let index = self.find(key)?;
        let mut entry = self.take(index);
        entry.tokens.truncate(len);
        self.place(entry);
        Ok(())
    }

    /// Forgets a sequence and frees its memory; whether it was known.
    ///
    /// # Cost
    ///
    /// A step for each sequence.
    pub fn remove(&mut self, key: &K) -> bool {
        let Ok(index) = self.find(key) else {
            return false;
        };
        self.take(index);
        // A quarter full: half of the room is given back, so that shrinking stays rare.
        if self.entries.len() <= self.entries.capacity() / 4 {
            self.entries.shrink_to(self.entries.len() * 2);
        }
        true
    }

    /// The sequence that has the most first tokens in common with a prompt.
    ///
    /// The prompt's last token is not counted: at least one token must be computed, or there are
    /// no logits. Among equals it is the one inserted last. `None` if no sequence begins with the
    /// prompt's first token, or the prompt has fewer than two.
    ///
    /// # Cost
    ///
    /// `O(tokens of the prompt + sequences)`, however long the sequences are. Allocates nothing but
    /// the key's clone.
    pub fn longest(&self, prompt: &[u32]) -> Option<Match<K>> {
        self.longest_with(prompt, |_, _| true)
    }

    /// As [`longest`](Self::longest), among the sequences that can be forked where they part from
    /// the prompt.
    ///
    /// `can_fork(key, len)` says whether the first `len` tokens of a sequence can be taken over.
    /// With a window of `W` that needs only the last `W` positions before `len`: they may still be
    /// held, or a rewind may bring them back. It is asked at most once for each sequence, for the
    /// whole common prefix, longest first: a sequence that has forgotten what it needs at `len` has
    /// forgotten what it needs before.
    ///
    /// # Cost
    ///
    /// As [`longest`](Self::longest), and what `can_fork` costs.
    pub fn longest_with(
        &self,
        prompt: &[u32],
        can_fork: impl Fn(&K, usize) -> bool,
    ) -> Option<Match<K>> {
        let (_, prompt) = prompt.split_last()?;
        let (passed, len) = self.walk(prompt);
        let (mut low, mut high) = (passed, passed);
        // What the next entry below and the next above have in common with the prompt.
        let (mut below, mut above) = (len, self.common_of(high));
        loop {
            let len = below.max(above);
            if len == 0 {
                return None;
            }
            let mut best: Option<&Entry<K>> = None;
            let mut offer = |index: usize| {
                let entry = &self.entries[index];
                let newer = best.is_none_or(|best| best.serial < entry.serial);
                if newer && can_fork(&entry.key, len) {
                    best = Some(entry);
                }
            };
            while low > 0 && below == len {
                low -= 1;
                offer(low);
                below = below.min(self.common_of(low));
            }
            while high < self.entries.len() && above == len {
                offer(high);
                high += 1;
                above = above.min(self.common_of(high));
            }
            if let Some(entry) = best {
                return Some(Match { key: entry.key.clone(), len });
            }
        }
    }

    /// Walks up to the first entry past the prompt; its index, and what the one before it has in
    /// common with the prompt. Up to there, common prefixes only get longer.
    fn walk(&self, prompt: &[u32]) -> (usize, usize) {
        let mut len = 0;
        for (index, entry) in self.entries.iter().enumerate() {
            if entry.common < len {
                return (index, len);
            }
            if entry.common == len {
                len += common_prefix(&prompt[len..], &entry.tokens[len..]);
            }
        }
        (self.entries.len(), len)
    }

    /// What entry `index` has in common with the one before it; 0 if there is none.
    fn common_of(&self, index: usize) -> usize {
        self.entries.get(index).map_or(0, |entry| entry.common)
    }

    fn find(&self, key: &K) -> Result<usize, CacheError> {
        self.entries.iter().position(|entry| entry.key == *key).ok_or(CacheError::UnknownKey)
    }

    /// Takes an entry out of the order.
    fn take(&mut self, index: usize) -> Entry<K> {
        let entry = self.entries.remove(index);
        if let Some(next) = self.entries.get_mut(index) {
            next.common = next.common.min(entry.common);
        }
        entry
    }

    /// Puts an entry where it belongs in the order.
    fn place(&mut self, mut entry: Entry<K>) {
        let index = self.entries.partition_point(|other| {
            (other.tokens.as_slice(), other.serial) < (entry.tokens.as_slice(), entry.serial)
        });
        let before = index.checked_sub(1).map(|before| &self.entries[before]);
        entry.common = before.map_or(0, |before| common_prefix(&before.tokens, &entry.tokens));
        if let Some(next) = self.entries.get_mut(index) {
            next.common = common_prefix(&entry.tokens, &next.tokens);
        }
        self.entries.insert(index, entry);
    }
}

/// How many first tokens are the same.
fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
