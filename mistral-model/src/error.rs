//! What can go wrong while a model is made or run.

use mistral_attention::AttentionError;
use mistral_core::{MatrixError, OpError};
use mistral_kvcache::{CacheError, SnapshotError};

use crate::config::ConfigError;
use crate::generate::SamplerError;
use crate::session::SessionOptions;
use crate::weights::{AdapterError, WeightsError};

/// A model that cannot be made, or a step that cannot be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// An adapter that cannot be read, or not be used where it was.
    #[error("the adapter cannot be used")]
    Adapter {
        /// Why.
        #[from]
        source: AdapterError,
    },
    /// Sessions and tokens that do not go together.
    #[error("{sessions} sessions and {tokens} tokens to decode, expected a token for each session")]
    Batch {
        /// Sessions given.
        sessions: usize,
        /// Tokens given.
        tokens: usize,
    },
    /// More than a batch has memory for.
    #[error("{tokens} tokens in one pass of a batch that was made for {capacity}: make it larger")]
    BatchFull {
        /// Tokens given.
        tokens: usize,
        /// Most tokens.
        capacity: usize,
    },
    /// A request that does not fit into the memory set aside for caches.
    #[error(
        "the cache of the request takes up to {needed} bytes, and {budget} can be had: raise \
         max_cache_bytes, or lower max_tokens or the prompt"
    )]
    CacheBudget {
        /// Bytes of its keys and values.
        needed: usize,
        /// Bytes that could be had.
        budget: usize,
    },
    /// An engine asked by a part of itself.
    #[error("the engine is in the middle of a step: a filter cannot ask it for tokens")]
    Busy,
    /// The configuration is wrong.
    #[error("the configuration cannot be used")]
    Config {
        /// Why.
        #[from]
        source: ConfigError,
    },
    /// The weights are wrong.
    #[error("the weights cannot be read")]
    Weights {
        /// Why.
        #[from]
        source: WeightsError,
    },
    /// No tokens.
    #[error(
        "the prompt is empty, expected at least one token (the one that begins a sequence will do)"
    )]
    EmptyPrompt,
    /// A token that the model does not have.
    #[error("token {token} at index {index} is out of range, expected less than {vocab_size}")]
    UnknownToken {
        /// The id.
        token: u32,
        /// Where it stands among the tokens given.
        index: usize,
        /// Number of ids.
        vocab_size: usize,
    },
    /// More tokens than a model without a window can attend to.
    #[error(
        "{tokens} more tokens after {position} exceed the context of {context_len}: shorten the \
         prompt, or reset the session"
    )]
    ContextFull {
        /// Tokens given.
        tokens: usize,
        /// Tokens in the session already.
        position: usize,
        /// Most there can be.
        context_len: usize,
    },
    /// A number that is none.
    #[error(
        "layer {layer} gives NaN or infinity at position {position}: are the weights whole, and \
         does the cache's format have their range?"
    )]
    NotFinite {
        /// The first layer that does; the number of layers stands for the logits.
        layer: usize,
        /// The first such position.
        position: usize,
    },
    /// The caller's flag ended the work.
    #[error("cancelled by the caller's flag")]
    Cancelled,
    /// A chunk ended half way and could not be taken back.
    #[error("an earlier error left the session half way through a chunk: call `reset` first")]
    Interrupted,
    /// More tokens to be taken back than can be.
    #[error(
        "{tokens} of {position} tokens cannot be taken back, expected at most {most}, or all: keep \
         more with `rewind_slack`, or reset and prefill again"
    )]
    RewindTooFar {
        /// Tokens to be taken back.
        tokens: usize,
        /// Tokens in the session.
        position: usize,
        /// Most that can be taken back, but for all of them.
        most: usize,
    },
    /// A session cannot be saved, or a snapshot of one not be restored.
    #[error("the session cannot be saved or restored")]
    Snapshot {
        /// Why.
        #[from]
        source: SnapshotError,
    },
    /// A snapshot whose tokens are not those of its keys and values.
    #[error("the snapshot has {found} tokens for {position} positions: no session has saved it")]
    SnapshotTokens {
        /// Tokens.
        found: usize,
        /// Positions, expected one for each token.
        position: usize,
    },
    /// A session of another model.
    #[error("the session belongs to another model, expected one of the very model it runs with")]
    ForeignSession,
    /// A session whose keys and values are kept in another way.
    #[error("the session's options are {found:?}, expected {expected:?}")]
    OtherOptions {
        /// The session's.
        found: SessionOptions,
        /// Those of the sessions that it was to join.
        expected: SessionOptions,
    },
    /// Guesses that could not be taken back.
    #[error(
        "the window leaves no room to take back guesses: expected a session with a rewind_slack \
         of the most guesses in a pass, {wanted}"
    )]
    NoRewindSlack {
        /// Most guesses in a pass.
        wanted: usize,
    },
    /// A draft model whose tokens are others.
    #[error("the draft model has a vocabulary of {found} tokens, expected {expected} as the model")]
    DraftVocabulary {
        /// Its size.
        found: usize,
        /// The model's.
        expected: usize,
    },
    /// What does not go with forgetting what gets little attention.
    #[error(
        "a session with heavy hitters cannot have {what}, for what it evicts is gone: leave out \
         `heavy_hitters`"
    )]
    HeavyHitters {
        /// What was asked for.
        what: &'static str,
    },
    /// No memory for a chunk.
    #[error("no memory for chunks of {tokens} tokens of {features} features: lower max_chunk")]
    OutOfMemory {
        /// Tokens in a chunk.
        tokens: usize,
        /// Features of a token.
        features: usize,
    },
    /// A size of zero.
    #[error("max_chunk is 0, expected at least 1")]
    ZeroChunk,
    /// A scheduler that may run nothing.
    #[error("max_running is 0, expected at least 1: the requests that run at once")]
    ZeroRunning,
    /// Arrays of the wrong shape.
    #[error("arrays do not fit the model")]
    Op {
        /// Which.
        #[from]
        source: OpError,
    },
    /// A matrix of the wrong shape, or no memory for it.
    #[error("a weight matrix does not fit")]
    Matrix {
        /// Which.
        #[from]
        source: MatrixError,
    },
    /// Attention refuses its input.
    #[error("attention cannot be computed")]
    Attention {
        /// Why.
        #[from]
        source: AttentionError,
    },
    /// The cache refuses its input.
    #[error("the key/value cache cannot take the chunk")]
    Cache {
        /// Why.
        #[from]
        source: CacheError,
    },
    /// A buffer of the wrong shape.
    #[error("a buffer does not have the shape of the chunk")]
    Shape {
        /// Why.
        #[from]
        source: ndarray::ShapeError,
    },
    /// No token can be drawn.
    #[error("no token can be drawn from the logits")]
    Sampler {
        /// Why.
        #[from]
        source: SamplerError,
    },
}
