use std::collections::HashSet;
use std::ops::Range;

use mistral_core::kv::{KvElement, KvView};
use ndarray::ArrayView3;

use crate::buffer::RingBuffer;
use crate::chunk::Staging;
use crate::config::CacheConfig;
use crate::error::CacheError;
use crate::staged::Staged;

/// The keys and values of one layer of one sequence, in a rolling buffer.
///
/// The slots before, while and after a chunk of 3 meets a ring of capacity 4 at position 4. (It is
/// drawn with 4 slots; there are 16, see [`ring`](crate::ring).)
///
/// ```text
/// slot        0   1   2   3        beside the ring
///           ┌───┬───┬───┬───┐      ┌───┬───┬───┐
/// stage     │ 0 │ 1 │ 2 │ 3 │      │ 4 │ 5 │ 6 │    token 4 still sees 1, 2 and 3
///           ├───┼───┼───┼───┤      └───┴───┴───┘
/// commit    │ 4 │ 5 │ 6 │ 3 │                       now 0, 1 and 2 are gone
///           └───┴───┴───┴───┘
/// ```
///
/// Writing first and attending afterwards would have robbed tokens 4 and 5 of positions 1 and 2.
///
/// ```
/// use mistral_kvcache::LayerCache;
/// use mistral_kvcache::half::f16;
/// use mistral_kvcache::ndarray::Array3;
///
/// let mut layer = LayerCache::<f16>::new(2, 8, 16)?; // n_kv_heads, head_dim, window
/// for chunk in [16, 3] {
///     let k = Array3::<f32>::ones((chunk, 2, 8));
///     let step = layer.stage(k.view(), k.view())?;
///     assert!(step.kv()?.positions().contains(&0)); // nothing is evicted yet
///     step.commit();
/// }
/// assert_eq!(layer.held(), 3..19);
/// let slots: Vec<_> = layer.slots().collect();
/// assert_eq!(slots[..5], [16, 17, 18, 3, 4].map(Some));
/// # Ok::<(), mistral_kvcache::CacheError>(())
/// ```
///
/// A layer with sinks or a rewind slack is made [`from_config`](Self::from_config).
///
/// Source: arXiv:2310.06825, section 2 and figure 2. A whole model's cache, with one staging
/// buffer for all layers, is [`RollingKvCache`](crate::RollingKvCache).
#[derive(Debug, Clone)]
pub struct LayerCache<E: KvElement> {
    buffer: RingBuffer<E>,
    staging: Staging<E>,
}

impl<E: KvElement> LayerCache<E> {
    /// A cache that keeps the last `window` tokens, for a sequence of any length.
    ///
    /// # Errors
    ///
    /// - [`CacheError::Zero`]: an argument is 0.
    /// - [`CacheError::SizeOverflow`], [`CacheError::OutOfMemory`]: too large.
    pub fn new(n_kv_heads: usize, head_dim: usize, window: usize) -> Result<Self, CacheError> {
        let config = CacheConfig::new(1, n_kv_heads, head_dim).with_context_len(usize::MAX);
        Self::from_config(&config.with_window(window), 0)
    }

    /// A cache that keeps every token, up to `context_len` of them. It grows as they come.
    ///
    /// # Errors
    ///
    /// As [`LayerCache::new`].
    pub fn full(
        n_kv_heads: usize,
        head_dim: usize,
        context_len: usize,
    ) -> Result<Self, CacheError> {
        let config = CacheConfig::new(1, n_kv_heads, head_dim).with_context_len(context_len);
        Self::from_config(&config, 0)
    }

    /// One layer of a model's cache, as large as it is there. `max_chunk` does not bind it: its
    /// own buffer grows to the longest chunk.
    ///
    /// # Errors
    ///
    /// - [`CacheError::Zero`], [`CacheError::WindowCount`]: the configuration is wrong.
    /// - [`CacheError::NoSuchLayer`]: it has fewer layers.
    /// - [`CacheError::SizeOverflow`], [`CacheError::OutOfMemory`]: too large.
    pub fn from_config(config: &CacheConfig, layer: usize) -> Result<Self, CacheError> {
        let heads = (config.n_kv_heads(), config.head_dim());
        let buffer = RingBuffer::new(heads, config.layer_size(layer)?)?;
        Ok(Self { buffer, staging: Staging::new(heads) })
    }

    /// Puts a chunk beside the ring, rounded to cache precision, ready to be attended to.
    ///
    /// The chunk's first token stands at [`position`](Self::position). It may be of any length:
    /// one token, or several windows. Rounding happens here, before anything is attended to, so
    /// that a row is the same number whether it is read from the chunk or, later, from the ring.
    ///
    /// Shapes
    ///
    /// | argument | shape |
    /// |---|---|
    /// | keys (already rotated) | `(tokens, n_kv_heads, head_dim)`, any strides |
    /// | values | `(tokens, n_kv_heads, head_dim)`, any strides |
    ///
    /// # Errors
    ///
    /// - [`CacheError::ShapeMismatch`]: keys and values differ in shape.
    /// - [`CacheError::HeadsDiffer`]: other heads than the cache's.
    /// - [`CacheError::EmptyChunk`]: no tokens.
    /// - [`CacheError::ContextFull`]: the sequence would exceed `context_len`.
    /// - [`CacheError::PositionOverflow`], [`CacheError::SizeOverflow`],
    ///   [`CacheError::OutOfMemory`]: too large.
    ///
    /// # Cost
    ///
    /// One pass over the chunk. Allocates only when the chunk is the longest so far, or, in a
    /// [`full`](Self::full) cache, for each page of [`PAGE`](crate::PAGE) tokens.
    pub fn stage(
        &mut self,
        keys: ArrayView3<f32>,
        values: ArrayView3<f32>,
    ) -> Result<Staged<'_, E>, CacheError> {
        let end = self.buffer.admit(&keys, &values)?;
        self.buffer.reserve(end)?;
        self.staging.grow(keys.dim().0)?;
        let chunk = self.staging.fill(self.buffer.held().end, keys, values)?;
        Ok(Staged::new(&mut self.buffer, chunk, None))
    }

    /// Takes back the last `tokens` tokens, as if they had never been committed.
    ///
    /// Exact also after the ring has wrapped, for as many tokens as the slack, and one more; all
    /// of them may always be taken back.
    ///
    /// # Errors
    ///
    /// - [`CacheError::RewindBeforeStart`]: there are not so many.
    /// - [`CacheError::HistoryOverwritten`]: rows are gone that would be needed again. Nothing is
    ///   changed.
    pub fn rewind(&mut self, tokens: usize) -> Result<(), CacheError> {
        let position = before(self.position(), tokens)?;
        if !self.buffer.can_return_to(position) {
            let oldest = self.buffer.reaches_back_to();
            return Err(CacheError::HistoryOverwritten { position, oldest });
        }
        self.buffer.return_to(position);
        Ok(())
    }

    /// What is committed: the ring, and the sinks that it has forgotten.
    ///
    /// # Errors
    ///
    /// - [`CacheError::View`]: nothing is committed.
    pub fn kv(&self) -> Result<KvView<'_, E>, CacheError> {
        Ok(self.buffer.view(None)?)
    }

    /// The position of the next token: how many were committed.
    pub fn position(&self) -> usize {
        self.buffer.held().end
    }

    /// The positions whose keys and values are in the ring.
    pub fn held(&self) -> Range<usize> {
        self.buffer.held()
    }

    /// The positions that are pinned, whether or not the ring has them as well.
    pub fn pinned(&self) -> Range<usize> {
        self.buffer.pinned()
    }

    /// Most positions in the ring.
    pub fn capacity(&self) -> usize {
        self.buffer.size().ring.capacity()
    }

    /// The position in each slot of the ring, `None` where there is none: as many slots as the
    /// capacity rounded up to a multiple of 16.
    pub fn slots(&self) -> impl Iterator<Item = Option<usize>> {
        let ring = self.buffer.size().ring;
        let [tail, head] = ring.runs(self.held());
        (0..ring.slots()).map(move |slot| {
            [&tail, &head]
                .into_iter()
                .find(|run| run.slots.contains(&slot))
                .map(|run| run.start + (slot - run.slots.start))
        })
    }

    /// Bytes of keys and values, the chunk's buffer included.
    pub fn bytes(&self) -> usize {
        self.buffer.bytes(&mut HashSet::new()) + self.staging.bytes()
    }

    /// Forgets every token and keeps the memory.
    pub fn clear(&mut self) {
        self.buffer.clear();
    }
}

/// The position `tokens` before `position`.
pub(crate) fn before(position: usize, tokens: usize) -> Result<usize, CacheError> {
    position.checked_sub(tokens).ok_or(CacheError::RewindBeforeStart { tokens, position })
}
