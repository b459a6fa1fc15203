//! `out = x Wᵀ`: one row or many, in any format, with the same bits.
//!
//! What is here: the operation, and how its outputs are split between threads. `dense.rs` has the
//! kernel for floats, `quantised.rs` and `blocks.rs` the one for blocks of integers, `activations.rs`
//! what it needs of the inputs, `rows.rs` how many rows go together.
//!
//! An output is one chain of fused multiply-adds over rising inputs: for floats inside blocks of
//! [`K_BLOCK`], whose sums are added in order, for integers over groups, whose sums are exact. SIMD
//! runs across outputs (the sixteen lanes of a panel), so neither the number of rows nor that of
//! threads changes that order; they only change what is kept close by.

mod rows;

mod activations;
mod blocks;
mod dense;
mod pairs;
mod quantised;

use std::ops::Range;

use half::bf16;
use ndarray::{ArrayView2, ArrayViewMut2, Axis};

pub use activations::Activations;
pub use dense::K_BLOCK;

use self::dense::DensePanels;
use self::quantised::QuantisedPanels;
use super::{contiguous, expect, row_mut};
use crate::element::{Element, Factor};
use crate::error::OpError;
use crate::format::FormatVisitor;
use crate::matrix::Matrix;
use crate::quant::OctetBlock;
use crate::quant::kernel::Tile;
use crate::quant::width::{Octets, Wide};
use crate::simd::{Integers, Kernel, LANES, Level, Simd, lanes_of};
use crate::{threads, tile};

/// Rows from which on a thread takes its share of the panels in pieces.
const PIECEMEAL: usize = 24;

/// Panels that one thread reads at once in decode.
const STREAMS: usize = 4;

/// `out[t][o] = Σ_i x[t][i] * weights[o][i]`
///
/// Weights that are floats meet `x` as it is, but for `bf16xbf16`. Weights in blocks of integers meet
/// integers: `x` is rounded with a scale for each block of weights, to 8 bits for `q4_0` (relative
/// error about 0.4 %), `q4_k`, `w8a8` and `w4a8` (blocks of 256: 0.7 %), to 16 bits elsewhere
/// (0.003 %).
///
/// Shapes
///
/// | array | shape |
/// |---|---|
/// | x | `(tokens, in)` |
/// | weights | `(out, in)` |
/// | out | `(tokens, out)` |
///
/// # Errors
///
/// - [`OpError::Shape`]: the shapes do not fit.
/// - [`OpError::NotContiguous`]: rows of `x` or `out` are strided.
///
/// # Cost
///
/// `2 * tokens * in * out` flops. Weights are read once for less than 60 tokens, beyond once for each
/// 132 if they are floats, once for each 96 if they are in blocks. For memory see [`matmul_with`].
pub fn matmul(
    x: ArrayView2<'_, f32>,
    weights: &Matrix,
    out: ArrayViewMut2<'_, f32>,
) -> Result<(), OpError> {
    matmul_with(&mut Activations::default(), x, weights, out)
}

/// [`matmul`] with memory that is kept by the caller: nothing is allocated for less than 24 tokens
/// once it has been used for as many.
///
/// # Errors
///
/// As [`matmul`].
pub fn matmul_with(
    activations: &mut Activations,
    x: ArrayView2<'_, f32>,
    weights: &Matrix,
    out: ArrayViewMut2<'_, f32>,
) -> Result<(), OpError> {
    matmul_at(Level::detect(), activations, x, weights, out)
}

/// [`matmul_with`] for several matrices with the same inputs, which are packed or rounded once for
/// all of one format: the projections to queries, keys and values, or gate and up.
///
/// # Errors
///
/// As [`matmul`], before any output is written.
pub fn matmul_each<const N: usize>(
    activations: &mut Activations,
    x: ArrayView2<'_, f32>,
    products: [(&Matrix, ArrayViewMut2<'_, f32>); N],
) -> Result<(), OpError> {
    let level = Level::detect();
    for (weights, out) in &products {
        check(&x, weights, out)?;
    }
    let mut ready_for = None;
    for (weights, out) in products {
        let ready = ready_for == Some(weights.format());
        compute_one(level, activations, ready, x, weights, out);
        ready_for = Some(weights.format());
    }
    Ok(())
}

/// [`matmul_with`] at a given SIMD level.
///
/// # Errors
///
/// As [`matmul`].
pub fn matmul_at(
    level: Level,
    activations: &mut Activations,
    x: ArrayView2<'_, f32>,
    weights: &Matrix,
    out: ArrayViewMut2<'_, f32>,
) -> Result<(), OpError> {
    check(&x, weights, &out)?;
    compute_one(level, activations, false, x, weights, out);
    Ok(())
}

fn check(
    x: &ArrayView2<'_, f32>,
    weights: &Matrix,
    out: &ArrayViewMut2<'_, f32>,
) -> Result<(), OpError> {
    const OP: &str = "matmul";
    expect(OP, "inputs of x", x.ncols(), weights.cols())?;
    expect(OP, "tokens of out", out.nrows(), x.nrows())?;
    expect(OP, "outputs of out", out.ncols(), weights.rows())?;
    contiguous(OP, "x", x)?;
    contiguous(OP, "out", out)
}

/// One product whose shapes were checked. `ready`: `activations` are those of `x` already.
fn compute_one(
    level: Level,
    activations: &mut Activations,
    ready: bool,
    x: ArrayView2<'_, f32>,
    weights: &Matrix,
    out: ArrayViewMut2<'_, f32>,
) {
    if x.nrows() > 0 {
        let panels = weights.panels();
        weights.format().visit(Matmul { level, activations, ready, x, panels, out });
    }
}

struct Matmul<'a, 'o> {
    level: Level,
    activations: &'a mut Activations,
    ready: bool,
    x: ArrayView2<'a, f32>,
    panels: &'a [u8],
    out: ArrayViewMut2<'o, f32>,
}

impl FormatVisitor for Matmul<'_, '_> {
    type Output = ();

    fn dense<E: Element>(self) {
        if !self.ready {
            DensePanels::<E>::prepare(self.level, self.x, self.activations);
        }
        let panels = DensePanels {
            x: self.x,
            activations: self.activations,
            panels: lanes_of::<E>(self.panels),
            scales: None,
        };
        compute(self.level, &panels, self.out);
    }

    fn pairs(self) {
        if self.level.has_pairs() {
            self.in_pairs::<[bf16; 2]>();
        } else {
            self.in_pairs::<[bf16; 1]>();
        }
    }

    fn quantised<T: Tile>(self) {
        if !self.ready {
            self.activations.round::<T>(self.level, self.x);
        }
        let panels = QuantisedPanels::<T>::new(self.panels, self.activations, self.x.dim());
        compute(self.level, &panels, self.out);
    }

    fn octets<B: OctetBlock>(self) {
        if self.level.has_octets() {
            self.quantised::<B::Tile<Octets>>();
        } else {
            self.quantised::<B::Tile<Wide>>();
        }
    }
}

impl Matmul<'_, '_> {
    /// Both weights of a pair in one step, or one after the other.
    fn in_pairs<F: Factor>(self) {
        if !self.ready {
            self.activations.round_pairs::<F>(self.level, self.x);
        }
        if let Some(panels) = self.activations.meet_pairs::<F>(self.x.dim(), lanes_of(self.panels))
        {
            compute(self.level, &panels, self.out);
        }
    }
}

/// A matrix and the inputs that it meets.
trait Panels: Sync {
    /// Whether weights are integers.
    const INTEGERS: bool;

    /// Whether they are pairs.
    const PAIRS: bool = false;

    /// Number of input rows.
    fn rows(&self) -> usize;

    /// Computes the outputs of some panels, for all rows. Must be `#[inline(always)]`.
    fn compute<S: Integers>(&self, simd: S, range: Range<usize>, out: ArrayViewMut2<'_, f32>);
}

/// Computes all outputs, on several threads.
fn compute<P: Panels>(level: Level, panels: &P, out: ArrayViewMut2<'_, f32>) {
    let n = out.ncols().div_ceil(LANES);
    // Decode wants long runs a thread, prefill wants pieces that even out the threads.
    let pieces = if panels.rows() < PIECEMEAL { 1 } else { 8 };
    let job = Job { level, panels, largest: n.div_ceil(threads::count() * pieces).max(1) };
    job.split(0..n, out);
}

/// What all threads share.
struct Job<'a, P> {
    level: Level,
    panels: &'a P,
    /// Most panels that one task computes.
    largest: usize,
}

impl<P: Panels> Job<'_, P> {
    /// Computes the panels in `range` into the columns `out`.
    fn split(&self, range: Range<usize>, out: ArrayViewMut2<'_, f32>) {
        if range.len() <= self.largest {
            return self.level.dispatch(Task { panels: self.panels, range, out });
        }
        let middle = range.start + range.len() / 2;
        let (left, right) = out.split_at(Axis(1), (middle - range.start) * LANES);
        threads::join(
            || self.split(range.start..middle, left),
            || self.split(middle..range.end, right),
        );
    }
}

/// The part of one thread.
struct Task<'a, 'o, P> {
    panels: &'a P,
    range: Range<usize>,
    out: ArrayViewMut2<'o, f32>,
}

impl<P: Panels> Kernel for Task<'_, '_, P> {
    type Output = ();

    const INTEGERS: bool = P::INTEGERS;

    const PAIRS: bool = P::PAIRS;

    #[inline(always)]
    fn run<S: Integers>(self, simd: S) {
        self.panels.compute(simd, self.range, self.out);
    }
}

/// What [`store_panel`] wrote for one row.
#[inline(always)]
fn load_panel<S: Simd>(
    simd: S,
    out: &mut ArrayViewMut2<'_, f32>,
    row: usize,
    panel: usize,
) -> S::F32x16 {
    let out = row_mut(out, row);
    let end = out.len().min((panel + 1) * LANES);
    tile::load(simd, &out[panel * LANES..end])
}

/// Writes the sums of sixteen outputs for the rows from `first` on. `panel` counts from the first
/// column of `out`.
#[inline(always)]
fn store_panel<S: Simd, const R: usize>(
    simd: S,
    out: &mut ArrayViewMut2<'_, f32>,
    first: usize,
    panel: usize,
    sums: [S::F32x16; R],
) {
    let column = panel * LANES;
    for (r, sums) in sums.into_iter().enumerate() {
        let out = row_mut(out, first + r);
        let end = out.len().min(column + LANES);
        tile::store(simd, sums, &mut out[column..end]);
    }
}
