//! `out = x Wᵀ`: one row or many, in any format, with the same bits.
//!
//! An output is one chain of fused multiply-adds over rising `k` inside blocks of [`K_BLOCK`];
//! the block sums are added in order. SIMD runs across outputs (the sixteen lanes of a panel), so
//! nothing below changes that order; it only changes what is kept close by:
//!
//! - One row (decode) is bound by reading the weights. A thread walks four panels far apart in
//!   its share at once: four streams keep more reads in flight than one.
//! - A few rows share each vector of weights, still read as stored.
//! - From [`WIDEN_FROM`] rows on, arithmetic is the bound. Sixteen outputs' weights are widened
//!   once into a panel that stays in the second-level cache, and rows pass over it six at a time.

use std::ops::Range;

use ndarray::{ArrayView2, ArrayViewMut2, Axis};

use super::{contiguous, expect, row, row_mut};
use crate::element::Element;
use crate::error::OpError;
use crate::matrix::{Matrix, PanelVisitor};
use crate::simd::{Kernel, LANES, Lanes, Level, Simd};
use crate::{threads, tile};

/// Products in one chain before its sum is added to the total.
pub const K_BLOCK: usize = 512;

/// Rows from which on weights are widened into a panel of f32 first.
const WIDEN_FROM: usize = 24;

/// Rows that pass over a panel together: six times sixteen sums fill twelve AVX2 registers.
const ROW_GROUP: usize = 6;

/// Panels that one thread reads at once in decode.
const STREAMS: usize = 4;

/// `out[t][o] = Σ_i x[t][i] * weights[o][i]`
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
/// `2 * tokens * in * out` flops; the weights are read once for up to six tokens, and once for
/// each panel of sixteen outputs beyond. Nothing is allocated below 24 tokens.
pub fn matmul(
    x: ArrayView2<'_, f32>,
    weights: &Matrix,
    out: ArrayViewMut2<'_, f32>,
) -> Result<(), OpError> {
    matmul_at(Level::detect(), x, weights, out)
}

/// [`matmul`] at a given SIMD level.
///
/// # Errors
///
/// As [`matmul`].
pub fn matmul_at(
    level: Level,
    x: ArrayView2<'_, f32>,
    weights: &Matrix,
    out: ArrayViewMut2<'_, f32>,
) -> Result<(), OpError> {
    const OP: &str = "matmul";
    expect(OP, "inputs of x", x.ncols(), weights.cols())?;
    expect(OP, "tokens of out", out.nrows(), x.nrows())?;
    expect(OP, "outputs of out", out.ncols(), weights.rows())?;
    contiguous(OP, "x", &x)?;
    contiguous(OP, "out", &out)?;
    if x.nrows() > 0 {
        weights.visit(Matmul { level, x, out });
    }
    Ok(())
}

struct Matmul<'a, 'o> {
    level: Level,
    x: ArrayView2<'a, f32>,
    out: ArrayViewMut2<'o, f32>,
}

impl PanelVisitor for Matmul<'_, '_> {
    type Output = ();

    fn visit<E: Element>(self, panels: &[Lanes<E>]) {
        let n = panels.len() / self.x.ncols();
        // Decode wants long runs a thread, prefill wants pieces that even out the threads.
        let pieces = if self.x.nrows() < WIDEN_FROM { 1 } else { 4 };
        let job = Job {
            level: self.level,
            x: self.x,
            panels,
            largest: n.div_ceil(threads::count() * pieces).max(1),
        };
        job.split(0..n, self.out);
    }
}

/// What all threads share.
struct Job<'a, E> {
    level: Level,
    x: ArrayView2<'a, f32>,
    panels: &'a [Lanes<E>],
    /// Most panels that one task computes.
    largest: usize,
}

impl<E: Element> Job<'_, E> {
    /// Computes the panels in `range` into the columns `out`, on several threads where it pays.
    fn split(&self, range: Range<usize>, out: ArrayViewMut2<'_, f32>) {
        if range.len() <= self.largest {
            return self.level.dispatch(Columns { job: self, range, out });
        }
        let middle = range.start + range.len() / 2;
        let (left, right) = out.split_at(Axis(1), (middle - range.start) * LANES);
        threads::join(
            || self.split(range.start..middle, left),
            || self.split(middle..range.end, right),
        );
    }

    /// The weights of panel `index`: one vector for each input.
    #[inline(always)]
    fn panel(&self, index: usize) -> &[Lanes<E>] {
        let depth = self.x.ncols();
        &self.panels[index * depth..][..depth]
    }

    /// `R` rows of the input from `first` on.
    #[inline(always)]
    fn rows<const R: usize>(&self, first: usize) -> [&[f32]; R] {
        std::array::from_fn(|r| row(&self.x, first + r))
    }
}

/// The task of one thread: the outputs of some panels, for all rows.
struct Columns<'j, 'a, 'o, E> {
    job: &'j Job<'a, E>,
    range: Range<usize>,
    out: ArrayViewMut2<'o, f32>,
}

impl<E: Element> Kernel for Columns<'_, '_, '_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        match self.job.x.nrows() {
            1 => self.stream::<S, 1, STREAMS>(simd),
            2 => self.stream::<S, 2, 3>(simd),
            3 => self.stream::<S, 3, 2>(simd),
            rows if rows < WIDEN_FROM => {
                for index in self.range.clone() {
                    let job = self.job;
                    self.pass_over(simd, job.panel(index), index);
                }
            }
            _ => {
                let mut wide = vec![Lanes::default(); self.job.x.ncols()];
                for index in self.range.clone() {
                    for (target, lanes) in wide.iter_mut().zip(self.job.panel(index)) {
                        simd.store(E::load(simd, lanes), &mut target.0);
                    }
                    self.pass_over(simd, &wide, index);
                }
            }
        }
    }
}

impl<E: Element> Columns<'_, '_, '_, E> {
    /// All `R` rows of the input, `P` panels at a time that lie far apart.
    #[inline(always)]
    fn stream<S: Simd, const R: usize, const P: usize>(&mut self, simd: S) {
        let job = self.job;
        let x = job.rows::<R>(0);
        let run = self.range.len() / P;
        for i in 0..run {
            let index: [usize; P] = std::array::from_fn(|p| self.range.start + p * run + i);
            let sums = blocked(simd, x, index.map(|i| job.panel(i)));
            for (p, &index) in index.iter().enumerate() {
                self.store(simd, 0, index, sums.map(|row| row[p]));
            }
        }
        for index in self.range.start + P * run..self.range.end {
            let sums = blocked(simd, x, [job.panel(index)]);
            self.store(simd, 0, index, sums.map(|[row]| row));
        }
    }

    /// All rows of the input over one panel, a group at a time.
    #[inline(always)]
    fn pass_over<S: Simd, W: Element>(&mut self, simd: S, panel: &[Lanes<W>], index: usize) {
        let rows = self.job.x.nrows();
        let mut first = 0;
        while rows - first >= ROW_GROUP {
            self.group::<S, W, ROW_GROUP>(simd, panel, index, first);
            first += ROW_GROUP;
        }
        match rows - first {
            5 => self.group::<S, W, 5>(simd, panel, index, first),
            4 => self.group::<S, W, 4>(simd, panel, index, first),
            3 => self.group::<S, W, 3>(simd, panel, index, first),
            2 => self.group::<S, W, 2>(simd, panel, index, first),
            1 => self.group::<S, W, 1>(simd, panel, index, first),
            _ => {}
        }
    }

    #[inline(always)]
    fn group<S: Simd, W: Element, const R: usize>(
        &mut self,
        simd: S,
        panel: &[Lanes<W>],
        index: usize,
        first: usize,
    ) {
        let sums = blocked(simd, self.job.rows::<R>(first), [panel]);
        self.store(simd, first, index, sums.map(|[row]| row));
    }

    /// Writes the sums of panel `index` for `R` rows from `first` on.
    #[inline(always)]
    fn store<S: Simd, const R: usize>(
        &mut self,
        simd: S,
        first: usize,
        index: usize,
        sums: [S::F32x16; R],
    ) {
        let column = (index - self.range.start) * LANES;
        for (r, sums) in sums.into_iter().enumerate() {
            let out = row_mut(&mut self.out, first + r);
            let end = out.len().min(column + LANES);
            tile::store(simd, sums, &mut out[column..end]);
        }
    }
}

/// The sums over all of `k`: chains of [`K_BLOCK`], added in order.
#[inline(always)]
fn blocked<S: Simd, W: Element, const R: usize, const P: usize>(
    simd: S,
    x: [&[f32]; R],
    panels: [&[Lanes<W>]; P],
) -> tile::Sums<S, R, P> {
    let depth = x[0].len();
    let mut total = tile::zeros::<S, R, P>(simd);
    for from in (0..depth).step_by(K_BLOCK) {
        let block = from..depth.min(from + K_BLOCK);
        let sums = tile::accumulate(
            simd,
            x.map(|row| &row[block.clone()]),
            panels.map(|panel| &panel[block.clone()]),
            tile::zeros(simd),
        );
        for (total, sums) in total.iter_mut().flatten().zip(sums.iter().flatten()) {
            *total = simd.add(*total, *sums);
        }
    }
    total
}
