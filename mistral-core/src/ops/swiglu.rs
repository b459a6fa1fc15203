//! The gate of the feed-forward layer (arXiv:2002.05202).

use ndarray::{ArrayView2, ArrayViewMut2};

use super::rms_norm::vectors;
use super::{by_rows, contiguous, expect, row, row_mut};
use crate::error::OpError;
use crate::simd::{Kernel, LANES, Level, Simd, exp};
use crate::tile;

/// `gate = silu(gate) * up` with `silu(g) = g / (1 + e^-g)`, in place.
///
/// Shapes
///
/// | array | shape |
/// |---|---|
/// | gate, up | `(tokens, hidden_dim)` |
///
/// # Errors
///
/// - [`OpError::Shape`]: the shapes differ.
/// - [`OpError::NotContiguous`]: rows are strided.
///
/// # Cost
///
/// About `13 * tokens * hidden_dim` flops; reads both arrays once, writes one.
pub fn swiglu(gate: ArrayViewMut2<'_, f32>, up: ArrayView2<'_, f32>) -> Result<(), OpError> {
    swiglu_at(Level::detect(), gate, up)
}

/// [`swiglu`] at a given SIMD level.
///
/// # Errors
///
/// As [`swiglu`].
pub fn swiglu_at(
    level: Level,
    gate: ArrayViewMut2<'_, f32>,
    up: ArrayView2<'_, f32>,
) -> Result<(), OpError> {
    const OP: &str = "swiglu";
    expect(OP, "tokens of up", up.nrows(), gate.nrows())?;
    expect(OP, "features of up", up.ncols(), gate.ncols())?;
    contiguous(OP, "gate", &gate)?;
    contiguous(OP, "up", &up)?;
    by_rows(gate, 0, &|first, mut gate| {
        for r in 0..gate.nrows() {
            level.dispatch(GateRow { gate: row_mut(&mut gate, r), up: row(&up, first + r) });
        }
    });
    Ok(())
}

struct GateRow<'a> {
    gate: &'a mut [f32],
    up: &'a [f32],
}

impl Kernel for GateRow<'_> {
    type Output = ();

    const INTEGERS: bool = false;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let one = simd.splat(1.0);
        for (chunk, up) in self.gate.chunks_mut(LANES).zip(vectors(simd, self.up)) {
            let mut lanes = [0.0; LANES];
            lanes[..chunk.len()].copy_from_slice(chunk);
            let gate = simd.load(&lanes);
            let e = exp(simd, simd.sub(simd.splat(0.0), gate));
            let silu = simd.div(gate, simd.add(one, e));
            tile::store(simd, simd.mul(silu, up), chunk);
        }
    }
}
