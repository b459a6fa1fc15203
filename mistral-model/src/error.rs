//! What can go wrong while a model is made or run.

use mistral_attention::AttentionError;
use mistral_core::{MatrixError, OpError};
use mistral_kvcache::CacheError;

use crate::config::ConfigError;
use crate::generate::SamplerError;
use crate::weights::WeightsError;

/// A model that cannot be made, or a step that cannot be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// Sessions that cannot be decoded together.
    #[error(
        "a batch of {capacity} was given {sessions} sessions and {tokens} tokens, expected a token for \
         each of at most {capacity} sessions, all of the batch's own model"
    )]
    Batch {
        /// Sessions given.
        sessions: usize,
        /// Tokens given.
        tokens: usize,
        /// Most sessions.
        capacity: usize,
    },
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
