//! The arguments of `mistral score`.

use std::path::PathBuf;

use clap::Args;
use mistral_model::KvFormat;

use super::{AdapterArgs, ComputeArgs, TokenizerArgs};

/// Tell how likely continuations of a text are
///
/// Prints one line of JSON for each request, in their order. One continuation gives its
/// log-likelihood; several are the choices of a question, of which the model takes the likeliest.
///
/// Tokens are found as EleutherAI's evaluation harness finds them: white space at the end of the
/// context is moved to the continuation, both are encoded together and cut where the tokens of
/// the context end. The harness also puts a space before each choice: --delimiter ' '.
///
/// A file holds one request a line: {"context": .., "continuation": ..} or
/// {"context": .., "choices": [..], "answer": 0}, where the answer, counted from 0, may be left
/// out. Other fields are ignored. The whole file is checked before anything is computed. At the end,
/// accuracies are shown on standard error.
///
/// What requests begin with in common is computed once, and several are computed together. No bit
/// of a result depends on that.
#[derive(Debug, Args)]
#[command(after_long_help = SCORE_EXAMPLES)]
pub(crate) struct ScoreArgs {
    /// What stands before the continuations; may be empty
    #[arg(value_name = "CONTEXT", required_unless_present = "file", requires = "continuations")]
    pub(crate) context: Option<String>,
    /// What is scored: one continuation, or several choices
    #[arg(value_name = "CONTINUATION")]
    pub(crate) continuations: Vec<String>,
    /// A file with one request a line, in JSON; - is standard input
    #[arg(long, value_name = "FILE|-", conflicts_with_all = ["context", "continuations"])]
    pub(crate) file: Option<PathBuf>,
    /// Put before each choice; does not count as part of its length
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(crate) delimiter: String,
    /// Drop tokens from the start of a context that is too long for the model, instead of refusing it
    #[arg(long)]
    pub(crate) truncate: bool,
    /// Folder or GGUF file of the model [default: the demo model]
    #[arg(long, value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) tokenizer: TokenizerArgs,
    #[command(flatten)]
    pub(crate) adapter: AdapterArgs,
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    /// Format of the cached keys and values: f32, f16, bf16 or int8
    #[arg(long, value_name = "D", default_value_t = KvFormat::F32)]
    pub(crate) kv_dtype: KvFormat,
}

const SCORE_EXAMPLES: &str = "\
Examples:
  mistral score \"Once upon\" \" a time\"
  mistral score \"The fox said:\" \" Good day\" \" Good night\" | jq .best
  mistral score --file questions.jsonl --delimiter ' ' --model Mistral-7B-v0.3 > answers.jsonl

Output for one continuation:
  log_likelihood, tokens, greedy (whether greedy decoding would write it), per_token
Output for choices:
  log_likelihoods, tokens and greedy of each; best, best_per_character, best_per_byte: the choice
  taken by likelihood, and by likelihood for each character or byte; with an answer also acc,
  acc_norm and acc_bytes: 1 where the three are right";
