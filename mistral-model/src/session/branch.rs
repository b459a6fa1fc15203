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
        let max_chunk = self.max_chunk.min(config.cache().limit().unwrap_or(usize::MAX));
        let cache = Self { max_chunk, ..*self }.cache(config);
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
        let oldest = self.cache.reaches_back_to();
        len <= self.position() && oldest.is_ok_and(|oldest| len >= oldest)
    }

    /// Another session for batches, with the first `len` tokens of this one. There are no logits
    /// until it is given a token.
    pub(crate) fn branch(&self, len: usize) -> Result<Self, ModelError> {
        self.check_whole()?;
        let scratch = Scratch::new(self.model().config(), 0)?;
        Ok(Self {
            model: self.model.clone(),
            options: self.options,
            cache: self.cache.branch(len)?,
            scratch,
            tokens: self.tokens.get(..len).unwrap_or_default().to_vec(),
            logits: vec![0.0; self.logits.len()],
            has_logits: false,
            interrupted: false,
        })
    }
}
