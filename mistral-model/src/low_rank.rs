//! What an adapter adds to a matrix of a model while it runs: `y += scale * B (A x)`
//! (arXiv:2106.09685, section 4.1).
//!
//! The product with the model's own weights is taken for all rows of a pass together; only then each
//! row gets the addend of its session's adapter. Both products treat a row by itself, so that a
//! row's bits are those it has alone.

use std::ops::Range;
use std::sync::Arc;

use mistral_core::Matrix;
use mistral_core::ops::{add, matmul};
use ndarray::{ArrayView2, ArrayViewMut2, Axis, Slice};

use crate::error::ModelError;
use crate::scratch::rows;
use crate::weights::Adapter;

/// Rows that pass through an addend together: enough to make widening its weights cheap, few
/// enough that their outputs stay small.
const ROWS: usize = 128;

/// A matrix of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Projection {
    Q,
    K,
    V,
    O,
    Gate,
    Up,
    Down,
}

impl Projection {
    /// All of them.
    pub(crate) const ALL: [Self; 7] =
        [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];
    /// How many there are.
    pub(crate) const COUNT: usize = Self::ALL.len();
}

/// A matrix that an adapter may add to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Layer(usize, Projection),
    Output,
}

/// What is added to one matrix: two thin ones and a factor.
#[derive(Debug, Clone)]
pub(crate) struct LowRank {
    /// `A`, `(rank, in)`
    pub(crate) down: Matrix,
    /// `B`, `(out, rank)`
    pub(crate) up: Matrix,
    pub(crate) scale: f32,
}

impl LowRank {
    /// `y += scale * B (A x)`
    ///
    /// Shapes: `x` is `(tokens, in)`, `y` is `(tokens, out)`.
    fn add_to(
        &self,
        x: ArrayView2<'_, f32>,
        mut y: ArrayViewMut2<'_, f32>,
        scratch: &mut AddendScratch,
    ) -> Result<(), ModelError> {
        for first in (0..x.nrows()).step_by(ROWS) {
            let block = Slice::from(first..x.nrows().min(first + ROWS));
            let x = x.slice_axis(Axis(0), block);
            let (mut inner, mut outer) = scratch.rows(self, x.nrows())?;
            matmul(x, &self.down, inner.view_mut())?;
            inner *= self.scale;
            matmul(inner.view(), &self.up, outer.view_mut())?;
            add(y.slice_axis_mut(Axis(0), block), outer.view())?;
        }
        Ok(())
    }
}

/// The memory of an addend.
#[derive(Debug, Default)]
pub(crate) struct AddendScratch {
    /// `A x`, `(tokens, rank)`
    inner: Vec<f32>,
    /// `B (A x)`, `(tokens, out)`
    outer: Vec<f32>,
}

impl AddendScratch {
    /// Takes the memory that an adapter needs for chunks of `tokens`.
    pub(crate) fn reserve(&mut self, adapter: &Adapter, tokens: usize) -> Result<(), ModelError> {
        let tokens = tokens.min(ROWS);
        adapter.addends().try_for_each(|addend| self.rows(addend, tokens).map(drop))
    }

    fn rows(
        &mut self,
        addend: &LowRank,
        tokens: usize,
    ) -> Result<(ArrayViewMut2<'_, f32>, ArrayViewMut2<'_, f32>), ModelError> {
        let (rank, outputs) = (addend.down.rows(), addend.up.rows());
        grow(&mut self.inner, tokens, rank)?;
        grow(&mut self.outer, tokens, outputs)?;
        Ok((rows(&mut self.inner, tokens, rank)?, rows(&mut self.outer, tokens, outputs)?))
    }
}

fn grow(buffer: &mut Vec<f32>, tokens: usize, features: usize) -> Result<(), ModelError> {
    let out_of_memory = || ModelError::OutOfMemory { tokens, features };
    let n = tokens.checked_mul(features).ok_or_else(out_of_memory)?;
    if n > buffer.len() {
        buffer.try_reserve_exact(n - buffer.len()).map_err(|_| out_of_memory())?;
        buffer.resize(n, 0.0);
    }
    Ok(())
}

/// Rows of a pass that belong to sessions with the same adapters.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    pub(crate) rows: Range<usize>,
    pub(crate) adapters: &'a [Arc<Adapter>],
}

impl<'a> Run<'a> {
    /// Appends the rows of one more session.
    pub(crate) fn push(runs: &mut Vec<Self>, rows: Range<usize>, adapters: &'a [Arc<Adapter>]) {
        if adapters.is_empty() {
            return;
        }
        let same = |run: &Self| {
            let pairs = || run.adapters.iter().zip(adapters);
            run.adapters.len() == adapters.len() && pairs().all(|(a, b)| Arc::ptr_eq(a, b))
        };
        match runs.last_mut() {
            Some(run) if run.rows.end == rows.start && same(run) => run.rows.end = rows.end,
            _ => runs.push(Self { rows, adapters }),
        }
    }
}

/// What is added to the projections of one layer, for the rows of one pass.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Addends<'a> {
    pub(crate) runs: &'a [Run<'a>],
    pub(crate) layer: usize,
}

impl Addends<'_> {
    /// [`apply`] to a projection of the layer.
    pub(crate) fn apply(
        self,
        projection: Projection,
        x: ArrayView2<'_, f32>,
        y: ArrayViewMut2<'_, f32>,
        scratch: &mut AddendScratch,
    ) -> Result<(), ModelError> {
        apply(self.runs, Target::Layer(self.layer, projection), x, y, scratch)
    }
}

/// Adds to the rows of each run what its adapters add to a matrix, in their order.
///
/// Shapes: `x` is `(tokens, in)`, `y` is `(tokens, out)`.
pub(crate) fn apply(
    runs: &[Run<'_>],
    target: Target,
    x: ArrayView2<'_, f32>,
    mut y: ArrayViewMut2<'_, f32>,
    scratch: &mut AddendScratch,
) -> Result<(), ModelError> {
    for Run { rows, adapters } in runs {
        let rows = Slice::from(rows.clone());
        for addend in adapters.iter().filter_map(|adapter| adapter.addend(target)) {
            let y = y.slice_axis_mut(Axis(0), rows);
            addend.add_to(x.slice_axis(Axis(0), rows), y, scratch)?;
        }
    }
    Ok(())
}
