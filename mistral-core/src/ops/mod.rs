//! The operations of a transformer block, one file each: inputs, parameters, output last.
//!
//! Activations are f32 arrays `(tokens, features)` whose rows are contiguous. Each operation
//! treats a row by itself, in one fixed order: the bits of a row do not depend on the rows beside
//! it, the number of threads or the SIMD level. The `_at` twins take the level as an argument.

mod matmul;
mod residual;
mod rms_norm;
mod rope;
mod softmax;
mod swiglu;

pub use matmul::{Activations, K_BLOCK, matmul, matmul_at, matmul_each, matmul_with};
pub use residual::add;
pub use rms_norm::{rms_norm, rms_norm_at};
pub use rope::{Rope, RopeAngles, RopeLayout};
pub use softmax::{softmax, softmax_at};
pub use swiglu::{swiglu, swiglu_at};

use ndarray::{
    ArrayBase, ArrayView2, ArrayViewMut, ArrayViewMut2, Axis, Dimension, RawData, RemoveAxis,
};

use crate::error::OpError;
use crate::threads;

/// Most elements that a task takes: some 20 µs of work, many times what it costs to hand it over.
const TASK: usize = 1 << 15;

/// Refuses a dimension that differs from what the other arguments imply.
fn expect(
    op: &'static str,
    what: &'static str,
    found: usize,
    expected: usize,
) -> Result<(), OpError> {
    if found == expected { Ok(()) } else { Err(OpError::Shape { op, what, found, expected }) }
}

/// Refuses rows whose elements do not lie side by side.
fn contiguous<S: RawData, D: Dimension>(
    op: &'static str,
    what: &'static str,
    x: &ArrayBase<S, D>,
) -> Result<(), OpError> {
    let alone = x.is_empty() || x.shape().last().is_none_or(|len| *len == 1);
    let side_by_side = x.strides().last().is_none_or(|stride| *stride == 1);
    if alone || side_by_side { Ok(()) } else { Err(OpError::NotContiguous { op, what }) }
}

/// Row `r` of an array whose rows were checked to be contiguous.
#[inline(always)]
fn row<'a>(x: &'a ArrayView2<'_, f32>, r: usize) -> &'a [f32] {
    x.row(r).to_slice().unwrap_or_default()
}

/// Row `r` of an array whose rows were checked to be contiguous.
#[inline(always)]
fn row_mut<'a>(x: &'a mut ArrayViewMut2<'_, f32>, r: usize) -> &'a mut [f32] {
    x.row_mut(r).into_slice().unwrap_or_default()
}

/// Calls `work` for pieces of `out` with the index of each piece's first row, on several threads
/// where it pays.
fn by_rows<D: Dimension + RemoveAxis>(
    out: ArrayViewMut<'_, f32, D>,
    first: usize,
    work: &(impl Fn(usize, ArrayViewMut<'_, f32, D>) + Sync),
) {
    let rows = out.len_of(Axis(0));
    if rows < 2 || out.len() <= TASK {
        return work(first, out);
    }
    let (left, right) = out.split_at(Axis(0), rows / 2);
    threads::join(|| by_rows(left, first, work), || by_rows(right, first + rows / 2, work));
}
