//! The residual stream.

use ndarray::{ArrayView2, ArrayViewMut2};

use super::{by_rows, contiguous, expect, row, row_mut};
use crate::error::OpError;

/// `x = x + y`, in place.
///
/// Shapes
///
/// | array | shape |
/// |---|---|
/// | x, y | `(tokens, features)` |
///
/// # Errors
///
/// - [`OpError::Shape`]: the shapes differ.
/// - [`OpError::NotContiguous`]: rows are strided.
///
/// # Cost
///
/// `tokens * features` flops; reads both arrays once, writes one.
pub fn add(x: ArrayViewMut2<'_, f32>, y: ArrayView2<'_, f32>) -> Result<(), OpError> {
    const OP: &str = "add";
    expect(OP, "tokens of y", y.nrows(), x.nrows())?;
    expect(OP, "features of y", y.ncols(), x.ncols())?;
    contiguous(OP, "x", &x)?;
    contiguous(OP, "y", &y)?;
    by_rows(x, 0, &|first, mut x| {
        for r in 0..x.nrows() {
            for (x, y) in row_mut(&mut x, r).iter_mut().zip(row(&y, first + r)) {
                *x += y;
            }
        }
    });
    Ok(())
}
