//! Sessions that only ever take part in batches: they need no memory for passes of their own.

use std::borrow::Borrow;

use super::{Session, SessionOptions};
use crate::config::Config;
use crate::error::ModelError;
use crate::scratch::Scratch;
use crate::transformer::Transformer;

impl SessionOptions {
    /// [`Session::cache_bytes`] of a session that has had `tokens`.
    pub(crate) fn planned_bytes(
        &self,
        config: &Config,
        tokens: usize,
    ) -> Result<usize, ModelError> {
        let cache = config.cache();
        let max_chunk = self.max_chunk.min(cache.limit().unwrap_or(usize::MAX));
        let cache = cache.with_max_chunk(max_chunk).with_sinks(self.sinks);
        Ok(cache.plan(self.kv_dtype, 1, tokens)?)
    }
}

impl<M: Borrow<Transformer> + Clone> Session<M> {
    /// An empty session for batches.
    pub(crate) fn for_batches(model: M, options: SessionOptions) -> Result<Self, ModelError> {
        let scratch = Scratch::new(model.borrow().config(), 0)?;
        Self::with_scratch(model, options, scratch)
    }

    /// Whether [`branch`](Self::branch) would succeed.
    pub(crate) fn can_branch(&self, len: usize) -> bool {
        self.cache.can_branch(len)
    }

    /// Another session for batches, with the first `len` tokens of this one. There are no logits
    /// until it is given a token.
    pub(crate) fn branch(&self, len: usize) -> Result<Self, ModelError> {
        let scratch = Scratch::new(self.model().config(), 0)?;
        let logits = vec![0.0; self.logits.len()];
        let (model, options, cache) = (self.model.clone(), self.options, self.cache.branch(len)?);
        Ok(Self { model, options, cache, scratch, logits, interrupted: false })
    }
}
