//! Steps of one's own between the model's logits and the draw.

use std::fmt;

use crate::generate::error::SamplerError;

/// A step that changes logits before a token is drawn: a bias, a constraint, a rule of one's own.
///
/// ```
/// use mistral_model::generate::{LogitFilter, Sampler, SamplerError};
///
/// /// Never the same token twice in a row.
/// #[derive(Debug, Clone)]
/// struct NoStutter;
///
/// impl LogitFilter for NoStutter {
///     fn filter(&mut self, history: &[u32], logits: &mut [f32]) -> Result<(), SamplerError> {
///         if let Some(logit) = history.last().and_then(|last| logits.get_mut(*last as usize)) {
///             *logit = f32::NEG_INFINITY;
///         }
///         Ok(())
///     }
/// }
///
/// let mut sampler = Sampler::greedy().with_filter(NoStutter);
/// let drawn = [0; 4].map(|_| sampler.sample(&[0.5, 2.0, 1.0]));
/// assert_eq!(drawn, [Ok(1), Ok(2), Ok(1), Ok(2)]);
/// ```
pub trait LogitFilter: CloneFilter + fmt::Debug + Send + Sync {
    /// Changes the logits, one for each token of the vocabulary. `-inf` forbids a token.
    ///
    /// `history` is what [`HistorySpan`](super::HistorySpan) says, oldest first. The logits are
    /// those of the model after penalties and the filters before this one: some may be `-inf`, none
    /// is NaN unless such a filter made it so.
    ///
    /// # Errors
    ///
    /// Whatever the filter finds wrong; no token is drawn then, and no random number used up. An
    /// error of one's own goes into [`SamplerError::filter`].
    fn filter(&mut self, history: &[u32], logits: &mut [f32]) -> Result<(), SamplerError>;

    /// Learns which token was drawn. A filter that depends on nothing but `history` has no need.
    ///
    /// # Errors
    ///
    /// Whatever the filter finds wrong. The sampler cannot be used any further then.
    fn accept(&mut self, token: u32) -> Result<(), SamplerError> {
        let _ = token;
        Ok(())
    }
}

/// What lets a sampler with filters be cloned. Every filter that is [`Clone`] has it.
pub trait CloneFilter {
    /// A filter in the same state, that goes its own way.
    fn clone_filter(&self) -> Box<dyn LogitFilter>;
}

impl<F: LogitFilter + Clone + 'static> CloneFilter for F {
    fn clone_filter(&self) -> Box<dyn LogitFilter> {
        Box::new(self.clone())
    }
}

impl Clone for Box<dyn LogitFilter> {
    fn clone(&self) -> Self {
        // Through the reference: the box itself would be cloned by this very function.
        (**self).clone_filter()
    }
}
