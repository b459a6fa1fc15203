//! Tokens appended in chunks.

use std::borrow::Borrow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use mistral_core::threads;
use mistral_kvcache::ChunkPlan;
use ndarray::ArrayView2;

use super::Session;
use super::cache::Cache;
use crate::error::ModelError;
use crate::history::SequenceCache;
use crate::low_rank::Run;
use crate::scratch::{Scratch, rows};
use crate::transformer::{Chunk, Transformer, first_not_finite};
use crate::weights::Adapter;

impl<M: Borrow<Transformer>> Session<M> {
    /// The session with a flag that ends its work soon after it has become true: it is read before
    /// each layer of each chunk, so that a long prompt need not be waited for. The flag is the
    /// caller's to set back; forks have none, and a [`Batch`](crate::Batch) does not read it.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use std::sync::atomic::{AtomicBool, Ordering};
    /// # use mistral_model::{Config, DType, ModelError, Session, SessionOptions, Transformer};
    /// # let config = Config { dim: 64, n_layers: 2, n_heads: 4, n_kv_heads: 2, head_dim: 16,
    /// #     hidden_dim: 96, vocab_size: 100, ..Config::mistral_7b_v01() };
    /// # let model = Transformer::random(&config, DType::F32, 7)?;
    /// let stop = Arc::new(AtomicBool::new(false));
    /// let session = Session::new(&model, SessionOptions::default())?;
    /// let mut session = session.with_cancel(Arc::clone(&stop));
    /// // What a signal handler or another thread does.
    /// stop.store(true, Ordering::Relaxed);
    /// assert!(matches!(session.prefill(&[1, 9, 8]), Err(ModelError::Cancelled)));
    /// # Ok::<(), ModelError>(())
    /// ```
    pub fn with_cancel(mut self, flag: Arc<AtomicBool>) -> Self {
        self.cancel = Some(flag);
        self
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
    /// - [`ModelError::NotFinite`]: NaN or infinity.
    /// - [`ModelError::Cancelled`]: the flag of [`with_cancel`](Self::with_cancel) is true.
    ///
    /// Unless the chunk could be taken back exactly, the session then wants a
    /// [`reset`](Self::reset).
    ///
    /// # Cost
    ///
    /// What [`Transformer::forward_layers`] says. In the last layer, though, whatever follows
    /// attention is computed for the last token alone: nobody reads the others' output.
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
            self.has_logits = true;
            let logits = rows(&mut all, n, vocab_size).map_err(ModelError::from)?;
            each(first, logits.view())?;
        }
        Ok(())
    }

    /// Appends one chunk, and puts the logits after each of its tokens into `logits`,
    /// `(tokens, vocab_size)`.
    pub(crate) fn verify(
        &mut self,
        tokens: &[u32],
        logits: &mut Vec<f32>,
    ) -> Result<(), ModelError> {
        self.check(tokens)?;
        logits.resize(tokens.len() * self.model().config().vocab_size, 0.0);
        self.chunk(tokens, Wanted::All(logits))
    }

    /// Runs one chunk through all layers. On an error the chunk is taken back, or the session is
    /// marked as interrupted.
    fn chunk(&mut self, tokens: &[u32], wanted: Wanted<'_>) -> Result<(), ModelError> {
        let model: &Transformer = self.model.borrow();
        let (cache, scratch) = (&mut self.cache, &mut self.scratch);
        scratch.grow(tokens.len())?;
        let start = cache.position();
        let has_logits = matches!(wanted, Wanted::Last);
        let logits = match wanted {
            Wanted::Nothing => &mut [],
            Wanted::Last => self.logits.as_mut_slice(),
            Wanted::All(logits) => logits,
        };
        let pass = Pass { model, adapters: &self.adapters, cancel: self.cancel.as_deref() };
        let done = threads::enter(|| pass.forward(tokens, cache, scratch, logits));
        // What was there is written over, or no longer that of the last token.
        self.has_logits = has_logits && done.is_ok();
        match done {
            Ok(()) => self.tokens.extend_from_slice(tokens),
            Err(_) => self.interrupted = !self.cache.undo_chunk(start),
        }
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

/// What a chunk passes through.
struct Pass<'a> {
    model: &'a Transformer,
    adapters: &'a [Arc<Adapter>],
    cancel: Option<&'a AtomicBool>,
}

impl Pass<'_> {
    /// The life of a chunk: embedding, layers, logits.
    ///
    /// Shapes: `logits` is `(k, vocab_size)` for the last `k` tokens of the chunk; `k` may be 0.
    fn forward(
        &self,
        tokens: &[u32],
        cache: &mut Cache,
        scratch: &mut Scratch,
        logits: &mut [f32],
    ) -> Result<(), ModelError> {
        let (model, config) = (self.model, self.model.config());
        let dim = config.dim;
        let wanted = logits.len() / config.vocab_size;
        let first = tokens.len() - wanted;
        let start = cache.position();
        let (adapters, cancel) = (self.adapters, self.cancel);
        // Taken out, so that the layers can borrow the other buffers beside it.
        let mut buffer = std::mem::take(&mut scratch.hidden);
        let result = (|| {
            let mut hidden = rows(&mut buffer, tokens.len(), dim)?;
            model.embed(tokens, hidden.view_mut())?;
            let chunk = Chunk { adapters, cancel, outputs: wanted };
            model.run_layers(chunk, 0..config.n_layers, hidden, cache, scratch)?;
            if wanted == 0 {
                return Ok(());
            }
            let last = rows(&mut buffer[first * dim..], wanted, dim)?;
            let mut logits = rows(logits, wanted, config.vocab_size)?;
            let run = [Run { rows: 0..wanted, adapters }];
            model.adapted_logits(&run, last.view(), logits.view_mut(), scratch)?;
            first_not_finite(logits.view()).map_or(Ok(()), |row| {
                let position = start + first + row;
                Err(ModelError::NotFinite { layer: config.n_layers, position })
            })
        })();
        scratch.hidden = buffer;
        result
    }
}
