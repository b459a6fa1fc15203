//! What is asked of a scheduler, and what it answers.

use std::fmt;
use std::sync::Arc;

use crate::error::ModelError;
use crate::generate::Sampler;
use crate::weights::Adapter;

/// A prompt, and how to go on with it.
///
/// ```
/// use mistral_model::{Request, Sampler};
///
/// let request = Request::new([1, 42, 5], Sampler::greedy()).max_tokens(20).stop_at([13]);
/// assert_eq!(request.prompt, [1, 42, 5]);
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct Request {
    /// What stands before the text, at least one token.
    pub prompt: Vec<u32>,
    /// How tokens are drawn. It belongs to this request alone, as do its seed and its history. It
    /// is given the prompt to [observe](Sampler::observe).
    pub sampler: Sampler,
    /// Most tokens to write. Default 256. The cache of a model without a window is set aside for as
    /// many.
    pub max_tokens: usize,
    /// Tokens that end the text and are not part of it. Default none.
    pub stop_tokens: Vec<u32>,
    /// Go on behind tokens that end a sequence (`eos_tokens` of the configuration). Default false.
    pub ignore_eos: bool,
    /// What is added to the model's projections, for this request alone. Default nothing. Prefixes
    /// are shared among requests with the very same ones.
    pub adapters: Vec<Arc<Adapter>>,
}

impl Request {
    /// A request with the defaults.
    pub fn new(prompt: impl Into<Vec<u32>>, sampler: Sampler) -> Self {
        Self {
            prompt: prompt.into(),
            sampler,
            max_tokens: 256,
            stop_tokens: Vec::new(),
            ignore_eos: false,
            adapters: Vec::new(),
        }
    }

    /// Writes at most so many tokens.
    pub fn max_tokens(self, max_tokens: usize) -> Self {
        Self { max_tokens, ..self }
    }

    /// Ends before any of these tokens.
    pub fn stop_at(self, tokens: impl Into<Vec<u32>>) -> Self {
        Self { stop_tokens: tokens.into(), ..self }
    }

    /// Adds an adapter's addends to the model's projections.
    pub fn with_adapter(mut self, adapter: Arc<Adapter>) -> Self {
        self.adapters.push(adapter);
        self
    }

    /// Goes on behind tokens that end a sequence.
    pub fn ignore_eos(self) -> Self {
        Self { ignore_eos: true, ..self }
    }
}

/// Names a request of one scheduler. Never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub(super) u64);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "request {}", self.0)
    }
}

/// Something that happened to a request in a step.
#[derive(Debug)]
#[non_exhaustive]
pub struct Event {
    /// Whose it is.
    pub request: RequestId,
    /// What happened.
    pub progress: Progress,
}

/// What can happen to a request.
#[derive(Debug)]
pub enum Progress {
    /// The next token of its text.
    Token(u32),
    /// Its text is complete. Nothing follows, and its memory is free.
    Finished(Finish),
    /// It cannot go on. Nothing follows, and its memory is free. Other requests are not concerned.
    Failed(ModelError),
}

/// Why a text is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Finish {
    /// The model chose a token that ends a sequence.
    EndOfSequence,
    /// The model chose this one of [`Request::stop_tokens`].
    StopToken(u32),
    /// [`Request::max_tokens`] are written.
    MaxTokens,
    /// The context of a model without a window is full.
    ContextFull,
    /// A prefix ([`Scheduler::hold`](super::Scheduler::hold)) is computed. It stays until it is
    /// cancelled.
    Held,
}
