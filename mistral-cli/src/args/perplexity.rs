//! The arguments of `mistral perplexity`.

use std::path::PathBuf;

use clap::Args;
use mistral_model::score::Reading;
use mistral_model::{Config, KvFormat};

use super::number::number;
use super::{AdapterArgs, ComputeArgs, TokenizerArgs};

/// Measure how well a model predicts a text
///
/// Prints perplexity, bits per token and bits per byte. Every token is scored once, but for the
/// first, which is the start of the sequence if the model has one.
///
/// A model with a sliding window reads the text as one stream, however long it is. A model without
/// one reads it in overlapping windows, each on its own: --context is their length, --stride how far
/// each begins behind the one before it. A token is then predicted from at least
/// context - stride others, apart from those in the first window.
///
/// Memory does not depend on the length of the file, but for 4 bytes a token. The figures are the same for every --chunk
/// and every number of --threads, to the last bit.
#[derive(Debug, Args)]
#[command(after_long_help = PERPLEXITY_EXAMPLES)]
pub(crate) struct PerplexityArgs {
    /// The file with the text, in UTF-8; - is standard input
    #[arg(value_name = "FILE|-")]
    pub(crate) file: PathBuf,
    /// Folder or GGUF file of the model [default: the demo model]
    #[arg(long, value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) tokenizer: TokenizerArgs,
    #[command(flatten)]
    pub(crate) adapter: AdapterArgs,
    /// Tokens of a window [default: the longest that the model takes]
    #[arg(long, value_name = "N", value_parser = number)]
    context: Option<usize>,
    /// Tokens from the start of a window to the start of the next [default: half of a window]
    #[arg(long, value_name = "N", value_parser = number)]
    stride: Option<usize>,
    /// Read the text as one sequence [default for a model with a sliding window]
    #[arg(long, conflicts_with_all = ["context", "stride"])]
    stream: bool,
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    /// Format of the cached keys and values: f32, f16, bf16 or int8
    #[arg(long, value_name = "D", default_value_t = KvFormat::F32)]
    pub(crate) kv_dtype: KvFormat,
    /// Print one JSON object
    ///
    /// Fields: nll (in nats), tokens (those scored), bytes, perplexity, bits_per_token,
    /// bits_per_byte, context and stride (null for a stream).
    #[arg(long)]
    pub(crate) json: bool,
}

impl PerplexityArgs {
    /// How a model reads the text.
    pub(crate) fn reading(&self, config: &Config) -> Reading {
        let asked = self.context.is_some() || self.stride.is_some();
        if self.stream || (config.window.size().is_some() && !asked) {
            return Reading::Stream;
        }
        // The last token of a window is predicted and not read.
        let context = self.context.unwrap_or(config.context_len.saturating_add(1));
        Reading::Windows { context, stride: self.stride.unwrap_or(context / 2) }
    }
}

const PERPLEXITY_EXAMPLES: &str = "\
Examples:
  mistral perplexity book.txt
  mistral perplexity book.txt --context 1024 --stride 512
  mistral perplexity - --model Mistral-7B-v0.3 --weights q4_k --json < book.txt";
