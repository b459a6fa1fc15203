//! Adapters merged into weights: `W + Σ scale * B A`, while `W` is read.

use std::sync::Arc;

use mistral_core::ops::matmul;
use mistral_core::{Matrix, MatrixError, WeightFormat};
use ndarray::Array2;

use super::adapter::Adapter;
use super::load::Failure;
use super::names::Field;
use crate::low_rank::{LowRank, Target};

/// Rows of a sum that are computed together.
const ROWS: usize = 64;

/// What the adapters of a checkpoint add to one matrix, row by row.
pub(super) struct Sum<'a> {
    parts: Vec<Part<'a>>,
    /// `(ROWS, cols)`: what is added to the rows from `start` on.
    sums: Array2<f32>,
    start: usize,
}

/// One adapter's addend.
struct Part<'a> {
    addend: &'a LowRank,
    /// `A` transposed, `(in, rank)`: the product `B A` is then one of `matmul`.
    inputs: Matrix,
}

impl<'a> Sum<'a> {
    pub(super) fn new(
        adapters: &'a [Arc<Adapter>],
        field: Field,
        cols: usize,
    ) -> Result<Self, MatrixError> {
        let addends = adapters.iter().filter_map(|adapter| match field {
            Field::Layer(layer, field) => adapter.addend(Target::Layer(layer, field.projection()?)),
            Field::Output => adapter.addend(Target::Output),
            Field::Embedding | Field::Norm => None,
        });
        let parts = addends
            .map(|addend| Ok(Part { addend, inputs: transposed(&addend.down)? }))
            .collect::<Result<_, MatrixError>>()?;
        Ok(Self { parts, sums: Array2::zeros((0, cols)), start: 0 })
    }

    /// Whether nothing is added.
    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Adds to row `r` of the matrix. Rows come in rising order.
    pub(super) fn add_to(&mut self, r: usize, row: &mut [f32]) -> Result<(), Failure> {
        if self.is_empty() {
            return Ok(());
        }
        if r >= self.start + self.sums.nrows() {
            self.compute(r)?;
        }
        for (weight, sum) in row.iter_mut().zip(self.sums.row(r - self.start)) {
            *weight += sum;
        }
        Ok(())
    }

    /// Computes what is added to the rows from `start` on.
    fn compute(&mut self, start: usize) -> Result<(), Failure> {
        let cols = self.sums.ncols();
        let rows = self.parts.iter().map(|part| part.addend.up.rows()).max().unwrap_or(0);
        let n = rows.saturating_sub(start).min(ROWS);
        self.start = start;
        self.sums = Array2::zeros((n, cols));
        let mut product = Array2::zeros((n, cols));
        for Part { addend, inputs } in &self.parts {
            let mut scaled = Array2::zeros((n, addend.up.cols()));
            for (i, mut row) in scaled.outer_iter_mut().enumerate() {
                addend.up.row(start + i, row.as_slice_mut().unwrap_or_default())?;
                row *= addend.scale;
            }
            matmul(scaled.view(), inputs, product.view_mut())?;
            self.sums += &product;
        }
        Ok(())
    }
}

/// The transpose of a thin matrix, in f32.
fn transposed(matrix: &Matrix) -> Result<Matrix, MatrixError> {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    let mut weights = vec![0.0; rows * cols];
    for (r, row) in weights.chunks_exact_mut(cols).enumerate() {
        matrix.row(r, row)?;
    }
    Matrix::from_rows(cols, rows, WeightFormat::F32, |c, column| {
        for (weight, row) in column.iter_mut().zip(weights.chunks_exact(cols)) {
            *weight = row[c];
        }
        Ok(())
    })
}
