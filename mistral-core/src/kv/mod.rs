//! The vocabulary in which a cache hands keys and values to attention: borrowed rows with
//! absolute positions, and the formats and pages in which they lie.
//!
//! A ring buffer of capacity 6 that holds positions 4..10 while a chunk of 3 is being processed
//! is three segments, each a plain array, nothing copied and nothing unrolled:
//!
//! ```text
//! slot       0   1   2   3   4   5         chunk beside the ring
//!          ┌───┬───┬───┬───┬───┬───┐      ┌────┬────┬────┐
//! position │ 6 │ 7 │ 8 │ 9 │ 4 │ 5 │      │ 10 │ 11 │ 12 │
//!          └───┴───┴───┴───┴───┴───┘      └────┴────┴────┘
//!           segment 2        segment 1     segment 3
//! ```

mod element;
mod error;
mod float;
mod format;
mod head;
mod int8;
mod page;

use std::ops::Range;
use std::sync::Arc;

use ndarray::ArrayView3;

pub use element::{BLOCK, KvElement, PANEL};
#[doc(hidden)]
pub use element::{OutputSink, Queries, Seen, ValueRows, ValueRowsMut, Values};
pub use error::KvError;
pub use format::{KvFormat, UnknownKvFormat};
pub use head::HeadView;
pub use int8::Int8;
pub use page::{KvPage, PAGE};
#[doc(hidden)]
pub use page::{PanelMemory, Panels};

use crate::element::Element;

/// Keys and values of consecutive positions: the first row belongs to position `start`.
///
/// Shapes
///
/// | array | shape |
/// |---|---|
/// | keys | `(len, n_kv_heads, head_dim)` |
/// | values | `(len, n_kv_heads, head_dim)` |
///
/// The last axis must be contiguous; the other two may have any stride, so position-major and
/// head-major arrays both work without a copy.
///
/// Instead of arrays it may consist of [`KvPage`]s, a cache's or [one's own](KvPage::from_arrays),
/// which kernels read faster.
#[derive(Debug, Clone, Copy)]
pub struct KvSegment<'a, E: KvElement> {
    start: usize,
    len: usize,
    heads: (usize, usize),
    rows: Rows<'a, E>,
}

/// Where the rows of a segment lie.
#[derive(Debug, Clone, Copy)]
enum Rows<'a, E: KvElement> {
    /// `(len, n_kv_heads, head_dim)`, the last axis contiguous.
    Arrays { keys: ArrayView3<'a, E>, values: ArrayView3<'a, E> },
    /// Row `i` in slot `first_slot + i`, counted over all pages, each of which has [`PAGE`] slots
    /// but the last.
    Pages { pages: &'a [Arc<KvPage<E>>], first_slot: usize },
}

impl<'a, E: Element> KvSegment<'a, E> {
    /// Tags keys and values with the position of their first row.
    ///
    /// # Errors
    ///
    /// - [`KvError::ShapeMismatch`]: keys and values differ in shape.
    /// - [`KvError::NotContiguous`]: the elements of one head do not lie side by side.
    /// - [`KvError::PositionOverflow`]: `start + len` does not fit in `usize`.
    pub fn new(
        start: usize,
        keys: ArrayView3<'a, E>,
        values: ArrayView3<'a, E>,
    ) -> Result<Self, KvError> {
        if keys.dim() != values.dim() {
            return Err(KvError::ShapeMismatch { keys: keys.dim(), values: values.dim() });
        }
        let (len, n_kv_heads, head_dim) = keys.dim();
        for (array, name) in [(&keys, "keys"), (&values, "values")] {
            let stride = array.strides()[2];
            if stride != 1 && head_dim > 1 && len > 0 && n_kv_heads > 0 {
                return Err(KvError::NotContiguous { array: name, stride });
            }
        }
        if start.checked_add(len).is_none() {
            return Err(KvError::PositionOverflow { start, len });
        }
        let rows = Rows::Arrays { keys, values };
        Ok(Self { start, len, heads: (n_kv_heads, head_dim), rows })
    }
}

impl<'a, E: KvElement> KvSegment<'a, E> {
    /// Tags slots of some pages with the position in the first of them.
    ///
    /// Slots are counted over all pages; each but the last has [`PAGE`] of them. Kernels read a
    /// segment fastest whose slots equal their positions modulo [`PANEL`].
    ///
    /// # Errors
    ///
    /// - [`KvError::NoSuchSlot`]: the pages have fewer slots.
    /// - [`KvError::ShortPage`]: a page before the last has fewer than [`PAGE`] slots.
    /// - [`KvError::PageShape`]: the pages differ in their heads.
    /// - [`KvError::PositionOverflow`]: `start + slots.len()` does not fit in `usize`.
    pub fn from_pages(
        start: usize,
        pages: &'a [Arc<KvPage<E>>],
        slots: Range<usize>,
    ) -> Result<Self, KvError> {
        let shape = |page: &KvPage<E>| (page.n_kv_heads(), page.head_dim());
        let heads = pages.first().map_or((0, 0), |page| shape(page));
        let mut there = 0;
        for (index, page) in pages.iter().enumerate() {
            if shape(page) != heads {
                return Err(KvError::PageShape { found: shape(page), expected: heads });
            }
            if there % PAGE != 0 {
                return Err(KvError::ShortPage { page: index - 1, slots: there % PAGE });
            }
            there += page.slots();
        }
        if slots.end > there {
            return Err(KvError::NoSuchSlot { found: slots.end - 1, slots: there });
        }
        if start.checked_add(slots.len()).is_none() {
            return Err(KvError::PositionOverflow { start, len: slots.len() });
        }
        let rows = Rows::Pages { pages, first_slot: slots.start };
        Ok(Self { start, len: slots.len(), heads, rows })
    }

    /// Position of the first row.
    pub fn start(&self) -> usize {
        self.start
    }

    /// Number of positions.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no position in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Position after the last row.
    pub fn end(&self) -> usize {
        self.start + self.len
    }

    /// From the first to the last position.
    pub fn positions(&self) -> Range<usize> {
        self.start..self.end()
    }
}

/// Most segments a view holds: the ring's tail, the ring's head, the current chunk.
pub const MAX_SEGMENTS: usize = 3;

/// Everything a chunk of queries may attend to: consecutive positions in up to three segments.
///
/// The last query of a chunk stands at the last position of the view. That is why attention needs
/// neither an offset nor a mask.
///
/// ```
/// use mistral_core::kv::{KvSegment, KvView};
/// use mistral_core::ndarray::Array3;
///
/// let old = Array3::<f32>::zeros((4, 2, 8)); // positions 6..10
/// let new = Array3::<f32>::zeros((3, 2, 8)); // positions 10..13
/// let view = KvView::new([
///     KvSegment::new(6, old.view(), old.view())?,
///     KvSegment::new(10, new.view(), new.view())?,
/// ])?;
/// assert_eq!(view.positions(), 6..13);
/// # Ok::<(), mistral_core::kv::KvError>(())
/// ```
///
/// # Sinks
///
/// A cache may pin the first positions of a sequence when their successors are long forgotten
/// (StreamingLLM, arXiv:2309.17453). [`with_sinks`](Self::with_sinks) puts them before the others,
/// with a gap between.
#[derive(Debug, Clone, Copy)]
pub struct KvView<'a, E: KvElement> {
    sinks: Option<KvSegment<'a, E>>,
    segments: [Option<KvSegment<'a, E>>; MAX_SEGMENTS],
    start: usize,
    end: usize,
    n_kv_heads: usize,
    head_dim: usize,
}

impl<'a, E: KvElement> KvView<'a, E> {
    /// Joins segments in the order of their positions. Empty segments are skipped.
    ///
    /// # Errors
    ///
    /// - [`KvError::Empty`]: no segment holds a position.
    /// - [`KvError::TooManySegments`]: more than [`MAX_SEGMENTS`] hold positions.
    /// - [`KvError::NotConsecutive`]: a segment does not start where the one before it ends.
    /// - [`KvError::HeadsDiffer`]: segments differ in the number or the size of heads.
    pub fn new(segments: impl IntoIterator<Item = KvSegment<'a, E>>) -> Result<Self, KvError> {
        let mut kept = [None; MAX_SEGMENTS];
        let mut n = 0;
        let mut shape = None;
        let mut expected = 0;
        let mut start = 0;
        for segment in segments {
            if segment.is_empty() {
                continue;
            }
            if n == MAX_SEGMENTS {
                return Err(KvError::TooManySegments { limit: MAX_SEGMENTS });
            }
            match shape {
                None => {
                    shape = Some(segment.heads);
                    start = segment.start;
                }
                Some(first) if first != segment.heads => {
                    return Err(KvError::HeadsDiffer { first, found: segment.heads });
                }
                Some(_) if segment.start != expected => {
                    return Err(KvError::NotConsecutive { expected, found: segment.start });
                }
                Some(_) => {}
            }
            expected = segment.end();
            kept[n] = Some(segment);
            n += 1;
        }
        let (n_kv_heads, head_dim) = shape.ok_or(KvError::Empty)?;
        Ok(Self { sinks: None, segments: kept, start, end: expected, n_kv_heads, head_dim })
    }

    /// Pages whose first slot is position 0: a whole sequence of so many positions, nothing evicted.
    ///
    /// [`KvPage::from_arrays`] makes such pages.
    ///
    /// # Errors
    ///
    /// As [`KvSegment::from_pages`] and [`KvView::new`].
    pub fn from_pages(pages: &'a [Arc<KvPage<E>>], positions: usize) -> Result<Self, KvError> {
        Self::new([KvSegment::from_pages(0, pages, 0..positions)?])
    }

    /// The same with the first positions of the sequence, which lie before a gap.
    ///
    /// Those that the view holds itself are left out.
    ///
    /// # Errors
    ///
    /// - [`KvError::NotConsecutive`]: the segment does not start at position 0.
    /// - [`KvError::HeadsDiffer`]: it differs in the number or the size of heads.
    pub fn with_sinks(self, sinks: KvSegment<'a, E>) -> Result<Self, KvError> {
        if sinks.start != 0 {
            return Err(KvError::NotConsecutive { expected: 0, found: sinks.start });
        }
        let first = (self.n_kv_heads, self.head_dim);
        if sinks.heads != first {
            return Err(KvError::HeadsDiffer { first, found: sinks.heads });
        }
        let len = sinks.len.min(self.start);
        Ok(Self { sinks: (len > 0).then_some(KvSegment { len, ..sinks }), ..self })
    }

    /// The positions in the view, without gaps and without sinks before a gap.
    pub fn positions(&self) -> Range<usize> {
        self.start..self.end
    }

    /// How many of the first positions of the sequence are there.
    pub fn sinks(&self) -> usize {
        let pinned = self.sinks.map_or(0, |sinks| sinks.len);
        // Without a gap between them, the view's own rows are first positions as well.
        if pinned == self.start { self.end } else { pinned }
    }

    /// Number of key/value heads.
    pub fn n_kv_heads(&self) -> usize {
        self.n_kv_heads
    }

    /// Elements in one head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// The segments, oldest positions first.
    pub fn segments(&self) -> impl Iterator<Item = &KvSegment<'a, E>> {
        self.sinks.iter().chain(self.segments.iter().flatten())
    }

    /// The rows of one head over all segments.
    ///
    /// Returns `None` if there is no such head.
    pub fn head(&self, head: usize) -> Option<HeadView<'a, E>> {
        let [a, b, c] = self.segments;
        (head < self.n_kv_heads).then(|| HeadView::new([c, b, a, self.sinks], head))
    }
}

impl<'a, E: Element> KvView<'a, E> {
    /// One pair of arrays whose first row is position 0: a whole sequence, nothing evicted.
    ///
    /// # Errors
    ///
    /// As [`KvSegment::new`] and [`KvView::new`].
    pub fn from_arrays(
        keys: ArrayView3<'a, E>,
        values: ArrayView3<'a, E>,
    ) -> Result<Self, KvError> {
        Self::new([KvSegment::new(0, keys, values)?])
    }
}

#[cfg(test)]
mod tests;
