//! Sessions that begin as another one.

use std::borrow::Borrow;

use mistral_kvcache::CacheError;

use super::Session;
use crate::error::ModelError;
use crate::scratch::Scratch;
use crate::transformer::Transformer;

impl<M: Borrow<Transformer> + Clone> Session<M> {
    /// Another session with the same tokens, which shares the memory of their keys and values.
    ///
    /// The two go on without hearing of each other. A page of 128 positions in a layer is copied
    /// when one of them first writes to it, so the fork of a long text without a window costs what
    /// is appended; with one, both have a ring of their own a window later.
    /// [`cache_bytes`](Self::cache_bytes) counts what is shared for each.
    ///
    /// ```
    /// # use mistral_model::{Config, DType, Session, SessionOptions, Transformer};
    /// # let config = Config { dim: 64, n_layers: 2, n_heads: 4, n_kv_heads: 2, head_dim: 16,
    /// #     hidden_dim: 96, vocab_size: 100, ..Config::mistral_7b_v01() };
    /// # let model = Transformer::random(&config, DType::BF16, 7)?;
    /// let mut first = Session::new(&model, SessionOptions::default())?;
    /// first.prefill(&[1, 2, 3])?; // computed once
    /// let mut second = first.fork()?;
    /// assert_ne!(first.decode(4)?, second.decode(5)?);
    /// assert_eq!(second.tokens(), [1, 2, 3, 5]);
    /// # Ok::<(), mistral_model::ModelError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// - [`ModelError::Interrupted`]: an earlier error left a chunk half done.
    /// - [`ModelError::OutOfMemory`]: no memory for a token's activations.
    ///
    /// # Cost
    ///
    /// A pointer for each page, the tokens, the logits. The buffers of a chunk grow to what is
    /// really appended at once: those of single tokens are small.
    pub fn fork(&self) -> Result<Self, ModelError> {
        self.fork_at(self.position())
    }

    /// Another session with the first `position` tokens: a [`fork`](Self::fork) and a
    /// [`rewind`](Self::rewind) in one, which leaves this session as it is.
    ///
    /// Without all tokens there are no [`logits`](Self::logits) until the next is appended.
    ///
    /// # Errors
    ///
    /// As [`fork`](Self::fork) and [`rewind`](Self::rewind), and:
    ///
    /// - [`ModelError::Cache`]: there are not so many tokens.
    pub fn fork_at(&self, position: usize) -> Result<Self, ModelError> {
        let (found, reached) = (position, self.position());
        let ahead = CacheError::PositionAhead { found, position: reached };
        self.check_rewind(reached.checked_sub(position).ok_or(ahead)?)?;
        Ok(Self {
            model: self.model.clone(),
            adapters: self.adapters.clone(),
            options: self.options,
            cache: self.cache.fork_at(position)?,
            scratch: Scratch::new(self.model().config(), 1)?,
            tokens: self.tokens[..position].to_vec(),
            logits: self.logits.clone(),
            has_logits: self.has_logits && position == reached,
            interrupted: false,
            cancel: None,
        })
    }
}
