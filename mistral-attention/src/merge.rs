//! Attention over parts of a history, joined afterwards.

use ndarray::{ArrayView2, ArrayView3, ArrayViewMut2, ArrayViewMut3};

use crate::error::AttentionError;

/// Adds the result over one part of the keys to that over another.
///
/// `out = (e^(lse - m) out + e^(lse₂ - m) out₂) / (e^(lse - m) + e^(lse₂ - m))` with
/// `m = max(lse, lse₂)`, and `lse = m + ln(e^(lse - m) + e^(lse₂ - m))` (arXiv:2205.14135,
/// section 3.1; arXiv:2402.05099 for shared prefixes). A part that saw nothing, with a log-sum-exp of
/// minus infinity, changes nothing.
///
/// Each part is rounded once more than in one call over all keys, so the bits are not those of it.
///
/// Shapes
///
/// | array | shape |
/// |---|---|
/// | out | `(q_len, n_heads, head_dim)` |
/// | lse | `(q_len, n_heads)` |
///
/// # Errors
///
/// - [`AttentionError::Shape`]: the arrays do not fit each other. Nothing is changed.
///
/// # Cost
///
/// `3 * q_len * n_heads * head_dim` flops.
pub fn merge(
    into: (ArrayViewMut3<'_, f32>, ArrayViewMut2<'_, f32>),
    part: (ArrayView3<'_, f32>, ArrayView2<'_, f32>),
) -> Result<(), AttentionError> {
    let ((mut out, mut lse), (other, other_lse)) = (into, part);
    let (q_len, heads, _) = out.dim();
    let expected = vec![q_len, heads];
    for (array, found) in [("lse", lse.shape()), ("lse of the part", other_lse.shape())] {
        if found != expected {
            return Err(AttentionError::Shape { array, found: found.to_vec(), expected });
        }
    }
    if other.dim() != out.dim() {
        let (found, expected) = (other.shape().to_vec(), out.shape().to_vec());
        return Err(AttentionError::Shape { array: "out of the part", found, expected });
    }
    for ((query, head), lse) in lse.indexed_iter_mut() {
        let second = other_lse[[query, head]];
        if second == f32::NEG_INFINITY {
            continue;
        }
        let max = if second > *lse { second } else { *lse };
        // In f64, whose e^x and ln are the same everywhere once rounded to f32.
        let weight = |x: f32| f64::from(x - max).exp();
        let (a, b) = (weight(*lse), weight(second));
        let (old, new) = ((a / (a + b)) as f32, (b / (a + b)) as f32);
        *lse = (f64::from(max) + (a + b).ln()) as f32;
        let row = out.slice_each_axis_mut(|axis| match axis.axis.index() {
            0 => (query..query + 1).into(),
            1 => (head..head + 1).into(),
            _ => (..).into(),
        });
        let part = other.slice_each_axis(|axis| match axis.axis.index() {
            0 => (query..query + 1).into(),
            1 => (head..head + 1).into(),
            _ => (..).into(),
        });
        for (x, y) in row.into_iter().zip(part) {
            *x = old.mul_add(*x, new * y);
        }
    }
    Ok(())
}
