//! The chunk being processed, in cache precision, beside the ring.

use std::collections::HashSet;
use std::ops::Range;

use mistral_core::kv::{KvElement, KvError, KvSegment, PANEL};
use ndarray::ArrayView3;

use crate::error::CacheError;
use crate::pages::Pages;
use crate::size::chunk_slots;

/// Consecutive tokens; the first, at position `p`, lies in slot `p % 16`.
///
/// So each token lies in the same place of a panel of sixteen as it will in the ring, where whole
/// panels are copied, and kernels read it as they read the ring.
#[derive(Debug, Clone)]
pub(crate) struct Chunk<E: KvElement> {
    rows: Pages<E>,
    first_slot: usize,
    len: usize,
}

impl<E: KvElement> Chunk<E> {
    /// A buffer without memory yet.
    pub(crate) fn new(heads: (usize, usize)) -> Self {
        Self { rows: Pages::new(heads), first_slot: 0, len: 0 }
    }

    /// Makes room for chunks of up to `tokens` tokens at any position.
    pub(crate) fn grow(&mut self, tokens: usize) -> Result<(), CacheError> {
        self.rows.grow(chunk_slots(tokens)?)
    }

    /// Rounds a chunk of which the first token stands at `position`.
    ///
    /// Its shape was checked, and there is room for it.
    pub(crate) fn fill(
        &mut self,
        position: usize,
        keys: ArrayView3<'_, f32>,
        values: ArrayView3<'_, f32>,
    ) -> Result<(), CacheError> {
        self.first_slot = position % PANEL;
        self.len = keys.dim().0;
        self.rows.round_from(self.first_slot, keys, values)
    }

    pub(crate) fn rows(&self) -> &Pages<E> {
        &self.rows
    }

    /// The slots of `len` tokens, counted from the chunk's first.
    pub(crate) fn slots_of(&self, first: usize, len: usize) -> Range<usize> {
        let start = self.first_slot + first;
        start..start + len
    }

    /// For a view in which the first token stands at `position`.
    pub(crate) fn segment(&self, position: usize) -> Result<KvSegment<'_, E>, KvError> {
        self.rows.segment(position, self.slots_of(0, self.len))
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn bytes(&self) -> usize {
        self.rows.bytes(&mut HashSet::new())
    }
}
