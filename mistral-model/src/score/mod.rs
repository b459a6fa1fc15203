//! How likely a model finds a text: log-likelihoods, multiple choice, perplexity.
//!
//! - [`Scorer`] gives the log-likelihood of continuations, each after its context
//!   ([`TokenPair`], which also cuts texts into tokens as evaluation harnesses do). What requests have
//!   in common is computed once.
//! - [`Choices`] says which answer to a multiple-choice question the model takes.
//! - [`Perplexity`] reads a text of any length, as one stream or in overlapping windows.
//! - [`TextTokens`] cuts a file of any length into tokens, piece by piece.
//!
//! Probabilities are computed in f64 from f32 logits, one row after the other in a fixed order, and
//! added in the order of the tokens. So every figure has the same bits for any chunk size, any
//! number of threads and any company of other requests.

mod choice;
mod error;
mod likelihood;
mod pair;
mod perplexity;
mod scorer;
#[cfg(feature = "tokenizer")]
mod text;
mod tree;

pub use choice::Choices;
pub use error::{RequestError, ScoreError};
pub use likelihood::LogLikelihood;
pub use pair::TokenPair;
pub use perplexity::{Perplexity, Reading, TextScore};
pub use scorer::Scorer;
#[cfg(feature = "tokenizer")]
pub use text::{TextReadError, TextTokens};
