//! Attention over plain slices, row by row: no ndarray in sight.

use std::sync::atomic::AtomicBool;

use mistral_core::Element;
use mistral_core::kv::KvView;
use ndarray::{ArrayView3, ArrayViewMut2, ArrayViewMut3};

use crate::attention::Attention;
use crate::error::AttentionError;
use crate::scratch::Scratch;

/// A call of [`Attention::call_slices`], to be completed by [`run`](Self::run).
///
/// ```
/// use mistral_attention::{Attention, AttentionConfig, Scratch};
///
/// let attention = Attention::new(AttentionConfig::new(2, 1, 4))?;
/// let scratch = Scratch::default(); // kept from call to call
/// let (keys, values) = ([0.5f32; 3 * 4], [7.0f32; 3 * 4]); // three positions, one head
/// let q = [1.0; 2 * 4]; // one query of two heads
/// let (mut out, mut lse) = ([0.0; 2 * 4], [0.0; 2]);
/// attention.call_slices(&q, &keys, &values).lse(&mut lse).scratch(&scratch).run(&mut out)?;
/// assert_eq!(out, [7.0; 8]);
/// assert!((lse[0] - (1.0 + 3f32.ln())).abs() < 1e-6); // three scores of 4 * 0.5 / sqrt(4)
/// # Ok::<(), mistral_attention::AttentionError>(())
/// ```
#[derive(Debug)]
#[must_use = "a call does nothing until it is run"]
pub struct SliceCall<'a, 'o, E: Element> {
    attention: Attention,
    q: &'a [f32],
    keys: &'a [E],
    values: &'a [E],
    lse: Option<&'o mut [f32]>,
    cancel: Option<&'o AtomicBool>,
    scratch: Option<&'o Scratch>,
}

impl<'o, E: Element> SliceCall<'_, 'o, E> {
    /// Writes `ln Σ_j e^score` of each query and head: `(q_len, n_heads)`.
    pub fn lse(self, lse: &'o mut [f32]) -> Self {
        Self { lse: Some(lse), ..self }
    }

    /// As [`Call::cancel`](crate::Call::cancel).
    pub fn cancel(self, cancel: &'o AtomicBool) -> Self {
        Self { cancel: Some(cancel), ..self }
    }

    /// Takes working memory from here instead of allocating it.
    pub fn scratch(self, scratch: &'o Scratch) -> Self {
        Self { scratch: Some(scratch), ..self }
    }

    /// Computes `out`, which is as long as `q`.
    ///
    /// # Errors
    ///
    /// As [`Call::run`](crate::Call::run), and [`AttentionError::SliceLength`] for a slice that is
    /// not so many whole rows.
    pub fn run(self, out: &mut [f32]) -> Result<(), AttentionError> {
        let config = self.attention.config();
        let rows = |array, found: usize, heads: usize| {
            let row = heads.saturating_mul(config.head_dim());
            let whole = found.is_multiple_of(row);
            let shape = (found / row, heads, config.head_dim());
            if whole { Ok(shape) } else { Err(AttentionError::SliceLength { array, found, row }) }
        };
        let (heads, kv_heads) = (config.n_heads(), config.n_kv_heads());
        let q = ArrayView3::from_shape(rows("q", self.q.len(), heads)?, self.q)?;
        let keys = ArrayView3::from_shape(rows("keys", self.keys.len(), kv_heads)?, self.keys)?;
        let values = rows("values", self.values.len(), kv_heads)?;
        let values = ArrayView3::from_shape(values, self.values)?;
        let out = ArrayViewMut3::from_shape(rows("out", out.len(), heads)?, out)?;
        let kv = KvView::from_arrays(keys, values)?;
        let mut call = self.attention.call(q, &kv);
        if let Some(lse) = self.lse {
            let (found, expected) = (lse.len(), q.dim().0 * heads);
            let lse = ArrayViewMut2::from_shape((q.dim().0, heads), lse);
            let refusal = |_| AttentionError::Shape {
                array: "lse",
                found: vec![found],
                expected: vec![expected],
            };
            call = call.lse(lse.map_err(refusal)?);
        }
        if let Some(cancel) = self.cancel {
            call = call.cancel(cancel);
        }
        if let Some(scratch) = self.scratch {
            call = call.scratch(scratch);
        }
        call.run(out)
    }
}

impl Attention {
    /// [`forward`](Self::forward) over a whole sequence in plain slices, row by row.
    ///
    /// ```
    /// use mistral_attention::{Attention, AttentionConfig};
    ///
    /// let attention = Attention::new(AttentionConfig::new(2, 1, 4))?;
    /// let (keys, values) = ([0.5f32; 3 * 4], [7.0f32; 3 * 4]); // three positions, one head
    /// let q = [1.0; 2 * 4]; // one query of two heads
    /// let mut out = [0.0; 2 * 4];
    /// attention.forward_slices(&q, &keys, &values, &mut out)?;
    /// assert_eq!(out, [7.0; 8]);
    /// # Ok::<(), mistral_attention::AttentionError>(())
    /// ```
    ///
    /// Shapes
    ///
    /// | slice | shape |
    /// |---|---|
    /// | q, out | `(q_len, n_heads, head_dim)` |
    /// | keys, values | `(positions, n_kv_heads, head_dim)`, from position 0 on |
    ///
    /// # Errors
    ///
    /// As [`forward`](Self::forward), and [`AttentionError::SliceLength`] for a slice that is not
    /// so many whole rows.
    pub fn forward_slices<E: Element>(
        &self,
        q: &[f32],
        keys: &[E],
        values: &[E],
        out: &mut [f32],
    ) -> Result<(), AttentionError> {
        self.call_slices(q, keys, values).run(out)
    }

    /// A call over plain slices with options: see [`SliceCall`]. Shapes as
    /// [`forward_slices`](Self::forward_slices); whether they fit is found by
    /// [`run`](SliceCall::run).
    pub fn call_slices<'a, 'o, E: Element>(
        &self,
        q: &'a [f32],
        keys: &'a [E],
        values: &'a [E],
    ) -> SliceCall<'a, 'o, E> {
        let attention = *self;
        SliceCall { attention, q, keys, values, lse: None, cancel: None, scratch: None }
    }
}
