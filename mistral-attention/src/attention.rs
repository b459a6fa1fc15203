//! The entry point: checks, then kernels.

use mistral_core::Element;
use mistral_core::kv::KvView;
use mistral_core::simd::Level;
use ndarray::{ArrayView3, ArrayViewMut3};

use crate::config::AttentionConfig;
use crate::error::AttentionError;
use crate::kernel;
use crate::plan::Plan;

/// An attention layer without weights: a checked configuration. Small, `Copy` and shareable.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attention {
    config: AttentionConfig,
    level: Level,
}

impl Attention {
    /// Attention with the fastest instructions of this CPU.
    ///
    /// # Errors
    ///
    /// - [`AttentionError::ZeroSize`]: a number of heads or the head size is 0.
    /// - [`AttentionError::UngroupedHeads`]: `n_heads` is not a multiple of `n_kv_heads`.
    /// - [`AttentionError::BadScale`]: the scale is NaN or infinite.
    pub fn new(config: AttentionConfig) -> Result<Self, AttentionError> {
        config.check()?;
        Ok(Self { config, level: Level::detect() })
    }

    /// The same at a given SIMD level. Every level gives the same bits; this is how to check it.
    pub fn at_level(self, level: Level) -> Self {
        Self { level, ..self }
    }

    /// The configuration.
    pub fn config(&self) -> AttentionConfig {
        self.config
    }

    /// `out[i] = Σ_j softmax_j(scale * q[i] . k[j]) v[j]` over the keys `j` that query `i` sees.
    ///
    /// The last query stands at the last position of the view, so there is neither an offset nor a
    /// mask: one query with a long view is decode, as many queries as positions is prefill,
    /// anything between is a chunk. A row of `out` has the same bits in all of them, for any number
    /// of threads, any cut of the view into segments, and any SIMD level. Keys and values that a
    /// query does not see change none of its bits, even if they are NaN.
    ///
    /// Shapes
    ///
    /// | array | shape |
    /// |---|---|
    /// | q | `(q_len, n_heads, head_dim)`, any strides |
    /// | kv | `(positions, n_kv_heads, head_dim)` in up to three segments of f32, f16 or bf16 |
    /// | out | `(q_len, n_heads, head_dim)`, any strides; overwritten |
    ///
    /// # Errors
    ///
    /// Nothing is written to `out` then.
    ///
    /// - [`AttentionError::QueryShape`], [`AttentionError::KvShape`]: not the heads of the
    ///   configuration.
    /// - [`AttentionError::OutShape`]: `out` is not shaped as `q`.
    /// - [`AttentionError::TooManyQueries`]: more queries than positions.
    /// - [`AttentionError::MissingHistory`]: the view does not reach back as far as the first query
    ///   sees.
    ///
    /// # Cost
    ///
    /// `4 * n_heads * head_dim` flops a visible pair of query and key. Visible keys and values are
    /// read once for each key/value head and tile of queries (once in decode). Scratch memory is a
    /// few hundred KB a task at `head_dim` 128, whatever the length. Work is spread over the
    /// threads of the rayon pool in which it is called.
    pub fn forward<E: Element>(
        &self,
        q: ArrayView3<'_, f32>,
        kv: &KvView<'_, E>,
        out: ArrayViewMut3<'_, f32>,
    ) -> Result<(), AttentionError> {
        let plan = Plan::new(&self.config, q.dim(), kv)?;
        if out.dim() != q.dim() {
            return Err(AttentionError::OutShape { found: out.dim(), expected: q.dim() });
        }
        if plan.q_len() > 0 {
            kernel::forward(self.level, plan, q, kv, out);
        }
        Ok(())
    }
}
