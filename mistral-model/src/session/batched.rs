//! Sessions that only take part in batches: what they will hold, and little memory for passes of
//! their own.

use std::borrow::Borrow;

use super::{Session, SessionOptions};
use crate::config::Config;
use crate::error::ModelError;
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
        Self::with_buffers(model, options, 1)
    }

    /// Whether [`fork_at`](Self::fork_at) would succeed.
    pub(crate) fn can_fork_at(&self, position: usize) -> bool {
        let tokens = self.position().checked_sub(position);
        tokens.is_some_and(|tokens| self.check_rewind(tokens).is_ok())
    }
}
