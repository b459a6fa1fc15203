//! Keys and values of some rows, head by head, as one layer's ring or one chunk keeps them.
//!
//! Head-major, because attention walks one head over all positions: its rows then lie side by
//! side and stream from memory.

use std::ops::Range;

use mistral_core::Element;
use mistral_core::kv::{KvError, KvSegment};
use ndarray::{Array3, ArrayView3, ArrayViewMut1, Axis, Slice};

use crate::error::CacheError;

/// Keys and values, each `(n_kv_heads, rows, head_dim)`.
#[derive(Debug, Clone)]
pub(crate) struct KvRows<E> {
    keys: Array3<E>,
    values: Array3<E>,
}

impl<E: Element> KvRows<E> {
    pub(crate) fn new(n_kv_heads: usize, rows: usize, head_dim: usize) -> Result<Self, CacheError> {
        Ok(Self {
            keys: allocate((n_kv_heads, rows, head_dim))?,
            values: allocate((n_kv_heads, rows, head_dim))?,
        })
    }

    /// `(n_kv_heads, head_dim)`.
    pub(crate) fn heads(&self) -> (usize, usize) {
        let (n_kv_heads, _, head_dim) = self.keys.dim();
        (n_kv_heads, head_dim)
    }

    pub(crate) fn len(&self) -> usize {
        self.keys.dim().1
    }

    pub(crate) fn bytes(&self) -> usize {
        (self.keys.len() + self.values.len()) * E::DTYPE.bytes()
    }

    /// Makes room for `len` rows and keeps those that are there. Never shrinks.
    pub(crate) fn grow(&mut self, len: usize) -> Result<(), CacheError> {
        let old = self.len();
        if len > old {
            let (n_kv_heads, head_dim) = self.heads();
            let mut wider = Self::new(n_kv_heads, len, head_dim)?;
            wider.copy(0, self, 0..old);
            *self = wider;
        }
        Ok(())
    }

    /// The rows `range`, of which the first belongs to position `start`.
    pub(crate) fn segment(
        &self,
        start: usize,
        range: Range<usize>,
    ) -> Result<KvSegment<'_, E>, KvError> {
        let [keys, values] = [&self.keys, &self.values].map(|array| {
            array
                .view()
                .permuted_axes([1, 0, 2])
                .slice_axis_move(Axis(0), Slice::from(range.clone()))
        });
        KvSegment::new(start, keys, values)
    }

    /// Rounds a chunk, `(tokens, n_kv_heads, head_dim)`, into the first rows.
    pub(crate) fn round_from(&mut self, keys: ArrayView3<f32>, values: ArrayView3<f32>) {
        for (target, source) in [(&mut self.keys, keys), (&mut self.values, values)] {
            for (mut rows, head) in target.outer_iter_mut().zip(source.axis_iter(Axis(1))) {
                for (mut row, token) in rows.outer_iter_mut().zip(head.outer_iter()) {
                    match token.as_slice() {
                        Some(token) => round_row(&mut row, token),
                        None => row.zip_mut_with(&token, |to, &from| *to = E::from_f32(from)),
                    }
                }
            }
        }
    }

    /// Copies the rows `range` of `source` to the rows from `at` on.
    pub(crate) fn copy(&mut self, at: usize, source: &Self, range: Range<usize>) {
        let to = Slice::from(at..at + range.len());
        let from = Slice::from(range);
        for (target, source) in [(&mut self.keys, &source.keys), (&mut self.values, &source.values)]
        {
            // Head by head, so that each copy is one run of memory.
            for (mut target, source) in target.outer_iter_mut().zip(source.outer_iter()) {
                target.slice_axis_mut(Axis(0), to).assign(&source.slice_axis(Axis(0), from));
            }
        }
    }
}

fn round_row<E: Element>(row: &mut ArrayViewMut1<E>, token: &[f32]) {
    if let Some(row) = row.as_slice_mut() {
        E::round_slice(token, row);
    }
}

/// Zeroed memory, or an error instead of an abort.
fn allocate<E: Element>(shape: (usize, usize, usize)) -> Result<Array3<E>, CacheError> {
    let len = shape
        .0
        .checked_mul(shape.1)
        .and_then(|n| n.checked_mul(shape.2))
        .ok_or(CacheError::SizeOverflow)?;
    let bytes = len.checked_mul(E::DTYPE.bytes()).ok_or(CacheError::SizeOverflow)?;
    let mut data = Vec::new();
    data.try_reserve_exact(len).map_err(|_| CacheError::OutOfMemory { bytes })?;
    data.resize(len, E::default());
    Array3::from_shape_vec(shape, data).map_err(|_| CacheError::SizeOverflow)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mistral_core::half::bf16;

    #[test]
    fn growing_keeps_the_rows_and_counts_the_bytes() {
        let chunk = Array3::from_shape_fn((2, 3, 4), |(i, h, d)| (i * 12 + h * 4 + d) as f32 + 0.5);
        let mut rows = KvRows::<f32>::new(3, 2, 4).unwrap();
        rows.round_from(chunk.view(), chunk.view());
        assert_eq!(rows.bytes(), 2 * 3 * 2 * 4 * 4);
        rows.grow(5).unwrap();
        rows.grow(1).unwrap();
        assert_eq!(rows.bytes(), 2 * 3 * 5 * 4 * 4);
        assert_eq!(rows.segment(0, 0..2).unwrap().keys(), chunk);
        assert_eq!(rows.segment(0, 0..2).unwrap().values(), chunk);
    }

    #[test]
    fn a_strided_chunk_is_rounded_like_a_plain_one() {
        let wide = Array3::from_shape_fn((3, 2, 8), |(i, h, d)| 0.1 + (i * 16 + h * 8 + d) as f32);
        let strided = wide.slice_axis(Axis(2), Slice::new(0, None, 2));
        let plain = strided.as_standard_layout();
        let stored = |chunk: ArrayView3<f32>| {
            let mut rows = KvRows::<bf16>::new(2, 3, 4).unwrap();
            rows.round_from(chunk, chunk);
            rows.keys
        };
        assert_eq!(stored(strided), stored(plain.view()));
        assert_eq!(stored(strided)[[1, 2, 3]], bf16::from_f32(wide[[2, 1, 6]]));
    }

    #[test]
    fn impossible_sizes_are_errors() {
        let too_many = KvRows::<f32>::new(usize::MAX, 2, 1).unwrap_err();
        assert_eq!(too_many, CacheError::SizeOverflow);
        let too_large = KvRows::<f32>::new(1, usize::MAX / 8, 1).unwrap_err();
        assert_eq!(too_large, CacheError::OutOfMemory { bytes: usize::MAX / 8 * 4 });
    }
}
