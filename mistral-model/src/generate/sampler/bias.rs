//! Logit bias: chosen tokens made likelier, less likely, or impossible.

use super::filter::LogitFilter;
use crate::generate::error::SamplerError;

/// Adds a number to the logits of chosen tokens.
///
/// A bias of `b` multiplies the odds of a token by `e^b`, at temperature 1. Minus infinity forbids
/// it. A token that is given twice gets the sum.
///
/// ```
/// use mistral_model::generate::{LogitBias, Sampler};
///
/// let bias = LogitBias::new([(0, 2.5), (1, f32::NEG_INFINITY)])?;
/// let mut sampler = Sampler::greedy().with_filter(bias);
/// assert_eq!(sampler.sample(&[0.0, 9.0, 2.0])?, 0);
/// # Ok::<(), mistral_model::generate::SamplerError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct LogitBias {
    biases: Vec<(u32, f32)>,
}

impl LogitBias {
    /// Pairs of a token and what is added to its logit.
    ///
    /// # Errors
    ///
    /// [`SamplerError::Bias`]: one of them is NaN or plus infinity.
    pub fn new(biases: impl IntoIterator<Item = (u32, f32)>) -> Result<Self, SamplerError> {
        let biases: Vec<_> = biases.into_iter().collect();
        match biases.iter().find(|(_, bias)| bias.is_nan() || *bias == f32::INFINITY) {
            Some(&(token, found)) => Err(SamplerError::Bias { token, found }),
            None => Ok(Self { biases }),
        }
    }
}

impl LogitFilter for LogitBias {
    /// # Errors
    ///
    /// [`SamplerError::UnknownToken`]: a biased token has no logit.
    fn filter(&mut self, _history: &[u32], logits: &mut [f32]) -> Result<(), SamplerError> {
        let vocab_size = logits.len();
        for &(token, bias) in &self.biases {
            let logit = logits.get_mut(token as usize);
            *logit.ok_or(SamplerError::UnknownToken { token, vocab_size })? += bias;
        }
        Ok(())
    }
}
