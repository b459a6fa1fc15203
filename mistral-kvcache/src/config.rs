use std::num::NonZeroUsize;

use mistral_core::DType;

use crate::error::CacheError;

/// Tokens by which the cache of a sequence grows that may forget nothing.
///
/// Growing copies the layer once. A decoded token reads the whole layer anyway, so a copy every
/// 256 tokens adds less than one hundredth to the traffic, and at most 255 rows lie idle, where
/// doubling would leave up to half of the memory unused.
pub const BLOCK: usize = 256;

/// Rows that a layer has allocated when a sequence has `tokens`.
pub(crate) fn rows_for(tokens: usize, capacity: usize, limit: Option<usize>) -> usize {
    match limit {
        None => capacity,
        Some(_) => tokens.div_ceil(BLOCK).saturating_mul(BLOCK).min(capacity),
    }
}

/// The sizes of a cache, and how much memory it will take.
///
/// Mistral 7B v0.1 at 32k tokens in f16 keeps 4096 of them: an eighth of the memory
/// (arXiv:2310.06825, section 2).
///
/// ```
/// use mistral_kvcache::{CacheConfig, DType};
///
/// let full = CacheConfig::new(32, 8, 128).with_context_len(32768);
/// let rolling = full.with_window(4096);
/// assert_eq!(full.sequence_bytes(DType::F16, 32768)?, 4 << 30);
/// assert_eq!(rolling.sequence_bytes(DType::F16, 32768)?, 512 << 20);
/// # Ok::<(), mistral_kvcache::CacheError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CacheConfig {
    n_layers: usize,
    n_kv_heads: usize,
    head_dim: usize,
    window: Option<usize>,
    context_len: usize,
    max_chunk: usize,
}

impl CacheConfig {
    /// No window, `context_len` 32768, `max_chunk` 512.
    pub fn new(n_layers: usize, n_kv_heads: usize, head_dim: usize) -> Self {
        Self { n_layers, n_kv_heads, head_dim, window: None, context_len: 32768, max_chunk: 512 }
    }

    /// Keeps the last `window` tokens, the current one included.
    pub fn with_window(mut self, window: usize) -> Self {
        self.window = Some(window);
        self
    }

    /// Most tokens in a sequence that may forget nothing.
    ///
    /// It bounds a sequence without a window, and one whose window is longer than `context_len`.
    /// A sequence with a shorter window has no end.
    pub fn with_context_len(mut self, context_len: usize) -> Self {
        self.context_len = context_len;
        self
    }

    /// Most tokens in a chunk: the rows of the staging buffer that all layers share.
    pub fn with_max_chunk(mut self, max_chunk: usize) -> Self {
        self.max_chunk = max_chunk;
        self
    }

    /// Number of layers.
    pub fn n_layers(&self) -> usize {
        self.n_layers
    }

    /// Number of key/value heads.
    pub fn n_kv_heads(&self) -> usize {
        self.n_kv_heads
    }

    /// Elements in one head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// How many tokens are kept, the current one included; `None` if all are.
    pub fn window(&self) -> Option<usize> {
        self.window
    }

    /// Most tokens in a sequence that may forget nothing.
    pub fn context_len(&self) -> usize {
        self.context_len
    }

    /// Most tokens in a chunk.
    pub fn max_chunk(&self) -> usize {
        self.max_chunk
    }

    /// Most positions kept in a layer: `min(window, context_len)`.
    pub fn capacity(&self) -> usize {
        self.window.map_or(self.context_len, |window| window.min(self.context_len))
    }

    /// Most tokens in a sequence; `None` if it has no end because old ones are forgotten.
    pub fn limit(&self) -> Option<usize> {
        match self.window {
            Some(window) if window <= self.context_len => None,
            _ => Some(self.context_len),
        }
    }

    /// Bytes of one sequence with `tokens` in it, as allocated: whole blocks, or the whole ring.
    ///
    /// # Errors
    ///
    /// - [`CacheError::Zero`]: a size is 0.
    /// - [`CacheError::SizeOverflow`]: it does not fit in `usize`.
    /// - [`CacheError::ContextFull`]: a sequence cannot have so many tokens.
    pub fn sequence_bytes(&self, dtype: DType, tokens: usize) -> Result<usize, CacheError> {
        let capacity = self.checked_capacity()?.get();
        let limit = self.limit();
        if let Some(context_len) = limit.filter(|&limit| tokens > limit) {
            return Err(CacheError::ContextFull { position: 0, len: tokens, context_len });
        }
        self.row_bytes(dtype)
            .and_then(|row| row.checked_mul(rows_for(tokens, capacity, limit)))
            .and_then(|layer| layer.checked_mul(self.n_layers))
            .ok_or(CacheError::SizeOverflow)
    }

    /// Bytes of the staging buffer, which all layers and sequences share.
    ///
    /// # Errors
    ///
    /// - [`CacheError::Zero`]: a size is 0.
    /// - [`CacheError::SizeOverflow`]: it does not fit in `usize`.
    pub fn staging_bytes(&self, dtype: DType) -> Result<usize, CacheError> {
        self.checked_capacity()?;
        self.row_bytes(dtype)
            .and_then(|row| row.checked_mul(self.max_chunk))
            .ok_or(CacheError::SizeOverflow)
    }

    /// Bytes of the whole cache with that many `sequences`, each as long as it can get.
    ///
    /// With a window this is what [`RollingKvCache::bytes`](crate::RollingKvCache::bytes) says
    /// from the first token on; without, what it grows to.
    ///
    /// # Errors
    ///
    /// As [`staging_bytes`](Self::staging_bytes).
    pub fn bytes(&self, dtype: DType, sequences: usize) -> Result<usize, CacheError> {
        self.sequence_bytes(dtype, self.capacity())?
            .checked_mul(sequences)
            .and_then(|bytes| bytes.checked_add(self.staging_bytes(dtype).ok()?))
            .ok_or(CacheError::SizeOverflow)
    }

    /// The capacity, after checking every size.
    pub(crate) fn checked_capacity(&self) -> Result<NonZeroUsize, CacheError> {
        for (field, value) in [
            ("n_layers", self.n_layers),
            ("n_kv_heads", self.n_kv_heads),
            ("head_dim", self.head_dim),
            ("context_len", self.context_len),
            ("max_chunk", self.max_chunk),
        ] {
            if value == 0 {
                return Err(CacheError::Zero { field });
            }
        }
        // Everything else is not zero, so only the window can be.
        NonZeroUsize::new(self.capacity()).ok_or(CacheError::Zero { field: "window" })
    }

    /// Bytes of the keys and values of one token in one layer.
    fn row_bytes(&self, dtype: DType) -> Option<usize> {
        self.n_kv_heads.checked_mul(self.head_dim)?.checked_mul(2 * dtype.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_of_4096_takes_an_eighth_of_a_full_cache_at_32k() {
        let full = CacheConfig::new(32, 8, 128).with_context_len(32768);
        let rolling = full.with_window(4096);
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let [full, rolling] = [full, rolling].map(|c| c.sequence_bytes(dtype, 32768).unwrap());
            assert_eq!(full as f64 / rolling as f64, 8.0);
        }
    }

    #[test]
    fn eight_kv_heads_take_a_quarter_of_thirty_two() {
        let [few, many] = [8, 32].map(|n_kv_heads| {
            let config = CacheConfig::new(32, n_kv_heads, 128).with_window(4096);
            config.bytes(DType::F16, 3).unwrap()
        });
        assert_eq!(many as f64 / few as f64, 4.0);
    }

    #[test]
    fn a_windowless_sequence_grows_by_blocks_up_to_its_limit() {
        let config = CacheConfig::new(1, 1, 1).with_context_len(600);
        let rows = |tokens| config.sequence_bytes(DType::F32, tokens).unwrap() / 8;
        assert_eq!([0, 1, 256, 257, 512, 513, 600].map(rows), [0, 256, 256, 512, 512, 600, 600]);
        let beyond = config.sequence_bytes(DType::F32, 601).unwrap_err();
        assert!(matches!(beyond, CacheError::ContextFull { context_len: 600, .. }));
    }

    #[test]
    fn only_a_window_within_the_context_lifts_the_limit() {
        let config = CacheConfig::new(1, 1, 1).with_context_len(8);
        assert_eq!(config.limit(), Some(8));
        assert_eq!(config.with_window(9).limit(), Some(8));
        assert_eq!(config.with_window(8).limit(), None);
        assert_eq!(config.with_window(9).capacity(), 8);
        assert_eq!(config.with_window(7).capacity(), 7);
    }

    #[test]
    fn zeros_are_named_and_giants_refused() {
        let good = CacheConfig::new(1, 1, 1);
        for (config, field) in [
            (CacheConfig::new(0, 1, 1), "n_layers"),
            (CacheConfig::new(1, 0, 1), "n_kv_heads"),
            (CacheConfig::new(1, 1, 0), "head_dim"),
            (good.with_window(0), "window"),
            (good.with_context_len(0), "context_len"),
            (good.with_max_chunk(0), "max_chunk"),
        ] {
            assert_eq!(config.bytes(DType::F32, 1).unwrap_err(), CacheError::Zero { field });
        }
        let giant = good.with_context_len(usize::MAX).bytes(DType::F32, 1);
        assert_eq!(giant.unwrap_err(), CacheError::SizeOverflow);
        let crowd = good.bytes(DType::F32, usize::MAX);
        assert_eq!(crowd.unwrap_err(), CacheError::SizeOverflow);
    }
}
