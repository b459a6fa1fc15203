use std::ops::Range;

use mistral_core::Element;
use ndarray::ArrayView3;

use crate::config::CacheConfig;
use crate::error::CacheError;
use crate::sequence::{Sequence, SequenceId};
use crate::staged::{Chunk, Staged};

/// The keys and values of a whole model for several sequences, each at its own position.
///
/// A forward pass stages and commits each layer in turn. Position and memory of a sequence with
/// 2 layers and a window of 4, fed with chunks of 3:
///
/// ```text
///              layer 0                     layer 1                     position
/// chunk 0..3   stage, attend, commit   ──► stage, attend, commit   ──► 3
/// chunk 3..6   stage, attend, commit   ──► stage, attend, commit   ──► 6
///              └────── one staging buffer, shared by all layers ──────┘
/// ```
///
/// ```
/// use mistral_kvcache::{CacheConfig, RollingKvCache, ndarray::Array3};
///
/// let config = CacheConfig::new(2, 1, 8).with_window(4).with_max_chunk(3);
/// let mut cache = RollingKvCache::<f32>::new(config)?;
/// let id = cache.add_sequence()?;
/// for _ in 0..2 {
///     for layer in 0..2 {
///         let k = Array3::ones((3, 1, 8));
///         let step = cache.stage(id, layer, k.view(), k.view())?;
///         // attention.forward(q, &step.kv()?, out)?;
///         step.commit();
///     }
/// }
/// assert_eq!(cache.position(id)?, 6);
/// assert_eq!(cache.held(id, 0)?, 2..6);
/// # Ok::<(), mistral_kvcache::CacheError>(())
/// ```
///
/// # When a chunk is not finished
///
/// Dropping a [`Staged`] undoes nothing but itself: layers before it have committed. Until the
/// others follow, the sequence's position stands still and a new chunk is refused
/// ([`CacheError::IncompleteChunk`]). [`abandon_chunk`](Self::abandon_chunk) takes the committed
/// layers back where that is exact, which is always so for a chunk of one token, and for any
/// chunk while the ring has not wrapped. Otherwise rows are gone that only a second copy of every
/// layer's chunk could bring back, memory that this cache exists to save; then
/// [`reset`](Self::reset) and prefill again. Other sequences are not concerned.
///
/// Source: arXiv:2310.06825, section 2.
#[derive(Debug, Clone)]
pub struct RollingKvCache<E: Element> {
    config: CacheConfig,
    sequences: Vec<Sequence<E>>,
    chunk: Chunk<E>,
    next_id: u64,
}

impl<E: Element> RollingKvCache<E> {
    /// A cache without sequences: only the staging buffer is allocated.
    ///
    /// # Errors
    ///
    /// - [`CacheError::Zero`]: a size is 0.
    /// - [`CacheError::SizeOverflow`], [`CacheError::OutOfMemory`]: too large.
    pub fn new(config: CacheConfig) -> Result<Self, CacheError> {
        config.bytes(E::DTYPE, 1)?;
        let chunk = Chunk::new(config.n_kv_heads(), config.max_chunk(), config.head_dim())?;
        Ok(Self { config, sequences: Vec::new(), chunk, next_id: 0 })
    }

    /// The sizes it was made with.
    pub fn config(&self) -> &CacheConfig {
        &self.config
    }

    /// Adds an empty sequence, at position 0.
    ///
    /// # Errors
    ///
    /// - [`CacheError::OutOfMemory`]: no room for another ring in each layer.
    ///
    /// # Cost
    ///
    /// Allocates `config.sequence_bytes(dtype, 0)`: the rings, or nothing if none is forgotten.
    pub fn add_sequence(&mut self) -> Result<SequenceId, CacheError> {
        let id = SequenceId(self.next_id);
        self.sequences.push(Sequence::new(id, &self.config)?);
        self.next_id += 1;
        Ok(id)
    }

    /// Removes a sequence, at any point, and frees its memory.
    ///
    /// # Errors
    ///
    /// - [`CacheError::UnknownSequence`]: no such sequence.
    pub fn remove_sequence(&mut self, id: SequenceId) -> Result<(), CacheError> {
        let index = self.index(id)?;
        self.sequences.remove(index);
        Ok(())
    }

    /// Takes a sequence back to position 0, at any point, and keeps its memory.
    ///
    /// # Errors
    ///
    /// - [`CacheError::UnknownSequence`]: no such sequence.
    pub fn reset(&mut self, id: SequenceId) -> Result<(), CacheError> {
        self.sequence_mut(id)?.clear();
        Ok(())
    }

    /// The sequences, in the order in which they were added.
    pub fn sequences(&self) -> impl Iterator<Item = SequenceId> {
        self.sequences.iter().map(Sequence::id)
    }

    /// The position of a sequence's next token: how many were committed in every layer.
    ///
    /// # Errors
    ///
    /// - [`CacheError::UnknownSequence`]: no such sequence.
    pub fn position(&self, id: SequenceId) -> Result<usize, CacheError> {
        Ok(self.sequence(id)?.position())
    }

    /// The layer whose turn it is; 0 between two chunks.
    ///
    /// # Errors
    ///
    /// - [`CacheError::UnknownSequence`]: no such sequence.
    pub fn next_layer(&self, id: SequenceId) -> Result<usize, CacheError> {
        Ok(self.sequence(id)?.layers_done())
    }

    /// The positions whose keys and values a layer's ring holds.
    ///
    /// # Errors
    ///
    /// - [`CacheError::UnknownSequence`]: no such sequence.
    /// - [`CacheError::NoSuchLayer`]: no such layer.
    pub fn held(&self, id: SequenceId, layer: usize) -> Result<Range<usize>, CacheError> {
        self.sequence(id)?
            .held(layer)
            .ok_or(CacheError::NoSuchLayer { found: layer, n_layers: self.config.n_layers() })
    }

    /// Makes room for `tokens` more in a sequence, so that none of them allocates anything.
    ///
    /// Only a sequence that forgets nothing needs it; with a window all memory is there already.
    ///
    /// # Errors
    ///
    /// - [`CacheError::UnknownSequence`]: no such sequence.
    /// - [`CacheError::IncompleteChunk`]: a chunk is under way.
    /// - [`CacheError::ContextFull`], [`CacheError::PositionOverflow`]: so many will not fit.
    /// - [`CacheError::OutOfMemory`]: the allocator has no more.
    pub fn reserve(&mut self, id: SequenceId, tokens: usize) -> Result<(), CacheError> {
        self.sequence_mut(id)?.reserve_more(tokens)
    }

    /// Puts a chunk beside one layer's ring, rounded to cache precision, ready to be attended to.
    ///
    /// The layers of a chunk come in order, each once, all with the same number of tokens; other
    /// sequences may take their turns in between.
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
    /// - [`CacheError::UnknownSequence`], [`CacheError::NoSuchLayer`]: no such sequence or layer.
    /// - [`CacheError::IncompleteChunk`]: layer 0, and the last chunk is not whole.
    /// - [`CacheError::LayerOutOfOrder`]: another layer is next.
    /// - [`CacheError::ChunkLengthDiffers`]: not as many tokens as in layer 0.
    /// - [`CacheError::ShapeMismatch`], [`CacheError::HeadsDiffer`], [`CacheError::EmptyChunk`]:
    ///   a chunk of the wrong shape.
    /// - [`CacheError::ChunkTooLong`]: more than `max_chunk` tokens.
    /// - [`CacheError::ContextFull`], [`CacheError::PositionOverflow`]: the sequence is full.
    /// - [`CacheError::OutOfMemory`]: the allocator has no more. Layer 0 asks for all layers, so
    ///   this does not happen half way.
    ///
    /// # Cost
    ///
    /// One pass over the chunk. Allocates nothing if there is a window, or where
    /// [`reserve`](Self::reserve) was called; otherwise once for each [`BLOCK`](crate::BLOCK)
    /// tokens.
    pub fn stage(
        &mut self,
        id: SequenceId,
        layer: usize,
        keys: ArrayView3<f32>,
        values: ArrayView3<f32>,
    ) -> Result<Staged<'_, E>, CacheError> {
        let len = keys.dim().0;
        let max_chunk = self.config.max_chunk();
        let index = self.index(id)?;
        let sequence = &mut self.sequences[index];
        let (ring, _) = sequence.turn(layer, len)?;
        let end = ring.admit(&keys, &values)?;
        if len > max_chunk {
            return Err(CacheError::ChunkTooLong { found: len, max_chunk });
        }
        sequence.reserve(end)?;
        let (ring, progress) = sequence.turn(layer, len)?;
        self.chunk.fill(keys, values);
        Ok(Staged::new(ring, &self.chunk, Some(progress)))
    }

    /// Takes back the chunk under way in the layers that have committed it, exactly or not at all.
    ///
    /// Between two chunks it does nothing.
    ///
    /// # Errors
    ///
    /// - [`CacheError::UnknownSequence`]: no such sequence.
    /// - [`CacheError::HistoryOverwritten`]: the chunk has pushed out rows that would be needed
    ///   again. Nothing is changed. Cannot happen for a chunk of one token.
    pub fn abandon_chunk(&mut self, id: SequenceId) -> Result<(), CacheError> {
        self.sequence_mut(id)?.abandon()
    }

    /// Bytes of all keys and values: every sequence's, and the staging buffer.
    ///
    /// Equal to the sum of [`CacheConfig::sequence_bytes`] at the most tokens that each sequence
    /// has had, and [`CacheConfig::staging_bytes`].
    pub fn bytes(&self) -> usize {
        let sequences: usize = self.sequences.iter().map(Sequence::bytes).sum();
        sequences + self.chunk.bytes()
    }

    fn index(&self, id: SequenceId) -> Result<usize, CacheError> {
        // Ids rise with every sequence added, so the list is sorted by them.
        self.sequences
            .binary_search_by_key(&id, Sequence::id)
            .map_err(|_| CacheError::UnknownSequence { id })
    }

    fn sequence(&self, id: SequenceId) -> Result<&Sequence<E>, CacheError> {
        Ok(&self.sequences[self.index(id)?])
    }

    fn sequence_mut(&mut self, id: SequenceId) -> Result<&mut Sequence<E>, CacheError> {
        let index = self.index(id)?;
        Ok(&mut self.sequences[index])
    }
}
