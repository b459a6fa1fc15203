//! One sequence: its cache, its position, its scratch memory.

mod cache;
mod chunks;
mod fork;
mod options;
mod rewind;

use std::borrow::Borrow;

pub(crate) use self::cache::Cache;
pub use self::options::{HeavyHitters, SessionOptions};
use crate::error::ModelError;
use crate::generate::{Generator, Sampler};
use crate::history::SequenceCache;
use crate::scratch::Scratch;
use crate::transformer::Transformer;

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
    options: SessionOptions,
    cache: Cache,
    scratch: Scratch,
    /// Those of all positions.
    tokens: Vec<u32>,
    logits: Vec<f32>,
    /// Whether `logits` are those after the last token.
    has_logits: bool,
    interrupted: bool,
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
        let config = model.borrow().config();
        options.check()?;
        // A chunk longer than any sequence would only take memory.
        let longest = config.cache().limit().unwrap_or(usize::MAX);
        let options = SessionOptions { max_chunk: options.max_chunk.min(longest), ..options };
        let cache = Cache::new(config, &options)?;
        let scratch = Scratch::new(config, options.max_chunk)?;
        let logits = vec![0.0; config.vocab_size];
        let (tokens, has_logits, interrupted) = (Vec::new(), false, false);
        Ok(Self { model, options, cache, scratch, tokens, logits, has_logits, interrupted })
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

    /// Appends a prompt and returns an iterator over the tokens that follow it.
    ///
    /// # Errors
    ///
    /// As [`prefill`](Self::prefill).
    pub fn generate(
        &mut self,
        prompt: &[u32],
        sampler: Sampler,
    ) -> Result<Generator<'_, M>, ModelError> {
        self.prefill(prompt)?;
        Ok(Generator::new(self, sampler))
    }

    /// Goes on from where the sequence stands: [`generate`](Self::generate) without a prompt.
    ///
    /// # Errors
    ///
    /// [`ModelError::EmptyPrompt`]: there is no token. And as
    /// [`refresh_logits`](Self::refresh_logits), which it calls.
    pub fn generate_more(&mut self, sampler: Sampler) -> Result<Generator<'_, M>, ModelError> {
        self.refresh_logits()?;
        Ok(Generator::new(self, sampler))
    }

    pub(crate) fn cache_mut(&mut self) -> &mut Cache {
        &mut self.cache
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
        if tokens.is_empty() {
            return Err(ModelError::EmptyPrompt);
        }
        self.model().check_tokens(tokens)?;
        match self.remaining() {
            Some(remaining) if tokens.len() > remaining => Err(ModelError::ContextFull {
                tokens: tokens.len(),
                position: self.position(),
                context_len: self.model().config().context_len,
            }),
            _ => Ok(()),
        }
    }

    /// An error if layers disagree about the length of the sequence.
    fn check_whole(&self) -> Result<(), ModelError> {
        if self.interrupted { Err(ModelError::Interrupted) } else { Ok(()) }
    }
}
