use std::ops::Range;

use mistral_core::kv::{KvElement, KvView};
use ndarray::ArrayView3;

use crate::cache::RollingKvCache;
use crate::chunk::{Place, Staging};
use crate::error::CacheError;
use crate::sequence::{Sequence, SequenceId};

/// A chunk of one sequence of a batch.
///
/// Shapes
///
/// | array | shape |
/// |---|---|
/// | keys (already rotated) | `(tokens, n_kv_heads, head_dim)`, any strides |
/// | values | `(tokens, n_kv_heads, head_dim)`, any strides |
#[derive(Debug, Clone, Copy)]
pub struct SequenceChunk<'a> {
    /// Whose it is.
    pub id: SequenceId,
    /// Its keys.
    pub keys: ArrayView3<'a, f32>,
    /// Its values.
    pub values: ArrayView3<'a, f32>,
}

/// A sequence of a batch, and where its chunk lies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Member {
    /// Which of the cache's.
    sequence: usize,
    place: Place,
}

/// Chunks of several sequences in one layer between staging and commit: what one call of attention
/// over all of them reads.
///
/// As [`Staged`](crate::Staged): nothing is evicted before [`commit`](Self::commit), which consumes
/// it; dropping it instead leaves the cache as it was.
///
/// A view that outlives the commit does not compile:
///
/// ```compile_fail,E0505
/// # use mistral_kvcache::{CacheConfig, RollingKvCache, SequenceChunk, ndarray::Array3};
/// # let mut cache = RollingKvCache::<f32>::new(CacheConfig::new(1, 2, 8).with_window(4))?;
/// # let id = cache.add_sequence()?;
/// # let k = Array3::<f32>::ones((3, 2, 8));
/// # let chunk = SequenceChunk { id, keys: k.view(), values: k.view() };
/// let step = cache.stage_batch(0, &[chunk])?;
/// let views: Vec<_> = step.kv().collect();
/// step.commit(); // error: cannot move out of `step` because it is borrowed
/// assert_eq!(views.len(), 1);
/// # Ok::<(), mistral_kvcache::CacheError>(())
/// ```
#[derive(Debug)]
#[must_use = "dropping staged chunks rolls them back: attend to `kv()`, then `commit()`"]
pub struct StagedBatch<'a, E: KvElement> {
    sequences: &'a mut [Sequence<E>],
    staging: &'a Staging<E>,
    members: &'a [Member],
    layer: usize,
}

fn in_batch(id: SequenceId, error: CacheError) -> CacheError {
    CacheError::InBatch { id, source: Box::new(error) }
}

impl<E: KvElement> RollingKvCache<E> {
    /// [`stage`](Self::stage) for chunks of several sequences, each at its own position and of its
    /// own length, so that one call of attention takes all of them.
    ///
    /// They lie side by side in the staging buffer, so together they have no more tokens than one
    /// chunk may have, and no memory is needed that [`CacheConfig::plan`](crate::CacheConfig::plan)
    /// does not count.
    ///
    /// ```
    /// use mistral_kvcache::{CacheConfig, RollingKvCache, SequenceChunk};
    /// use mistral_kvcache::ndarray::Array3;
    ///
    /// let config = CacheConfig::new(1, 2, 8).with_window(4).with_max_chunk(6);
    /// let mut cache = RollingKvCache::<f32>::new(config)?;
    /// let (prompt, token) = (Array3::ones((5, 2, 8)), Array3::ones((1, 2, 8)));
    /// let ids = [cache.add_sequence()?, cache.add_sequence()?];
    /// let chunks = [(ids[0], prompt.view()), (ids[1], token.view())];
    /// let chunks = chunks.map(|(id, rows)| SequenceChunk { id, keys: rows, values: rows });
    /// let step = cache.stage_batch(0, &chunks)?;
    /// for (kv, positions) in step.kv().zip(step.positions()) {
    ///     assert_eq!(kv?.positions(), positions); // an item of `Attention::forward_batch`
    /// }
    /// step.commit();
    /// assert_eq!([cache.position(ids[0])?, cache.position(ids[1])?], [5, 1]);
    /// # Ok::<(), mistral_kvcache::CacheError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// - [`CacheError::InBatch`]: what [`stage`](Self::stage) would say of a chunk, with its sequence;
    ///   no chunk is staged then.
    /// - [`CacheError::UnknownSequence`].
    /// - [`CacheError::SequenceTwice`]: two chunks of one sequence.
    /// - [`CacheError::BatchTooLong`]: more than `max_chunk` tokens together.
    ///
    /// # Cost
    ///
    /// As [`stage`](Self::stage) for each. Kernels read a chunk of a panel or more fastest if the
    /// batch leaves some tokens of `max_chunk` free, fifteen for each such chunk: its rows can then
    /// lie as in the ring. Allocates a list when the batch is the largest so far.
    pub fn stage_batch(
        &mut self,
        layer: usize,
        chunks: &[SequenceChunk<'_>],
    ) -> Result<StagedBatch<'_, E>, CacheError> {
        let mut found = 0usize;
        for (index, chunk) in chunks.iter().enumerate() {
            if chunks[..index].iter().any(|other| other.id == chunk.id) {
                return Err(CacheError::SequenceTwice { id: chunk.id });
            }
            let len = chunk.keys.dim().0;
            let turn = self.sequence_mut(chunk.id)?.turn(layer, len);
            let admitted = turn.and_then(|(ring, _)| ring.admit(&chunk.keys, &chunk.values));
            admitted.map_err(|error| in_batch(chunk.id, error))?;
            found = found.saturating_add(len);
        }
        let max_chunk = self.config().max_chunk();
        if found > max_chunk {
            return Err(CacheError::BatchTooLong { found, max_chunk });
        }
        for chunk in chunks {
            let (len, sequence) = (chunk.keys.dim().0, self.sequence_mut(chunk.id)?);
            let end = sequence.turn(layer, len).and_then(|(ring, _)| ring.end_of(len));
            let reserved = end.and_then(|end| sequence.reserve(layer, end));
            reserved.map_err(|error| in_batch(chunk.id, error))?;
        }
        let (mut next, mut rest) = (0, found);
        self.members.clear();
        for &SequenceChunk { id, keys, values } in chunks {
            let (len, sequence) = (keys.dim().0, self.index(id)?);
            let position = self.sequences[sequence].layers()[layer].held().end;
            let place = self.staging.place(position, len, next, rest);
            self.staging.fill_at(place, keys, values)?;
            self.members.push(Member { sequence, place });
            (next, rest) = (place.end(), rest - len);
        }
        let Self { sequences, staging, members, .. } = self;
        Ok(StagedBatch { sequences, staging, members, layer })
    }
}

impl<E: KvElement> StagedBatch<'_, E> {
    /// Everything that each chunk may attend to, in the order of the chunks: see
    /// [`Staged::kv`](crate::Staged::kv).
    pub fn kv(&self) -> impl Iterator<Item = Result<KvView<'_, E>, CacheError>> {
        self.members.iter().map(|member| {
            let ring = &self.sequences[member.sequence].layers()[self.layer];
            Ok(ring.view(Some(self.staging.chunk(member.place)))?)
        })
    }

    /// The positions of each chunk's tokens, in the order of the chunks.
    pub fn positions(&self) -> impl Iterator<Item = Range<usize>> {
        self.members.iter().map(|member| {
            let start = self.sequences[member.sequence].layers()[self.layer].held().end;
            start..start + member.place.len
        })
    }

    /// Writes every chunk into its ring, as [`Staged::commit`](crate::Staged::commit) does.
    ///
    /// # Cost
    ///
    /// Copies `min(tokens, capacity)` rows of keys and of values of each. Allocates nothing.
    pub fn commit(self) {
        for member in self.members {
            let chunk = self.staging.chunk(member.place);
            // Staging has made the room and checked turns and shapes: nothing is left that could
            // fail.
            let written = self.sequences[member.sequence].commit(self.layer, chunk);
            debug_assert!(written.is_ok(), "{written:?}");
        }
    }
}
