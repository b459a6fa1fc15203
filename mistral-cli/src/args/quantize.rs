//! The arguments of `mistral quantize`.

use std::path::PathBuf;

use clap::Args;
use mistral_model::{WeightFormat, WeightFormats};

use super::AdapterArgs;
use crate::window_size::WindowSize;

/// Write a model in another format, ready to be computed with
///
/// Reads a model tensor by tensor, rounds its weights and writes a folder with config.json,
/// model.safetensors and the tokenizer. The weights are in the layout that the kernels read: they
/// open at once, and with --mmap without a copy. Memory in use is the largest matrix.
///
/// With --adapter, what the adapter adds is merged into the weights before they are rounded. Merge
/// into the original weights, for those that were rounded already are rounded a second time.
///
/// The layout belongs to this version of the program: keep the original weights.
///
/// The folder appears when it is complete. After an error or Ctrl-C there is none.
#[derive(Debug, Args)]
#[command(after_long_help = QUANTIZE_EXAMPLES)]
pub(crate) struct QuantizeArgs {
    /// Folder or GGUF file of the model
    #[arg(value_name = "IN")]
    pub(crate) input: PathBuf,
    /// The folder to write, which must not be there yet
    #[arg(value_name = "OUT")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) adapter: AdapterArgs,
    /// Format of the weights: f32, f16, bf16, bf16xbf16, q8_0, w8a8, q6_k, q5_k, q5_0, q4_k, q4_0 or
    /// w4a8
    #[arg(long, value_name = "FORMAT")]
    weights: WeightFormat,
    /// Format of the embedding [default: the same, or q6_k or q8_0 below 8 bits]
    #[arg(long, value_name = "FORMAT")]
    embedding: Option<WeightFormat>,
    /// Format of the output matrix [default: the same, or q6_k or q8_0 below 8 bits]
    #[arg(long, value_name = "FORMAT")]
    output: Option<WeightFormat>,
    /// The sliding window in tokens, or none [default: what the files say]
    #[arg(long, value_name = "W|none")]
    pub(crate) window: Option<WindowSize>,
    /// Threads to compute with [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
}

impl QuantizeArgs {
    /// The format of each kind of matrix.
    pub(crate) fn formats(&self) -> WeightFormats {
        let mix = WeightFormats::from(self.weights);
        WeightFormats {
            embedding: self.embedding.unwrap_or(mix.embedding),
            output: self.output.unwrap_or(mix.output),
            ..mix
        }
    }
}

const QUANTIZE_EXAMPLES: &str = "\
Examples:
  mistral quantize Mistral-7B-v0.3 Mistral-7B-v0.3-q4_k --weights q4_k
  mistral quantize mistral-7b-v0.1.Q8_0.gguf Mistral-7B-v0.1-q8_0 --weights q8_0 --window 4096
  mistral quantize Mistral-7B-v0.1 Mistral-7B-sql --weights bf16 --adapter mistral-7b-sql-lora
  mistral generate \"A fox\" --model Mistral-7B-v0.3-q4_k --mmap";
