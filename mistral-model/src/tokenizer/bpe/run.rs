//! Neighbouring symbols that may become one: the merging itself.
//!
//! The definition, which takes a time that grows with the square of the length: of all neighbours
//! that a merge joins, join those of the best rank, the leftmost of several; start again.
//!
//! Here the candidates wait in a queue, best first. A join makes at most two candidates more, with
//! the neighbours of the new symbol, so that `n` symbols make less than `3 n` of them, and a line of any
//! kind takes `n log n`. Worked through for `a b b` with the merges `a+b` (rank 1) and `b+b` (0):
//!
//! ```text
//! symbols a b b   queue (0, at 1) (1, at 0)
//! symbols a bb    queue (1, at 0)     `a+b` is no longer there: dropped
//! ```

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::pair_table::PairTable;

/// In the place of a symbol that was joined to the one before, and of a neighbour beyond either end.
const NONE: u32 = u32::MAX;

/// What two neighbours become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Merge {
    /// Lower is better.
    pub(super) rank: u32,
    /// The symbol that takes their place.
    pub(super) joined: u32,
}

/// Candidates, best first: rank in the upper half, position of the left symbol in the lower.
///
/// Most of a long line's candidates are made in order. They are read from a sorted list, front to
/// back; a heap takes those that come in between, and becomes the list when that is at its end.
#[derive(Debug, Default)]
struct Queue {
    sorted: Vec<u64>,
    /// Of those, taken so far.
    taken: usize,
    late: BinaryHeap<Reverse<u64>>,
}

impl Queue {
    /// A heap of less than this is as fast as a list.
    const SMALL: usize = 64;

    fn fill(&mut self, candidates: impl Iterator<Item = u64>) {
        self.late.clear();
        self.taken = 0;
        self.sorted.clear();
        self.sorted.extend(candidates);
        self.sorted.sort_unstable();
    }

    fn push(&mut self, candidate: u64) {
        self.late.push(Reverse(candidate));
    }

    fn pop(&mut self) -> Option<u64> {
        if self.taken == self.sorted.len() && self.late.len() > Self::SMALL {
            self.taken = 0;
            self.sorted.clear();
            self.sorted.extend(self.late.drain().map(|Reverse(candidate)| candidate));
            self.sorted.sort_unstable();
        }
        let listed = self.sorted.get(self.taken).copied();
        let late = self.late.peek().map(|Reverse(candidate)| *candidate);
        if late.is_none_or(|late| listed.is_some_and(|listed| listed <= late)) {
            self.taken += usize::from(listed.is_some());
            return listed;
        }
        self.late.pop();
        late
    }
}

/// Symbols in a row, and the memory for merging them, which is used again for the next row.
#[derive(Debug, Default)]
pub(super) struct Run {
    symbols: Vec<u32>,
    /// Positions of the neighbours.
    before: Vec<u32>,
    after: Vec<u32>,
    queue: Queue,
}

impl Run {
    /// Appends a symbol. There may be less than 2^32 of them.
    #[inline]
    pub(super) fn push(&mut self, symbol: u32) {
        self.symbols.push(symbol);
    }

    #[inline]
    pub(super) fn last(&self) -> Option<u32> {
        self.symbols.last().copied()
    }

    pub(super) fn clear(&mut self) {
        self.symbols.clear();
    }

    /// The symbols that are left, in order.
    pub(super) fn symbols(&self) -> impl Iterator<Item = u32> + '_ {
        self.symbols.iter().copied().filter(|symbol| *symbol != NONE)
    }

    /// Joins neighbours until no merge applies. Returns how many candidates it looked at.
    pub(super) fn merge(&mut self, merges: &PairTable<Merge>) -> usize {
        let n = self.symbols.len();
        if n < 2 {
            return 0;
        }
        self.before.clear();
        self.before.extend((0..n as u32).map(|at| at.wrapping_sub(1)));
        self.after.clear();
        self.after.extend((1..n as u32).chain([NONE]));
        let pairs = self.symbols.windows(2).zip(0u64..);
        self.queue.fill(pairs.filter_map(|(pair, at)| {
            let merge = merges.get(pair[0], pair[1])?;
            Some(u64::from(merge.rank) << 32 | at)
        }));

        let mut candidates = 0;
        while let Some(candidate) = self.queue.pop() {
            candidates += 1;
            let (rank, left) = ((candidate >> 32) as u32, candidate as u32 as usize);
            let right = self.after[left];
            if right == NONE {
                continue;
            }
            // Whoever stands here by now: if they have this rank, it is their turn.
            let merge = merges.get(self.symbols[left], self.symbols[right as usize]);
            if let Some(merge) = merge.filter(|merge| merge.rank == rank) {
                self.join(left, right as usize, merge.joined);
                let before = self.before[left];
                self.offer(before, left as u32, merges);
                self.offer(left as u32, self.after[left], merges);
            }
        }
        candidates
    }

    fn join(&mut self, left: usize, right: usize, joined: u32) {
        self.symbols[left] = joined;
        self.symbols[right] = NONE;
        let after = self.after[right];
        self.after[left] = after;
        if after != NONE {
            self.before[after as usize] = left as u32;
        }
    }

    /// Queues two neighbours if a merge joins them.
    fn offer(&mut self, left: u32, right: u32, merges: &PairTable<Merge>) {
        if left == NONE || right == NONE {
            return;
        }
        let pair = (self.symbols[left as usize], self.symbols[right as usize]);
        if let Some(merge) = merges.get(pair.0, pair.1) {
            self.queue.push(u64::from(merge.rank) << 32 | u64::from(left));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(merges: &[(u32, u32, u32, u32)]) -> PairTable<Merge> {
        let pairs = merges.iter().map(|&(l, r, rank, joined)| (l, r, Merge { rank, joined }));
        PairTable::new(64, pairs.collect())
    }

    fn merged(symbols: &[u32], merges: &PairTable<Merge>) -> (Vec<u32>, usize) {
        let mut run = Run::default();
        symbols.iter().for_each(|symbol| run.push(*symbol));
        let candidates = run.merge(merges);
        (run.symbols().collect(), candidates)
    }

    /// The definition.
    fn plain(symbols: &[u32], merges: &PairTable<Merge>) -> Vec<u32> {
        let mut symbols = symbols.to_vec();
        loop {
            let pairs = symbols.windows(2).enumerate();
            let joins = pairs.filter_map(|(at, p)| Some((merges.get(p[0], p[1])?, at)));
            let Some((merge, at)) = joins.min_by_key(|(merge, at)| (merge.rank, *at)) else {
                return symbols;
            };
            symbols[at] = merge.joined;
            symbols.remove(at + 1);
        }
    }

    #[test]
    fn the_best_rank_comes_first_and_the_leftmost_of_equals() {
        let (a, b) = (0, 1);
        let merges = table(&[(a, b, 1, 2), (b, b, 0, 3)]);
        assert_eq!(merged(&[a, b, b], &merges).0, [a, 3]);
        assert_eq!(merged(&[b, b, b], &merges).0, [3, b]);
        assert_eq!(merged(&[a, b, a, b], &merges).0, [2, 2]);
        assert_eq!(merged(&[a], &merges).0, [a]);
        assert_eq!(merged(&[], &merges).0, [0u32; 0]);
    }

    #[test]
    fn equal_symbols_double_with_work_that_grows_with_their_number() {
        // aa, aaaa, aaaaaaaa: each length joins with itself, at ranks of their own and at one rank.
        for equal_ranks in [false, true] {
            let doubling: Vec<_> =
                (0..12).map(|i| (i, i, if equal_ranks { 0 } else { i }, i + 1)).collect();
            let merges = table(&doubling);
            for n in [1_000, 2_000, 4_000, 100_000] {
                let (_, candidates) = merged(&vec![0; n], &merges);
                assert!((n / 2..3 * n).contains(&candidates), "{candidates} for {n}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

        #[test]
        fn the_queue_does_what_the_definition_says(
            // Few ranks and few symbols: ties and chains of merges are frequent.
            merges in prop::collection::vec((0u32..8, 0u32..8, 0u32..5), 0..40),
            // Also more than the heap takes at once.
            symbols in prop::collection::vec(0u32..4, 0..400),
        ) {
            // Joined symbols are new, or else four for ever.
            let merges: Vec<_> =
                merges.iter().zip(0..).map(|(&(l, r, rank), i)| (l, r, rank, 4 + i % 5)).collect();
            let merges = table(&merges);
            let (found, candidates) = merged(&symbols, &merges);
            prop_assert_eq!(found, plain(&symbols, &merges));
            prop_assert!(candidates <= 3 * symbols.len());
        }
    }
}
