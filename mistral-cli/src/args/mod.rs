//! The command line: what can be asked, and the help that explains it.

mod adapter;
mod bench;
mod chat;
mod constraint;
mod generate;
mod moderate;
mod number;
mod perplexity;
mod quantize;
mod sampling;
mod score;
mod tokenizer;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use mistral_model::{Config, KvFormat, OpenOptions, SessionOptions, WeightFormat};

pub(crate) use self::adapter::AdapterArgs;
pub(crate) use self::bench::BenchArgs;
pub(crate) use self::chat::{ChatArgs, TemplateArgs};
pub(crate) use self::constraint::{ConstraintArgs, Form};
pub(crate) use self::generate::{GenerateArgs, Speculation};
pub(crate) use self::moderate::ModerateArgs;
use self::number::{number, positive};
pub(crate) use self::perplexity::PerplexityArgs;
pub(crate) use self::quantize::QuantizeArgs;
pub(crate) use self::sampling::SamplingArgs;
pub(crate) use self::score::ScoreArgs;
pub(crate) use self::tokenizer::TokenizerArgs;
use crate::token_list::TokenList;
use crate::window_size::WindowSize;

/// Mistral models on CPUs.
///
/// Runs Mistral 7B and its variants exactly as they were trained: the sliding window, grouped
/// heads, and the same bits for any chunk size and number of threads. A small model is built in,
/// so that everything works without a download.
#[derive(Debug, Parser)]
#[command(version, after_long_help = CLI_EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// The arguments of this process.
    ///
    /// Negative numbers are values: that one is too small is for its option to say.
    pub(crate) fn read() -> Result<Self, clap::Error> {
        let mut command = Self::command().mut_subcommands(|command| {
            command.mut_args(|arg| {
                let takes_values = arg.get_action().takes_values();
                arg.allow_negative_numbers(takes_values)
            })
        });
        let mut matches = command.try_get_matches_from_mut(std::env::args_os())?;
        Self::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
    }
}

const CLI_EXAMPLES: &str = "\
Examples:
  mistral generate \"Once upon a time\"
  mistral generate \"Dear diary,\" --model Mistral-7B-v0.1 --max-tokens 500
  mistral chat --model Mistral-7B-Instruct-v0.3
  mistral inspect --preset 7b-v0.1

Exit codes:
  0  done (also: stopped with Ctrl-C while generating, or the reader of the output went away)
  1  something failed on the way, such as a file that cannot be written
  2  bad usage or bad input: options, prompts, tokens, or the files of a model";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Generate(GenerateArgs),
    Chat(ChatArgs),
    Moderate(ModerateArgs),
    Logits(LogitsArgs),
    Score(ScoreArgs),
    Perplexity(PerplexityArgs),
    Tokenize(TokenizeArgs),
    Inspect(InspectArgs),
    Quantize(QuantizeArgs),
    Bench(BenchArgs),
}

impl Command {
    /// The number of threads that was asked for.
    pub(crate) fn threads(&self) -> Option<u16> {
        match self {
            Self::Generate(args) => args.compute.threads,
            Self::Chat(args) => args.compute.threads,
            Self::Moderate(args) => args.compute.threads,
            Self::Logits(args) => args.compute.threads,
            Self::Score(args) => args.compute.threads,
            Self::Perplexity(args) => args.compute.threads,
            Self::Quantize(args) => args.threads,
            Self::Bench(args) => args.threads,
            Self::Tokenize(_) | Self::Inspect(_) => None,
        }
    }
}

/// How a model is read and run. Nothing here changes a bit of the result.
#[derive(Debug, Args)]
pub(crate) struct ComputeArgs {
    /// Threads to compute with [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Most prompt tokens that pass through the layers together
    ///
    /// More is faster and takes more memory, up to a point. The result is the same.
    #[arg(long, value_name = "N", default_value = "512", value_parser = positive)]
    pub(crate) chunk: NonZeroUsize,
    #[command(flatten)]
    pub(crate) open: OpenArgs,
}

/// How the files of a model are read.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct OpenArgs {
    /// Round the weights to this format while they are read [default: as they are in the files]
    ///
    /// f32, f16, bf16, bf16xbf16, q8_0, w8a8, q6_k, q5_k, q5_0, q4_k, q4_0 or w4a8. Below 8 bits,
    /// the embedding and the output matrix get more: q6_k, or q8_0 beside q5_0 and q4_0. bf16xbf16
    /// is bf16 whose inputs are rounded to bf16 too, and w8a8 has 8 bits whose inputs are rounded
    /// to 8: prompts are read about twice as fast as with bf16 and q8_0 where the CPU multiplies
    /// such numbers (AVX-512 with BF16, with VNNI). w4a8 has 4 bits for such CPUs.
    #[arg(long, value_name = "FORMAT")]
    pub(crate) weights: Option<WeightFormat>,
    /// The sliding window in tokens, the current one included, or none [default: what the files say]
    #[arg(long, value_name = "W|none")]
    pub(crate) window: Option<WindowSize>,
    /// Read the weights through a memory map
    ///
    /// Weights that `mistral quantize` wrote are then computed with where they lie, without a copy;
    /// others save one copy while loading. Nobody may write or shorten the files meanwhile: weights
    /// would change, or the operating system would end the program.
    #[arg(long)]
    pub(crate) mmap: bool,
}

impl OpenArgs {
    pub(crate) fn options(self) -> OpenOptions {
        let options = OpenOptions::new().mmap(self.mmap);
        let options = match self.weights {
            Some(format) => options.weights(format),
            None => options,
        };
        match self.window {
            Some(window) => options.window(window.0),
            None => options,
        }
    }
}

impl ComputeArgs {
    /// Options for a sequence that starts with `tokens` tokens.
    pub(crate) fn session(&self, kv_dtype: KvFormat, tokens: usize) -> SessionOptions {
        // A chunk longer than the prompt would only take memory.
        SessionOptions {
            kv_dtype,
            max_chunk: self.chunk.get().min(tokens.max(1)),
            ..Default::default()
        }
    }
}

/// Write the logits of every position to a file
///
/// For comparing with another engine: token ids go in, and a safetensors file comes out that holds
/// one tensor, logits, of shape (tokens, vocabulary), in f32.
///
/// The file appears when it is complete. After an error or Ctrl-C there is none.
#[derive(Debug, Args)]
#[command(after_long_help = LOGITS_EXAMPLES)]
pub(crate) struct LogitsArgs {
    /// Folder of the model [default: the demo model]
    #[arg(long, value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) adapter: AdapterArgs,
    #[command(flatten)]
    pub(crate) tokens: TokensArgs,
    /// The file to write
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    /// Format of the cached keys and values: f32, f16, bf16 or int8
    #[arg(long, value_name = "D", default_value_t = KvFormat::F32)]
    pub(crate) kv_dtype: KvFormat,
}

/// Token ids, from one of two places.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct TokensArgs {
    /// The ids, as in 1,422,9
    #[arg(long, value_name = "IDS")]
    pub(crate) tokens: Option<TokenList>,
    /// A file with the ids, separated by commas or white space; - is standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) tokens_file: Option<PathBuf>,
}

const LOGITS_EXAMPLES: &str = "\
Examples:
  mistral logits --tokens 1,5,9 --out logits.safetensors
  mistral tokenize \"A fox\" | cut -f1 | mistral logits --tokens-file - --out logits.safetensors
  python3 -c 'from safetensors.numpy import load_file
  print(load_file(\"logits.safetensors\")[\"logits\"].argmax(-1))'";

/// Show the tokens of a text
///
/// Prints one token a line: its id, a tab, and the piece as the vocabulary writes it. A space is
/// written as U+2581 in pieces, and a byte without a piece of its own as <0x0A>.
#[derive(Debug, Args)]
#[command(after_long_help = TOKENIZE_EXAMPLES)]
pub(crate) struct TokenizeArgs {
    /// The text; - reads it from standard input, less one line break at its very end
    #[arg(value_name = "TEXT|-", default_value = "-", hide_default_value = true)]
    pub(crate) text: String,
    /// Folder of the model, or its tokenizer file [default: the demo model]
    #[arg(long, value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) tokenizer: TokenizerArgs,
    /// Print one JSON object: text, ids and pieces
    #[arg(long)]
    pub(crate) json: bool,
}

const TOKENIZE_EXAMPLES: &str = "\
Examples:
  mistral tokenize \"Once upon a time\"
  mistral tokenize --json --model Mistral-7B-v0.1 < letter.txt
  mistral tokenize < letter.txt | wc -l";

/// Show what a model is, and what it needs
///
/// Prints the configuration, the tensors with their place in the files, the bytes that weights and
/// cache will take, and whether they fit into the memory that is free now. No weight is read.
///
/// The forward pass needs some memory on top: for a 7B model and chunks of 512 about 0.1 GB.
#[derive(Debug, Args)]
#[command(after_long_help = INSPECT_EXAMPLES)]
pub(crate) struct InspectArgs {
    /// Folder of the model [default: the demo model]
    #[arg(long, value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
    /// A published model, of which no file is needed; without --weights they count as bf16
    #[arg(long, value_name = "NAME", conflicts_with = "model")]
    pub(crate) preset: Option<Preset>,
    /// Tokens that the cache is to hold [default: the longest context of the model]
    #[arg(long, value_name = "N", value_parser = number)]
    pub(crate) length: Option<usize>,
    /// Format of the cached keys and values: f32, f16, bf16 or int8
    #[arg(long, value_name = "D", default_value_t = KvFormat::F16)]
    pub(crate) kv_dtype: KvFormat,
    /// Most prompt tokens that pass through the layers together: the cache has room for them beside
    #[arg(long, value_name = "N", default_value = "512", value_parser = positive)]
    pub(crate) chunk: NonZeroUsize,
    /// First tokens that the cache is to keep beside the window, as with generate --sinks
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = number)]
    pub(crate) sinks: usize,
    #[command(flatten)]
    pub(crate) open: OpenArgs,
    /// Print one JSON object: configuration, tensors and memory
    #[arg(long)]
    pub(crate) json: bool,
}

const INSPECT_EXAMPLES: &str = "\
Examples:
  mistral inspect
  mistral inspect --preset 7b-v0.1 --length 100000 --weights q4_k
  mistral inspect --model Mistral-7B-v0.3 --kv-dtype f32 --json | jq .memory";

/// The published 7B models.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Preset {
    /// Window of 4096 tokens
    #[value(name = "7b-v0.1")]
    V01,
    /// No window, context of 32768 tokens
    #[value(name = "7b-v0.2")]
    V02,
    /// As v0.2, with a vocabulary of 32768
    #[value(name = "7b-v0.3")]
    V03,
}

impl Preset {
    pub(crate) fn config(self) -> Config {
        match self {
            Self::V01 => Config::mistral_7b_v01(),
            Self::V02 => Config::mistral_7b_v02(),
            Self::V03 => Config::mistral_7b_v03(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Cli::command().debug_assert();
    }
}
