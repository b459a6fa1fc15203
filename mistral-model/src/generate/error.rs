//! What can be wrong while tokens are drawn and turned into text.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// Options that no distribution fits, or logits that are none.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SamplerError {
    /// Repetition penalty out of range.
    #[error("the repetition penalty is {found}, expected a finite number above 0 (1 is none)")]
    RepetitionPenalty {
        /// Found.
        found: f32,
    },
    /// Presence or frequency penalty out of range.
    #[error("the {name} penalty is {found}, expected -2 to 2 (0 is none)")]
    Penalty {
        /// Which.
        name: &'static str,
        /// Found.
        found: f32,
    },
    /// A bias that is no number, or would force a token.
    #[error(
        "the bias of token {token} is {found}, expected a finite number, or minus infinity to \
         forbid the token"
    )]
    Bias {
        /// The first such token.
        token: u32,
        /// Its bias.
        found: f32,
    },
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
    #[error("typical_p is {found}, expected above 0 and at most 1 (1 keeps all tokens)")]
    TypicalP {
        /// Found.
        found: f32,
    },
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
    /// A token that the model does not have.
    #[error("token {token} has no logit, expected less than {vocab_size}")]
    UnknownToken {
        /// The id.
        token: u32,
        /// Number of logits.
        vocab_size: usize,
    },
    /// NaN or plus infinity, where the model gave a number.
    #[error(
        "penalties and filters made the logit of token {token} {found}, expected a finite number, \
         or minus infinity where a token is forbidden"
    )]
    Overflow {
        /// The first such token.
        token: u32,
        /// Its logit.
        found: f32,
    },
    /// Nothing left to draw from.
    #[error("every token is forbidden: loosen the filters or biases")]
    AllForbidden,
    /// A constraint cannot be followed.
    #[cfg(feature = "constrain")]
    #[error("the text cannot follow its constraint")]
    Constraint {
        /// Why.
        #[from]
        source: super::ConstraintError,
    },
    /// A filter's own error.
    #[error("a filter of the logits failed")]
    Filter {
        /// What it says.
        source: FilterError,
    },
}

impl SamplerError {
    /// The error of a filter of one's own.
    pub fn filter(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Filter { source: FilterError(Arc::from(error.into())) }
    }
}

/// What a [`LogitFilter`](super::LogitFilter) finds wrong, of whatever type.
///
/// Equal to its clones alone, for nothing else is known of it.
#[derive(Debug, Clone)]
pub struct FilterError(Arc<dyn Error + Send + Sync>);

impl FilterError {
    /// The filter's error, to be downcast.
    pub fn as_dyn(&self) -> &(dyn Error + Send + Sync + 'static) {
        &*self.0
    }
}

impl PartialEq for FilterError {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for FilterError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
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
