//! Softmax of one row.

use crate::simd::{Kernel, LANES, Level, Simd, exp, max_lanes, sum_lanes};
use crate::tile;

/// `x[i] = e^(x[i] - max) / Σ_j e^(x[j] - max)`, in place.
///
/// `-inf` gets probability zero; a NaN, or nothing but `-inf`, makes the row NaN. An empty row
/// stays empty.
///
/// # Cost
///
/// About `12 * len` flops; reads and writes `x` three times.
pub fn softmax(x: &mut [f32]) {
    softmax_at(Level::detect(), x);
}

/// [`softmax`] at a given SIMD level.
pub fn softmax_at(level: Level, x: &mut [f32]) {
    level.dispatch(Softmax(x));
}

struct Softmax<'a>(&'a mut [f32]);

impl Kernel for Softmax<'_> {
    type Output = ();

    const INTEGERS: bool = false;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let x = self.0;
        let mut largest = f32::NEG_INFINITY;
        let (full, rest) = x.as_chunks::<LANES>();
        if !full.is_empty() {
            let start = simd.splat(f32::NEG_INFINITY);
            let lanes = full.iter().fold(start, |m, v| simd.max(m, simd.load(v)));
            largest = max_lanes(simd, lanes);
        }
        for &value in rest {
            largest = if largest > value { largest } else { value };
        }
        let shift = simd.splat(largest);
        let mut sums = simd.splat(0.0);
        for chunk in x.chunks_mut(LANES) {
            // Lanes beyond the row hold -inf, whose exponential is zero.
            let mut lanes = [f32::NEG_INFINITY; LANES];
            lanes[..chunk.len()].copy_from_slice(chunk);
            let e = exp(simd, simd.sub(simd.load(&lanes), shift));
            sums = simd.add(sums, e);
            tile::store(simd, e, chunk);
        }
        let total = simd.splat(sum_lanes(simd, sums));
        for chunk in x.chunks_mut(LANES) {
            let mut lanes = [0.0; LANES];
            lanes[..chunk.len()].copy_from_slice(chunk);
            tile::store(simd, simd.div(simd.load(&lanes), total), chunk);
        }
    }
}
