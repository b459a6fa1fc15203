//! The arguments of `mistral bench`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;
use mistral_model::{KvFormat, WeightFormat};

use super::number::{count, number_to, positive};
use crate::window_size::WindowSize;

/// Measure speed and memory beside this machine's own limits
///
/// Without --model the weights are random: speed does not depend on them. In the same run it is
/// measured what the machine can read and compute at most; every figure is printed with its share.
///
/// Prefill is the time for --prompt tokens behind --depth others, of the whole model with the logits
/// of the last. Decode is the time of one token after it. Figures are medians, with the least and
/// the most beside them. What would not fit into the memory that is free is refused.
#[derive(Debug, Args)]
#[command(after_long_help = BENCH_EXAMPLES)]
pub(crate) struct BenchArgs {
    /// The sizes: 7b-v0.1, 7b-v0.2, 7b-v0.3, or a config.json or params.json
    #[arg(long, value_name = "NAME|CONFIG", default_value = "7b-v0.1", conflicts_with = "model")]
    pub(crate) shape: String,
    /// Layers, of the many or few that the shape has
    #[arg(long, value_name = "N", value_parser = positive, conflicts_with = "model")]
    pub(crate) layers: Option<NonZeroUsize>,
    /// Folder or GGUF file of a model to measure instead of random weights
    #[arg(long, value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
    /// Format of the weights; several make a table [default: q8_0, or as in the files]
    #[arg(long, value_name = "FORMAT", value_delimiter = ',')]
    pub(crate) weights: Vec<WeightFormat>,
    /// Format of the cached keys and values: f32, f16, bf16 or int8
    #[arg(long, value_name = "D", default_value_t = KvFormat::F16)]
    pub(crate) kv_dtype: KvFormat,
    /// The sliding window in tokens, the current one included, or none [default: that of the model]
    #[arg(long, value_name = "W|none")]
    pub(crate) window: Option<WindowSize>,
    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value = "512", value_parser = count::<MOST>)]
    pub(crate) prompt: NonZeroUsize,
    /// Tokens to decode
    #[arg(long = "gen", value_name = "N", default_value = "32", value_parser = count::<MOST>)]
    pub(crate) generated: NonZeroUsize,
    /// Tokens that are in the cache before
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = number_to::<MOST>)]
    pub(crate) depth: usize,
    /// Sequences that are decoded together
    #[arg(long, value_name = "N", default_value = "1", value_parser = count::<1024>)]
    pub(crate) batch: NonZeroUsize,
    /// Most prompt tokens that pass through the layers together
    #[arg(long, value_name = "N", default_value = "512", value_parser = count::<MOST>)]
    pub(crate) chunk: NonZeroUsize,
    /// Threads to compute with [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// How often everything is measured
    #[arg(long, value_name = "N", default_value = "3", value_parser = count::<MOST>)]
    pub(crate) repeat: NonZeroUsize,
    /// Read the weights of --model through a memory map
    #[arg(long, requires = "model")]
    pub(crate) mmap: bool,
    /// Print one JSON object, for one format
    ///
    /// Fields: prefill_tokens_per_second, decode_tokens_per_second, decode_gb_per_second,
    /// prefill_gops_per_second, each with _min and _max beside it; read_gb_per_second, f32_gflops,
    /// bf16_gflops, int8_gops, int16_gops; weight_bytes, kv_bytes, peak_rss_bytes, load_seconds; and
    /// the settings, among them window (null: none), chunk, mmap, and simd, the level of instructions.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Most tokens or rounds that are taken for meant: sums and products of a few stay in range.
const MOST: usize = 1 << 24;

const BENCH_EXAMPLES: &str = "\
Examples:
  mistral bench
  mistral bench --weights bf16,q8_0,q4_k --layers 4
  mistral bench --weights q4_k --prompt 2048 --depth 4096 --json
  mistral bench --model Mistral-7B-v0.3-q4_k --mmap --batch 8";
