//! One head of a view, as kernels walk over it: rows by absolute position.

use std::ops::Range;

use ndarray::{ArrayView2, ArrayView3, Axis};

use super::{KvSegment, MAX_SEGMENTS};
use crate::element::Element;

/// One head of a [`KvView`](super::KvView): its keys and values by absolute position.
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
    /// The rows of `head` in each segment.
    pub(super) fn new(segments: &[Option<KvSegment<'a, E>>; MAX_SEGMENTS], head: usize) -> Self {
        let runs = segments.map(|segment| {
            segment.map(|s| Run {
                start: s.start(),
                end: s.end(),
                keys: HeadRows::new(s.keys(), head),
                values: HeadRows::new(s.values(), head),
            })
        });
        Self { runs }
    }

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

/// The rows of one head in one array: what a kernel walks over.
#[derive(Debug, Clone, Copy)]
struct HeadRows<'a, E: Element> {
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
    fn row(&self, index: usize) -> &'a [E] {
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
