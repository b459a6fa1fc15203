//! What a text must follow.

use std::path::PathBuf;

use clap::Args;
use mistral_model::Tokenizer;
use mistral_model::generate::{Constraint, Constraints};

use crate::failure::Failure;
use crate::input;

/// At most one of three ways to hold a text to a form.
#[derive(Debug, Args)]
#[group(multiple = false, conflicts_with = "ignore_eos")]
pub(crate) struct ConstraintArgs {
    /// Write JSON that follows the JSON schema in this file; - is standard input
    ///
    /// One line, properties in the order of the schema. It is complete unless the text is cut off
    /// by --max-tokens, --stop or a full context.
    #[arg(long, value_name = "FILE|-")]
    json_schema: Option<PathBuf>,
    /// Write text that follows the Lark grammar in this file; - is standard input
    #[arg(long, value_name = "FILE|-")]
    grammar: Option<PathBuf>,
    /// Write text that this regular expression matches as a whole
    #[arg(long, value_name = "EXPRESSION", allow_hyphen_values = true)]
    regex: Option<String>,
}

impl ConstraintArgs {
    /// The constraint that was asked for; `ends` are the tokens that end a sequence.
    pub(crate) fn read(
        &self,
        tokenizer: &Tokenizer,
        ends: &[u32],
    ) -> Result<Option<Constraint>, Failure> {
        let constraints = || Constraints::new(tokenizer, ends);
        Ok(if let Some(file) = &self.json_schema {
            Some(constraints()?.json_schema(&input::file(file)?)?)
        } else if let Some(file) = &self.grammar {
            Some(constraints()?.grammar(&input::file(file)?)?)
        } else if let Some(expression) = &self.regex {
            Some(constraints()?.regex(expression)?)
        } else {
            None
        })
    }
}
