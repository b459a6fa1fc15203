//! Pages: the memory in which a cache keeps keys and values.

use std::marker::PhantomData;
use std::ops::Range;

use ndarray::ArrayView2;

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
/// head 0:  keys of slots 0..16 | 16..32 | ..    values of slots 0..16 | 16..32 | ..
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

/// The keys and values of sixteen positions of one head.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct Panel<'a> {
    /// In the format's layout.
    pub keys: &'a [u8],
    /// In the format's layout.
    pub values: &'a [u8],
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
        for (head, (key, value)) in keys.outer_iter().zip(values.outer_iter()).enumerate() {
            let (key_panel, value_panel) = self.panel_mut(head, slot / PANEL);
            match key.as_slice() {
                Some(key) => E::write_key(key_panel, slot % PANEL, key),
                None => E::write_key(key_panel, slot % PANEL, &key.to_vec()),
            }
            match value.as_slice() {
                Some(value) => E::write_value(value_panel, slot % PANEL, value),
                None => E::write_value(value_panel, slot % PANEL, &value.to_vec()),
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
        let n = out.len().min(self.head_dim);
        let panel = self.panel(head, slot)?;
        E::read_key(panel.keys, slot % PANEL, &mut out[..n]);
        Ok(())
    }

    /// The value of a head in a slot, widened; as many elements as `out` has room for.
    ///
    /// # Errors
    ///
    /// As [`key`](Self::key).
    pub fn value(&self, head: usize, slot: usize, out: &mut [f32]) -> Result<(), KvError> {
        let n = out.len().min(self.head_dim);
        let panel = self.panel(head, slot)?;
        E::read_value(panel.values, slot % PANEL, &mut out[..n]);
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
        for head in 0..self.n_kv_heads {
            let (mut to, mut source) = (at, slots.start);
            while source < slots.end {
                let (from_keys, from_values) = from.panel_bytes(head, source / PANEL);
                let (keys, values) = self.panel_mut(head, to / PANEL);
                let whole = to.is_multiple_of(PANEL)
                    && source.is_multiple_of(PANEL)
                    && slots.end - source >= PANEL;
                if whole {
                    keys.copy_from_slice(from_keys);
                    values.copy_from_slice(from_values);
                } else {
                    let lanes = (to % PANEL, source % PANEL);
                    E::copy_key((keys, lanes.0), (from_keys, lanes.1), from.head_dim);
                    E::copy_value((values, lanes.0), (from_values, lanes.1), from.head_dim);
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
        let source = from.panel(head, slot)?;
        let (keys, values) = self.panel_mut(head, at / PANEL);
        let lanes = (at % PANEL, slot % PANEL);
        E::copy_key((keys, lanes.0), (source.keys, lanes.1), from.head_dim);
        E::copy_value((values, lanes.0), (source.values, lanes.1), from.head_dim);
        Ok(())
    }

    /// The panel of `head` in which `slot` lies.
    pub(super) fn panel(&self, head: usize, slot: usize) -> Result<Panel<'_>, KvError> {
        self.check(slot)?;
        if head >= self.n_kv_heads {
            return Err(KvError::NoSuchHead { found: head, n_kv_heads: self.n_kv_heads });
        }
        let (keys, values) = self.panel_bytes(head, slot / PANEL);
        Ok(Panel { keys, values })
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

    /// Where panel `index` of a head begins: its keys, and its values.
    #[inline(always)]
    fn offsets(&self, head: usize, index: usize) -> (usize, usize) {
        let (key, value) = (E::key_panel_bytes(self.head_dim), E::value_panel_bytes(self.head_dim));
        let panels = self.slots / PANEL;
        let start = head * panels * (key + value);
        (start + index * key, start + panels * key + index * value)
    }

    #[inline(always)]
    fn panel_bytes(&self, head: usize, index: usize) -> (&[u8], &[u8]) {
        let (keys, values) = self.offsets(head, index);
        let bytes = bytes_of(&self.lines);
        (
            &bytes[keys..][..E::key_panel_bytes(self.head_dim)],
            &bytes[values..][..E::value_panel_bytes(self.head_dim)],
        )
    }

    fn panel_mut(&mut self, head: usize, index: usize) -> (&mut [u8], &mut [u8]) {
        let (keys, values) = self.offsets(head, index);
        let (before, after) = bytes_of_mut(&mut self.lines).split_at_mut(values);
        (
            &mut before[keys..][..E::key_panel_bytes(self.head_dim)],
            &mut after[..E::value_panel_bytes(self.head_dim)],
        )
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
