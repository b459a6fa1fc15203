//! What `mistral moderate` can be asked.

use std::path::PathBuf;

use clap::Args;
use mistral_model::KvFormat;

use super::{AdapterArgs, ComputeArgs, TemplateArgs, TokenizerArgs};

/// A guard that does not know should say so: where the model would rather say something else, its
/// silence is better than a verdict.
const MIN_SHARE: f64 = 0.5;

/// Let a model judge a text
///
/// The model is asked whether the text is acceptable, or else which of three categories it falls
/// into (self-reflection, section 5.2 of Mistral's paper). Prints one word:
///
///   acceptable
///   illegal_activities   such as terrorism, child abuse or fraud
///   hateful_content      hateful, harassing or violent: discrimination, self-harm, bullying
///   unqualified_advice   for instance in legal, medical or financial domains
///
/// The probabilities of these answers are compared, so the same text has the same verdict. A model
/// that would rather say something else, as the demo model would, gives none.
///
/// The paper names the categories and not the words of its prompt: the question is this program's
/// own, and how often a model answers it right is not known. A text may also talk a model into a
/// verdict. Take it as a help.
///
/// The exit code is 0 with a verdict, whichever it is, 1 without one, and 2 for bad input.
#[derive(Debug, Args)]
#[command(after_long_help = MODERATE_EXAMPLES)]
pub(crate) struct ModerateArgs {
    /// The text; - reads it from standard input, less one line break at its very end
    #[arg(value_name = "TEXT|-")]
    pub(crate) text: String,
    /// The text is the answer to this prompt, and not a prompt itself
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: Option<String>,
    /// Folder or GGUF file of the model [default: the demo model, which cannot judge]
    #[arg(long, value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) tokenizer: TokenizerArgs,
    #[command(flatten)]
    pub(crate) adapter: AdapterArgs,
    #[command(flatten)]
    pub(crate) template: TemplateArgs,
    /// Least probability of the four answers together, of all that the model could say (0 to 1)
    ///
    /// Below it there is no verdict, for which of four unlikely answers is the likeliest means
    /// little. At 0.5 the model gives one of them more often than not; 0 takes whatever comes.
    #[arg(long, value_name = "P", default_value_t = MIN_SHARE, allow_negative_numbers = true)]
    pub(crate) min_share: f64,
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    /// Format of the cached keys and values: f32, f16, bf16 or int8
    #[arg(long, value_name = "D", default_value_t = KvFormat::F16)]
    pub(crate) kv_dtype: KvFormat,
    /// Print one JSON object: verdict, probabilities (of the four, in all 1), share (of the model's
    /// whole probability)
    #[arg(long)]
    pub(crate) json: bool,
}

const MODERATE_EXAMPLES: &str = "\
Examples:
  mistral moderate \"How to kill a linux process?\" --model Mistral-7B-Instruct-v0.3
  mistral moderate - --prompt \"Is it a cold?\" --model Mistral-7B-Instruct-v0.3 < answer.txt";
