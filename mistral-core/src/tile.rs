//! The outer-product tile: the one inner loop of matmul and of attention.
//!
//! ```text
//!                 panel 0 (16 outputs)     panel 1
//!               ┌────────────────────┬────────────────────┐
//!     k = 0     │ w w w w ... w w w  │                    │
//!     k = 1     │                    │                    │      acc[r][p] += x[r][k] * panel[p][k]
//!      ...      └────────────────────┴────────────────────┘
//! x[0] ───────►   sixteen sums           sixteen sums
//! x[1] ───────►   sixteen sums           sixteen sums
//! ```
//!
//! Each step takes one `k`: it broadcasts one number of each input row and multiplies it with
//! sixteen weights of each panel. Every sum is its own chain over rising `k`: no lane is ever
//! added to another, so a sum has the same bits whatever the number of rows and panels beside it.

use crate::element::Factor;
use crate::simd::{LANES, Lanes, Simd};

/// Steps in one pass of the inner loop: a tenth faster than one, in matmul and attention alike.
const UNROLLED: usize = 4;

/// Sums for `R` input rows and `P` panels of sixteen outputs.
pub type Sums<S, const R: usize, const P: usize> = [[<S as Simd>::F32x16; P]; R];

/// `R x P` vectors of zeros.
#[inline(always)]
pub fn zeros<S: Simd, const R: usize, const P: usize>(simd: S) -> Sums<S, R, P> {
    [[simd.splat(0.0); P]; R]
}

/// `acc[r][p] + Σ_k x[r][k] * panels[p][k]`, one chain of fused multiply-adds over rising `k`.
///
/// `k` runs up to the shortest of the rows and panels. With AVX2 the sums stay in registers for
/// `R * P <= 6`.
///
/// Cost: `2 * 16 * R * P * K` flops.
#[inline(always)]
pub fn accumulate<S: Simd, F: Factor, const R: usize, const P: usize>(
    simd: S,
    x: [&[f32]; R],
    panels: [&[Lanes<F>]; P],
    acc: Sums<S, R, P>,
) -> Sums<S, R, P> {
    accumulate_ahead(simd, x, panels, acc, None)
}

/// [`accumulate`] that asks memory for what lies `ahead` vectors further on in each panel.
#[inline(always)]
pub fn accumulate_ahead<S: Simd, F: Factor, const R: usize, const P: usize>(
    simd: S,
    x: [&[f32]; R],
    panels: [&[Lanes<F>]; P],
    mut acc: Sums<S, R, P>,
    ahead: Option<usize>,
) -> Sums<S, R, P> {
    let (mut x, mut panels) = (x, panels);
    let mut depth = usize::MAX;
    for row in &x {
        depth = depth.min(row.len());
    }
    for panel in &panels {
        depth = depth.min(panel.len());
    }
    // Slices of one length: the compiler sees that no index below is out of bounds. Plain loops,
    // because `array::map` is not always inlined, and would then hide that length.
    for row in &mut x {
        *row = &row[..depth];
    }
    for panel in &mut panels {
        *panel = &panel[..depth];
    }
    let mut whole_x: [&[[f32; UNROLLED]]; R] = [&[]; R];
    for (whole, row) in whole_x.iter_mut().zip(&x) {
        *whole = &row.as_chunks().0[..depth / UNROLLED];
    }
    let mut whole_panels: [&[[Lanes<F>; UNROLLED]]; P] = [&[]; P];
    for (whole, panel) in whole_panels.iter_mut().zip(&panels) {
        *whole = &panel.as_chunks().0[..depth / UNROLLED];
    }
    for i in 0..depth / UNROLLED {
        for k in 0..UNROLLED {
            let (mut xk, mut w) = ([0.0; R], [simd.splat(0.0); P]);
            for p in 0..P {
                if let Some(ahead) = ahead {
                    simd.prefetch(panels[p], i * UNROLLED + k + ahead);
                }
                w[p] = F::load(simd, &whole_panels[p][i][k]);
            }
            for r in 0..R {
                xk[r] = whole_x[r][i][k];
            }
            acc = multiply::<S, F, R, P>(simd, xk, w, acc);
        }
    }
    for k in depth / UNROLLED * UNROLLED..depth {
        acc = multiply::<S, F, R, P>(simd, x.map(|row| row[k]), load_each(simd, &panels, k), acc);
    }
    acc
}

/// As [`accumulate`], where the numbers of `R` rows that meet lie together: `x[k][r]`.
///
/// `k` runs up to the shortest of `x` and the panels. One pointer instead of `R`, and four steps a
/// pass of the loop: up to a fifth faster than rows that lie apart.
#[inline(always)]
pub fn accumulate_packed<S: Simd, F: Factor, const R: usize, const P: usize>(
    simd: S,
    x: &[[f32; R]],
    panels: [&[Lanes<F>]; P],
    mut acc: Sums<S, R, P>,
) -> Sums<S, R, P> {
    let mut depth = x.len();
    for panel in &panels {
        depth = depth.min(panel.len());
    }
    let (passes, rest) = x[..depth].as_chunks::<UNROLLED>();
    let mut whole: [&[[Lanes<F>; UNROLLED]]; P] = [&[]; P];
    for (whole, panel) in whole.iter_mut().zip(&panels) {
        *whole = &panel.as_chunks().0[..passes.len()];
    }
    for (i, x) in passes.iter().enumerate() {
        for k in 0..UNROLLED {
            let mut w = [simd.splat(0.0); P];
            for p in 0..P {
                w[p] = F::load(simd, &whole[p][i][k]);
            }
            acc = multiply::<S, F, R, P>(simd, x[k], w, acc);
        }
    }
    for (x, k) in rest.iter().zip(depth - rest.len()..) {
        acc = multiply::<S, F, R, P>(simd, *x, load_each(simd, &panels, k), acc);
    }
    acc
}

/// Vector `k` of each panel, widened.
#[inline(always)]
fn load_each<S: Simd, F: Factor, const P: usize>(
    simd: S,
    panels: &[&[Lanes<F>]; P],
    k: usize,
) -> [S::F32x16; P] {
    let mut w = [simd.splat(0.0); P];
    for p in 0..P {
        w[p] = F::load(simd, &panels[p][k]);
    }
    w
}

/// `acc[r][p] + x[r] * w[p]`
#[inline(always)]
fn multiply<S: Simd, F: Factor, const R: usize, const P: usize>(
    simd: S,
    x: [f32; R],
    w: [S::F32x16; P],
    mut acc: Sums<S, R, P>,
) -> Sums<S, R, P> {
    for r in 0..R {
        let xr = simd.splat(x[r]);
        for p in 0..P {
            acc[r][p] = F::mul_add(simd, xr, w[p], acc[r][p]);
        }
    }
    acc
}

/// Loads what [`store`] stored; lanes beyond the end are 0.
#[inline(always)]
pub fn load<S: Simd>(simd: S, from: &[f32]) -> S::F32x16 {
    if let Some(full) = from.first_chunk::<LANES>() {
        simd.load(full)
    } else {
        let mut lanes = [0.0; LANES];
        lanes[..from.len()].copy_from_slice(from);
        simd.load(&lanes)
    }
}

/// Stores sixteen sums, or as many as `out` has room for.
#[inline(always)]
pub fn store<S: Simd>(simd: S, sums: S::F32x16, out: &mut [f32]) {
    if let Some(full) = out.first_chunk_mut::<LANES>() {
        simd.store(sums, full);
    } else {
        let mut lanes = [0.0; LANES];
        simd.store(sums, &mut lanes);
        let n = out.len();
        out.copy_from_slice(&lanes[..n]);
    }
}
