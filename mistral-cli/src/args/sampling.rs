//! How a token is drawn.

use std::num::NonZeroUsize;

use clap::Args;
use mistral_model::generate::{HistorySpan, LogitBias, SamplerError};
use mistral_model::{Sampler, SamplerOptions};

use super::number::{positive, seed};
use crate::token_bias::TokenBias;

/// The steps from logits to a token, in their order.
#[derive(Debug, Args)]
pub(crate) struct SamplingArgs {
    /// Divide what speaks for tokens that were there already by R; 1 is no penalty
    #[arg(long, value_name = "R", default_value_t = 1.0)]
    repetition_penalty: f32,
    /// Subtract A from the logits of tokens that were there already (-2 to 2)
    #[arg(long, value_name = "A", default_value_t = 0.0)]
    presence_penalty: f32,
    /// Subtract A from the logits of tokens for each time that they were there (-2 to 2)
    #[arg(long, value_name = "A", default_value_t = 0.0)]
    frequency_penalty: f32,
    /// Penalise the last N tokens only [default: all of prompt and text]
    #[arg(long, value_name = "N", value_parser = positive)]
    penalty_last: Option<NonZeroUsize>,
    /// Add V to the logit of a token; -inf forbids it; may be given several times
    #[arg(long, value_name = "ID=V")]
    logit_bias: Vec<TokenBias>,
    /// Below 1 is plainer, above 1 is wilder, 0 always takes the likeliest token
    #[arg(long, value_name = "T", default_value_t = 0.8)]
    temperature: f32,
    /// Draw from the K likeliest tokens [default: from all]
    #[arg(long, value_name = "K", value_parser = positive)]
    top_k: Option<NonZeroUsize>,
    /// Draw from the fewest tokens, about as surprising as expected, with this share (0 to 1)
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    typical: f32,
    /// Draw from the fewest likeliest tokens that have this share of the probability (0 to 1)
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    top_p: f32,
    /// Drop tokens less than P times as likely as the likeliest (0 to 1)
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    min_p: f32,
    /// Where the random numbers start: another seed, another text
    #[arg(long, value_name = "S", default_value_t = 0, value_parser = seed)]
    pub(crate) seed: u64,
}

impl SamplingArgs {
    /// A sampler with its biases, which has seen nothing so far.
    pub(crate) fn sampler(&self) -> Result<Sampler, SamplerError> {
        self.sampler_with(self.options())
    }

    /// As [`sampler`](Self::sampler), with other options.
    pub(crate) fn sampler_with(&self, options: SamplerOptions) -> Result<Sampler, SamplerError> {
        let sampler = Sampler::new(options)?;
        if self.logit_bias.is_empty() {
            return Ok(sampler);
        }
        let biases = self.logit_bias.iter().map(|bias| (bias.token, bias.bias));
        Ok(sampler.with_filter(LogitBias::new(biases)?))
    }

    pub(crate) fn options(&self) -> SamplerOptions {
        SamplerOptions {
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            history: self.penalty_last.map_or(HistorySpan::PromptAndOutput, HistorySpan::Last),
            temperature: self.temperature,
            top_k: self.top_k.map(NonZeroUsize::get),
            typical_p: self.typical,
            top_p: self.top_p,
            min_p: self.min_p,
            seed: self.seed,
        }
    }

    /// The tokens that biases speak of.
    pub(crate) fn biased(&self) -> impl Iterator<Item = u32> {
        self.logit_bias.iter().map(|bias| bias.token)
    }
}
