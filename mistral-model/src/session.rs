//! One sequence: its cache, its position, its scratch memory.

mod adapters;

use std::borrow::Borrow;
use std::sync::Arc;

use mistral_core::half::{bf16, f16};
use mistral_core::kv::{Int8, KvElement, KvFormat};
use mistral_core::ops::RopeAngles;
use mistral_core::threads;
use mistral_kvcache::{ChunkPlan, RollingKvCache, SequenceId};
use ndarray::ArrayView2;

use crate::error::ModelError;
use crate::generate::{Generator, Sampler};
use crate::layer::{CacheSlot, Heads, History, Shared};
use crate::low_rank::Run;
use crate::scratch::{Scratch, rows};
use crate::transformer::{Transformer, first_not_finite};
use crate::weights::Adapter;

/// How a session keeps its keys and values, and in what portions it takes a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionOptions {
    /// Format of the cache. Default f16: half the memory of f32, a rounding of 2^-11.
    pub kv_dtype: KvFormat,
    /// Most tokens that pass through the layers together. Default 512. It changes speed and
    /// scratch memory, never a bit of the result.
    pub max_chunk: usize,
    /// How many of the first tokens every later one sees, however far back they lie, in a model
    /// with a window (StreamingLLM, arXiv:2309.17453). Default 0. They take
    /// `sinks` positions of memory beside the window.
    pub sinks: usize,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self { kv_dtype: KvFormat::F16, max_chunk: 512, sinks: 0 }
    }
}

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
    logits: Vec<f32>,
    interrupted: bool,
}

/// The cache in one of its formats, with the one sequence in it.
#[derive(Debug)]
pub(crate) enum Cache {
    F32(RollingKvCache<f32>, SequenceId),
    F16(RollingKvCache<f16>, SequenceId),
    BF16(RollingKvCache<bf16>, SequenceId),
    Int8(RollingKvCache<Int8>, SequenceId),
}

/// Runs the same code on whichever format the cache has.
macro_rules! with_cache {
    ($cache:expr, $inner:ident, $id:ident => $body:expr) => {
        match $cache {
            Cache::F32($inner, $id) => $body,
            Cache::F16($inner, $id) => $body,
            Cache::BF16($inner, $id) => $body,
            Cache::Int8($inner, $id) => $body,
        }
    };
}

impl Cache {
    /// Tokens in the sequence.
    pub(crate) fn position(&self) -> usize {
        with_cache!(self, cache, id => cache.position(*id).unwrap_or_default())
    }

    /// Attention of one layer over the next tokens of the sequence.
    pub(crate) fn attend(
        &mut self,
        layer: usize,
        angles: &RopeAngles,
        shared: Shared<'_>,
        heads: Heads<'_>,
    ) -> Result<(), ModelError> {
        with_cache!(self, cache, id => {
            CacheSlot { cache, sequence: *id, layer, angles }.attend(shared, heads)
        })
    }
}

impl<M: Borrow<Transformer>> Session<M> {
    /// An empty sequence. Cache and buffers of a chunk are allocated here, once; the cache of a
    /// model without a window grows with the sequence. Attention still takes some hundred KB of
    /// working memory in each call.
    ///
    /// # Errors
    ///
    /// - [`ModelError::ZeroChunk`]: `max_chunk` is 0.
    /// - [`ModelError::Cache`], [`ModelError::OutOfMemory`]: no memory for the cache or a chunk.
    pub fn new(model: M, options: SessionOptions) -> Result<Self, ModelError> {
        if options.max_chunk == 0 {
            return Err(ModelError::ZeroChunk);
        }
        let config = model.borrow().config();
        // A chunk longer than any sequence would only take memory.
        let longest = if config.window.size().is_some() { usize::MAX } else { config.context_len };
        let options = SessionOptions { max_chunk: options.max_chunk.min(longest), ..options };
        let cache = config.cache().with_max_chunk(options.max_chunk).with_sinks(options.sinks);
        fn one<E: KvElement>(
            config: mistral_kvcache::CacheConfig,
        ) -> Result<(RollingKvCache<E>, SequenceId), ModelError> {
            let mut cache = RollingKvCache::new(config)?;
            let id = cache.add_sequence()?;
            Ok((cache, id))
        }
        let cache = match options.kv_dtype {
            KvFormat::F32 => one(cache).map(|(cache, id)| Cache::F32(cache, id)),
            KvFormat::Int8 => one(cache).map(|(cache, id)| Cache::Int8(cache, id)),
            KvFormat::BF16 => one(cache).map(|(cache, id)| Cache::BF16(cache, id)),
            _ => one(cache).map(|(cache, id)| Cache::F16(cache, id)),
        }?;
        let scratch = Scratch::new(config, options.max_chunk)?;
        let logits = vec![0.0; config.vocab_size];
        let adapters = Vec::new();
        Ok(Self { model, adapters, options, cache, scratch, logits, interrupted: false })
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

    /// Tokens that still fit; `None` with a window, where a sequence has no end.
    pub fn remaining(&self) -> Option<usize> {
        let limit = with_cache!(&self.cache, cache, _id => cache.config().limit())?;
        Some(limit.saturating_sub(self.position()))
    }

    /// Bytes of the keys and values, the chunk under way included.
    pub fn cache_bytes(&self) -> usize {
        with_cache!(&self.cache, cache, _id => cache.bytes())
    }

    /// Logits after the last token: empty sequence, zeros.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Forgets the sequence and keeps the memory.
    ///
    /// # Errors
    ///
    /// [`ModelError::Cache`]: cannot happen, for the sequence is the session's own.
    pub fn reset(&mut self) -> Result<(), ModelError> {
        with_cache!(&mut self.cache, cache, id => cache.reset(*id))?;
        self.logits.fill(0.0);
        self.interrupted = false;
        Ok(())
    }

    /// Appends tokens, in chunks, and returns the logits after the last one.
    ///
    /// # Errors
    ///
    /// Found before any work, and nothing is appended:
    ///
    /// - [`ModelError::EmptyPrompt`], [`ModelError::UnknownToken`]: the tokens are wrong.
    /// - [`ModelError::ContextFull`]: more than a model without a window can take.
    /// - [`ModelError::Interrupted`]: an earlier error left a chunk half done.
    ///
    /// On the way, with the whole chunks before it appended:
    ///
    /// - [`ModelError::NotFinite`]: NaN or infinity. Unless the chunk could be taken back exactly,
    ///   the session wants a [`reset`](Self::reset).
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<&[f32], ModelError> {
        self.prefill_with(tokens, |_| {})
    }

    /// [`prefill`](Self::prefill), with a call after each chunk that gets the number of tokens
    /// done.
    ///
    /// # Errors
    ///
    /// As [`prefill`](Self::prefill).
    pub fn prefill_with(
        &mut self,
        tokens: &[u32],
        mut progress: impl FnMut(usize),
    ) -> Result<&[f32], ModelError> {
        self.check(tokens)?;
        for range in ChunkPlan::new(tokens.len(), self.options.max_chunk)? {
            let done = range.end;
            let wanted = if done == tokens.len() { Wanted::Last } else { Wanted::Nothing };
            self.chunk(&tokens[range], wanted)?;
            progress(done);
        }
        Ok(&self.logits)
    }

    /// Appends one token and returns the logits after it.
    ///
    /// # Errors
    ///
    /// As [`prefill`](Self::prefill).
    pub fn decode(&mut self, token: u32) -> Result<&[f32], ModelError> {
        self.prefill(&[token])
    }

    /// Appends tokens and hands out the logits after every one of them, chunk by chunk: the index
    /// of the chunk's first token and an array `(tokens, vocab_size)`.
    ///
    /// # Errors
    ///
    /// As [`prefill`](Self::prefill), and whatever `each` returns.
    pub fn logits_of_all<Err: From<ModelError>>(
        &mut self,
        tokens: &[u32],
        mut each: impl FnMut(usize, ArrayView2<'_, f32>) -> Result<(), Err>,
    ) -> Result<(), Err> {
        self.check(tokens)?;
        let vocab_size = self.model().config().vocab_size;
        let mut all = Vec::new();
        let plan = ChunkPlan::new(tokens.len(), self.options.max_chunk);
        for range in plan.map_err(ModelError::from)? {
            let (first, n) = (range.start, range.len());
            all.resize(n * vocab_size, 0.0);
            self.chunk(&tokens[range], Wanted::All(&mut all))?;
            self.logits.copy_from_slice(&all[(n - 1) * vocab_size..]);
            let logits = rows(&mut all, n, vocab_size).map_err(ModelError::from)?;
            each(first, logits.view())?;
        }
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
    /// [`ModelError::EmptyPrompt`]: nothing was prefilled.
    pub fn generate_more(&mut self, sampler: Sampler) -> Result<Generator<'_, M>, ModelError> {
        if self.position() == 0 {
            return Err(ModelError::EmptyPrompt);
        }
        Ok(Generator::new(self, sampler))
    }

    /// What a batch needs of a session.
    pub(crate) fn parts_mut(&mut self) -> (&mut Cache, &[Arc<Adapter>]) {
        (&mut self.cache, &self.adapters)
    }

    pub(crate) fn set_logits(&mut self, logits: &[f32]) {
        self.logits.copy_from_slice(logits);
    }

    /// Notes that layers disagree about the length of the sequence.
    pub(crate) fn interrupt(&mut self) {
        self.interrupted = true;
    }

    /// Everything that can be wrong with tokens before any work is done.
    pub(crate) fn check(&self, tokens: &[u32]) -> Result<(), ModelError> {
        if self.interrupted {
            return Err(ModelError::Interrupted);
        }
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

    /// Runs one chunk through all layers. On an error the chunk is taken back, or the session is
    /// marked as interrupted.
    fn chunk(&mut self, tokens: &[u32], wanted: Wanted<'_>) -> Result<(), ModelError> {
        let model: &Transformer = self.model.borrow();
        let scratch = &mut self.scratch;
        let run = Run { rows: 0..tokens.len(), adapters: &self.adapters };
        let logits = match wanted {
            Wanted::Nothing => &mut [],
            Wanted::Last => self.logits.as_mut_slice(),
            Wanted::All(logits) => logits,
        };
        let (done, undone) = with_cache!(&mut self.cache, cache, id => {
            let start = cache.position(*id)?;
            let done = threads::enter(|| {
                forward(model, &[run], tokens, (cache, *id), scratch, logits)
            });
            // Logits that are none are found when the last layer has committed already.
            let undone = cache.abandon_chunk(*id).is_ok() && cache.position(*id)? == start;
            (done, undone)
        });
        self.interrupted = done.is_err() && !undone;
        done
    }
}

/// Whose logits a chunk is run for.
enum Wanted<'a> {
    Nothing,
    /// The last token's, into the session's own.
    Last,
    /// Every token's, `(tokens, vocab_size)`.
    All(&'a mut [f32]),
}

/// The life of a chunk: embedding, layers, logits.
///
/// Shapes: `logits` is `(k, vocab_size)` for the last `k` tokens of the chunk; `k` may be 0.
fn forward<E: KvElement>(
    model: &Transformer,
    runs: &[Run<'_>],
    tokens: &[u32],
    (cache, sequence): (&mut RollingKvCache<E>, SequenceId),
    scratch: &mut Scratch,
    logits: &mut [f32],
) -> Result<(), ModelError> {
    let config = model.config();
    let dim = config.dim;
    let wanted = logits.len() / config.vocab_size;
    let first = tokens.len() - wanted;
    let start = cache.position(sequence)?;
    // Taken out, so that the layers can borrow the other buffers beside it.
    let mut buffer = std::mem::take(&mut scratch.hidden);
    let result = (|| {
        let mut hidden = rows(&mut buffer, tokens.len(), dim)?;
        model.embed(tokens, hidden.view_mut())?;
        model.forward_with(runs, 0..config.n_layers, hidden, (cache, sequence), scratch)?;
        if wanted == 0 {
            return Ok(());
        }
        let last = rows(&mut buffer[first * dim..], wanted, dim)?;
        let mut logits = rows(logits, wanted, config.vocab_size)?;
        model.logits(last.view(), logits.view_mut(), scratch)?;
        first_not_finite(logits.view()).map_or(Ok(()), |row| {
            let position = start + first + row;
            Err(ModelError::NotFinite { layer: config.n_layers, position })
        })
    })();
    scratch.hidden = buffer;
    result
}
