//! Matrices of any format, and products with them at any level.

use mistral_core::ndarray::Array2;
use mistral_core::ops::{self, Activations};
use mistral_core::simd::Level;
use mistral_core::{Matrix, MatrixError, WeightFormat};

/// Weights rounded to a format.
pub(crate) fn stored(weights: &Array2<f32>, format: impl Into<WeightFormat>) -> Matrix {
    let fill = |r: usize, row: &mut [f32]| {
        row.copy_from_slice(weights.row(r).as_slice().unwrap());
        Ok::<(), MatrixError>(())
    };
    Matrix::from_rows(weights.nrows(), weights.ncols(), format, fill).unwrap()
}

/// `x wᵀ` at a level.
pub(crate) fn product(level: Level, x: &Array2<f32>, w: &Matrix) -> Array2<f32> {
    let mut out = Array2::from_elem((x.nrows(), w.rows()), f32::NAN);
    let activations = &mut Activations::default();
    ops::matmul_at(level, activations, x.view(), w, out.view_mut()).unwrap();
    out
}
