//! Slots in pages: the memory of a ring, of pinned tokens, of a chunk.
//!
//! Pages are shared between forks of a sequence until one of them writes, and a page is the unit
//! in which memory grows: nothing that is there already moves.

use std::collections::HashSet;
use std::hint::black_box;
use std::ops::Range;
use std::sync::Arc;

use mistral_core::kv::{KvElement, KvError, KvPage, KvSegment, PAGE};
use ndarray::ArrayView3;

use crate::error::CacheError;

/// Bytes from which on the allocator is asked for all of them before it is asked for a page.
const LARGE: usize = 1 << 30;

/// Refuses what there is no memory for, before it is allocated page by page.
///
/// One page more is nearly always to be had, so that a size with a few zeros too many would take what
/// the machine has, and fail only then.
pub(crate) fn expect_memory(bytes: usize) -> Result<(), CacheError> {
    if bytes >= LARGE {
        let mut all = Vec::<u8>::new();
        all.try_reserve_exact(bytes).map_err(|_| CacheError::OutOfMemory { bytes })?;
        // Or the compiler may leave out what is never written to.
        black_box(&all);
    }
    Ok(())
}

/// Slots, [`PAGE`] to a page; the last page may have fewer.
#[derive(Debug, Clone)]
pub(crate) struct Pages<E: KvElement> {
    pages: Vec<Arc<KvPage<E>>>,
    n_kv_heads: usize,
    head_dim: usize,
}

impl<E: KvElement> Pages<E> {
    /// No slots yet.
    pub(crate) fn new((n_kv_heads, head_dim): (usize, usize)) -> Self {
        Self { pages: Vec::new(), n_kv_heads, head_dim }
    }

    /// `(n_kv_heads, head_dim)`.
    pub(crate) fn heads(&self) -> (usize, usize) {
        (self.n_kv_heads, self.head_dim)
    }

    pub(crate) fn slots(&self) -> usize {
        let last = self.pages.last().map_or(0, |page| page.slots());
        self.pages.len().saturating_sub(1) * PAGE + last
    }

    /// Makes room for `slots` slots, a multiple of sixteen. Never shrinks.
    ///
    /// What is there stays where it is, but for a last page that was not a whole one: it is copied
    /// into a larger one.
    pub(crate) fn grow(&mut self, slots: usize) -> Result<(), CacheError> {
        let there = self.slots();
        if slots <= there {
            return Ok(());
        }
        let bytes = KvPage::<E>::bytes_for(self.n_kv_heads, slots - there, self.head_dim);
        expect_memory(bytes.ok_or(CacheError::SizeOverflow)?)?;
        if !there.is_multiple_of(PAGE) {
            let whole = self.pages.len() - 1;
            let larger = self.page((slots - whole * PAGE).min(PAGE))?;
            let small = std::mem::replace(&mut self.pages[whole], Arc::new(larger));
            own(&mut self.pages[whole])?.copy(0, &small, 0..small.slots())?;
        }
        let missing = slots.div_ceil(PAGE) - self.pages.len();
        let bytes = missing.saturating_mul(size_of::<Arc<KvPage<E>>>());
        self.pages.try_reserve(missing).map_err(|_| CacheError::OutOfMemory { bytes })?;
        for first in (self.pages.len() * PAGE..slots).step_by(PAGE) {
            let page = self.page((slots - first).min(PAGE))?;
            self.pages.push(Arc::new(page));
        }
        Ok(())
    }

    /// Gives back the pages in which no slot below `slots` lies.
    pub(crate) fn truncate(&mut self, slots: usize) {
        self.pages.truncate(slots.div_ceil(PAGE));
    }

    /// A page of zeros as those here, in nobody's list.
    pub(crate) fn page(&self, slots: usize) -> Result<KvPage<E>, CacheError> {
        match KvPage::new(self.n_kv_heads, slots, self.head_dim) {
            Err(KvError::OutOfMemory { bytes: usize::MAX }) => Err(CacheError::SizeOverflow),
            Err(KvError::OutOfMemory { bytes }) => Err(CacheError::OutOfMemory { bytes }),
            page => Ok(page?),
        }
    }

    /// Makes sure that nobody else reads the pages of these slots, by copying those that are
    /// shared. Writing to them allocates nothing afterwards.
    pub(crate) fn own(&mut self, slots: Range<usize>) -> Result<(), CacheError> {
        if !slots.is_empty() {
            for page in &mut self.pages[slots.start / PAGE..slots.end.div_ceil(PAGE)] {
                own(page)?;
            }
        }
        Ok(())
    }

    /// Rounds keys and values, `(tokens, n_kv_heads, head_dim)`, into the slots from `at` on.
    pub(crate) fn round_from(
        &mut self,
        at: usize,
        keys: ArrayView3<'_, f32>,
        values: ArrayView3<'_, f32>,
    ) -> Result<(), CacheError> {
        for (i, (keys, values)) in keys.outer_iter().zip(values.outer_iter()).enumerate() {
            let slot = at + i;
            own(&mut self.pages[slot / PAGE])?.write(slot % PAGE, keys, values)?;
        }
        Ok(())
    }

    /// Copies the slots `slots` of `from` to those from `at` on.
    ///
    /// Both have them; pages of other heads are the only way to fail.
    pub(crate) fn copy(
        &mut self,
        at: usize,
        from: &Self,
        slots: Range<usize>,
    ) -> Result<(), CacheError> {
        let (mut to, mut source) = (at, slots.start);
        while source < slots.end {
            let len = (slots.end - source).min(PAGE - source % PAGE).min(PAGE - to % PAGE);
            let page = &from.pages[source / PAGE];
            let rows = source % PAGE..source % PAGE + len;
            own(&mut self.pages[to / PAGE])?.copy(to % PAGE, page, rows)?;
            to += len;
            source += len;
        }
        Ok(())
    }

    /// Copies slots of a lone page to those from `at` on.
    pub(crate) fn copy_page(
        &mut self,
        at: usize,
        from: &KvPage<E>,
        slots: Range<usize>,
    ) -> Result<(), CacheError> {
        let (mut to, mut source) = (at, slots.start);
        while source < slots.end {
            let len = (slots.end - source).min(PAGE - to % PAGE);
            own(&mut self.pages[to / PAGE])?.copy(to % PAGE, from, source..source + len)?;
            to += len;
            source += len;
        }
        Ok(())
    }

    /// Copies slots to those of a lone page from `at` on.
    pub(crate) fn copy_to_page(
        &self,
        slots: Range<usize>,
        page: &mut KvPage<E>,
        at: usize,
    ) -> Result<(), CacheError> {
        let mut source = slots.start;
        while source < slots.end {
            let len = (slots.end - source).min(PAGE - source % PAGE);
            let rows = source % PAGE..source % PAGE + len;
            page.copy(at + (source - slots.start), &self.pages[source / PAGE], rows)?;
            source += len;
        }
        Ok(())
    }

    /// The slots `slots` for a view, of which the first holds position `start`.
    pub(crate) fn segment(
        &self,
        start: usize,
        slots: Range<usize>,
    ) -> Result<KvSegment<'_, E>, KvError> {
        KvSegment::from_pages(start, &self.pages, slots)
    }

    /// Bytes of the pages that are not in `counted` yet, where those go that others may share.
    pub(crate) fn bytes(&self, counted: &mut HashSet<*const KvPage<E>>) -> usize {
        let new = self.pages.iter().filter(|page| {
            // A page that nobody shares need not be remembered: no allocation for most caches.
            Arc::strong_count(page) == 1 || counted.insert(Arc::as_ptr(page))
        });
        new.map(|page| page.bytes()).sum()
    }
}

/// The page itself, after copying it if others read it too: an error instead of an abort where
/// there is no memory.
fn own<E: KvElement>(page: &mut Arc<KvPage<E>>) -> Result<&mut KvPage<E>, CacheError> {
    if Arc::get_mut(page).is_none() {
        let mut copy = KvPage::new(page.n_kv_heads(), page.slots(), page.head_dim())?;
        copy.as_bytes_mut().copy_from_slice(page.as_bytes());
        *page = Arc::new(copy);
    }
    Ok(Arc::make_mut(page))
}
