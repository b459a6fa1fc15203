//! Where a position lies in a rolling buffer: index arithmetic alone, no storage.
//!
//! Position `i` lies in slot `i % slots` (arXiv:2310.06825, section 2, "Rolling Buffer Cache"), so
//! a new position overwrites the one that is `slots` older. A range of positions therefore lies in
//! at most two runs of slots. With 4 slots, as in the paper's figure 2:
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
//! A real ring keeps exactly `capacity` positions in `capacity` slots rounded up to a multiple of
//! [`PANEL`] = 16. Slot and position are then equal modulo 16, as the kernels of attention want
//! it: they read sixteen positions at a time. A capacity that is a multiple of 16 wastes nothing.
//!
//! Which of the kept positions a query sees is not decided here but by attention, the only place
//! that defines the window. The buffer just keeps as many positions as the window is long.

use std::num::NonZeroUsize;
use std::ops::Range;

use mistral_core::kv::PANEL;

/// The index arithmetic of a rolling buffer with a fixed number of slots.
///
/// ```
/// use mistral_kvcache::ring::Ring;
/// use std::num::NonZeroUsize;
///
/// let ring = Ring::new(NonZeroUsize::new(20).ok_or("zero")?).ok_or("too large")?;
/// assert_eq!(ring.slots(), 32);
/// let [old, new] = ring.runs(25..45);
/// assert_eq!((old.start, old.slots), (25, 25..32));
/// assert_eq!((new.start, new.slots), (32, 0..13));
/// # Ok::<(), &'static str>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ring {
    capacity: usize,
    /// A multiple of [`PANEL`], at least `capacity`.
    slots: NonZeroUsize,
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
    /// A ring that keeps `capacity` positions; `None` if its slots do not fit in `usize`.
    pub fn new(capacity: NonZeroUsize) -> Option<Self> {
        let slots = capacity.get().checked_next_multiple_of(PANEL).and_then(NonZeroUsize::new)?;
        Some(Self { capacity: capacity.get(), slots })
    }

    /// Most positions kept.
    pub fn capacity(self) -> usize {
        self.capacity
    }

    /// Number of slots: the capacity rounded up to a multiple of [`PANEL`].
    pub fn slots(self) -> usize {
        self.slots.get()
    }

    /// `position % slots`.
    pub fn slot(self, position: usize) -> usize {
        position % self.slots
    }

    /// The last `capacity` of `positions`: those that are still there when all were pushed.
    pub fn survivors(self, positions: Range<usize>) -> Range<usize> {
        let oldest = positions.end.saturating_sub(self.capacity);
        positions.start.max(oldest)..positions.end
    }

    /// The slots of the surviving `positions`, oldest first; an unused run is empty.
    ///
    /// Serves reading (which slots hold the positions) and writing (which part of a chunk goes
    /// where): a chunk longer than the ring is written only with its last `capacity` rows.
    pub fn runs(self, positions: Range<usize>) -> [Run; 2] {
        let kept = self.survivors(positions);
        let first = self.slot(kept.start);
        let until_wrap = kept.len().min(self.slots() - first);
        [
            Run { start: kept.start, slots: first..first + until_wrap },
            Run { start: kept.start + until_wrap, slots: 0..kept.len() - until_wrap },
        ]
    }

    /// The oldest position that a sequence of which `held` is left can return to.
    ///
    /// The token that comes next brings its own row, so `window - 1` rows before it suffice. This
    /// is why one step of decode can be taken back even after a ring without slack has wrapped,
    /// and why a slack of `r` allows for `r + 1` of them.
    ///
    /// ```text
    /// window 4, capacity 6, positions 8..14 held
    ///     next = 11: sees 8, 9, 10 and itself     the oldest to return to
    ///     next = 10: would see 7, which is gone
    /// ```
    ///
    /// ```
    /// use mistral_kvcache::ring::Ring;
    ///
    /// assert_eq!(Ring::reaches_back_to(&(8..14), 4), 11);
    /// assert_eq!(Ring::reaches_back_to(&(0..5), 4), 0); // nothing is gone yet
    /// ```
    pub fn reaches_back_to(held: &Range<usize>, window: usize) -> usize {
        match (held.start, window) {
            // Nothing is gone, or a token sees nothing but itself.
            (0, _) | (_, 0 | 1) => 0,
            (start, _) => start.saturating_add(window - 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(capacity: usize) -> Ring {
        Ring::new(NonZeroUsize::new(capacity).unwrap()).unwrap()
    }

    #[test]
    fn slots_are_overwritten_as_in_figure_2_of_the_paper() {
        let mut slots = [None; 16];
        let ring = ring(16);
        for position in 0..18 {
            slots[ring.slot(position)] = Some(position);
        }
        assert_eq!(slots[..4], [Some(16), Some(17), Some(2), Some(3)]);
    }

    #[test]
    fn runs_name_each_surviving_position_once_and_in_order() {
        for capacity in (1..=9).chain([15, 16, 17, 33]) {
            let ring = ring(capacity);
            for start in 0..40 {
                for end in start..start + 60 {
                    let listed: Vec<(usize, usize)> = ring
                        .runs(start..end)
                        .into_iter()
                        .flat_map(|run| (run.start..).zip(run.slots))
                        .collect();
                    let expected: Vec<(usize, usize)> = (start..end)
                        .skip((end - start).saturating_sub(capacity))
                        .map(|position| (position, position % capacity.next_multiple_of(16)))
                        .collect();
                    assert_eq!(listed, expected, "capacity {capacity}, {start}..{end}");
                }
            }
        }
    }

    #[test]
    fn a_slot_equals_its_position_modulo_sixteen() {
        for capacity in 1..70 {
            let ring = ring(capacity);
            assert!(ring.slots() - ring.capacity() < PANEL);
            assert!((0..200).all(|position| ring.slot(position) % PANEL == position % PANEL));
        }
        assert_eq!(ring(4096).slots(), 4096);
    }

    #[test]
    fn the_last_position_of_all_does_not_overflow() {
        let [old, new] = ring(4).runs(usize::MAX - 2..usize::MAX);
        assert_eq!(old.slots.len() + new.slots.len(), 2);
        assert_eq!(Ring::new(NonZeroUsize::MAX), None);
        assert_eq!(Ring::reaches_back_to(&(usize::MAX - 1..usize::MAX), 9), usize::MAX);
    }

    #[test]
    fn history_suffices_down_to_the_last_row_before_the_missing_one() {
        assert_eq!(Ring::reaches_back_to(&(0..1), 4), 0);
        assert_eq!(Ring::reaches_back_to(&(2..6), 4), 5); // rows 2, 3, 4 and the token's own
        assert_eq!(Ring::reaches_back_to(&(4..6), 4), 7); // ahead: nowhere but to the start
        assert_eq!(Ring::reaches_back_to(&(8..14), 4), 11);
        assert_eq!(Ring::reaches_back_to(&(8..9), 1), 0); // only the token's own
    }
}
