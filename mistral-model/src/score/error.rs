//! What cannot be scored.

use crate::error::ModelError;

/// A text or a request that cannot be scored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScoreError {
    /// The model cannot go on.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The model cannot go on with a request.
    #[error("request {index} cannot be scored")]
    Request {
        /// Which request.
        index: usize,
        /// Why.
        source: ModelError,
    },
    /// Nothing stands before the continuation.
    #[error(
        "request {index} has no context, expected at least one token (the one that begins a \
         sequence will do)"
    )]
    EmptyContext {
        /// Which request.
        index: usize,
    },
    /// Nothing is to be scored.
    #[error(
        "request {index} has no token in its continuation: is its text empty, or does it melt into \
         the last token of the context?"
    )]
    EmptyContinuation {
        /// Which request.
        index: usize,
    },
    /// More tokens than a model without a window can attend to.
    #[error(
        "request {index} has {tokens} tokens, expected at most {longest}: shorten its context, or \
         drop tokens from its start with `TokenPair::keep_last`"
    )]
    RequestTooLong {
        /// Which request.
        index: usize,
        /// Tokens of context and continuation.
        tokens: usize,
        /// Most tokens.
        longest: usize,
    },
    /// Answers without likelihoods, or none at all.
    #[error("{texts} answers with {likelihoods} likelihoods, expected one for each of at least one")]
    Choices {
        /// Answers.
        texts: usize,
        /// Likelihoods.
        likelihoods: usize,
    },
    /// Windows that leave out tokens, or never move on.
    #[error("windows of {context} tokens cannot move on by {stride}, expected 1 to {context} - 1")]
    Stride {
        /// Tokens of a window.
        context: usize,
        /// Tokens from one window to the next.
        stride: usize,
    },
    /// Windows longer than a model without a window can attend to.
    #[error("windows of {context} tokens are too long for this model, expected at most {longest}")]
    WindowTooLong {
        /// Tokens of a window.
        context: usize,
        /// Most tokens.
        longest: usize,
    },
    /// A text read as one stream by a model without a window.
    #[error(
        "the text has more than the {longest} tokens that this model can take as one stream: read \
         it in windows"
    )]
    StreamTooLong {
        /// Most tokens.
        longest: usize,
    },
    /// A text without a token that has another before it.
    #[error("the text has {tokens} tokens, expected at least 2: the first is never scored")]
    TextTooShort {
        /// Tokens that there were.
        tokens: usize,
    },
    /// A score that an earlier error left half done.
    #[error("an earlier error left the score without some tokens: start anew")]
    Broken,
}
