//! Answers that cannot be read.

use crate::chat::json::{JsonError, JsonProblem};
use crate::tokenizer::TokenizerError;

/// An answer that cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// A token that the vocabulary lacks.
    #[error("a token of the answer cannot be decoded: does the tokenizer belong to the model?")]
    Token {
        /// Which.
        #[from]
        source: TokenizerError,
    },
    /// Calls that are none.
    #[error("the model's tool calls are malformed")]
    Call {
        /// What, and where.
        #[from]
        source: CallError,
    },
}

/// Calls that are none, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("in call {call}, at byte {offset} of the calls: {problem}")]
#[non_exhaustive]
pub struct CallError {
    /// Which call, from 0.
    pub call: usize,
    /// Where, in bytes behind `[TOOL_CALLS]`; of what is wrong with a whole call, where it begins.
    pub offset: usize,
    /// What.
    pub problem: CallProblem,
}

/// What can be wrong with calls.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallProblem {
    /// Not the brackets and commas of a list of objects.
    #[error("found {found:?}, expected {expected}")]
    Unexpected {
        /// Found.
        found: char,
        /// Expected.
        expected: &'static str,
    },
    /// The answer is over too soon.
    #[error("the answer ends, expected {expected}")]
    Unfinished {
        /// Expected.
        expected: &'static str,
    },
    /// No JSON.
    #[error("{problem}")]
    Json {
        /// Why not.
        problem: JsonProblem,
    },
    /// A field is missing or of the wrong kind.
    #[error("{field} is {found}, expected {expected}")]
    Field {
        /// The field.
        field: &'static str,
        /// Found.
        found: String,
        /// Expected.
        expected: &'static str,
    },
}

impl CallError {
    /// What is wrong with the JSON of a call that begins at `start`.
    pub(super) fn json(call: usize, start: usize, error: JsonError) -> Self {
        let problem = CallProblem::Json { problem: error.problem };
        Self { call, offset: start + error.offset, problem }
    }
}
