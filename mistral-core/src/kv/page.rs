//! Pages: the memory in which a cache keeps keys and values.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use ndarray::{ArrayView2, ArrayView3, Axis};

use super::element::{ValueRows, ValueRowsMut};
use super::{BLOCK, KvElement, KvError, KvFormat, PANEL};
use crate::simd::{Line, bytes_of, bytes_of_mut};

/// Slots of a page: those of one block of attention.
pub const PAGE: usize = BLOCK;

/// Keys and values of up to [`PAGE`] positions, all heads, in the layout that kernels read.
///
/// A page knows slots, not positions; who puts it into a [`KvView`](super::KvView) says which
/// position lies where. It is a value: cloning copies its memory, so an `Arc` of it is shared until
/// written.
///
/// ```text
/// head 0:  keys of slots 0..16 | 16..32 | ..    values of all slots: d = 0..16 | 16..32 | ..
/// head 1:  ..
/// ```
///
/// ```
/// use mistral_core::kv::{KvPage, Int8};
/// use mistral_core::ndarray::array;
///
/// let mut page = KvPage::<Int8>::new(1, 16, 4)?; // one head of four elements, sixteen slots
/// let key = array![[1.0f32, -2.0, 0.5, 127.0]];
/// page.write(3, key.view(), key.view())?;
/// let mut back = [0.0; 4];
/// page.key(0, 3, &mut back)?;
/// assert_eq!(back, [1.0, -2.0, 1.0, 127.0]); // steps of 127 / 127
/// # Ok::<(), mistral_core::kv::KvError>(())
/// ```
#[derive(Clone)]
pub struct KvPage<E> {
    lines: Vec<Line>,
    n_kv_heads: usize,
    slots: usize,
    head_dim: usize,
    element: PhantomData<E>,
}

/// Bytes on a border of 64, for panels that are put together elsewhere.
#[doc(hidden)]
#[derive(Debug, Default)]
pub struct PanelMemory(Vec<Line>);

impl PanelMemory {
    /// Makes it at least `bytes` long; what was there may remain.
    pub fn reserve(&mut self, bytes: usize) {
        let lines = bytes.div_ceil(size_of::<Line>());
        if self.0.len() < lines {
            self.0.resize(lines, Line([0; 64]));
        }
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        bytes_of(&self.0)
    }

    /// All bytes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        bytes_of_mut(&mut self.0)
    }
}

/// The keys and values of some panels of one head that lie side by side.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct Panels<'a> {
    /// Panel after panel, in the format's layout.
    pub keys: &'a [u8],
    /// All values of the head in its page.
    pub values: ValueRows<'a>,
    /// The row of the first position of the first panel.
    pub first: usize,
}

impl<E: KvElement> KvPage<E> {
    /// A page of zeros with at least `slots` slots: whole panels of sixteen.
    ///
    /// # Errors
    ///
    /// - [`KvError::NoSuchSlot`]: more than [`PAGE`] slots.
    /// - [`KvError::OutOfMemory`]: it is too large.
    pub fn new(n_kv_heads: usize, slots: usize, head_dim: usize) -> Result<Self, KvError> {
        if slots > PAGE {
            return Err(KvError::NoSuchSlot { found: slots - 1, slots: PAGE });
        }
        let bytes = Self::bytes_for(n_kv_heads, slots, head_dim).unwrap_or(usize::MAX);
        let mut lines = Vec::new();
        let n = bytes.div_ceil(size_of::<Line>());
        lines.try_reserve_exact(n).map_err(|_| KvError::OutOfMemory { bytes })?;
        lines.resize(n, Line([0; 64]));
        let slots = slots.next_multiple_of(PANEL);
        Ok(Self { lines, n_kv_heads, slots, head_dim, element: PhantomData })
    }

    /// The pages of a whole sequence, rounded: row `i` in slot `i`, counted over all pages.
    ///
    /// [`KvView::from_pages`](super::KvView::from_pages) makes a view of them. The last page has as
    /// many slots as it needs; arrays without elements give no pages.
    ///
    /// Shapes
    ///
    /// | array | shape |
    /// |---|---|
    /// | keys | `(positions, n_kv_heads, head_dim)`, any strides |
    /// | values | `(positions, n_kv_heads, head_dim)`, any strides |
    ///
    /// # Errors
    ///
    /// - [`KvError::ShapeMismatch`]: keys and values differ in shape.
    /// - [`KvError::OutOfMemory`]: the allocator has no more.
    ///
    /// # Cost
    ///
    /// One pass over both arrays.
    pub fn from_arrays(
        keys: ArrayView3<'_, f32>,
        values: ArrayView3<'_, f32>,
    ) -> Result<Vec<Arc<Self>>, KvError> {
        if keys.dim() != values.dim() {
            return Err(KvError::ShapeMismatch { keys: keys.dim(), values: values.dim() });
        }
        let mut pages = Vec::new();
        if keys.is_empty() {
            return Ok(pages);
        }
        let (_, n_kv_heads, head_dim) = keys.dim();
        for (keys, values) in
            keys.axis_chunks_iter(Axis(0), PAGE).zip(values.axis_chunks_iter(Axis(0), PAGE))
        {
            let mut page = Self::new(n_kv_heads, keys.len_of(Axis(0)), head_dim)?;
            for (slot, (keys, values)) in keys.outer_iter().zip(values.outer_iter()).enumerate() {
                page.write(slot, keys, values)?;
            }
            pages.push(Arc::new(page));
        }
        Ok(pages)
    }

    /// Bytes of such a page; `None` if that does not fit in `usize`.
    pub fn bytes_for(n_kv_heads: usize, slots: usize, head_dim: usize) -> Option<usize> {
        let panel = E::key_panel_bytes(head_dim).checked_add(E::value_panel_bytes(head_dim))?;
        panel.checked_mul(slots.div_ceil(PANEL))?.checked_mul(n_kv_heads)
    }

    /// Format of the elements.
    pub fn format(&self) -> KvFormat {
        E::FORMAT
    }

    /// Slots, a multiple of [`PANEL`].
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Key/value heads.
    pub fn n_kv_heads(&self) -> usize {
        self.n_kv_heads
    }

    /// Elements in one head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Bytes of its memory.
    pub fn bytes(&self) -> usize {
        self.as_bytes().len()
    }

    /// Its memory, for writing it to a file.
    pub fn as_bytes(&self) -> &[u8] {
        &bytes_of(&self.lines)[..self.len()]
    }

    /// Its memory, for reading it from a file: the bytes of a page of the same shape and format.
    pub fn as_bytes_mut(&mut self) -> &mut [u8] {
        let len = self.len();
        &mut bytes_of_mut(&mut self.lines)[..len]
    }

    /// Rounds the key and the value of each head into a slot.
    ///
    /// Shapes: `keys` and `values` are `(n_kv_heads, head_dim)`.
    ///
    /// # Errors
    ///
    /// - [`KvError::NoSuchSlot`]: there are fewer slots.
    /// - [`KvError::PageShape`]: other heads than the page's.
    pub fn write(
        &mut self,
        slot: usize,
        keys: ArrayView2<'_, f32>,
        values: ArrayView2<'_, f32>,
    ) -> Result<(), KvError> {
        let expected = (self.n_kv_heads, self.head_dim);
        for found in [keys.dim(), values.dim()] {
            if found != expected {
                return Err(KvError::PageShape { found, expected });
            }
        }
        self.check(slot)?;
        let panel = E::key_panel_bytes(self.head_dim);
        for (head, (key, value)) in keys.outer_iter().zip(values.outer_iter()).enumerate() {
            let (keys, values) = self.head_bytes_mut(head);
            let keys = &mut keys[slot / PANEL * panel..][..panel];
            match key.as_slice() {
                Some(key) => E::write_key(keys, slot % PANEL, key),
                None => E::write_key(keys, slot % PANEL, &key.to_vec()),
            }
            match value.as_slice() {
                Some(value) => E::write_value(values, slot, value),
                None => E::write_value(values, slot, &value.to_vec()),
            }
        }
        Ok(())
    }

    /// The key of a head in a slot, widened; as many elements as `out` has room for.
    ///
    /// # Errors
    ///
    /// - [`KvError::NoSuchSlot`], [`KvError::NoSuchHead`]: there are fewer.
    pub fn key(&self, head: usize, slot: usize, out: &mut [f32]) -> Result<(), KvError> {
        self.check(slot)?;
        let n = out.len().min(self.head_dim);
        let panel = self.panels(head, slot..slot + 1)?;
        E::read_key(panel.keys, slot % PANEL, &mut out[..n]);
        Ok(())
    }

    /// The value of a head in a slot, widened; as many elements as `out` has room for.
    ///
    /// # Errors
    ///
    /// As [`key`](Self::key).
    pub fn value(&self, head: usize, slot: usize, out: &mut [f32]) -> Result<(), KvError> {
        self.check(slot)?;
        let n = out.len().min(self.head_dim);
        let panel = self.panels(head, slot..slot + 1)?;
        E::read_value(panel.values, slot, &mut out[..n]);
        Ok(())
    }

    /// Copies slots of another page to those from `at` on, as they are.
    ///
    /// # Errors
    ///
    /// - [`KvError::NoSuchSlot`]: one of the pages has fewer slots. Nothing is copied.
    /// - [`KvError::PageShape`]: the pages have other heads.
    pub fn copy(&mut self, at: usize, from: &Self, slots: Range<usize>) -> Result<(), KvError> {
        let expected = (self.n_kv_heads, self.head_dim);
        if (from.n_kv_heads, from.head_dim) != expected {
            return Err(KvError::PageShape { found: (from.n_kv_heads, from.head_dim), expected });
        }
        if slots.is_empty() {
            return Ok(());
        }
        from.check(slots.end - 1)?;
        self.check(at.saturating_add(slots.len() - 1))?;
        let panel = E::key_panel_bytes(self.head_dim);
        for head in 0..self.n_kv_heads {
            let (from_keys, from_values) = from.head_bytes(head);
            let (keys, values) = self.head_bytes_mut(head);
            E::copy_values((values, at), (from_values, slots.start), slots.len(), from.head_dim);
            let (mut to, mut source) = (at, slots.start);
            while source < slots.end {
                let from_keys = &from_keys[source / PANEL * panel..][..panel];
                let keys = &mut keys[to / PANEL * panel..][..panel];
                let whole = to.is_multiple_of(PANEL)
                    && source.is_multiple_of(PANEL)
                    && slots.end - source >= PANEL;
                if whole {
                    keys.copy_from_slice(from_keys);
                } else {
                    E::copy_key((keys, to % PANEL), (from_keys, source % PANEL), from.head_dim);
                }
                let n = if whole { PANEL } else { 1 };
                to += n;
                source += n;
            }
        }
        Ok(())
    }

    /// Copies one head of a slot of another page to slot `at`, as it is; other heads stay.
    ///
    /// A cache that forgets different positions in different heads writes head by head.
    ///
    /// # Errors
    ///
    /// - [`KvError::NoSuchSlot`], [`KvError::NoSuchHead`]: there are fewer. Nothing is copied.
    /// - [`KvError::PageShape`]: the pages have other heads.
    pub fn copy_head(
        &mut self,
        head: usize,
        at: usize,
        from: &Self,
        slot: usize,
    ) -> Result<(), KvError> {
        let expected = (self.n_kv_heads, self.head_dim);
        if (from.n_kv_heads, from.head_dim) != expected {
            return Err(KvError::PageShape { found: (from.n_kv_heads, from.head_dim), expected });
        }
        self.check(at)?;
        from.check(slot)?;
        let source = from.panels(head, slot..slot + 1)?;
        let panel = E::key_panel_bytes(self.head_dim);
        let (keys, values) = self.head_bytes_mut(head);
        let keys = &mut keys[at / PANEL * panel..][..panel];
        E::copy_key((keys, at % PANEL), (source.keys, slot % PANEL), from.head_dim);
        E::copy_values((values, at), (source.values, slot), 1, from.head_dim);
        Ok(())
    }

    /// The panels of `head` in which `slots` lie; there is at least one slot.
    #[inline(always)]
    pub(super) fn panels(&self, head: usize, slots: Range<usize>) -> Result<Panels<'_>, KvError> {
        self.check(slots.end - 1)?;
        if head >= self.n_kv_heads {
            return Err(KvError::NoSuchHead { found: head, n_kv_heads: self.n_kv_heads });
        }
        let panels = slots.start / PANEL..slots.end.div_ceil(PANEL);
        let (keys, values) = self.head_bytes(head);
        let key = E::key_panel_bytes(self.head_dim);
        let keys = &keys[panels.start * key..panels.end * key];
        Ok(Panels { keys, values, first: panels.start * PANEL })
    }

    fn check(&self, slot: usize) -> Result<(), KvError> {
        if slot < self.slots {
            Ok(())
        } else {
            Err(KvError::NoSuchSlot { found: slot, slots: self.slots })
        }
    }

    fn len(&self) -> usize {
        Self::bytes_for(self.n_kv_heads, self.slots, self.head_dim).unwrap_or(0)
    }

    /// Where the keys of a head begin, where its values, and where both end.
    #[inline(always)]
    fn offsets(&self, head: usize) -> (usize, usize, usize) {
        let panels = self.slots / PANEL;
        let keys = panels * E::key_panel_bytes(self.head_dim);
        let values = panels * E::value_panel_bytes(self.head_dim);
        let start = head * (keys + values);
        (start, start + keys, start + keys + values)
    }

    /// Keys and values of a head.
    #[inline(always)]
    fn head_bytes(&self, head: usize) -> (&[u8], ValueRows<'_>) {
        let (keys, values, end) = self.offsets(head);
        let bytes = bytes_of(&self.lines);
        (&bytes[keys..values], ValueRows { bytes: &bytes[values..end], rows: self.slots })
    }

    /// As [`head_bytes`](Self::head_bytes), for writing.
    fn head_bytes_mut(&mut self, head: usize) -> (&mut [u8], ValueRowsMut<'_>) {
        let (keys, values, end) = self.offsets(head);
        let (before, after) = bytes_of_mut(&mut self.lines)[keys..end].split_at_mut(values - keys);
        (before, ValueRowsMut { bytes: after, rows: self.slots })
    }
}

impl<E: KvElement> std::fmt::Debug for KvPage<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KvPage")
            .field("format", &E::FORMAT)
            .field("n_kv_heads", &self.n_kv_heads)
            .field("slots", &self.slots)
            .field("head_dim", &self.head_dim)
            .finish_non_exhaustive()
    }
}
