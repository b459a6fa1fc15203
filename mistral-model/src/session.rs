//! One sequence: its cache, its position, its scratch memory.

mod adapters;
mod cache;
mod chunks;
mod fork;
mod options;
mod prefixes;
mod reuse;
mod rewind;
mod snapshot;

use std::borrow::Borrow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub(crate) use self::cache::Cache;
pub use self::options::{HeavyHitters, SessionOptions};
pub use self::prefixes::PrefixCache;
use crate::config::Config;
use crate::error::ModelError;
use crate::generate::{Drafter, Generator, Sampler, SpeculationOptions, SpeculativeGenerator};
use crate::history::SequenceCache;
use crate::scratch::Scratch;
use crate::transformer::Transformer;
use crate::weights::Adapter;

/// A sequence being read or written by a model.
///
/// `M` is anything that lends a [`Transformer`]: a reference, an `Arc`. Sessions of one model do
/// not know of each other; each may run on a thread of its own.
///
/// ```
/// # use mistral_model::{Config, DType, Session, SessionOptions, Transformer};
/// # let config = Config { dim: 64, n_layers: 2, n_heads: 4, n_kv_heads: 2, head_dim: 16,
/// #     hidden_dim: 96, vocab_size: 100, ..Config::mistral_7b_v01() };
/// let model = Transformer::random(&config, DType::F32, 7)?;
/// let mut whole = Session::new(&model, SessionOptions::default())?;
/// let mut pieces = Session::new(&model, SessionOptions { max_chunk: 2, ..Default::default() })?;
/// // The same bits for any chunk size.
/// assert_eq!(whole.prefill(&[1, 9, 8, 7, 6])?, pieces.prefill(&[1, 9, 8, 7, 6])?);
/// # Ok::<(), mistral_model::ModelError>(())
/// ```
#[derive(Debug)]
pub struct Session<M> {
    model: M,
    adapters: Vec<Arc<Adapter>>,
    options: SessionOptions,
    cache: Cache,
    scratch: Scratch,
    /// Those of all positions.
    tokens: Vec<u32>,
    logits: Vec<f32>,
    /// Whether `logits` are those after the last token.
    has_logits: bool,
    interrupted: bool,
    /// Ends the work once it is true.
    cancel: Option<Arc<AtomicBool>>,
}

impl<M: Borrow<Transformer>> Session<M> {
    /// An empty sequence. Cache and buffers of a chunk are allocated here, once; the cache of a
    /// model without a window grows with the sequence. Attention still takes some hundred KB of
    /// working memory in each call.
    ///
    /// # Errors
    ///
    /// - [`ModelError::ZeroChunk`]: `max_chunk` is 0.
    /// - [`ModelError::HeavyHitters`]: heavy hitters with sinks or a rewind slack.
    /// - [`ModelError::Cache`], [`ModelError::OutOfMemory`]: no memory for the cache or a chunk.
    pub fn new(model: M, options: SessionOptions) -> Result<Self, ModelError> {
        Self::with_buffers(model, options, options.max_chunk)
    }

    /// As [`new`](Self::new), with buffers for chunks of up to `tokens` tokens; they grow when
    /// longer ones come.
    pub(crate) fn with_buffers(
        model: M,
        options: SessionOptions,
        tokens: usize,
    ) -> Result<Self, ModelError> {
        Self::with_cache(model, options, tokens, Cache::new)
    }

    /// A session on a cache that is made for it.
    fn with_cache(
        model: M,
        options: SessionOptions,
        buffers: usize,
        cache: impl FnOnce(&Config, &SessionOptions) -> Result<Cache, ModelError>,
    ) -> Result<Self, ModelError> {
        let config = model.borrow().config();
        options.check()?;
        let options = options.within(config);
        let cache = cache(config, &options)?;
        let scratch = Scratch::new(config, options.max_chunk.min(buffers))?;
        let logits = vec![0.0; config.vocab_size];
        let (adapters, tokens) = (Vec::new(), Vec::new());
        let (has_logits, interrupted) = (false, false);
        Ok(Self {
            model,
            adapters,
            options,
            cache,
            scratch,
            tokens,
            logits,
            has_logits,
            interrupted,
            cancel: None,
        })
    }

    /// The model.
    pub fn model(&self) -> &Transformer {
        self.model.borrow()
    }

    /// The options, with `max_chunk` as it is used.
    pub fn options(&self) -> SessionOptions {
        self.options
    }

    /// Tokens in the sequence: the position of the next one.
    pub fn position(&self) -> usize {
        self.cache.position()
    }

    /// All tokens of the sequence, from its first on: 4 bytes each.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Tokens that still fit; `None` with a window, where a sequence has no end.
    pub fn remaining(&self) -> Option<usize> {
        let limit = self.model().config().cache().limit()?;
        Some(limit.saturating_sub(self.position()))
    }

    /// Bytes of the keys and values, the chunk under way included.
    pub fn cache_bytes(&self) -> usize {
        self.cache.bytes()
    }

    /// Logits after the last token. None, an empty slice, if there is no token, or if a
    /// [`rewind`](Self::rewind) has dropped them.
    pub fn logits(&self) -> &[f32] {
        if self.has_logits { &self.logits } else { &[] }
    }

    /// Forgets the sequence and keeps the memory.
    ///
    /// # Errors
    ///
    /// [`ModelError::Cache`]: cannot happen, for the sequence is the session's own.
    pub fn reset(&mut self) -> Result<(), ModelError> {
        self.cache.reset()?;
        self.tokens.clear();
        (self.has_logits, self.interrupted) = (false, false);
        Ok(())
    }

    /// Appends a prompt and returns an iterator over the tokens that follow it. The prompt is also
    /// [observed](Sampler::observe) by the sampler.
    ///
    /// # Errors
    ///
    /// As [`prefill`](Self::prefill).
    pub fn generate(
        &mut self,
        prompt: &[u32],
        mut sampler: Sampler,
    ) -> Result<Generator<'_, M>, ModelError> {
        self.prefill(prompt)?;
        sampler.observe(prompt);
        Ok(Generator::new(self, sampler))
    }

    /// As [`generate`](Self::generate), with several tokens a pass where `drafter` guesses them.
    /// The text is the same. [`SpeculativeGenerator::new`] has options.
    ///
    /// # Errors
    ///
    /// As [`prefill`](Self::prefill) and [`SpeculativeGenerator::new`].
    pub fn generate_speculative<D: Drafter>(
        &mut self,
        prompt: &[u32],
        mut sampler: Sampler,
        drafter: D,
    ) -> Result<SpeculativeGenerator<'_, M, D>, ModelError> {
        self.prefill(prompt)?;
        sampler.observe(prompt);
        SpeculativeGenerator::new(self, sampler, drafter, SpeculationOptions::default())
    }

    /// Goes on from where the sequence stands: [`generate`](Self::generate) without a prompt. What
    /// penalties are to see of the sequence, the sampler must have [observed](Sampler::observe).
    ///
    /// # Errors
    ///
    /// [`ModelError::EmptyPrompt`]: there is no token. And as
    /// [`refresh_logits`](Self::refresh_logits), which it calls.
    pub fn generate_more(&mut self, sampler: Sampler) -> Result<Generator<'_, M>, ModelError> {
        self.refresh_logits()?;
        Ok(Generator::new(self, sampler))
    }

    /// What a batch needs of a session.
    pub(crate) fn parts_mut(&mut self) -> (&mut Cache, &[Arc<Adapter>]) {
        (&mut self.cache, &self.adapters)
    }

    /// Notes tokens that are in every layer of the cache, and the logits after the last of them,
    /// if they were computed.
    pub(crate) fn note_appended(&mut self, tokens: &[u32], logits: Option<&[f32]>) {
        self.tokens.extend_from_slice(tokens);
        self.has_logits = logits.is_some();
        if let Some(logits) = logits {
            self.logits.copy_from_slice(logits);
        }
    }

    /// Notes that layers disagree about the length of the sequence.
    pub(crate) fn interrupt(&mut self) {
        self.interrupted = true;
    }

    /// Everything that can be wrong with tokens before any work is done.
    pub(crate) fn check(&self, tokens: &[u32]) -> Result<(), ModelError> {
        self.check_whole()?;
        self.check_after(self.position(), tokens)
    }

    /// Everything that can be wrong with tokens that shall stand from `position` on.
    fn check_after(&self, position: usize, tokens: &[u32]) -> Result<(), ModelError> {
        if tokens.is_empty() {
            return Err(ModelError::EmptyPrompt);
        }
        let (model, n) = (self.model(), tokens.len());
        model.check_tokens(tokens)?;
        match model.config().cache().limit() {
            Some(context_len) if n > context_len.saturating_sub(position) => {
                Err(ModelError::ContextFull { tokens: n, position, context_len })
            }
            _ => Ok(()),
        }
    }

    /// An error if layers disagree about the length of the sequence.
    fn check_whole(&self) -> Result<(), ModelError> {
        if self.interrupted { Err(ModelError::Interrupted) } else { Ok(()) }
    }
}
