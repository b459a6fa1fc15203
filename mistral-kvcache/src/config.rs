use std::num::NonZeroUsize;

use mistral_core::kv::KvFormat;

use crate::error::CacheError;
use crate::ring::Ring;
use crate::size::{LayerSize, chunk_slots, slot_bytes};

/// The sizes of a cache, and how much memory it will take.
///
/// Mistral 7B v0.1 at 32k tokens in f16 keeps 4096 of them: an eighth of the memory
/// (arXiv:2310.06825, section 2).
///
/// ```
/// use mistral_kvcache::{CacheConfig, KvFormat};
///
/// let full = CacheConfig::new(32, 8, 128).with_context_len(32768);
/// let rolling = full.clone().with_window(4096);
/// assert_eq!(full.sequence_bytes(KvFormat::F16, 32768)?, 4 << 30);
/// assert_eq!(rolling.sequence_bytes(KvFormat::F16, 32768)?, 512 << 20);
/// # Ok::<(), mistral_kvcache::CacheError>(())
/// ```
///
/// # What is allocated
///
/// | memory | slots, each a key and a value of every head |
/// |---|---|
/// | a layer with a window | `window + rewind_slack`, from the start |
/// | a layer without | as many as there are tokens, in pages of 128, up to `context_len` |
/// | the sinks of a layer with a window | `sinks`, from the start |
/// | the staging buffer, once for all | `max_chunk + 15` |
///
/// Each number is rounded up to a multiple of 16, so that kernels find sixteen positions side by
/// side: a window of 4096 takes exactly 4096 slots, one of 4000 takes 4000, one of 10 takes 16.
/// What is kept is not rounded: [`capacity`](Self::capacity) positions and no more.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[must_use]
pub struct CacheConfig {
    n_layers: usize,
    n_kv_heads: usize,
    head_dim: usize,
    windows: Windows,
    context_len: usize,
    max_chunk: usize,
    rewind_slack: usize,
    sinks: usize,
}

/// The windows of all layers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Windows {
    Same(Option<usize>),
    Each(Vec<Option<usize>>),
}

impl CacheConfig {
    /// No window, `context_len` 32768, `max_chunk` 512, no rewind slack, no sinks.
    pub fn new(n_layers: usize, n_kv_heads: usize, head_dim: usize) -> Self {
        Self {
            n_layers,
            n_kv_heads,
            head_dim,
            windows: Windows::Same(None),
            context_len: 32768,
            max_chunk: 512,
            rewind_slack: 0,
            sinks: 0,
        }
    }

    /// Keeps the last `window` tokens in every layer, the current one included.
    pub fn with_window(mut self, window: usize) -> Self {
        self.windows = Windows::Same(Some(window));
        self
    }

    /// Keeps in each layer the last tokens that its own window says, all of them where it is
    /// `None`. One window for each layer: models interleave them.
    ///
    /// ```
    /// use mistral_kvcache::{CacheConfig, KvFormat};
    ///
    /// // Three layers see 1024 tokens, every fourth one sees everything.
    /// let windows = (0..32).map(|layer| (layer % 4 != 3).then_some(1024)).collect();
    /// let config = CacheConfig::new(32, 8, 128).with_windows(windows);
    /// assert_eq!(config.limit(), Some(32768));
    /// assert_eq!(config.layer_capacity(0), Some(1024));
    /// // Slots of 24 layers with a window, and of 8 without.
    /// let slots = config.sequence_bytes(KvFormat::F16, 32768)? / (8 * 128 * 2 * 2);
    /// assert_eq!(slots, 24 * 1024 + 8 * 32768);
    /// # Ok::<(), mistral_kvcache::CacheError>(())
    /// ```
    pub fn with_windows(mut self, windows: Vec<Option<usize>>) -> Self {
        self.windows = Windows::Each(windows);
        self
    }

    /// Most tokens in a sequence that may forget nothing.
    ///
    /// It bounds a sequence if at least one layer has no window, or one longer than `context_len`.
    /// A sequence with shorter windows has no end.
    pub fn with_context_len(mut self, context_len: usize) -> Self {
        self.context_len = context_len;
        self
    }

    /// Most tokens in a chunk, or in the chunks of a batch together: the slots of the staging buffer
    /// that all layers share.
    pub fn with_max_chunk(mut self, max_chunk: usize) -> Self {
        self.max_chunk = max_chunk;
        self
    }

    /// How many tokens can be taken back after a ring has wrapped: so many more are kept.
    ///
    /// [`rewind`](crate::RollingKvCache::rewind) is exact for as many, and for one more, because
    /// the next token brings its own row. A speculative decoder needs the length of its guesses.
    /// Without a window everything can be taken back anyway.
    pub fn with_rewind_slack(mut self, tokens: usize) -> Self {
        self.rewind_slack = tokens;
        self
    }

    /// Pins the first `sinks` positions of a sequence beside each ring.
    ///
    /// Models put a large part of their attention on the first tokens, whatever they are. A window
    /// that forgets them breaks down; with four of them and the window a text may be endless
    /// (StreamingLLM, arXiv:2309.17453). They are in the views as
    /// [`KvView::sinks`](mistral_core::kv::KvView::sinks). Layers that forget nothing have them
    /// anyway.
    ///
    /// # Their distance
    ///
    /// The paper gives a token the place that it has in the cache, so that no distance exceeds the
    /// size of the cache: a sink `j` is read as if it lay right before the window. A score depends
    /// on the distance alone, so the sinks' keys can stay rotated for their own positions
    /// `0..sinks`, as they are kept here, if the query that meets them is rotated for position
    /// `min(i, sinks + window - 1)` instead of its own `i`:
    ///
    /// ```text
    /// sinks 2, window 3, query at position 9
    /// cached position        0   1   7   8   9
    /// place in the cache     0   1   2   3   4      distances 4 3 2 1 0
    /// the query is rotated for 4 where it meets 0 and 1, for 9 where it meets 7, 8 and 9
    /// ```
    ///
    /// Attention takes such queries as `sink_queries`. Nothing is rotated a second time and
    /// nothing in the cache ever changes.
    pub fn with_sinks(mut self, sinks: usize) -> Self {
        self.sinks = sinks;
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

    /// How many tokens the layer with the longest window sees, the current one included; `None`
    /// if one sees all.
    pub fn window(&self) -> Option<usize> {
        match &self.windows {
            Windows::Same(window) => *window,
            Windows::Each(windows) => {
                windows.iter().copied().collect::<Option<Vec<_>>>()?.into_iter().max()
            }
        }
    }

    /// The window of each layer in turn, `None` where all tokens are kept.
    pub fn windows(&self) -> impl Iterator<Item = Option<usize>> {
        (0..self.n_layers).map(|layer| match &self.windows {
            Windows::Same(window) => *window,
            Windows::Each(windows) => windows.get(layer).copied().flatten(),
        })
    }

    /// Most tokens in a sequence that may forget nothing.
    pub fn context_len(&self) -> usize {
        self.context_len
    }

    /// Most tokens in a chunk.
    pub fn max_chunk(&self) -> usize {
        self.max_chunk
    }

    /// Tokens kept beyond the window, so that as many can be taken back.
    pub fn rewind_slack(&self) -> usize {
        self.rewind_slack
    }

    /// First positions that are never forgotten.
    pub fn sinks(&self) -> usize {
        self.sinks
    }

    /// Most positions kept in the layer that keeps the most, sinks not counted.
    ///
    /// `window + rewind_slack`, or `context_len` if nothing is forgotten.
    pub fn capacity(&self) -> usize {
        match (self.limit(), self.window()) {
            (None, Some(window)) => window.saturating_add(self.rewind_slack),
            _ => self.context_len,
        }
    }

    /// Most positions kept in a layer, sinks not counted; `None` if there is no such layer.
    pub fn layer_capacity(&self, layer: usize) -> Option<usize> {
        let window = self.windows().nth(layer)?;
        Some(self.capacity_of(window))
    }

    /// Most tokens in a sequence; `None` if it has no end because old ones are forgotten.
    pub fn limit(&self) -> Option<usize> {
        match self.window() {
            Some(window) if window <= self.context_len => None,
            _ => Some(self.context_len),
        }
    }

    /// Bytes of one sequence when it has had `tokens`, as allocated.
    ///
    /// # Errors
    ///
    /// - [`CacheError::Zero`]: a size is 0.
    /// - [`CacheError::WindowCount`]: not one window for each layer.
    /// - [`CacheError::SizeOverflow`]: it does not fit in `usize`.
    /// - [`CacheError::ContextFull`]: a sequence cannot have so many tokens.
    pub fn sequence_bytes(
        &self,
        format: impl Into<KvFormat>,
        tokens: usize,
    ) -> Result<usize, CacheError> {
        let format = format.into();
        self.check()?;
        if let Some(context_len) = self.limit().filter(|&limit| tokens > limit) {
            return Err(CacheError::ContextFull { position: 0, len: tokens, context_len });
        }
        let heads = (self.n_kv_heads, self.head_dim);
        let layer_bytes = |window| self.size_of(window)?.bytes(format, heads, tokens);
        match &self.windows {
            Windows::Same(window) => {
                layer_bytes(*window)?.checked_mul(self.n_layers).ok_or(CacheError::SizeOverflow)
            }
            Windows::Each(windows) => windows.iter().try_fold(0usize, |sum, window| {
                sum.checked_add(layer_bytes(*window)?).ok_or(CacheError::SizeOverflow)
            }),
        }
    }

    /// Bytes of the staging buffer, which all layers and sequences share.
    ///
    /// # Errors
    ///
    /// - [`CacheError::Zero`]: a size is 0.
    /// - [`CacheError::WindowCount`]: not one window for each layer.
    /// - [`CacheError::SizeOverflow`]: it does not fit in `usize`.
    pub fn staging_bytes(&self, format: impl Into<KvFormat>) -> Result<usize, CacheError> {
        self.check()?;
        let slots = chunk_slots(self.max_chunk)?;
        slot_bytes(format.into(), (self.n_kv_heads, self.head_dim), slots)
    }

    /// Bytes of the whole cache when each of `sequences` has had `tokens`, before anything is
    /// allocated: what [`RollingKvCache::bytes`](crate::RollingKvCache::bytes) will say.
    ///
    /// A fork counts as a sequence of its own here. It shares its memory until one side writes, so
    /// with forks this is the most that there can be, reached when both have written every page.
    ///
    /// # Errors
    ///
    /// As [`sequence_bytes`](Self::sequence_bytes).
    pub fn plan(
        &self,
        format: impl Into<KvFormat>,
        sequences: usize,
        tokens: usize,
    ) -> Result<usize, CacheError> {
        let format = format.into();
        let staging = self.staging_bytes(format)?;
        self.sequence_bytes(format, tokens)?
            .checked_mul(sequences)
            .and_then(|bytes| bytes.checked_add(staging))
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
    pub fn bytes(
        &self,
        format: impl Into<KvFormat>,
        sequences: usize,
    ) -> Result<usize, CacheError> {
        self.plan(format, sequences, self.limit().unwrap_or(0))
    }

    /// Checks every size.
    pub(crate) fn check(&self) -> Result<(), CacheError> {
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
        match &self.windows {
            Windows::Each(windows) if windows.len() != self.n_layers => {
                Err(CacheError::WindowCount { found: windows.len(), n_layers: self.n_layers })
            }
            Windows::Same(Some(0)) => Err(CacheError::Zero { field: "window" }),
            Windows::Each(windows) if windows.contains(&Some(0)) => {
                Err(CacheError::Zero { field: "window" })
            }
            _ => Ok(()),
        }
    }

    /// What a layer keeps.
    pub(crate) fn layer_size(&self, layer: usize) -> Result<LayerSize, CacheError> {
        self.check()?;
        let window = self.windows().nth(layer);
        let no_such = CacheError::NoSuchLayer { found: layer, n_layers: self.n_layers };
        self.size_of(window.ok_or(no_such)?)
    }

    fn size_of(&self, window: Option<usize>) -> Result<LayerSize, CacheError> {
        let rolling = window.filter(|&window| window <= self.context_len);
        let zero = CacheError::Zero { field: "window" };
        let window = NonZeroUsize::new(rolling.unwrap_or(self.context_len)).ok_or(zero.clone())?;
        let capacity = NonZeroUsize::new(self.capacity_of(rolling)).ok_or(zero)?;
        Ok(LayerSize {
            window,
            ring: Ring::new(capacity).ok_or(CacheError::SizeOverflow)?,
            grows: rolling.is_none(),
            sinks: if rolling.is_some() { self.sinks } else { 0 },
            limit: self.limit(),
        })
    }

    fn capacity_of(&self, window: Option<usize>) -> usize {
        let most = self.limit().unwrap_or(usize::MAX);
        match window {
            Some(window) if window <= self.context_len => {
                window.saturating_add(self.rewind_slack).min(most)
            }
            _ => self.context_len,
        }
    }
}
