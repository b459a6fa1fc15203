//! Root-mean-square normalisation (arXiv:1910.07467).

use ndarray::{ArrayView2, ArrayViewMut2};

use super::{by_rows, contiguous, expect, row, row_mut};
use crate::error::OpError;
use crate::simd::{Kernel, LANES, Level, Simd, sum_lanes};
use crate::tile;

/// `out = weight * (x / sqrt(mean(x²) + eps))`, row by row.
///
/// Shapes
///
/// | array | shape |
/// |---|---|
/// | x, out | `(tokens, dim)` |
/// | weight | `dim` |
///
/// # Errors
///
/// - [`OpError::Shape`]: the shapes do not fit.
/// - [`OpError::NotContiguous`]: rows of `x` or `out` are strided.
///
/// # Cost
///
/// `5 * tokens * dim` flops; reads `x` twice, writes `out` once.
pub fn rms_norm(
    x: ArrayView2<'_, f32>,
    weight: &[f32],
    eps: f32,
    out: ArrayViewMut2<'_, f32>,
) -> Result<(), OpError> {
    rms_norm_at(Level::detect(), x, weight, eps, out)
}

/// [`rms_norm`] at a given SIMD level.
///
/// # Errors
///
/// As [`rms_norm`].
pub fn rms_norm_at(
    level: Level,
    x: ArrayView2<'_, f32>,
    weight: &[f32],
    eps: f32,
    out: ArrayViewMut2<'_, f32>,
) -> Result<(), OpError> {
    const OP: &str = "rms_norm";
    expect(OP, "features of x", x.ncols(), weight.len())?;
    expect(OP, "tokens of out", out.nrows(), x.nrows())?;
    expect(OP, "features of out", out.ncols(), weight.len())?;
    contiguous(OP, "x", &x)?;
    contiguous(OP, "out", &out)?;
    by_rows(out, 0, &|first, mut out| {
        for r in 0..out.nrows() {
            level.dispatch(NormRow {
                x: row(&x, first + r),
                weight,
                eps,
                out: row_mut(&mut out, r),
            });
        }
    });
    Ok(())
}

struct NormRow<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Kernel for NormRow<'_> {
    type Output = ();

    const INTEGERS: bool = false;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        // Lane `l` sums the squares of elements l, l + 16, l + 32, ...
        let mut squares = simd.splat(0.0);
        for v in vectors(simd, self.x) {
            squares = simd.mul_add(v, v, squares);
        }
        let mean = sum_lanes(simd, squares) / self.x.len() as f32;
        let scale = simd.splat(1.0 / (mean + self.eps).sqrt());
        let normed = vectors(simd, self.x).zip(vectors(simd, self.weight));
        for ((x, weight), out) in normed.zip(self.out.chunks_mut(LANES)) {
            tile::store(simd, simd.mul(weight, simd.mul(x, scale)), out);
        }
    }
}

/// A row in vectors of sixteen, the last one filled up with zeros.
#[inline(always)]
pub(super) fn vectors<S: Simd>(simd: S, row: &[f32]) -> impl Iterator<Item = S::F32x16> {
    let (full, rest) = row.as_chunks::<LANES>();
    let last = (!rest.is_empty()).then(|| {
        let mut lanes = [0.0; LANES];
        lanes[..rest.len()].copy_from_slice(rest);
        simd.load(&lanes)
    });
    full.iter().map(move |lanes| simd.load(lanes)).chain(last)
}
