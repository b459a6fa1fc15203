//! What can be asked of `mistral generate`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;
use mistral_model::KvFormat;

use super::number::{count, number};
use super::{AdapterArgs, ComputeArgs, ConstraintArgs, SamplingArgs, TokenizerArgs};

/// Continue a text
///
/// Prints the prompt and goes on with it, piece by piece as the model writes. Without --model the
/// built-in demo model writes: small, and fond of tales.
///
/// Each token is drawn after penalties, bias, constraint, temperature, top-k, typical, top-p and
/// min-p, in this order. The same seed and options give the same text, whatever --threads and
/// --chunk say.
///
/// Ctrl-C ends the text after the token under way.
#[derive(Debug, Args)]
#[command(after_long_help = GENERATE_EXAMPLES)]
pub(crate) struct GenerateArgs {
    /// The text to go on with; - reads it from standard input
    ///
    /// One line break at the very end of standard input is dropped. Without the argument the model
    /// starts a text of its own; an empty prompt is refused.
    #[arg(value_name = "PROMPT|-")]
    pub(crate) prompt: Option<String>,
    /// Folder or GGUF file of the model [default: the demo model]
    ///
    /// A folder holds a tokenizer (tokenizer.model or tokenizer.json) and config.json with
    /// model.safetensors (or shards with an index), or params.json with consolidated.safetensors.
    #[arg(long, value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) tokenizer: TokenizerArgs,
    #[command(flatten)]
    pub(crate) adapter: AdapterArgs,
    /// Most tokens to write
    ///
    /// A model without a sliding window stops earlier if its context is full.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = number)]
    pub(crate) max_tokens: usize,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) constraint: ConstraintArgs,
    /// End before this text; may be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) stop: Vec<String>,
    /// End before the token of this id; may be given several times
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u32).range(0..))]
    pub(crate) stop_token: Vec<u32>,
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    /// Format of the cached keys and values: f32, f16, bf16 or int8
    #[arg(long, value_name = "D", default_value_t = KvFormat::F16)]
    pub(crate) kv_dtype: KvFormat,
    /// Keep the first N tokens in sight of all later ones, beside the window (StreamingLLM)
    ///
    /// Texts much longer than the window stay sound with 4. No effect without a window.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = number)]
    pub(crate) sinks: usize,
    /// Go on behind the token that ends a text
    #[arg(long)]
    pub(crate) ignore_eos: bool,
    /// Guess the next tokens, and check several in one pass: faster where a text repeats itself
    ///
    /// Guesses come from the text so far (lookup), or from a smaller model with the same vocabulary.
    /// The text is the same, with any sampling.
    #[arg(long, value_name = "lookup|DIR", conflicts_with = "logprobs")]
    pub(crate) speculate: Option<Speculation>,
    /// Answer each line of a JSON Lines file, many at a time; - is standard input
    ///
    /// A line is an object with a prompt, and perhaps id, max_tokens, temperature, top_k, top_p,
    /// min_p, seed and stop (a list), which go before the options. Its text is the one that it gets
    /// alone.
    #[arg(
        long,
        value_name = "FILE",
        requires = "out",
        conflicts_with_all = ["prompt", "json", "speculate", "logprobs"]
    )]
    pub(crate) batch: Option<PathBuf>,
    /// Where the answers to --batch go: one line for each, in the same order
    ///
    /// A line has index, digest, id and prompt, text, prompt_tokens, generated_tokens, stop_reason,
    /// stop_string and seed; or error. It is on disk before the next one is written. The same command
    /// goes on behind the last whole line, whatever has ended it; a file that is not of this batch,
    /// with these options and this model, is refused.
    #[arg(long, value_name = "FILE", requires = "batch")]
    pub(crate) out: Option<PathBuf>,
    /// Most lines of --batch that are answered together
    ///
    /// Answers wait until all lines before theirs are written: so no line is begun that is more than
    /// 64 times N behind the first one that is not.
    #[arg(long, value_name = "N", default_value = "8", value_parser = count::<1024>, requires = "batch")]
    pub(crate) parallel: NonZeroUsize,
    /// Print each token written with its log-probability and the N likeliest, instead of the text
    ///
    /// One JSON object a line: token, piece, logprob, and top, a list of the same three. They are
    /// the model's own, before penalties, temperature and all that follows. With --json they become
    /// the field logprobs of its object.
    #[arg(long, value_name = "N", value_parser = number)]
    pub(crate) logprobs: Option<usize>,
    /// The same for the tokens of the prompt, which come first (with --json: prompt_logprobs)
    ///
    /// The first token of all has nothing before it: its logprob is null.
    #[arg(long, requires = "logprobs")]
    pub(crate) prompt_logprobs: bool,
    /// Print one JSON object at the end instead of the text
    ///
    /// Fields: prompt, text (what was written), prompt_tokens, generated_tokens, stop_reason
    /// (end_of_sequence, stop_string, stop_token, max_tokens, context_full or interrupted),
    /// stop_string, seed, prefill_tokens_per_second, decode_tokens_per_second.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where guesses come from.
#[derive(Debug, Clone)]
pub(crate) enum Speculation {
    /// The text so far.
    Lookup,
    /// The model in this folder.
    Model(PathBuf),
}

impl From<&str> for Speculation {
    fn from(argument: &str) -> Self {
        if argument == "lookup" { Self::Lookup } else { Self::Model(argument.into()) }
    }
}

const GENERATE_EXAMPLES: &str = "\
Examples:
  mistral generate \"Once upon a time\"
  mistral generate \"Once upon a time\" --temperature 0 --max-tokens 40
  mistral generate \"The fox said\" --presence-penalty 0.5 --logprobs 3
  mistral generate \"A person as JSON: \" --json-schema person.json
  mistral generate --seed 7 --stop \"The end\"
  mistral generate - --model Mistral-7B-v0.3 < letter.txt
  mistral generate \"SELECT\" --model Mistral-7B-v0.1 --adapter mistral-7b-sql-lora
  mistral generate - --speculate lookup < code.rs
  mistral generate --batch prompts.jsonl --out answers.jsonl --max-tokens 100
  mistral generate \"A fox\" --json | jq .decode_tokens_per_second";
