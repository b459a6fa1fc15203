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

/// What a text must follow, read and not yet understood.
#[derive(Debug)]
pub(crate) enum Form {
    Free,
    JsonSchema(String),
    Grammar(String),
    Regex(String),
}

impl ConstraintArgs {
    /// What was asked for. Standard input can be read only once.
    pub(crate) fn read(&self) -> Result<Form, Failure> {
        let text = |file| input::file(file, input::CONSTRAINT);
        Ok(if let Some(file) = &self.json_schema {
            Form::JsonSchema(text(file)?)
        } else if let Some(file) = &self.grammar {
            Form::Grammar(text(file)?)
        } else if let Some(expression) = &self.regex {
            Form::Regex(expression.clone())
        } else {
            Form::Free
        })
    }
}

impl Form {
    /// Holds texts to it; `ends` are the tokens that end a sequence.
    pub(crate) fn constraint(
        &self,
        tokenizer: &Tokenizer,
        ends: &[u32],
    ) -> Result<Option<Constraint>, Failure> {
        let constraints = || Constraints::new(tokenizer, ends);
        Ok(match self {
            Self::Free => None,
            Self::JsonSchema(schema) => Some(constraints()?.json_schema(schema)?),
            Self::Grammar(grammar) => Some(constraints()?.grammar(grammar)?),
            Self::Regex(expression) => Some(constraints()?.regex(expression)?),
        })
    }
}
