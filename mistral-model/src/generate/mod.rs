//! From logits to text, one file a step.
//!
//! - [`Generator`] asks the model for one token after the other.
//! - [`SpeculativeGenerator`] asks for several at once, where they can be guessed.
//! - [`Sampler`] draws a token from logits; a [`LogitFilter`] is a step of one's own in it.
//! - [`TokenLogProbs`] tells how likely a token was, and which were likelier.
//! - `Constraints` (feature `constrain`) hold text to a JSON schema, a grammar or an expression.
//! - [`TextStream`] turns tokens into text as they come.
//! - [`StopStrings`] ends a text before a stop string.
//! - [`TextGenerator`] joins the two: an iterator over text to show.

#[cfg(feature = "constrain")]
mod constraint;
mod error;
mod generator;
mod log_probs;
mod rng;
mod sampler;
mod speculative;
mod stop;
#[cfg(feature = "tokenizer")]
mod stream;
#[cfg(feature = "tokenizer")]
mod text;

#[cfg(feature = "constrain")]
pub use constraint::{Constraint, ConstraintError, Constraints};
pub use error::{FilterError, SamplerError, StopError};
pub use generator::Generator;
pub use log_probs::{TokenLogProbs, WithLogProbs};
pub(crate) use rng::Xoshiro256;
pub use sampler::{CloneFilter, HistorySpan, LogitBias, LogitFilter, Sampler, SamplerOptions};
pub use speculative::{
    DraftModel, Drafter, PromptLookup, SpeculationOptions, SpeculationStats, SpeculativeGenerator,
};
pub use stop::StopStrings;
#[cfg(feature = "tokenizer")]
pub use stream::TextStream;
#[cfg(feature = "tokenizer")]
pub use text::{StopReason, TextError, TextGenerator};
