use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

use mistral_core::kv::{KvElement, KvView};
use ndarray::ArrayView3;

use crate::batch::Member;
use crate::buffer::RingBuffer;
use crate::chunk::Staging;
use crate::config::CacheConfig;
use crate::error::CacheError;
use crate::sequence::{Sequence, SequenceId};
use crate::staged::Staged;

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
/// One chunk is in the air at a time, or the chunks of one [batch](Self::stage_batch), as there is one
/// staging buffer. Two sequences whose chunks would overwrite each other there do not compile:
///
/// ```compile_fail,E0499
/// # use mistral_kvcache::{CacheConfig, RollingKvCache, ndarray::Array3};
/// # let mut cache = RollingKvCache::<f32>::new(CacheConfig::new(1, 2, 8).with_window(4))?;
/// # let (a, b) = (cache.add_sequence()?, cache.add_sequence()?);
/// # let k = Array3::<f32>::ones((3, 2, 8));
/// let first = cache.stage(a, 0, k.view(), k.view())?;
/// let second = cache.stage(b, 0, k.view(), k.view())?; // error: `cache` is borrowed already
/// first.commit();
/// # Ok::<(), mistral_kvcache::CacheError>(())
/// ```
///
/// # When a chunk is not finished
///
/// Dropping a [`Staged`] undoes nothing but itself: layers before it have committed. Until the
/// others follow, the sequence's position stands still and a new chunk is refused
/// ([`CacheError::IncompleteChunk`]). [`abandon_chunk`](Self::abandon_chunk) takes the committed
/// layers back where that is exact, which is always so for a chunk of one token, for one of up to
/// `rewind_slack + 1`, and for any while the ring has not wrapped. Otherwise rows are gone that
/// only a second copy of every layer's chunk could bring back, memory that this cache exists to
/// save; then [`reset`](Self::reset) and prefill again. Other sequences are not concerned.
///
/// # Cloning
///
/// A clone knows the same sequences by the same ids and shares their memory as a fork does, until
/// one side writes. Sequences that join later are known to their own side alone.
///
/// Source: arXiv:2310.06825, section 2.
#[derive(Debug)]
pub struct RollingKvCache<E: KvElement> {
    config: CacheConfig,
    pub(crate) sequences: Vec<Sequence<E>>,
    pub(crate) staging: Staging<E>,
    /// What lies in the staging buffer while a batch is in the air; the memory of the list is kept.
    pub(crate) members: Vec<Member>,
    /// The next sequence's.
    next_id: SequenceId,
}

/// What tells the ids of one cache from those of another: 64 bits, which do not meet by accident.
fn random() -> u64 {
    RandomState::new().hash_one(0u64)
}

impl<E: KvElement> Clone for RollingKvCache<E> {
    fn clone(&self) -> Self {
        let Self { config, sequences, staging, next_id: SequenceId { number, .. }, .. } = self;
        Self {
            config: config.clone(),
            sequences: sequences.clone(),
            staging: staging.clone(),
            members: Vec::new(),
            next_id: SequenceId { number: *number, cache: random() },
        }
    }
}

impl<E: KvElement> RollingKvCache<E> {
    /// A cache without sequences: only the staging buffer is allocated.
    ///
    /// # Errors
    ///
    /// - [`CacheError::Zero`]: a size is 0.
    /// - [`CacheError::WindowCount`]: not one window for each layer.
    /// - [`CacheError::SizeOverflow`], [`CacheError::OutOfMemory`]: too large.
    pub fn new(config: CacheConfig) -> Result<Self, CacheError> {
        config.bytes(E::FORMAT, 1)?;
        let mut staging = Staging::new((config.n_kv_heads(), config.head_dim()));
        staging.grow(config.max_chunk())?;
        let next_id = SequenceId { number: 0, cache: random() };
        Ok(Self { config, sequences: Vec::new(), staging, members: Vec::new(), next_id })
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
    /// Allocates `config.sequence_bytes(format, 0)`: the rings and sinks, or nothing if nothing is
    /// forgotten.
    pub fn add_sequence(&mut self) -> Result<SequenceId, CacheError> {
        let sequence = Sequence::new(self.next_id, &self.config)?;
        Ok(self.join(sequence))
    }

    /// Takes in a sequence that was made with the id that is next.
    pub(crate) fn join(&mut self, sequence: Sequence<E>) -> SequenceId {
        let id = sequence.id();
        self.sequences.push(sequence);
        self.next_id.number += 1;
        id
    }

    /// The id of the sequence that joins next.
    pub(crate) fn next_id(&self) -> SequenceId {
        self.next_id
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
        Ok(self.buffer(id, layer)?.held())
    }

    /// The positions that are pinned in a layer, whether or not its ring has them as well.
    ///
    /// # Errors
    ///
    /// - [`CacheError::UnknownSequence`]: no such sequence.
    /// - [`CacheError::NoSuchLayer`]: no such layer.
    pub fn pinned(&self, id: SequenceId, layer: usize) -> Result<Range<usize>, CacheError> {
        Ok(self.buffer(id, layer)?.pinned())
    }

    /// What is committed in a layer: the ring, and the sinks that it has forgotten.
    ///
    /// To attend to a chunk, [`stage`](Self::stage) it; this is for looking at what there is. It
    /// cannot be looked at any more when something may have changed:
    ///
    /// ```compile_fail,E0502
    /// # use mistral_kvcache::{CacheConfig, RollingKvCache, ndarray::Array3};
    /// # let mut cache = RollingKvCache::<f32>::new(CacheConfig::new(1, 2, 8).with_window(4))?;
    /// # let id = cache.add_sequence()?;
    /// let stale = cache.kv(id, 0)?;
    /// cache.rewind(id, 1)?; // error: `cache` is borrowed
    /// assert_eq!(stale.positions(), 0..3);
    /// # Ok::<(), mistral_kvcache::CacheError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// - [`CacheError::UnknownSequence`]: no such sequence.
    /// - [`CacheError::NoSuchLayer`]: no such layer.
    /// - [`CacheError::View`]: nothing is committed.
    pub fn kv(&self, id: SequenceId, layer: usize) -> Result<KvView<'_, E>, CacheError> {
        Ok(self.buffer(id, layer)?.view(None)?)
    }

    /// Makes room for `tokens` more in a sequence, so that none of them allocates anything.
    ///
    /// Only a sequence that forgets nothing needs it, and a fork, whose pages are copied here
    /// instead of later; with a window all memory is there already.
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
    /// [`reserve`](Self::reserve) was called; otherwise once for each [`PAGE`](crate::PAGE) tokens.
    /// A page that a fork reads too is copied when it is first written to.
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
        let start = ring.held().end;
        sequence.reserve(layer, end)?;
        let (ring, progress) = sequence.turn(layer, len)?;
        let chunk = self.staging.fill(start, keys, values)?;
        Ok(Staged::new(ring, chunk, Some(progress)))
    }

    /// [`stage`](Self::stage), for callers who know where their chunk begins: keys were rotated for
    /// the positions from `position` on, and would be wrong at any other.
    ///
    /// # Errors
    ///
    /// - [`CacheError::ChunkOutOfOrder`]: the sequence's next position is another.
    ///
    /// And as [`stage`](Self::stage).
    ///
    /// # Cost
    ///
    /// As [`stage`](Self::stage).
    pub fn stage_at(
        &mut self,
        id: SequenceId,
        layer: usize,
        position: usize,
        keys: ArrayView3<f32>,
        values: ArrayView3<f32>,
    ) -> Result<Staged<'_, E>, CacheError> {
        let expected = self.position(id)?;
        if position != expected {
            return Err(CacheError::ChunkOutOfOrder { found: position, expected });
        }
        self.stage(id, layer, keys, values)
    }

    /// Bytes of all keys and values: every sequence's, and the staging buffer. What forks share
    /// counts once.
    ///
    /// Without forks equal to the sum of [`CacheConfig::sequence_bytes`] at the most tokens that
    /// each sequence has had, and [`CacheConfig::staging_bytes`].
    pub fn bytes(&self) -> usize {
        let mut counted = HashSet::new();
        let sequences = self.sequences.iter().map(|sequence| sequence.bytes(&mut counted));
        sequences.sum::<usize>() + self.staging.bytes()
    }

    pub(crate) fn index(&self, id: SequenceId) -> Result<usize, CacheError> {
        // Numbers rise with every sequence added, so the list is sorted by them. An id of another
        // cache may have the same number, but is not equal.
        self.sequences
            .binary_search_by_key(&id, Sequence::id)
            .map_err(|_| CacheError::UnknownSequence { id })
    }

    pub(crate) fn sequence(&self, id: SequenceId) -> Result<&Sequence<E>, CacheError> {
        Ok(&self.sequences[self.index(id)?])
    }

    fn buffer(&self, id: SequenceId, layer: usize) -> Result<&RingBuffer<E>, CacheError> {
        let n_layers = self.config.n_layers();
        let layers = self.sequence(id)?.layers();
        layers.get(layer).ok_or(CacheError::NoSuchLayer { found: layer, n_layers })
    }

    pub(crate) fn sequence_mut(&mut self, id: SequenceId) -> Result<&mut Sequence<E>, CacheError> {
        let index = self.index(id)?;
        Ok(&mut self.sequences[index])
    }
}
