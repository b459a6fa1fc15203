//! One call with everything that can be asked of it.

use std::sync::atomic::AtomicBool;

use mistral_core::kv::{KvElement, KvView};
use ndarray::{ArrayView3, ArrayViewMut2, ArrayViewMut3};

use crate::attention::Attention;
use crate::error::AttentionError;
use crate::kernel;
use crate::plan::{Alignment, Plan};
use crate::scratch::Scratch;

/// A call of [`Attention::call`], to be completed by [`run`](Self::run).
///
/// ```
/// use mistral_attention::ndarray::{Array2, Array3};
/// use mistral_attention::{Attention, AttentionConfig, KvSegment, KvView, merge};
///
/// // A history in two parts, one after the other, merged: the same as in one.
/// let attention = Attention::new(AttentionConfig::new(2, 1, 4))?;
/// let q = Array3::from_shape_fn((1, 2, 4), |(_, h, d)| (h + d) as f32);
/// let k = Array3::from_shape_fn((9, 1, 4), |(i, _, d)| (i * d) as f32 * 0.1);
/// let (old, new) = k.view().split_at(mistral_attention::ndarray::Axis(0), 5);
/// let mut parts = Vec::new();
/// for (start, rows) in [(0, old), (5, new)] {
///     let kv = KvView::new([KvSegment::new(start, rows, rows)?])?;
///     let (mut out, mut lse) = (Array3::zeros(q.dim()), Array2::zeros((1, 2)));
///     attention.call(q.view(), &kv).part_from(8).lse(lse.view_mut()).run(out.view_mut())?;
///     parts.push((out, lse));
/// }
/// let (mut merged, mut lse) = parts.remove(0);
/// merge((merged.view_mut(), lse.view_mut()), (parts[0].0.view(), parts[0].1.view()))?;
///
/// let mut whole = Array3::zeros(q.dim());
/// attention.forward(q.view(), &KvView::from_arrays(k.view(), k.view())?, whole.view_mut())?;
/// assert!((&whole - &merged).iter().all(|difference| difference.abs() < 1e-6));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "a call does nothing until it is run"]
pub struct Call<'q, 'v, 'o, E: KvElement> {
    attention: Attention,
    q: ArrayView3<'q, f32>,
    kv: KvView<'v, E>,
    options: Options<'q, 'o>,
}

/// What may be asked beside the output.
#[derive(Debug, Default)]
pub(crate) struct Options<'q, 'o> {
    pub(crate) alignment: Alignment,
    pub(crate) sink_queries: Option<ArrayView3<'q, f32>>,
    pub(crate) lse: Option<ArrayViewMut2<'o, f32>>,
    pub(crate) key_sums: Option<ArrayViewMut2<'o, f32>>,
    pub(crate) cancel: Option<&'o AtomicBool>,
    pub(crate) scratch: Option<&'o Scratch>,
}

impl<'q, 'v, 'o, E: KvElement> Call<'q, 'v, 'o, E> {
    pub(crate) fn new(attention: Attention, q: ArrayView3<'q, f32>, kv: KvView<'v, E>) -> Self {
        Self { attention, q, kv, options: Options::default() }
    }

    /// The view holds a part of the history, one range of positions that may be anywhere, and the
    /// first query stands at `position`.
    ///
    /// Queries attend to what they see of that part, be it nothing: then `out` is 0 and the
    /// log-sum-exp minus infinity. [`merge`](crate::merge) joins the parts. Without this the last
    /// query stands at the view's last position, and a view that lacks a visible key is an error.
    pub fn part_from(mut self, position: usize) -> Self {
        self.options.alignment = Alignment::PartFrom(position);
        self
    }

    /// The queries that meet sinks which lie before the window.
    ///
    /// Shapes: as `q`, which is taken if nothing is said.
    ///
    /// StreamingLLM gives the keys in a cache of `sinks + window` places the positions of their
    /// places, so that no distance grows with the length of the text. A score depends on the
    /// distance alone, so that is the same as turning the query: at position
    /// `min(i, sinks + window - 1)` it is as far from sink `j`, which stays rotated for position
    /// `j`, as the places are apart. Keys are never rotated twice.
    pub fn sink_queries(mut self, q: ArrayView3<'q, f32>) -> Self {
        self.options.sink_queries = Some(q);
        self
    }

    /// Writes `ln Σ_j e^score` of each query and head.
    ///
    /// Shapes: `(q_len, n_heads)`.
    pub fn lse(mut self, lse: ArrayViewMut2<'o, f32>) -> Self {
        self.options.lse = Some(lse);
        self
    }

    /// Adds to each key the weight that it has for all queries and heads of its group.
    ///
    /// It costs another pass over the keys. Keys of sinks before a gap are left out.
    ///
    /// Shapes: `(n_kv_heads, positions)` for the positions of the view.
    pub fn key_sums(mut self, sums: ArrayViewMut2<'o, f32>) -> Self {
        self.options.key_sums = Some(sums);
        self
    }

    /// Ends with [`AttentionError::Cancelled`] soon after `cancel` has become true.
    ///
    /// It is read once for each tile of up to 192 pairs of a query and a head.
    pub fn cancel(mut self, cancel: &'o AtomicBool) -> Self {
        self.options.cancel = Some(cancel);
        self
    }

    /// Takes working memory from here instead of allocating it.
    pub fn scratch(mut self, scratch: &'o Scratch) -> Self {
        self.options.scratch = Some(scratch);
        self
    }

    /// Computes `out`.
    ///
    /// # Errors
    ///
    /// As [`Attention::forward`], and:
    ///
    /// - [`AttentionError::PartWithGap`], [`AttentionError::PositionOverflow`]: no such part.
    /// - [`AttentionError::Shape`]: another array does not fit.
    /// - [`AttentionError::Cancelled`]: what `out`, sums and log-sum-exp hold then is of no use.
    pub fn run(self, out: ArrayViewMut3<'_, f32>) -> Result<(), AttentionError> {
        let Self { attention, q, kv, options } = self;
        let config = attention.config();
        let plan = Plan::new(&config, q.dim(), &kv, options.alignment)?;
        if out.dim() != q.dim() {
            return Err(AttentionError::OutShape { found: out.dim(), expected: q.dim() });
        }
        let (q_len, heads, _) = q.dim();
        let sums = [config.n_kv_heads(), plan.held().len()];
        if let Some(found) = &options.sink_queries {
            fits("sink_queries", found.shape(), q.shape())?;
        }
        if let Some(found) = &options.lse {
            fits("lse", found.shape(), &[q_len, heads])?;
        }
        if let Some(found) = &options.key_sums {
            fits("key_sums", found.shape(), &sums)?;
        }
        if q_len == 0 {
            return Ok(());
        }
        let level = attention.level();
        if let Some(scratch) = options.scratch {
            let demand = kernel::demand(level, plan.clone(), (q, kv), &options, scratch);
            scratch.reserve::<E>(&demand);
        }
        kernel::forward(level, plan, (q, kv), options, out)
    }
}

fn fits(array: &'static str, found: &[usize], expected: &[usize]) -> Result<(), AttentionError> {
    if found == expected {
        return Ok(());
    }
    Err(AttentionError::Shape { array, found: found.to_vec(), expected: expected.to_vec() })
}
