//! What `mistral chat` can be asked.

use std::path::PathBuf;

use clap::Args;
use mistral_model::KvFormat;

use super::number::number;
use super::{AdapterArgs, ComputeArgs, SamplingArgs, TokenizerArgs};
use crate::template::TemplateName;

/// Talk with a model
///
/// Reads a line, shows the answer as the model writes it, and reads the next. At a terminal lines
/// can be edited, and the arrow keys bring back earlier ones; otherwise each line of standard input
/// is a message, and nothing but the answers is printed.
///
/// Lines that begin with / are commands: /help lists them. Ctrl-C stops the answer, not the program;
/// what was said of it stays in the conversation. Ctrl-D or /quit ends the program. Where lines come
/// from no terminal, Ctrl-C ends it while it waits for one.
///
/// Tools that a loaded conversation offers may be called: calls are shown as JSON, and /result TEXT
/// answers them one by one.
///
/// What is typed is always text: nothing in it steers the model, however it is spelled.
#[derive(Debug, Args)]
#[command(after_long_help = CHAT_EXAMPLES)]
pub(crate) struct ChatArgs {
    /// Folder or GGUF file of the model [default: the demo model, which was trained on tales alone]
    #[arg(long, value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) tokenizer: TokenizerArgs,
    #[command(flatten)]
    pub(crate) adapter: AdapterArgs,
    #[command(flatten)]
    pub(crate) template: TemplateArgs,
    /// Instructions for the model
    #[arg(long, value_name = "TEXT", conflicts_with = "load")]
    pub(crate) system: Option<String>,
    /// Put the guardrail of Mistral's paper before all instructions, also those of a loaded conversation
    ///
    /// "Always assist with care, respect, and truth. Respond with utmost utility yet securely. Avoid
    /// harmful, unethical, prejudiced, or negative content. Ensure replies promote fairness and
    /// positivity."
    #[arg(long)]
    pub(crate) guardrail: bool,
    /// Go on with a conversation that /save has written
    #[arg(long, value_name = "FILE")]
    pub(crate) load: Option<PathBuf>,
    /// Keep the lines typed at a terminal in this file, and bring back those in it
    ///
    /// The last 1000 are kept. A file of anything else is refused.
    #[arg(long, value_name = "FILE")]
    pub(crate) history: Option<PathBuf>,
    /// Most tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = number)]
    pub(crate) max_tokens: usize,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    /// End an answer before this text; may be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) stop: Vec<String>,
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    /// Format of the cached keys and values: f32, f16, bf16 or int8
    #[arg(long, value_name = "D", default_value_t = KvFormat::F16)]
    pub(crate) kv_dtype: KvFormat,
}

/// How a conversation becomes tokens.
#[derive(Debug, Args)]
pub(crate) struct TemplateArgs {
    /// How the model was trained to read conversations [default: as its files tell]
    ///
    /// v1 for Mistral 7B Instruct v0.1 and v0.2, v3-7b for v0.3, v2 and v3 for others of Mistral's;
    /// jinja for the chat_template in a folder of Hugging Face's kind; plain for a model that was not
    /// trained for conversations, such as the demo model: User: and Assistant: as text.
    ///
    /// A chat_template is a program. Its steps and its output are limited, the memory that it takes
    /// is not: run those of strangers under a limit of the system's, such as ulimit -v.
    #[arg(long, value_name = "NAME")]
    pub(crate) template: Option<TemplateName>,
}

const CHAT_EXAMPLES: &str = "\
Examples:
  mistral chat --model Mistral-7B-Instruct-v0.3
  mistral chat --model Mistral-7B-Instruct-v0.2 --guardrail --temperature 0.3
  echo \"Who lived in the wood?\" | mistral chat --max-tokens 40";
