//! What is evicted, and what takes its place: indices alone.

use std::cmp::Ordering;
use std::ops::Range;

use ndarray::ArrayView1;

use super::HeavyHitterConfig;

/// A position that one head keeps, and the attention weight that it got so far.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Kept {
    /// Absolute position in the text.
    pub position: usize,
    /// Sum over all queries, and all query heads of the group, since it was staged. In `f64`, so
    /// that small weights count in long texts as well.
    pub weight: f64,
}

impl Kept {
    /// Lighter first; of equals the older one. Weights were checked, so none is not a number; -0 is
    /// no lighter than 0.
    fn by_weight(&self, other: &Self) -> Ordering {
        let weight = self.weight.partial_cmp(&other.weight).unwrap_or(Ordering::Equal);
        weight.then(self.position.cmp(&other.position))
    }
}

/// Leaves in `evicted` the indices, in rising order, of what one head has to give up: the lightest
/// of all that is older than the last `recent` positions.
pub(super) fn lightest(
    evicted: &mut Vec<usize>,
    (old, new, chunk): (&[Kept], ArrayView1<'_, f32>, &Range<usize>),
    config: &HeavyHitterConfig,
) {
    let at = |index: usize| match index.checked_sub(old.len()) {
        None => old[index],
        Some(i) => Kept { position: chunk.start + i, weight: f64::from(new[i]) },
    };
    let total = old.len() + new.len();
    let excess = total.saturating_sub(config.recent + config.heavy);
    evicted.clear();
    if let Some(last) = excess.checked_sub(1) {
        let recent = chunk.end.saturating_sub(config.recent);
        // The last `recent` positions are all there, so at least `excess` are older.
        evicted.extend((0..total).filter(|&index| at(index).position < recent));
        evicted.select_nth_unstable_by(last, |&a, &b| at(a).by_weight(&at(b)));
        evicted.truncate(excess);
        evicted.sort_unstable();
    }
}

/// Which slot each surviving token of the chunk goes to: `(slot, token)`.
///
/// Slots that were given up come first, then those that were never used.
pub(super) fn placements(
    evicted: &[usize],
    old: usize,
    new: usize,
    budget: usize,
) -> impl Iterator<Item = (usize, usize)> {
    let (slots, tokens) = evicted.split_at(evicted.partition_point(|&index| index < old));
    let mut gone = tokens.iter().map(move |index| index - old).peekable();
    let survivors = (0..new).filter(move |token| gone.next_if_eq(token).is_none());
    slots.iter().copied().chain(old..budget).zip(survivors)
}
