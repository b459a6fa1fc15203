//! Attention as the formula says, in f64: the oracle for this crate's tests and for yours.
//!
//! One query and one head at a time: scores, softmax, weighted sum. No blocks, no threads, no SIMD,
//! and no ranges: each key is asked whether the query sees it. Read it before the kernels; they
//! compute the same, faster.
//!
//! What a query sees is written out here once more, from two positions and nothing else. The kernels
//! have it from [`window`](crate::window); an oracle that had it from there as well would agree with
//! any mistake in it.

use mistral_core::kv::{HeadView, KvElement, KvView};
use ndarray::{Array2, Array3, ArrayView3};

use crate::config::AttentionConfig;
use crate::error::AttentionError;
use crate::plan::{Alignment, Plan};
use crate::window::Window;

/// What the formula gives, and what else it says.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Exact {
    /// `Σ_j p_j v_j`, `(q_len, n_heads, head_dim)`.
    pub out: Array3<f64>,
    /// `ln Σ_j e^(s_j)`, `(q_len, n_heads)`.
    pub lse: Array2<f64>,
    /// The weight of each key for all queries and heads of its group, `(n_kv_heads, positions)`.
    pub key_sums: Array2<f64>,
}

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
/// `4 * n_heads * head_dim` flops a visible pair of query and key, and a look at every other pair, on
/// one thread.
pub fn forward<E: KvElement>(
    config: &AttentionConfig,
    q: ArrayView3<'_, f32>,
    kv: &KvView<'_, E>,
) -> Result<Array3<f64>, AttentionError> {
    exact(config, q, q, kv).map(|exact| exact.out)
}

/// [`forward`] with the log-sum-exp and the sums over keys, for sinks that meet queries of their
/// own (see [`Call::sink_queries`](crate::Call::sink_queries)); `q` twice if they don't.
///
/// # Errors
///
/// As [`forward`], and [`AttentionError::Shape`] if the two arrays of queries differ.
pub fn exact<E: KvElement>(
    config: &AttentionConfig,
    q: ArrayView3<'_, f32>,
    sink_queries: ArrayView3<'_, f32>,
    kv: &KvView<'_, E>,
) -> Result<Exact, AttentionError> {
    config.check()?;
    // The errors of the kernels; what follows asks the plan nothing.
    Plan::new(config, q.dim(), kv, Alignment::Last)?;
    if sink_queries.dim() != q.dim() {
        let (found, expected) = (sink_queries.shape().to_vec(), q.shape().to_vec());
        return Err(AttentionError::Shape { array: "sink_queries", found, expected });
    }
    let (q_len, n_heads, head_dim) = q.dim();
    let held = kv.positions();
    let mut exact = Exact {
        out: Array3::zeros(q.dim()),
        lse: Array2::zeros((q_len, n_heads)),
        key_sums: Array2::zeros((config.n_kv_heads(), held.len())),
    };
    for head in 0..n_heads {
        let kv_head = head / config.group_size();
        let Some(rows) = kv.head(kv_head) else {
            continue;
        };
        for query in 0..q_len {
            let own = held.end - q_len + query;
            let mut keys = Vec::new();
            for position in kv.segments().flat_map(|segment| segment.positions()) {
                let q = match seen(config, own, position) {
                    Seen::Not => continue,
                    Seen::InWindow => q,
                    Seen::AsSink => sink_queries,
                };
                let row = Row { q, query, head };
                keys.push((position, row.score(config, &rows, position)));
            }
            let max = keys.iter().map(|key| key.1).fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = keys.iter().map(|key| (key.1 - max).exp()).sum();
            exact.lse[[query, head]] = max + sum.ln();
            let mut value = vec![0.0; head_dim];
            for (position, score) in keys {
                let weight = (score - max).exp() / sum;
                let _ = rows.value(position, &mut value);
                for (d, v) in value.iter().enumerate() {
                    exact.out[[query, head, d]] += weight * f64::from(*v);
                }
                if held.contains(&position) {
                    exact.key_sums[[kv_head, position - held.start]] += weight;
                }
            }
        }
    }
    Ok(exact)
}

/// Whether a query sees a key, and as what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Not,
    /// Fewer than `W` positions back, its own counted: `q - k < W`.
    InWindow,
    /// Further back, but pinned.
    AsSink,
}

/// What the key at position `k` is to the query at position `q`.
fn seen(config: &AttentionConfig, q: usize, k: usize) -> Seen {
    if k > q {
        return Seen::Not;
    }
    match config.window() {
        Window::Full => Seen::InWindow,
        Window::Last(w) if q - k < w.get() => Seen::InWindow,
        Window::Last(_) if k < config.sinks() => Seen::AsSink,
        Window::Last(_) => Seen::Not,
    }
}

/// A query and a head.
struct Row<'a> {
    q: ArrayView3<'a, f32>,
    query: usize,
    head: usize,
}

impl Row<'_> {
    /// `scale * q . k`, soft-capped.
    fn score<E: KvElement>(
        &self,
        config: &AttentionConfig,
        rows: &HeadView<'_, E>,
        position: usize,
    ) -> f64 {
        let mut key = vec![0.0; config.head_dim()];
        let _ = rows.key(position, &mut key);
        let term =
            |(d, k): (usize, &f32)| f64::from(self.q[[self.query, self.head, d]]) * f64::from(*k);
        let score = f64::from(config.scale()) * key.iter().enumerate().map(term).sum::<f64>();
        match config.soft_cap().map(f64::from) {
            Some(cap) => cap * (score / cap).tanh(),
            None => score,
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

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

    #[test]
    fn a_window_of_three_and_a_sink_drawn_key_by_key() {
        let window = AttentionConfig::new(1, 1, 1).with_window(Window::last(3).unwrap());
        let drawn = |config: AttentionConfig| -> Vec<String> {
            let mark = |q, k| match seen(&config, q, k) {
                Seen::Not => '.',
                Seen::InWindow => '1',
                Seen::AsSink => 's',
            };
            (0..6).map(|q| (0..6).map(|k| mark(q, k)).collect()).collect()
        };
        assert_eq!(drawn(window), ["1.....", "11....", "111...", ".111..", "..111.", "...111"]);
        let sink = drawn(window.with_sinks(1));
        assert_eq!(sink, ["1.....", "11....", "111...", "s111..", "s.111.", "s..111"]);
        let all = drawn(AttentionConfig::new(1, 1, 1).with_sinks(2));
        assert_eq!(all, ["1.....", "11....", "111...", "1111..", "11111.", "111111"]);
    }
}
