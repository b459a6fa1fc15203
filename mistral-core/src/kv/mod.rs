//! The vocabulary in which a cache hands keys and values to attention: borrowed rows with
//! absolute positions. No storage and no arithmetic.
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

mod error;
mod head;

use std::ops::Range;

use ndarray::ArrayView3;

pub use error::KvError;
pub use head::HeadView;

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
#[derive(Debug, Clone, Copy)]
pub struct KvSegment<'a, E: Element> {
    start: usize,
    keys: ArrayView3<'a, E>,
    values: ArrayView3<'a, E>,
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
        for (array, name) in [(&keys, "keys"), (&values, "values")] {
            let (len, heads, head_dim) = array.dim();
            let stride = array.strides()[2];
            if stride != 1 && head_dim > 1 && len > 0 && heads > 0 {
                return Err(KvError::NotContiguous { array: name, stride });
            }
        }
        if start.checked_add(keys.dim().0).is_none() {
            return Err(KvError::PositionOverflow { start, len: keys.dim().0 });
        }
        Ok(Self { start, keys, values })
    }

    /// Position of the first row.
    pub fn start(&self) -> usize {
        self.start
    }

    /// Number of positions.
    pub fn len(&self) -> usize {
        self.keys.dim().0
    }

    /// Whether there is no position in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Position after the last row.
    pub fn end(&self) -> usize {
        self.start + self.len()
    }

    /// Keys, `(len, n_kv_heads, head_dim)`.
    pub fn keys(&self) -> ArrayView3<'a, E> {
        self.keys
    }

    /// Values, `(len, n_kv_heads, head_dim)`.
    pub fn values(&self) -> ArrayView3<'a, E> {
        self.values
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
#[derive(Debug, Clone, Copy)]
pub struct KvView<'a, E: Element> {
    segments: [Option<KvSegment<'a, E>>; MAX_SEGMENTS],
    start: usize,
    end: usize,
    n_kv_heads: usize,
    head_dim: usize,
}

impl<'a, E: Element> KvView<'a, E> {
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
            let (_, heads, head_dim) = segment.keys.dim();
            match shape {
                None => {
                    shape = Some((heads, head_dim));
                    start = segment.start;
                }
                Some(first) if first != (heads, head_dim) => {
                    return Err(KvError::HeadsDiffer { first, found: (heads, head_dim) });
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
        Ok(Self { segments: kept, start, end: expected, n_kv_heads, head_dim })
    }

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

    /// The positions in the view, without gaps.
    pub fn positions(&self) -> Range<usize> {
        self.start..self.end
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
        self.segments.iter().flatten()
    }

    /// The rows of one head over all segments.
    ///
    /// Returns `None` if there is no such head.
    pub fn head(&self, head: usize) -> Option<HeadView<'a, E>> {
        (head < self.n_kv_heads).then(|| HeadView::new(&self.segments, head))
    }
}

#[cfg(test)]
mod tests;
