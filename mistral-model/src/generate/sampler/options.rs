//! How a token is drawn: the settings, and which of them make sense.

use super::history::HistorySpan;
use crate::generate::error::SamplerError;

/// How a token is drawn. The default draws from the model's own distribution, with seed 0.
///
/// The settings apply in the order of the fields:
///
/// 1. *Penalties* change the logits that the model gave. They come first because the repetition
///    penalty divides: it would scale what a later step adds.
/// 2. *Filters* ([`Sampler::with_filter`](super::Sampler::with_filter): biases, constraints, a
///    user's own), in the order they were added. They see the penalised logits, and nothing after
///    them brings back what they forbid.
/// 3. *Temperature*, so that the shares below are those of the distribution that is drawn from.
/// 4. *Top-k, typical, top-p, min-p*: each of them only shortens the list of candidates that the
///    one before it left, and its share is one of the probability on that list.
/// 5. The draw: one random number for a token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplerOptions {
    /// Divides positive logits, and multiplies negative ones, of tokens in the history
    /// (arXiv:1909.05858 section 4.1). Above 1 discourages repetition; 1 changes nothing.
    pub repetition_penalty: f32,
    /// Subtracted from the logit of each token in the history, once. -2 to 2; 0 changes nothing.
    pub presence_penalty: f32,
    /// Subtracted from the logit of each token in the history as often as it stands there. -2 to 2;
    /// 0 changes nothing.
    pub frequency_penalty: f32,
    /// Which tokens penalties and filters see. Default: the prompt and the output.
    pub history: HistorySpan,
    /// Divides the logits: below 1 sharper, above 1 flatter. 0 always takes the largest logit.
    pub temperature: f32,
    /// Keep the `k` likeliest tokens. `None` keeps all.
    pub top_k: Option<usize>,
    /// Keep the fewest tokens that together reach this share of the probability, taken in the order
    /// of how near their information content lies to the expected one (locally typical sampling,
    /// arXiv:2202.00666). 1 keeps all.
    pub typical_p: f32,
    /// Keep the fewest likeliest tokens that together reach this share of the probability (nucleus
    /// sampling, arXiv:1904.09751 section 3.1). 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this many times as likely as the likeliest that is left
    /// (arXiv:2407.01082 section 3). 0 keeps all.
    pub min_p: f32,
    /// Where the stream of random numbers starts.
    pub seed: u64,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        Self {
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            history: HistorySpan::default(),
            temperature: 1.0,
            top_k: None,
            typical_p: 1.0,
            top_p: 1.0,
            min_p: 0.0,
            seed: 0,
        }
    }
}

impl SamplerOptions {
    pub(super) fn validate(&self) -> Result<(), SamplerError> {
        let Self { repetition_penalty, temperature, top_k, typical_p, top_p, min_p, .. } = *self;
        if !(repetition_penalty.is_finite() && repetition_penalty > 0.0) {
            return Err(SamplerError::RepetitionPenalty { found: repetition_penalty });
        }
        for (name, found) in
            [("presence", self.presence_penalty), ("frequency", self.frequency_penalty)]
        {
            if !(-2.0..=2.0).contains(&found) {
                return Err(SamplerError::Penalty { name, found });
            }
        }
        if !(temperature.is_finite() && temperature >= 0.0) {
            return Err(SamplerError::Temperature { found: temperature });
        }
        if top_k == Some(0) {
            return Err(SamplerError::TopK);
        }
        if !(typical_p > 0.0 && typical_p <= 1.0) {
            return Err(SamplerError::TypicalP { found: typical_p });
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(SamplerError::TopP { found: top_p });
        }
        if !(0.0..=1.0).contains(&min_p) {
            return Err(SamplerError::MinP { found: min_p });
        }
        Ok(())
    }
}
