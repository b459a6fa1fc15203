//! From logits to text, one file a step.
//!
//! - [`Generator`] asks the model for one token after the other.
//! - [`SpeculativeGenerator`] asks for several at once, where they can be guessed.
//! - [`Sampler`] draws a token from logits.
//! - [`TextStream`] turns tokens into text as they come.
//! - [`StopStrings`] ends a text before a stop string.
//! - [`TextGenerator`] joins the two: an iterator over text to show.

mod error;
mod generator;
mod rng;
mod sampler;
mod speculative;
mod stop;
#[cfg(feature = "tokenizer")]
mod stream;
#[cfg(feature = "tokenizer")]
mod text;

pub use error::{SamplerError, StopError};
pub use generator::Generator;
pub(crate) use rng::Xoshiro256;
pub use sampler::{Sampler, SamplerOptions};
pub use speculative::{
    DraftModel, Drafter, PromptLookup, SpeculationOptions, SpeculationStats, SpeculativeGenerator,
};
pub use stop::StopStrings;
#[cfg(feature = "tokenizer")]
pub use stream::TextStream;
#[cfg(feature = "tokenizer")]
pub use text::{StopReason, TextError, TextGenerator};
