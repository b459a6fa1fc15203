//! What can be wrong while tokens are drawn and turned into text.

/// Options that no distribution fits, or logits that are none.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SamplerError {
    /// Temperature out of range.
    #[error("temperature is {found}, expected a finite number of at least 0 (0 is greedy)")]
    Temperature {
        /// Found.
        found: f32,
    },
    /// Nothing to draw from.
    #[error("top_k is 0, expected at least 1, or None to keep all tokens")]
    TopK,
    /// Share out of range.
    #[error("top_p is {found}, expected above 0 and at most 1 (1 keeps all tokens)")]
    TopP {
        /// Found.
        found: f32,
    },
    /// Share out of range.
    #[error("min_p is {found}, expected 0 to 1 (0 keeps all tokens)")]
    MinP {
        /// Found.
        found: f32,
    },
    /// An empty distribution.
    #[error("there are no logits, expected one for each token of the vocabulary")]
    NoLogits,
    /// More logits than ids.
    #[error("{found} logits, expected at most {}, the number of token ids", u32::MAX)]
    TooManyLogits {
        /// Found.
        found: usize,
    },
    /// NaN or infinite.
    #[error(
        "the logit of token {token} is {found}, expected a finite number: \
         are the weights whole and of this model?"
    )]
    NotFinite {
        /// The first such token.
        token: u32,
        /// Its logit.
        found: f32,
    },
}

/// Stop strings that stop everything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StopError {
    /// The empty string stands at the start of every text.
    #[error("stop string {index} is empty, expected at least one character")]
    Empty {
        /// Counted from 0.
        index: usize,
    },
}
