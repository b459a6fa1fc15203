//! The entry points: checks, then kernels.

use mistral_core::kv::{KvElement, KvView};
use mistral_core::simd::Level;
use ndarray::{ArrayView3, ArrayViewMut3};

use crate::call::Call;
use crate::config::AttentionConfig;
use crate::error::AttentionError;

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
    /// - [`AttentionError::BadSoftCap`]: the soft-cap is not a finite number above 0.
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

    pub(crate) fn level(&self) -> Level {
        self.level
    }

    /// `out[i] = Σ_j softmax_j(scale * q[i] . k[j]) v[j]` over the keys `j` that query `i` sees.
    ///
    /// The last query stands at the last position of the view, so there is neither an offset nor a
    /// mask: one query with a long view is decode, as many queries as positions is prefill,
    /// anything between is a chunk. A row of `out` has the same bits in all of them, for any number
    /// of threads, any cut of the view into segments, and any SIMD level. Keys and values that a
    /// query does not see change none of its bits, even if they are NaN.
    ///
    /// [`call`](Self::call) has more to offer: log-sum-exp, parts of a history, sums over keys,
    /// cancelling, and memory that is used again.
    ///
    /// Shapes
    ///
    /// | array | shape |
    /// |---|---|
    /// | q | `(q_len, n_heads, head_dim)`, any strides |
    /// | kv | `(positions, n_kv_heads, head_dim)` in arrays or pages of f32, f16, bf16 or int8 |
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
    /// - [`AttentionError::MissingHistory`], [`AttentionError::MissingSinks`]: the view lacks keys
    ///   that a query sees.
    ///
    /// # Cost
    ///
    /// `4 * n_heads * head_dim` flops a visible pair of query and key. Visible keys and values are
    /// read once for each key/value head and tile of queries (once in decode). Scratch memory is a
    /// few hundred KB a task at `head_dim` 128, whatever the length; where few heads leave threads
    /// idle and blocks are shared out, also an output for each head and 128 keys. Work is spread
    /// over the threads of the rayon pool in which it is called.
    pub fn forward<E: KvElement>(
        &self,
        q: ArrayView3<'_, f32>,
        kv: &KvView<'_, E>,
        out: ArrayViewMut3<'_, f32>,
    ) -> Result<(), AttentionError> {
        self.call(q, kv).run(out)
    }

    /// A call with options: see [`Call`].
    pub fn call<'q, 'v, 'o, E: KvElement>(
        &self,
        q: ArrayView3<'q, f32>,
        kv: &KvView<'v, E>,
    ) -> Call<'q, 'v, 'o, E> {
        Call::new(*self, q, *kv)
    }
}
