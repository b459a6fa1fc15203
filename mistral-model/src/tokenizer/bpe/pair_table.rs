//! What is known of pairs of symbols: a row for each left symbol, sorted by the right one.
//!
//! Two binary searches' worth of memory and nothing hashed: a file from a stranger cannot make
//! lookups slow.

/// A value for some pairs of symbols.
#[derive(Debug, Clone)]
pub(super) struct PairTable<V> {
    /// Where the row of each left symbol starts; one more for the end of the last.
    starts: Vec<u32>,
    /// The right symbol and the value.
    entries: Vec<(u32, V)>,
}

impl<V: Copy> PairTable<V> {
    /// Of `(left, right, value)`, where the last of the same pair counts; `left` is below `n_left`.
    pub(super) fn new(n_left: usize, mut pairs: Vec<(u32, u32, V)>) -> Self {
        // Stable, so that those of one pair stay in their order.
        pairs.sort_by_key(|(left, right, _)| (*left, *right));
        pairs.reverse();
        pairs.dedup_by_key(|(left, right, _)| (*left, *right));
        pairs.reverse();
        let mut starts = Vec::with_capacity(n_left + 1);
        let mut counted = 0;
        for left in 0..=n_left {
            let ahead = pairs.iter().skip(counted);
            counted += ahead.take_while(|(found, ..)| (*found as usize) < left).count();
            starts.push(counted as u32);
        }
        let entries = pairs.into_iter().map(|(_, right, value)| (right, value)).collect();
        Self { starts, entries }
    }

    /// The value of a pair. Symbols that the table has never seen have none.
    #[inline]
    pub(super) fn get(&self, left: u32, right: u32) -> Option<V> {
        let left = left as usize;
        let (start, end) = (*self.starts.get(left)?, *self.starts.get(left + 1)?);
        let row = self.entries.get(start as usize..end as usize)?;
        let index = row.binary_search_by_key(&right, |(right, _)| *right).ok()?;
        Some(row.get(index)?.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pair_has_its_last_value() {
        let pairs = vec![(3, 1, 'a'), (0, 7, 'b'), (3, 0, 'c'), (3, 1, 'd'), (1, 2, 'e')];
        let table = PairTable::new(4, pairs);
        let found = [(3, 1), (0, 7), (3, 0), (1, 2)].map(|(l, r)| table.get(l, r));
        assert_eq!(found, [Some('d'), Some('b'), Some('c'), Some('e')]);
        for (left, right) in [(0, 0), (2, 1), (3, 2), (4, 0), (u32::MAX, 0), (1, u32::MAX)] {
            assert_eq!(table.get(left, right), None, "{left} {right}");
        }
    }
}
