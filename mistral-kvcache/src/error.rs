use mistral_core::kv::{KvError, KvFormat};

use crate::sequence::SequenceId;

/// What a cache refuses, with what it found, what it expected, and the cure.
///
/// A refused call leaves the cache as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// A size in the configuration is zero.
    #[error("{field} is 0, expected at least 1")]
    Zero {
        /// Name of the field.
        field: &'static str,
    },
    /// Not one window for each layer.
    #[error("with_windows got {found} windows, expected one for each of {n_layers} layers")]
    WindowCount {
        /// Windows given.
        found: usize,
        /// Layers in the cache.
        n_layers: usize,
    },
    /// A format that this version cannot measure.
    #[error("the size of keys and values as {format} is not known to this version")]
    UnknownFormat {
        /// The format.
        format: KvFormat,
    },
    /// The sizes multiplied do not fit in `usize`.
    #[error(
        "a cache of this size does not fit in usize bytes: lower windows, sinks, context_len or max_chunk"
    )]
    SizeOverflow,
    /// The allocator has no memory left.
    #[error(
        "no memory for {bytes} more bytes of keys or values: use a smaller window, context_len, max_chunk or format"
    )]
    OutOfMemory {
        /// Size of the allocation that failed.
        bytes: usize,
    },
    /// Keys and values of one chunk differ in shape.
    #[error("keys have shape {keys:?} and values {values:?}, expected the same")]
    ShapeMismatch {
        /// Shape of the keys.
        keys: (usize, usize, usize),
        /// Shape of the values.
        values: (usize, usize, usize),
    },
    /// A chunk of another model.
    #[error("the chunk has (n_kv_heads, head_dim) = {found:?}, expected {expected:?}")]
    HeadsDiffer {
        /// Heads and head size of the cache.
        expected: (usize, usize),
        /// Heads and head size of the chunk.
        found: (usize, usize),
    },
    /// A chunk without tokens.
    #[error("the chunk has no tokens, expected at least 1")]
    EmptyChunk,
    /// More tokens than the staging buffer has rows.
    #[error(
        "the chunk has {found} tokens, expected at most max_chunk = {max_chunk}: cut it with ChunkPlan"
    )]
    ChunkTooLong {
        /// Tokens in the chunk.
        found: usize,
        /// Most tokens in a chunk.
        max_chunk: usize,
    },
    /// More tokens in the chunks of a batch than the staging buffer has rows.
    #[error(
        "the chunks have {found} tokens together, expected at most max_chunk = {max_chunk}: stage \
         fewer sequences at once, or raise max_chunk"
    )]
    BatchTooLong {
        /// Tokens in all chunks.
        found: usize,
        /// Most tokens in the air.
        max_chunk: usize,
    },
    /// Two chunks of one sequence in a batch.
    #[error("{id} has two chunks in the batch, expected one: commit one before the next")]
    SequenceTwice {
        /// The sequence.
        id: SequenceId,
    },
    /// The chunk of one sequence of a batch is refused.
    #[error("{id} of the batch: {source}")]
    InBatch {
        /// The sequence.
        id: SequenceId,
        /// What its chunk alone would have met.
        source: Box<CacheError>,
    },
    /// Nothing may be forgotten, and there is no room for more.
    #[error(
        "position {position} and a chunk of {len} exceed context_len = {context_len}: \
         nothing may be evicted here, so raise context_len or shorten the text"
    )]
    ContextFull {
        /// Tokens that the sequence has already.
        position: usize,
        /// Tokens that were to be added.
        len: usize,
        /// Most tokens in a sequence.
        context_len: usize,
    },
    /// The sequence is so long that its positions do not fit in `usize`.
    #[error("position {position} and a chunk of {len} do not fit in usize: reset the sequence")]
    PositionOverflow {
        /// Tokens that the sequence has already.
        position: usize,
        /// Tokens that were to be added.
        len: usize,
    },
    /// The sequence was removed, or the id comes from another cache.
    #[error("there is no {id} in this cache: it was removed, or belongs to another cache")]
    UnknownSequence {
        /// The id as given.
        id: SequenceId,
    },
    /// A layer beyond the last.
    #[error("there is no layer {found}, expected less than n_layers = {n_layers}")]
    NoSuchLayer {
        /// The layer as given.
        found: usize,
        /// Layers in the cache.
        n_layers: usize,
    },
    /// A layer was skipped or came twice.
    #[error(
        "layer {found} was staged when layer {expected} is next: \
         stage and commit the layers of a chunk in order, each once"
    )]
    LayerOutOfOrder {
        /// The layer that is next.
        expected: usize,
        /// The layer as given.
        found: usize,
    },
    /// A chunk has another length than in the layers before.
    #[error("layer {layer} has a chunk of {found} tokens, expected {expected} as in layer 0")]
    ChunkLengthDiffers {
        /// The layer being staged.
        layer: usize,
        /// Tokens in layer 0.
        expected: usize,
        /// Tokens in this layer.
        found: usize,
    },
    /// A new chunk began, or a length was asked to grow, before the last chunk was whole.
    #[error(
        "the last chunk of {id} was committed in {committed} of {n_layers} layers: \
         commit the others, or call abandon_chunk, reset or remove_sequence"
    )]
    IncompleteChunk {
        /// The sequence.
        id: SequenceId,
        /// Layers that were committed.
        committed: usize,
        /// Layers in the cache.
        n_layers: usize,
    },
    /// The ring has overwritten rows that would be needed to go back.
    #[error(
        "cannot go back to position {position}: rows that it would need are overwritten, the \
         oldest position to return to is {oldest}: keep more with with_rewind_slack, or reset \
         and prefill again"
    )]
    HistoryOverwritten {
        /// Where to.
        position: usize,
        /// The oldest position that can be returned to, but for 0.
        oldest: usize,
    },
    /// More tokens are to be taken back than there are.
    #[error("{tokens} tokens cannot be taken back from position {position}: there are no more")]
    RewindBeforeStart {
        /// Tokens to be taken back.
        tokens: usize,
        /// Tokens that the sequence has.
        position: usize,
    },
    /// A chunk that does not follow what is there.
    #[error("the chunk begins at position {found}, expected {expected}: the sequence's next")]
    ChunkOutOfOrder {
        /// Position of its first token.
        found: usize,
        /// The sequence's next position.
        expected: usize,
    },
    /// A position that the sequence has not reached yet.
    #[error("position {found} lies ahead of position {position}, expected one already reached")]
    PositionAhead {
        /// The position as given.
        found: usize,
        /// Tokens that the sequence has.
        position: usize,
    },
    /// Sums of attention weights that do not fit the view they were made from.
    #[error("the weights have shape {found:?}, expected (n_kv_heads, keys) = {expected:?}")]
    WeightsShape {
        /// Shape found.
        found: (usize, usize),
        /// Heads, and keys in the view.
        expected: (usize, usize),
    },
    /// A sum of attention weights that cannot be one.
    #[error("the weight of key {index} in head {head} is negative or no finite number")]
    BadWeight {
        /// Key/value head.
        head: usize,
        /// Which key of the view.
        index: usize,
    },
    /// A key that stands for no list of tokens.
    #[error("the key is not in the index: it was never inserted, or removed")]
    UnknownKey,
    /// The parts do not make a view.
    #[error(transparent)]
    View(#[from] KvError),
}
