//! Going back: tokens taken back, and sequences that branch off at an earlier position.

use mistral_core::kv::KvElement;

use crate::cache::RollingKvCache;
use crate::error::CacheError;
use crate::layer::before;
use crate::sequence::SequenceId;

impl<E: KvElement> RollingKvCache<E> {
    /// Adds a sequence that has all that another has, at the same position.
    ///
    /// The two share their memory until one of them writes, page by page of 128 slots, and do not
    /// concern each other otherwise.
    ///
    /// # Errors
    ///
    /// - [`CacheError::UnknownSequence`]: no such sequence.
    /// - [`CacheError::IncompleteChunk`]: a chunk is under way: only some layers have committed it.
    ///
    /// # Cost
    ///
    /// A pointer for each page. A page is copied when one side first writes to it, in
    /// [`stage`](Self::stage).
    pub fn fork(&mut self, id: SequenceId) -> Result<SequenceId, CacheError> {
        let position = self.position(id)?;
        self.fork_at(id, position)
    }

    /// Adds a sequence that has what another had at `position`: a fork and a rewind in one, which
    /// leaves the other sequence as it is.
    ///
    /// # Errors
    ///
    /// - [`CacheError::UnknownSequence`]: no such sequence.
    /// - [`CacheError::IncompleteChunk`]: a chunk is under way.
    /// - [`CacheError::PositionAhead`]: the sequence has not come so far.
    /// - [`CacheError::HistoryOverwritten`]: the ring no longer reaches back so far.
    ///
    /// # Cost
    ///
    /// As [`fork`](Self::fork).
    pub fn fork_at(&mut self, id: SequenceId, position: usize) -> Result<SequenceId, CacheError> {
        let fork = self.sequence(id)?.fork(self.next_id(), position)?;
        Ok(self.join(fork))
    }

    /// Takes back the last `tokens` tokens of a sequence in all layers, as if they had never been
    /// committed.
    ///
    /// Exact also after the ring has wrapped, for as many tokens as
    /// [the slack](crate::CacheConfig::with_rewind_slack) and one more; all of them may always be taken
    /// back.
    ///
    /// # Errors
    ///
    /// - [`CacheError::UnknownSequence`]: no such sequence.
    /// - [`CacheError::IncompleteChunk`]: a chunk is under way: call
    ///   [`abandon_chunk`](Self::abandon_chunk) first.
    /// - [`CacheError::RewindBeforeStart`]: there are not so many tokens.
    /// - [`CacheError::HistoryOverwritten`]: rows are gone that would be needed again. Nothing is
    ///   changed.
    ///
    /// ```
    /// use mistral_kvcache::{CacheConfig, CacheError, RollingKvCache, ndarray::Array3};
    ///
    /// let config = CacheConfig::new(1, 1, 8).with_window(4).with_rewind_slack(2);
    /// let mut cache = RollingKvCache::<f32>::new(config)?;
    /// let id = cache.add_sequence()?;
    /// let k = Array3::ones((20, 1, 8));
    /// cache.stage(id, 0, k.view(), k.view())?.commit();
    /// assert_eq!(cache.held(id, 0)?, 14..20);
    /// let too_far = CacheError::HistoryOverwritten { position: 16, oldest: 17 };
    /// assert_eq!(cache.rewind(id, 4), Err(too_far)); // token 16 would see 13
    /// cache.rewind(id, 3)?;
    /// assert_eq!(cache.held(id, 0)?, 14..17);
    /// # Ok::<(), CacheError>(())
    /// ```
    pub fn rewind(&mut self, id: SequenceId, tokens: usize) -> Result<(), CacheError> {
        let sequence = self.sequence_mut(id)?;
        sequence.check_whole()?;
        let position = before(sequence.position(), tokens)?;
        sequence.return_to(position)
    }

    /// The oldest position that [`rewind`](Self::rewind) and [`fork_at`](Self::fork_at) can return
    /// to in every layer; also 0, which they always can.
    ///
    /// # Errors
    ///
    /// - [`CacheError::UnknownSequence`]: no such sequence.
    pub fn reaches_back_to(&self, id: SequenceId) -> Result<usize, CacheError> {
        Ok(self.sequence(id)?.reaches_back_to())
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
}
