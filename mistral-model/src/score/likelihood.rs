//! The likelihood of a continuation.

use crate::probability::TokenScore;

/// How likely a model finds a continuation, in natural logarithms.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LogLikelihood {
    /// The logarithm of the continuation's probability: `per_token` added up in order.
    pub sum: f64,
    /// Whether greedy decoding would have written it: each token is the likeliest after those
    /// before it, the one with the lowest id if several are.
    pub greedy: bool,
    /// The logarithm of each token's probability after all that stands before it.
    pub per_token: Vec<f64>,
}

impl Default for LogLikelihood {
    /// Of no token: certain.
    fn default() -> Self {
        Self { sum: 0.0, greedy: true, per_token: Vec::new() }
    }
}

impl LogLikelihood {
    /// Adds the next token.
    pub(super) fn push(&mut self, score: TokenScore) {
        self.sum += score.log_probability;
        self.greedy &= score.greedy;
        self.per_token.push(score.log_probability);
    }

    /// Tokens of the continuation.
    pub fn tokens(&self) -> usize {
        self.per_token.len()
    }
}
