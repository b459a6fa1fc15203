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

use std::ops::Range;

use ndarray::{ArrayView2, ArrayView3, Axis};

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

/// The rows of one head in one array: what a kernel walks over.
#[derive(Debug, Clone, Copy)]
pub struct HeadRows<'a, E: Element> {
    rows: Rows<'a, E>,
    head_dim: usize,
}

#[derive(Debug, Clone, Copy)]
enum Rows<'a, E> {
    /// Row `i` starts at `offset + i * stride`.
    Strided { data: &'a [E], offset: usize, stride: usize },
    /// An array cut so that no single slice covers it.
    Scattered(ArrayView2<'a, E>),
}

impl<'a, E: Element> HeadRows<'a, E> {
    /// Rows of `head` in a `(len, n_kv_heads, head_dim)` array with a contiguous last axis.
    fn new(array: ArrayView3<'a, E>, head: usize) -> Self {
        let (_, n_kv_heads, head_dim) = array.dim();
        let one_head = array.index_axis_move(Axis(1), head);
        let rows = if let Some(data) = one_head.to_slice() {
            Rows::Strided { data, offset: 0, stride: head_dim }
        } else if let Some(data) = array.to_slice() {
            Rows::Strided { data, offset: head * head_dim, stride: n_kv_heads * head_dim }
        } else {
            Rows::Scattered(one_head)
        };
        Self { rows, head_dim }
    }

    /// The `head_dim` elements of row `index` (counted from the start of the segment).
    ///
    /// An index beyond the segment gives an empty slice.
    #[inline(always)]
    pub fn row(&self, index: usize) -> &'a [E] {
        match self.rows {
            Rows::Strided { data, offset, stride } => {
                let from = offset + index * stride;
                data.get(from..from + self.head_dim).unwrap_or_default()
            }
            Rows::Scattered(array) if index < array.nrows() => {
                array.index_axis_move(Axis(0), index).to_slice().unwrap_or_default()
            }
            Rows::Scattered(_) => &[],
        }
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
        if head >= self.n_kv_heads {
            return None;
        }
        let runs = self.segments.map(|segment| {
            segment.map(|s| Run {
                start: s.start(),
                end: s.end(),
                keys: HeadRows::new(s.keys, head),
                values: HeadRows::new(s.values, head),
            })
        });
        Some(HeadView { runs })
    }
}

/// One head of a [`KvView`]: its keys and values by absolute position.
#[derive(Debug, Clone, Copy)]
pub struct HeadView<'a, E: Element> {
    runs: [Option<Run<'a, E>>; MAX_SEGMENTS],
}

/// The part of a head that lies in one segment.
#[derive(Debug, Clone, Copy)]
struct Run<'a, E: Element> {
    start: usize,
    end: usize,
    keys: HeadRows<'a, E>,
    values: HeadRows<'a, E>,
}

impl<'a, E: Element> HeadView<'a, E> {
    /// Keys of `positions`, oldest first; positions outside the view are left out.
    #[inline(always)]
    pub fn keys(&self, positions: Range<usize>) -> impl Iterator<Item = &'a [E]> {
        self.rows(positions, |run| run.keys)
    }

    /// Values of `positions`, oldest first; positions outside the view are left out.
    #[inline(always)]
    pub fn values(&self, positions: Range<usize>) -> impl Iterator<Item = &'a [E]> {
        self.rows(positions, |run| run.values)
    }

    #[inline(always)]
    fn rows(
        &self,
        positions: Range<usize>,
        side: impl Fn(&Run<'a, E>) -> HeadRows<'a, E>,
    ) -> impl Iterator<Item = &'a [E]> {
        self.runs.into_iter().flatten().flat_map(move |run| {
            let rows = side(&run);
            let from = positions.start.max(run.start);
            let to = positions.end.min(run.end);
            (from..to).map(move |position| rows.row(position - run.start))
        })
    }
}

/// What can be wrong with keys and values before any attention is computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KvError {
    /// Keys and values differ in shape.
    #[error("keys have shape {keys:?} and values {values:?}, expected the same")]
    ShapeMismatch {
        /// Shape of the keys.
        keys: (usize, usize, usize),
        /// Shape of the values.
        values: (usize, usize, usize),
    },
    /// The last axis is strided.
    #[error(
        "the last axis of {array} has stride {stride}, expected 1: copy it with `as_standard_layout`"
    )]
    NotContiguous {
        /// `"keys"` or `"values"`.
        array: &'static str,
        /// Stride found, in elements.
        stride: isize,
    },
    /// The last position does not fit in `usize`.
    #[error("{len} positions from {start} on do not fit in usize")]
    PositionOverflow {
        /// First position.
        start: usize,
        /// Number of positions.
        len: usize,
    },
    /// Nothing to attend to.
    #[error("the view holds no position, expected at least the query's own")]
    Empty,
    /// More segments than a ring and a chunk have.
    #[error("more than {limit} segments with positions in one view")]
    TooManySegments {
        /// Most segments a view holds.
        limit: usize,
    },
    /// A gap, an overlap or a wrong order.
    #[error("a segment starts at position {found}, expected {expected}, where the one before ends")]
    NotConsecutive {
        /// End of the segment before.
        expected: usize,
        /// Start found.
        found: usize,
    },
    /// Segments of different models.
    #[error(
        "a segment has (n_kv_heads, head_dim) = {found:?}, expected {first:?} as in the first segment"
    )]
    HeadsDiffer {
        /// Heads and head size of the first segment.
        first: (usize, usize),
        /// Heads and head size found.
        found: (usize, usize),
    },
}

#[cfg(test)]
mod tests {
    use ndarray::{Array3, s};

    use super::*;

    fn numbered(len: usize, heads: usize, dim: usize) -> Array3<f32> {
        Array3::from_shape_fn((len, heads, dim), |(i, h, d)| (i * 100 + h * 10 + d) as f32)
    }

    #[test]
    fn any_outer_stride_gives_the_same_rows() {
        let plain = numbered(5, 3, 4);
        let head_major = plain.view().permuted_axes([1, 0, 2]).as_standard_layout().into_owned();
        let wide = numbered(5, 6, 4);
        let views =
            [plain.view(), head_major.view().permuted_axes([1, 0, 2]), wide.slice(s![.., ..3, ..])];
        for array in views {
            let view = KvView::from_arrays(array, array).unwrap();
            for head in 0..3 {
                let rows: Vec<_> = view.head(head).unwrap().keys(1..4).collect();
                assert_eq!(rows.len(), 3);
                for (i, row) in rows.iter().enumerate() {
                    let first = ((i + 1) * 100 + head * 10) as f32;
                    assert_eq!(row, &[first, first + 1.0, first + 2.0, first + 3.0]);
                }
            }
        }
    }

    #[test]
    fn rows_cross_segment_borders_in_order_of_position() {
        let (a, b) = (numbered(3, 1, 1), numbered(2, 1, 1));
        let view = KvView::new([
            KvSegment::new(7, a.view(), a.view()).unwrap(),
            KvSegment::new(10, b.view(), b.view()).unwrap(),
        ])
        .unwrap();
        let values: Vec<f32> = view.head(0).unwrap().values(8..99).map(|row| row[0]).collect();
        assert_eq!(values, [100.0, 200.0, 0.0, 100.0]);
        assert!(view.head(1).is_none());
    }

    #[test]
    fn gaps_overlaps_and_strangers_are_named() {
        let a = numbered(3, 2, 4);
        let b = numbered(3, 1, 4);
        let at = |start, array: &'static str| {
            let array = if array == "a" { a.view() } else { b.view() };
            KvSegment::new(start, array, array).unwrap()
        };
        let gap = KvView::new([at(0, "a"), at(4, "a")]).unwrap_err();
        assert_eq!(gap, KvError::NotConsecutive { expected: 3, found: 4 });
        let overlap = KvView::new([at(5, "a"), at(6, "a")]).unwrap_err();
        assert_eq!(overlap, KvError::NotConsecutive { expected: 8, found: 6 });
        let stranger = KvView::new([at(0, "a"), at(3, "b")]).unwrap_err();
        assert_eq!(stranger, KvError::HeadsDiffer { first: (2, 4), found: (1, 4) });
        let four = KvView::new([at(0, "a"), at(3, "a"), at(6, "a"), at(9, "a")]).unwrap_err();
        assert_eq!(four, KvError::TooManySegments { limit: 3 });
        assert_eq!(KvView::<f32>::new([]).unwrap_err(), KvError::Empty);
        let end = KvSegment::new(usize::MAX - 1, a.view(), a.view()).unwrap_err();
        assert_eq!(end, KvError::PositionOverflow { start: usize::MAX - 1, len: 3 });
    }

    #[test]
    fn a_strided_head_and_unequal_arrays_are_refused() {
        let a = numbered(3, 2, 4);
        let every_other = a.slice(s![.., .., ..;2]);
        assert_eq!(
            KvSegment::new(0, every_other, every_other).unwrap_err(),
            KvError::NotContiguous { array: "keys", stride: 2 }
        );
        let short = a.slice(s![..2, .., ..]);
        assert_eq!(
            KvSegment::new(0, a.view(), short).unwrap_err(),
            KvError::ShapeMismatch { keys: (3, 2, 4), values: (2, 2, 4) }
        );
    }
}
