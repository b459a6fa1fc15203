//! How a token is drawn.

use std::num::NonZeroUsize;

use clap::Args;
use mistral_model::generate::SamplerError;
use mistral_model::{Sampler, SamplerOptions};

/// The steps from logits to a token, in their order.
#[derive(Debug, Args)]
pub(crate) struct SamplingArgs {
    /// Below 1 is plainer, above 1 is wilder, 0 always takes the likeliest token
    #[arg(long, value_name = "T", default_value_t = 0.8, allow_negative_numbers = true)]
    temperature: f32,
    /// Draw from the K likeliest tokens [default: from all]
    #[arg(long, value_name = "K")]
    top_k: Option<NonZeroUsize>,
    /// Draw from the fewest likeliest tokens that have this share of the probability (0 to 1)
    #[arg(long, value_name = "P", default_value_t = 0.95, allow_negative_numbers = true)]
    top_p: f32,
    /// Drop tokens less than P times as likely as the likeliest (0 to 1)
    #[arg(long, value_name = "P", default_value_t = 0.0, allow_negative_numbers = true)]
    min_p: f32,
    /// Where the random numbers start: another seed, another text
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
}

impl SamplingArgs {
    /// A sampler at the start of its random numbers.
    pub(crate) fn sampler(&self) -> Result<Sampler, SamplerError> {
        Sampler::new(SamplerOptions {
            temperature: self.temperature,
            top_k: self.top_k.map(NonZeroUsize::get),
            top_p: self.top_p,
            min_p: self.min_p,
            seed: self.seed,
        })
    }
}
