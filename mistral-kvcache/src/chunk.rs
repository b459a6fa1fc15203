//! The chunks being processed, in cache precision, beside their rings.

use std::collections::HashSet;
use std::ops::Range;

use mistral_core::kv::{KvElement, KvError, KvSegment, PANEL};
use ndarray::ArrayView3;

use crate::error::CacheError;
use crate::pages::Pages;
use crate::size::chunk_slots;

/// Memory for chunks on their way into their rings.
///
/// A token at position `p` lies in a slot `s` with `s % 16 == p % 16`, in the same place of a panel
/// of sixteen as it will in the ring: so whole panels are copied, and kernels read it as they read
/// the ring. Chunks of several sequences lie side by side, where that is not always possible.
#[derive(Debug, Clone)]
pub(crate) struct Staging<E: KvElement> {
    rows: Pages<E>,
}

/// Where a chunk lies in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    first_slot: usize,
    pub(crate) len: usize,
}

/// Consecutive tokens of one sequence.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chunk<'a, E: KvElement> {
    rows: &'a Pages<E>,
    place: Place,
}

impl<E: KvElement> Staging<E> {
    /// A buffer without memory yet.
    pub(crate) fn new(heads: (usize, usize)) -> Self {
        Self { rows: Pages::new(heads) }
    }

    /// Makes room for chunks of up to `tokens` tokens at any position.
    pub(crate) fn grow(&mut self, tokens: usize) -> Result<(), CacheError> {
        self.rows.grow(chunk_slots(tokens)?)
    }

    /// Rounds the only chunk, of which the first token stands at `position`.
    ///
    /// Its shape was checked, and there is room for it.
    pub(crate) fn fill(
        &mut self,
        position: usize,
        keys: ArrayView3<'_, f32>,
        values: ArrayView3<'_, f32>,
    ) -> Result<Chunk<'_, E>, CacheError> {
        let place = Place { first_slot: position % PANEL, len: keys.dim().0 };
        self.fill_at(place, keys, values)?;
        Ok(self.chunk(place))
    }

    /// Rounds one of several chunks.
    pub(crate) fn fill_at(
        &mut self,
        place: Place,
        keys: ArrayView3<'_, f32>,
        values: ArrayView3<'_, f32>,
    ) -> Result<(), CacheError> {
        self.rows.round_from(place.first_slot, keys, values)
    }

    /// Where a chunk of `len` tokens at `position` goes if the slots before `next` are taken, and
    /// others, `rest` tokens with its own, are still to come.
    ///
    /// Every chunk finds room as long as all of them together are not longer than one may be.
    /// Fewer than sixteen tokens fill no panel: they lie anywhere.
    pub(crate) fn place(&self, position: usize, len: usize, next: usize, rest: usize) -> Place {
        let aligned = next + (position % PANEL + PANEL - next % PANEL) % PANEL;
        let fits = len >= PANEL && aligned + rest <= self.rows.slots();
        Place { first_slot: if fits { aligned } else { next }, len }
    }

    /// What lies in a place.
    pub(crate) fn chunk(&self, place: Place) -> Chunk<'_, E> {
        Chunk { rows: &self.rows, place }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.rows.bytes(&mut HashSet::new())
    }
}

impl Place {
    /// The first slot after it.
    pub(crate) fn end(self) -> usize {
        self.first_slot + self.len
    }
}

impl<'a, E: KvElement> Chunk<'a, E> {
    pub(crate) fn rows(&self) -> &'a Pages<E> {
        self.rows
    }

    /// The slots of `len` tokens, counted from the chunk's first.
    pub(crate) fn slots_of(&self, first: usize, len: usize) -> Range<usize> {
        let start = self.place.first_slot + first;
        start..start + len
    }

    /// For a view in which the first token stands at `position`.
    pub(crate) fn segment(&self, position: usize) -> Result<KvSegment<'a, E>, KvError> {
        self.rows.segment(position, self.slots_of(0, self.place.len))
    }

    pub(crate) fn len(&self) -> usize {
        self.place.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_lies_as_in_the_ring_where_there_is_room() {
        let mut staging = Staging::<f32>::new((1, 4));
        staging.grow(60).unwrap(); // 80 slots
        let first_slot =
            |position, len, next, rest| staging.place(position, len, next, rest).first_slot;
        assert_eq!(first_slot(100, 60, 0, 60), 4);
        assert_eq!(first_slot(7, 20, 3, 40), 7);
        assert_eq!(first_slot(2, 20, 23, 20), 34);
        assert_eq!(first_slot(16, 20, 23, 20), 32);
        // Slots 55 to 80: none with the right number, and room for the others behind it.
        assert_eq!(first_slot(5, 16, 55, 20), 55);
        // No panel of its own to fill.
        assert_eq!(first_slot(5, 15, 3, 15), 3);
    }
}
