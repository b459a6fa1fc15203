//! Weights that are floats: outer-product tiles.
//!
//! - One row (decode) is bound by reading the weights. A thread walks four panels far apart in
//!   its share at once: four streams keep more reads in flight than one.
//! - A few rows share each vector of weights, still read as stored.
//! - From [`WIDEN_FROM`] rows on, arithmetic is the bound. Sixteen outputs' weights are widened
//!   once into a panel that stays in the second-level cache, and rows pass over it six at a time.

use std::ops::Range;

use ndarray::{ArrayView2, ArrayViewMut2};

use super::{Panels, ROW_GROUP, STREAMS, store_panel};
use crate::element::Element;
use crate::ops::row;
use crate::simd::{Integers, Lanes, Simd};
use crate::tile;

/// Products in one chain before its sum is added to the total.
pub const K_BLOCK: usize = 512;

/// Rows from which on weights are widened into a panel of f32 first.
pub(super) const WIDEN_FROM: usize = 24;

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

    /// All rows of the input over one panel, a group at a time.
    #[inline(always)]
    fn pass_over<S: Simd, W: Element>(&mut self, simd: S, panel: &[Lanes<W>], index: usize) {
        let rows = self.job.x.nrows();
        if S::SUMS == 1 {
            for first in 0..rows {
                self.group::<S, W, 1>(simd, panel, index, first);
            }
            return;
        }
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
        let sums = blocked(simd, self.job.input::<R>(first), [panel]);
        store_panel(simd, &mut self.out, first, index - self.range.start, sums.map(|[row]| row));
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
