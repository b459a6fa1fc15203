//! What cannot be scored.

use crate::error::ModelError;

/// A text or a request that cannot be scored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScoreError {
    /// The model cannot go on.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A request that cannot be scored.
    #[error("request {index} cannot be scored")]
    Request {
        /// Which request, counted from 0.
        index: usize,
        /// Why.
        source: RequestError,
    },
    /// Answers without likelihoods, or none at all.
    #[error(
        "{texts} answers with {likelihoods} likelihoods, expected one for each of at least one"
    )]
    Choices {
        /// Answers.
        texts: usize,
        /// Likelihoods.
        likelihoods: usize,
    },
    /// Windows that leave out tokens, or never move on.
    #[error(
        "windows of {context} tokens cannot move on by {stride}: expected a stride of at least 1, \
         and windows that are longer"
    )]
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

/// A context and a continuation that cannot be scored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The model cannot read the tokens.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Nothing stands before the continuation.
    #[error(
        "the context has no token, expected at least one (the one that begins a sequence will do)"
    )]
    EmptyContext,
    /// Nothing is to be scored.
    #[error(
        "the continuation has no token of its own, expected at least one: is its text empty, or \
         one piece with the end of the context?"
    )]
    EmptyContinuation,
    /// More tokens than a model without a window can attend to.
    #[error(
        "context and continuation have {tokens} tokens, expected at most {longest}: shorten the \
         context, or drop tokens from its start"
    )]
    TooLong {
        /// Tokens of context and continuation.
        tokens: usize,
        /// Most tokens.
        longest: usize,
    },
}
