//! Weights that are floats: outer-product tiles.
//!
//! - One row (decode) is bound by reading the weights. A thread walks four panels far apart in
//!   its share at once: four streams keep more reads in flight than one.
//! - A few rows share each vector of weights, still read as stored.
//! - From [`WIDEN_FROM`] rows on, arithmetic is the bound. Sixteen outputs' weights are widened
//!   once into a panel that stays in the second-level cache, and rows pass over it six at a time.

use std::ops::Range;

use ndarray::{ArrayView2, ArrayViewMut2};

use super::{Panels, ROW_GROUP, STREAMS, even_share, store_panel};
use crate::element::Element;
use crate::ops::row;
use crate::simd::{Integers, Lanes, Simd};
use crate::tile;

/// Products in one chain before its sum is added to the total.
pub const K_BLOCK: usize = 512;

/// Rows from which on weights are widened into a panel of f32 first.
pub(super) const WIDEN_FROM: usize = 24;

/// Rows whose totals are kept beside a panel.
const CHUNK: usize = 24;

/// How far ahead of the reading weights are asked for, in bytes.
const AHEAD: usize = 1024;

/// Weights in panels of floats and the inputs of all rows.
pub(super) struct DensePanels<'a, E> {
    pub(super) x: ArrayView2<'a, f32>,
    pub(super) panels: &'a [Lanes<E>],
}

impl<E: Element> DensePanels<'_, E> {
    /// The weights of panel `index`: one vector for each input.
    #[inline(always)]
    fn panel(&self, index: usize) -> &[Lanes<E>] {
        let depth = self.x.ncols();
        &self.panels[index * depth..][..depth]
    }

    /// `R` rows of the input from `first` on.
    #[inline(always)]
    fn input<const R: usize>(&self, first: usize) -> [&[f32]; R] {
        std::array::from_fn(|r| row(&self.x, first + r))
    }
}

impl<E: Element> Panels for DensePanels<'_, E> {
    const INTEGERS: bool = false;

    fn rows(&self) -> usize {
        self.x.nrows()
    }

    #[inline(always)]
    fn compute<S: Integers>(&self, simd: S, range: Range<usize>, out: ArrayViewMut2<'_, f32>) {
        Columns { job: self, range, out }.run(simd);
    }
}

/// The task of one thread: the outputs of some panels, for all rows.
struct Columns<'j, 'a, 'o, E> {
    job: &'j DensePanels<'a, E>,
    range: Range<usize>,
    out: ArrayViewMut2<'o, f32>,
}

impl<E: Element> Columns<'_, '_, '_, E> {
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let job = self.job;
        match job.x.nrows() {
            1 => self.stream::<S, 1, STREAMS>(simd),
            2 => self.stream::<S, 2, 3>(simd),
            3 => self.stream::<S, 3, 2>(simd),
            rows if rows < WIDEN_FROM => {
                let ahead = Some(AHEAD / size_of::<Lanes<E>>());
                for index in self.range.clone() {
                    self.pass_over(simd, (job.panel(index), ahead), index);
                }
            }
            _ => {
                let mut wide = vec![Lanes::default(); job.x.ncols()];
                for index in self.range.clone() {
                    for (target, lanes) in wide.iter_mut().zip(job.panel(index)) {
                        simd.store(E::load(simd, lanes), &mut target.0);
                    }
                    self.pass_over(simd, (&wide, None), index);
                }
            }
        }
    }

    /// All `R` rows of the input, `P` panels at a time that lie far apart.
    #[inline(always)]
    fn stream<S: Simd, const R: usize, const P: usize>(&mut self, simd: S) {
        let job = self.job;
        let x = job.input::<R>(0);
        let run = self.range.len() / P;
        for i in 0..run {
            let index: [usize; P] = std::array::from_fn(|p| self.range.start + p * run + i);
            let sums = blocked(simd, x, index.map(|i| job.panel(i)));
            for (p, &index) in index.iter().enumerate() {
                store_panel(
                    simd,
                    &mut self.out,
                    0,
                    index - self.range.start,
                    sums.map(|row| row[p]),
                );
            }
        }
        for index in self.range.start + P * run..self.range.end {
            let sums = blocked(simd, x, [job.panel(index)]);
            store_panel(simd, &mut self.out, 0, index - self.range.start, sums.map(|[row]| row));
        }
    }

    /// All rows of the input over one panel, of which the vectors `ahead` are asked for.
    ///
    /// A block of inputs at a time: its weights come from memory for the first few rows, and from
    /// the first-level cache for the others.
    #[inline(always)]
    fn pass_over<S: Simd, W: Element>(
        &mut self,
        simd: S,
        (panel, ahead): (&[Lanes<W>], Option<usize>),
        index: usize,
    ) {
        let rows = self.job.x.nrows();
        for start in (0..rows).step_by(CHUNK) {
            let chunk = start..rows.min(start + CHUNK);
            let mut totals = [simd.splat(0.0); CHUNK];
            for (i, weights) in panel.chunks(K_BLOCK).enumerate() {
                self.add_block(simd, (weights, ahead), i * K_BLOCK, chunk.clone(), &mut totals);
            }
            for (row, total) in chunk.zip(totals) {
                store_panel(simd, &mut self.out, row, index - self.range.start, [total]);
            }
        }
    }

    /// Adds the products of one block, which begins with input `from`, to the totals of some rows.
    #[inline(always)]
    fn add_block<S: Simd, W: Element>(
        &self,
        simd: S,
        (weights, mut ahead): (&[Lanes<W>], Option<usize>),
        from: usize,
        rows: Range<usize>,
        totals: &mut [S::F32x16; CHUNK],
    ) {
        let (mut row, mut totals) = (rows.start, &mut totals[..rows.len()]);
        while row < rows.end {
            let n = if S::SUMS == 1 { 1 } else { even_share(rows.end - row, ROW_GROUP) };
            let (these, others) = totals.split_at_mut(n);
            let weights = (weights, ahead.take());
            match n {
                6 => self.add_group::<S, W, 6>(simd, weights, from, row, these),
                5 => self.add_group::<S, W, 5>(simd, weights, from, row, these),
                4 => self.add_group::<S, W, 4>(simd, weights, from, row, these),
                3 => self.add_group::<S, W, 3>(simd, weights, from, row, these),
                2 => self.add_group::<S, W, 2>(simd, weights, from, row, these),
                _ => self.add_group::<S, W, 1>(simd, weights, from, row, these),
            }
            (row, totals) = (row + n, others);
        }
    }

    /// [`add_block`](Self::add_block) for the `R` rows from `first` on.
    #[inline(always)]
    fn add_group<S: Simd, W: Element, const R: usize>(
        &self,
        simd: S,
        (weights, ahead): (&[Lanes<W>], Option<usize>),
        from: usize,
        first: usize,
        totals: &mut [S::F32x16],
    ) {
        let x = self.job.input::<R>(first).map(|row| &row[from..][..weights.len()]);
        let sums = tile::accumulate_ahead(simd, x, [weights], tile::zeros(simd), ahead);
        for (total, [sum]) in totals.iter_mut().zip(sums) {
            *total = simd.add(*total, sum);
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
