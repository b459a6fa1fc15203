//! The ring of one layer of one sequence, with its pinned positions: everything but the chunk.

use std::collections::HashSet;
use std::ops::Range;

use mistral_core::kv::{KvElement, KvError, KvPage, KvView, PANEL};
use ndarray::ArrayView3;

use crate::chunk::Chunk;
use crate::error::CacheError;
use crate::pages::Pages;
use crate::ring::Ring;
use crate::size::LayerSize;

/// Slots of a ring, slots of sinks, and which positions are in them.
///
/// Position `i` lies in slot `i % slots` of the ring, and, below the number of sinks, in slot `i`
/// of the sinks as well.
#[derive(Debug, Clone)]
pub(crate) struct RingBuffer<E: KvElement> {
    size: LayerSize,
    rows: Pages<E>,
    sinks: Pages<E>,
    /// The positions in the ring whose rows are intact. They end with the last one committed.
    held: Range<usize>,
}

impl<E: KvElement> RingBuffer<E> {
    /// A ring that forgets has all its slots from the start; one that does not grows.
    pub(crate) fn new(heads: (usize, usize), size: LayerSize) -> Result<Self, CacheError> {
        let (mut rows, mut sinks) = (Pages::new(heads), Pages::new(heads));
        rows.grow(size.slots_for(0))?;
        sinks.grow(size.sink_slots()?)?;
        Ok(Self { size, rows, sinks, held: 0..0 })
    }

    pub(crate) fn size(&self) -> &LayerSize {
        &self.size
    }

    pub(crate) fn held(&self) -> Range<usize> {
        self.held.clone()
    }

    /// The positions that are pinned, whether or not the ring has them as well.
    pub(crate) fn pinned(&self) -> Range<usize> {
        0..self.size.sinks.min(self.held.end)
    }

    pub(crate) fn bytes(&self, counted: &mut HashSet<*const KvPage<E>>) -> usize {
        self.rows.bytes(counted) + self.sinks.bytes(counted)
    }

    /// Checks a chunk's shape and length; the position after its last token.
    pub(crate) fn admit(
        &self,
        keys: &ArrayView3<'_, f32>,
        values: &ArrayView3<'_, f32>,
    ) -> Result<usize, CacheError> {
        if keys.dim() != values.dim() {
            return Err(CacheError::ShapeMismatch { keys: keys.dim(), values: values.dim() });
        }
        let (len, n_kv_heads, head_dim) = keys.dim();
        if (n_kv_heads, head_dim) != self.rows.heads() {
            return Err(CacheError::HeadsDiffer {
                expected: self.rows.heads(),
                found: (n_kv_heads, head_dim),
            });
        }
        if len == 0 {
            return Err(CacheError::EmptyChunk);
        }
        self.end_of(len)
    }

    /// The position after `len` more tokens, if there may be so many.
    pub(crate) fn end_of(&self, len: usize) -> Result<usize, CacheError> {
        let position = self.held.end;
        let end =
            position.checked_add(len).ok_or(CacheError::PositionOverflow { position, len })?;
        match self.size.limit {
            Some(context_len) if end > context_len => {
                Err(CacheError::ContextFull { position, len, context_len })
            }
            _ => Ok(end),
        }
    }

    /// Makes room for the positions below `end`, in slots that no fork reads any more, so that a
    /// commit allocates nothing.
    pub(crate) fn reserve(&mut self, end: usize) -> Result<(), CacheError> {
        self.rows.grow(self.size.slots_for(end))?;
        for run in self.size.ring.runs(self.held.end..end) {
            self.rows.own(run.slots)?;
        }
        self.sinks.own(self.unpinned(end))
    }

    /// The sinks that come between the positions held and `end`.
    fn unpinned(&self, end: usize) -> Range<usize> {
        self.held.end..end.min(self.size.sinks).max(self.held.end)
    }

    /// The held positions and the chunk after them, if there is one.
    pub(crate) fn view<'a>(
        &'a self,
        chunk: Option<Chunk<'a, E>>,
    ) -> Result<KvView<'a, E>, KvError> {
        let [tail, head] = self.size.ring.runs(self.held());
        let ring = [
            self.rows.segment(tail.start, tail.slots)?,
            self.rows.segment(head.start, head.slots)?,
        ];
        let chunk = chunk.map(|chunk| chunk.segment(self.held.end)).transpose()?;
        let view = KvView::new(ring.into_iter().chain(chunk))?;
        match self.pinned() {
            none if none.is_empty() => Ok(view),
            pinned => view.with_sinks(self.sinks.segment(0, pinned)?),
        }
    }

    /// Writes the chunk over the oldest rows; of one longer than the ring only its last rows.
    ///
    /// Allocates nothing after [`reserve`](Self::reserve).
    pub(crate) fn write(&mut self, chunk: Chunk<'_, E>) -> Result<(), CacheError> {
        let start = self.held.end;
        let end = start + chunk.len();
        for run in self.size.ring.runs(start..end) {
            let from = chunk.slots_of(run.start - start, run.slots.len());
            self.rows.copy(run.slots.start, chunk.rows(), from)?;
        }
        let pinned = self.unpinned(end);
        let from = chunk.slots_of(0, pinned.len());
        self.sinks.copy(pinned.start, chunk.rows(), from)?;
        self.held = self.size.ring.survivors(self.held.start..end);
        Ok(())
    }

    /// The oldest position that the sequence can return to without missing history, but for 0,
    /// which is always possible.
    pub(crate) fn reaches_back_to(&self) -> usize {
        Ring::reaches_back_to(&self.held, self.size.window.get())
    }

    /// Whether the tokens from `position` on can be taken back without missing history.
    pub(crate) fn can_return_to(&self, position: usize) -> bool {
        position == 0 || (self.reaches_back_to()..=self.held.end).contains(&position)
    }

    /// Forgets the tokens from `position` on. Only if [`can_return_to`](Self::can_return_to).
    pub(crate) fn return_to(&mut self, position: usize) {
        self.held = self.held.start.min(position)..position;
    }

    /// Forgets everything and keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.held = 0..0;
    }

    /// A page of zeros for `positions`, of which the first goes to the slot of its number modulo
    /// sixteen.
    pub(crate) fn page_for(&self, positions: &Range<usize>) -> Result<KvPage<E>, CacheError> {
        self.rows.page(positions.start % PANEL + positions.len())
    }

    /// Copies `positions` to [such a page](Self::page_for). They are all held, or all pinned and
    /// no longer held.
    pub(crate) fn copy_out(
        &self,
        positions: Range<usize>,
        page: &mut KvPage<E>,
    ) -> Result<(), CacheError> {
        let first = positions.start % PANEL;
        if positions.end <= self.held.start {
            return self.sinks.copy_to_page(positions, page, first);
        }
        for run in self.size.ring.runs(positions.clone()) {
            let to = first + (run.start - positions.start);
            self.rows.copy_to_page(run.slots, page, to)?;
        }
        Ok(())
    }

    /// Forgets everything; what comes next is position `start`, or sinks before it.
    pub(crate) fn restart_at(&mut self, start: usize) {
        self.held = start..start;
    }

    /// Takes in `positions` from [such a page](Self::page_for): those that come next, or sinks
    /// before the first held.
    pub(crate) fn copy_in(
        &mut self,
        positions: Range<usize>,
        page: &KvPage<E>,
    ) -> Result<(), CacheError> {
        let first = positions.start % PANEL;
        if positions.end <= self.held.start {
            return self.sinks.copy_page(positions.start, page, first..first + positions.len());
        }
        self.rows.grow(self.size.slots_for(positions.end))?;
        for run in self.size.ring.runs(positions.clone()) {
            let from = first + (run.start - positions.start);
            self.rows.copy_page(run.slots.start, page, from..from + run.slots.len())?;
        }
        let pinned = self.unpinned(positions.end);
        self.sinks.copy_page(pinned.start, page, first..first + pinned.len())?;
        self.held.end = positions.end;
        Ok(())
    }

    /// Gives back the memory that the positions held do not need.
    pub(crate) fn shrink(&mut self) {
        self.rows.truncate(self.size.slots_for(self.held.end));
    }
}
