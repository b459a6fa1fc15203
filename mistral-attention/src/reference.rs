//! Attention as the formula says, in f64: the oracle for this crate's tests and for yours.
//!
//! One query and one head at a time: scores, softmax, weighted sum. No blocks, no threads, no SIMD.
//! Read it before the kernels; they compute the same, faster.

use mistral_core::Element;
use mistral_core::kv::KvView;
use ndarray::{Array3, ArrayView3};

use crate::config::AttentionConfig;
use crate::error::AttentionError;
use crate::plan::Plan;

/// `out[i] = Σ_j softmax_j(scale * q[i] . k[j]) v[j]` over the keys `j` that query `i` sees.
///
/// Inputs are widened exactly; all arithmetic is in f64 (arXiv:1706.03762, section 3.2.1).
///
/// Shapes
///
/// | array | shape |
/// |---|---|
/// | q | `(q_len, n_heads, head_dim)` |
/// | kv | `(positions, n_kv_heads, head_dim)`; the last query stands at the last position |
/// | result | `(q_len, n_heads, head_dim)` |
///
/// # Errors
///
/// As [`Attention::new`](crate::Attention::new) and
/// [`Attention::forward`](crate::Attention::forward).
///
/// # Cost
///
/// `4 * n_heads * head_dim` flops a visible pair of query and key, on one thread.
pub fn forward<E: Element>(
    config: &AttentionConfig,
    q: ArrayView3<'_, f32>,
    kv: &KvView<'_, E>,
) -> Result<Array3<f64>, AttentionError> {
    config.check()?;
    let plan = Plan::new(config, q.dim(), kv)?;
    let scale = f64::from(config.scale());
    let mut out = Array3::zeros(q.dim());
    for head in 0..config.n_heads() {
        let Some(rows) = kv.head(head / config.group_size()) else {
            continue;
        };
        for query in 0..plan.q_len() {
            let visible = plan.visible(query);
            let mut weights: Vec<f64> = rows
                .keys(visible.clone())
                .map(|key| {
                    let dot = |(d, k): (usize, &E)| {
                        f64::from(q[[query, head, d]]) * f64::from(k.to_f32())
                    };
                    scale * key.iter().enumerate().map(dot).sum::<f64>()
                })
                .collect();
            softmax(&mut weights);
            for (weight, value) in weights.iter().zip(rows.values(visible)) {
                for (d, v) in value.iter().enumerate() {
                    out[[query, head, d]] += weight * f64::from(v.to_f32());
                }
            }
        }
    }
    Ok(out)
}

/// `x_j := e^(x_j - max) / Σ e^(x - max)`.
fn softmax(x: &mut [f64]) {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    for x in x.iter_mut() {
        *x = (*x - max).exp();
    }
    let sum: f64 = x.iter().sum();
    for x in x.iter_mut() {
        *x /= sum;
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;
    use crate::Window;

    #[test]
    fn equal_scores_average_the_values() {
        // q = 0: every visible key has the same weight.
        let q = array![[[0.0f32]], [[0.0]], [[0.0]]];
        let k = array![[[1.0f32]], [[2.0]], [[3.0]]];
        let v = array![[[3.0f32]], [[5.0]], [[13.0]]];
        let kv = KvView::from_arrays(k.view(), v.view()).unwrap();
        let causal = AttentionConfig::new(1, 1, 1);
        let out = forward(&causal, q.view(), &kv).unwrap();
        assert_eq!(out, array![[[3.0]], [[4.0]], [[7.0]]]);
        let two = causal.with_window(Window::last(2).unwrap());
        let out = forward(&two, q.view(), &kv).unwrap();
        assert_eq!(out, array![[[3.0]], [[4.0]], [[9.0]]]);
    }

    #[test]
    fn a_score_of_ln_3_weighs_three_times_as_much() {
        let q = array![[[3f32.ln()]]];
        let k = array![[[0.0f32]], [[1.0]]];
        let v = array![[[8.0f32]], [[0.0]]];
        let kv = KvView::from_arrays(k.view(), v.view()).unwrap();
        let out = forward(&AttentionConfig::new(1, 1, 1), q.view(), &kv).unwrap();
        assert!((out[[0, 0, 0]] - 2.0).abs() < 1e-6);
    }
}
