//! Where a position lies in a rolling buffer: index arithmetic alone, no storage.
//!
//! Position `i` lies in slot `i % capacity` (arXiv:2310.06825, section 2, "Rolling Buffer Cache"),
//! so a new position overwrites the one that is `capacity` older. A range of positions therefore
//! lies in at most two runs of slots. Capacity 4, as in the paper's figure 2:
//!
//! ```text
//! slot            0   1   2   3
//!               ┌───┬───┬───┬───┐
//! 0..3 pushed   │ 0 │ 1 │ 2 │   │   one run:  slots 0..3
//!               ├───┼───┼───┼───┤
//! 0..6 pushed   │ 4 │ 5 │ 2 │ 3 │   two runs: positions 2..4 in slots 2..4,
//!               └───┴───┴───┴───┘             positions 4..6 in slots 0..2
//! ```
//!
//! Which of the kept positions a query sees is not decided here but by attention, the only place
//! that defines the window. The buffer just keeps as many positions as the window is long.

use std::num::NonZeroUsize;
use std::ops::Range;

/// The index arithmetic of a rolling buffer with a fixed number of slots.
///
/// ```
/// use mistral_kvcache::ring::Ring;
/// use std::num::NonZeroUsize;
///
/// let ring = Ring::new(NonZeroUsize::new(4).ok_or("zero")?);
/// let [old, new] = ring.runs(2..6);
/// assert_eq!((old.start, old.slots), (2, 2..4));
/// assert_eq!((new.start, new.slots), (4, 0..2));
/// # Ok::<(), &'static str>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ring {
    capacity: NonZeroUsize,
}

/// Consecutive positions in consecutive slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Position in the first slot.
    pub start: usize,
    /// The slots, in the order of the positions.
    pub slots: Range<usize>,
}

impl Ring {
    /// A ring with `capacity` slots.
    pub fn new(capacity: NonZeroUsize) -> Self {
        Self { capacity }
    }

    /// Number of slots.
    pub fn capacity(self) -> usize {
        self.capacity.get()
    }

    /// `position % capacity`.
    pub fn slot(self, position: usize) -> usize {
        position % self.capacity
    }

    /// The last `capacity` of `positions`: those that are still there when all were pushed.
    pub fn survivors(self, positions: Range<usize>) -> Range<usize> {
        let oldest = positions.end.saturating_sub(self.capacity());
        positions.start.max(oldest)..positions.end
    }

    /// The slots of the surviving `positions`, oldest first; an unused run is empty.
    ///
    /// Serves reading (which slots hold the positions) and writing (which part of a chunk goes
    /// where): a chunk longer than the ring is written only with its last `capacity` rows.
    pub fn runs(self, positions: Range<usize>) -> [Run; 2] {
        let kept = self.survivors(positions);
        let first = self.slot(kept.start);
        let until_wrap = kept.len().min(self.capacity() - first);
        [
            Run { start: kept.start, slots: first..first + until_wrap },
            Run { start: kept.start + until_wrap, slots: 0..kept.len() - until_wrap },
        ]
    }

    /// Whether `held` reaches back as far as a ring of this capacity must when `next` comes.
    ///
    /// The token at `next` brings its own row, so the `capacity - 1` rows before it suffice. This
    /// is why one step of decode can be taken back even after the ring has wrapped.
    pub fn reaches_back(self, held: &Range<usize>, next: usize) -> bool {
        held.start == 0 || (held.start <= next && next - held.start >= self.capacity() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(capacity: usize) -> Ring {
        Ring::new(NonZeroUsize::new(capacity).unwrap())
    }

    #[test]
    fn slots_are_overwritten_as_in_figure_2_of_the_paper() {
        let mut slots = [None; 4];
        let ring = ring(4);
        for position in 0..6 {
            slots[ring.slot(position)] = Some(position);
        }
        assert_eq!(slots, [Some(4), Some(5), Some(2), Some(3)]);
    }

    #[test]
    fn runs_name_each_surviving_position_once_and_in_order() {
        for capacity in 1..=9 {
            let ring = ring(capacity);
            for start in 0..20 {
                for end in start..start + 30 {
                    let listed: Vec<(usize, usize)> = ring
                        .runs(start..end)
                        .into_iter()
                        .flat_map(|run| (run.start..).zip(run.slots))
                        .collect();
                    let expected: Vec<(usize, usize)> = (start..end)
                        .skip((end - start).saturating_sub(capacity))
                        .map(|position| (position, position % capacity))
                        .collect();
                    assert_eq!(listed, expected, "capacity {capacity}, {start}..{end}");
                }
            }
        }
    }

    #[test]
    fn the_last_position_of_all_does_not_overflow() {
        let [old, new] = ring(4).runs(usize::MAX - 2..usize::MAX);
        assert_eq!(old.slots.len() + new.slots.len(), 2);
    }

    #[test]
    fn history_suffices_down_to_the_last_row_before_the_missing_one() {
        let ring = ring(4);
        assert!(ring.reaches_back(&(0..1), 1));
        assert!(ring.reaches_back(&(3..6), 6)); // rows 3, 4, 5 and the token's own
        assert!(!ring.reaches_back(&(4..6), 6));
        assert!(!ring.reaches_back(&(8..9), 6));
    }
}
