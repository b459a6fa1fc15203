//! Adapters of a session.

use std::borrow::Borrow;
use std::sync::Arc;

use super::Session;
use crate::error::ModelError;
use crate::transformer::Transformer;
use crate::weights::{Adapter, AdapterError};

impl<M: Borrow<Transformer>> Session<M> {
    /// The session with what an adapter adds to the model's projections. Called again, it adds one
    /// more, and their addends are summed.
    ///
    /// The model's weights stay as they are: other sessions do not notice, and a
    /// [`Batch`](crate::Batch) takes sessions with different adapters, or none, through one pass.
    ///
    /// # Errors
    ///
    /// - [`AdapterError::OtherModel`]: the adapter was opened for a model of other sizes.
    /// - [`AdapterError::NotEmpty`]: the session holds keys and values made without the adapter.
    /// - [`ModelError::OutOfMemory`]: no memory for its addends.
    ///
    /// # Cost
    ///
    /// For each token `2 * rank * (in + out)` flops a projection: at rank 16 a hundredth of a 7B
    /// model's own. Memory: `4 * (out + rank)` bytes for each of up to 128 tokens of a chunk, taken
    /// here.
    pub fn with_adapter(mut self, adapter: Arc<Adapter>) -> Result<Self, ModelError> {
        adapter.check(self.model().config())?;
        let position = self.position();
        if position > 0 {
            return Err(AdapterError::NotEmpty { position }.into());
        }
        self.scratch.addends.reserve(&adapter, self.options.max_chunk)?;
        self.adapters.push(adapter);
        Ok(self)
    }

    /// As [`with_adapter`](Self::with_adapter) for each of some adapters that fit the model, in an
    /// empty session that only takes part in batches: these have the memory for addends.
    pub(crate) fn in_batches_with(mut self, adapters: &[Arc<Adapter>]) -> Self {
        self.adapters.extend_from_slice(adapters);
        self
    }

    /// The session's adapters, in the order in which their addends are added.
    pub fn adapters(&self) -> &[Arc<Adapter>] {
        &self.adapters
    }

    /// Refuses what names sessions by their model and tokens alone.
    pub(super) fn check_no_adapters(&self, what: &'static str) -> Result<(), AdapterError> {
        match self.adapters.len() {
            0 => Ok(()),
            adapters => Err(AdapterError::NotWith { adapters, what }),
        }
    }
}
