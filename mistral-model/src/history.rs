//! Where a block's attention finds the keys and values of earlier tokens.
//!
//! A block hands over queries, keys and values of the tokens at hand, and does not know whether
//! they belong to one sequence or to many, nor what is kept of the tokens before them.

mod heavy_hitters;
mod rolling;

use mistral_core::ops::RopeAngles;
use ndarray::{ArrayView3, ArrayViewMut3};

pub(crate) use self::rolling::RollingSequence;
use crate::error::ModelError;
use crate::layer::Shared;
use crate::scratch::AttendScratch;

/// What a block hands to attention, for the tokens of one pass.
///
/// Shapes: `q` and `out` are `(tokens, n_heads, head_dim)`, `k` and `v` `(tokens, n_kv_heads,
/// head_dim)`. Queries and keys are not rotated yet.
pub(crate) struct Heads<'a> {
    pub(crate) q: ArrayViewMut3<'a, f32>,
    pub(crate) k: ArrayViewMut3<'a, f32>,
    pub(crate) v: ArrayView3<'a, f32>,
    pub(crate) out: ArrayViewMut3<'a, f32>,
    pub(crate) scratch: &'a mut AttendScratch,
}

/// The tokens of a pass in one layer.
pub(crate) trait History {
    /// Rotates, stages the keys and values, attends, and commits them.
    fn attend(&mut self, shared: Shared<'_>, heads: Heads<'_>) -> Result<(), ModelError>;
}

/// The keys and values of one sequence in all layers.
pub(crate) trait SequenceCache {
    /// Tokens committed in every layer.
    fn position(&self) -> usize;

    /// The layer whose turn it is.
    fn next_layer(&self) -> usize;

    /// [`History::attend`] in a layer, for the next tokens of the sequence.
    ///
    /// `angles` are the rotations of these tokens.
    fn attend(
        &mut self,
        layer: usize,
        angles: &RopeAngles,
        shared: Shared<'_>,
        heads: Heads<'_>,
    ) -> Result<(), ModelError>;
}

/// The next chunk of one sequence in one layer.
pub(crate) struct Turn<'a, C> {
    pub(crate) cache: &'a mut C,
    pub(crate) layer: usize,
    /// The rotation of each token of the chunk.
    pub(crate) angles: &'a RopeAngles,
}

impl<C: SequenceCache> History for Turn<'_, C> {
    fn attend(&mut self, shared: Shared<'_>, heads: Heads<'_>) -> Result<(), ModelError> {
        self.cache.attend(self.layer, self.angles, shared, heads)
    }
}
