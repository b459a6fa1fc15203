//! What can be chosen for a session.

use mistral_core::half::{bf16, f16};
use mistral_core::kv::{Int8, KvFormat};
use mistral_kvcache::{CacheConfig, HeavyHitterConfig};

use crate::config::Config;
use crate::error::ModelError;

/// How a session keeps its keys and values, and in what portions it takes a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionOptions {
    /// Format of the cache. Default f16: half the memory of f32, a rounding of 2^-11.
    pub kv_dtype: KvFormat,
    /// Most tokens that pass through the layers together. Default 512. It changes speed and
    /// scratch memory, never a bit of the result, unless there are
    /// [`heavy_hitters`](Self::heavy_hitters).
    pub max_chunk: usize,
    /// How many of the first tokens every later one sees, however far back they lie, in a model
    /// with a window (StreamingLLM, arXiv:2309.17453). Default 0. They take
    /// `sinks` positions of memory beside the window.
    pub sinks: usize,
    /// How many tokens [`Session::rewind`](crate::Session::rewind) can take back after a text has
    /// outgrown the window. Default 0. They take `rewind_slack` positions of memory beside the
    /// window. Without a window everything can be taken back anyway.
    pub rewind_slack: usize,
    /// Keeps what is attended to, instead of a window or everything. Default `None`.
    pub heavy_hitters: Option<HeavyHitters>,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            kv_dtype: KvFormat::F16,
            max_chunk: 512,
            sinks: 0,
            rewind_slack: 0,
            heavy_hitters: None,
        }
    }
}

impl SessionOptions {
    /// What [`Session::cache_bytes`](crate::Session::cache_bytes) says of a session that has had
    /// `tokens`, before anything is allocated.
    ///
    /// ```
    /// use mistral_model::{Config, SessionOptions};
    ///
    /// let config = Config::mistral_7b_v01();
    /// let plain = SessionOptions::default().cache_bytes(&config, 100_000)?;
    /// let sinks = SessionOptions { sinks: 16, ..Default::default() };
    /// // Layers, heads, elements, keys and values, bytes.
    /// assert_eq!(sinks.cache_bytes(&config, 100_000)?, plain + 16 * 32 * 8 * 128 * 2 * 2);
    /// # Ok::<(), mistral_model::ModelError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// - [`ModelError::ZeroChunk`], [`ModelError::HeavyHitters`]: no session has such options.
    /// - [`ModelError::Cache`]: so many tokens do not fit, or the bytes not in `usize`.
    pub fn cache_bytes(&self, config: &Config, tokens: usize) -> Result<usize, ModelError> {
        self.check()?;
        let options = self.within(config);
        let Some(sizes) = options.heavy_hitter_cache(config) else {
            return Ok(options.cache(config).plan(self.kv_dtype, 1, tokens)?);
        };
        Ok(match self.kv_dtype {
            KvFormat::F32 => sizes.bytes::<f32>(),
            KvFormat::Int8 => sizes.bytes::<Int8>(),
            KvFormat::BF16 => sizes.bytes::<bf16>(),
            _ => sizes.bytes::<f16>(),
        }?)
    }

    /// The same with a chunk no longer than any sequence: more would only take memory.
    pub(super) fn within(&self, config: &Config) -> Self {
        let longest = config.cache().limit().unwrap_or(usize::MAX);
        Self { max_chunk: self.max_chunk.min(longest), ..*self }
    }

    /// The cache of such a session if it keeps what is attended to.
    pub(super) fn heavy_hitter_cache(&self, config: &Config) -> Option<HeavyHitterConfig> {
        let kept = self.heavy_hitters?;
        let sizes = HeavyHitterConfig::new(config.n_layers, config.n_kv_heads, config.head_dim);
        let sizes = sizes.with_recent(kept.recent).with_heavy(kept.heavy);
        Some(sizes.with_max_chunk(self.max_chunk))
    }

    /// Refuses what no session can be.
    pub(super) fn check(&self) -> Result<(), ModelError> {
        if self.max_chunk == 0 {
            return Err(ModelError::ZeroChunk);
        }
        match (self.heavy_hitters, self.sinks, self.rewind_slack) {
            (None, ..) | (Some(_), 0, 0) => Ok(()),
            (Some(_), 0, _) => Err(ModelError::HeavyHitters { what: "a rewind slack" }),
            (Some(_), ..) => Err(ModelError::HeavyHitters { what: "sinks" }),
        }
    }

    /// The rolling cache of such a session.
    pub(super) fn cache(&self, config: &Config) -> CacheConfig {
        config
            .cache()
            .with_max_chunk(self.max_chunk)
            .with_sinks(self.sinks)
            .with_rewind_slack(self.rewind_slack)
    }
}

/// How much a session keeps that forgets what gets little attention (H2O, arXiv:2306.14048).
///
/// Each key/value head of each layer keeps the last `recent` positions and, of the older ones, the
/// `heavy` that got the largest attention weight so far. Memory is constant. A token sees all that
/// is kept, and of its own chunk what stands before it; this takes the place of the model's window.
/// A text without a window still ends at the model's `context_len`, for tokens keep their positions.
///
/// What was evicted is gone: there is no going back, and no saving. Eviction comes after each
/// chunk, so the result depends on how a prompt is cut; the paper evicts after the whole prompt,
/// which is a `max_chunk` of its length.
///
/// ```
/// # use mistral_model::{Config, DType, Session, SessionOptions, Transformer, Window};
/// use mistral_model::HeavyHitters;
///
/// # let config = Config { dim: 64, n_layers: 2, n_heads: 4, n_kv_heads: 2, head_dim: 16,
/// #     hidden_dim: 96, vocab_size: 100, window: Window::Full, ..Config::mistral_7b_v03() };
/// let model = Transformer::random(&config, DType::BF16, 7)?;
/// let heavy_hitters = Some(HeavyHitters { recent: 8, heavy: 4 });
/// let options = SessionOptions { heavy_hitters, max_chunk: 16, ..Default::default() };
/// let mut session = Session::new(&model, options)?;
/// let bytes = session.cache_bytes();
/// session.prefill(&[7; 100])?;
/// assert_eq!(session.cache_bytes(), bytes);
/// # Ok::<(), mistral_model::ModelError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HeavyHitters {
    /// How many of the last positions are kept whatever their weight.
    pub recent: usize,
    /// How many of the older positions are kept, those with the largest weight.
    pub heavy: usize,
}
