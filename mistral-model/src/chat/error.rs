//! Why a conversation cannot be given to a model.

use super::json::JsonError;
use super::message::{PartKind, Role};
use crate::tokenizer::TokenizerError;

/// A request that is no conversation of Mistral's, or that a template cannot write.
///
/// [`class`](Self::class) is the name of the exception that mistral-common raises for the same
/// request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// The request is no JSON.
    #[error("the request is no JSON that can be used")]
    Json {
        /// Where and why.
        #[from]
        source: JsonError,
    },
    /// A field of the wrong kind, missing, or unknown.
    #[error("{at} is {found}, expected {expected}")]
    Field {
        /// The field, as in `messages.0.content`.
        at: String,
        /// Found.
        found: String,
        /// Expected.
        expected: &'static str,
    },
    /// `continue_final_message` without an answer to go on with.
    #[error("continue_final_message is true, expected a last message of the assistant")]
    NothingToContinue,
    /// Serving without a model's name.
    #[error("the request names no model, as serving wants: set `model`")]
    NoModel,
    /// `reasoning_effort` is for later models.
    #[error("reasoning_effort is given, which these templates do not have: leave it out")]
    ReasoningEffort,
    /// `truncate_for_context_length` cannot be done.
    #[error(
        "truncate_for_context_length is true, which is not supported: drop old messages instead"
    )]
    Truncation,
    /// Nothing is said.
    #[error("there is no message, expected at least one")]
    NoMessages,
    /// Nobody asks.
    #[error("the only message is the {role}'s, expected the user's or the system's")]
    FirstMessage {
        /// Who speaks.
        role: Role,
    },
    /// There is nothing to answer.
    #[error(
        "the last message is the assistant's, expected the user's or a tool's, or `prefix` for the \
         model to go on with it"
    )]
    LastMessage,
    /// A message at the wrong turn.
    #[error("message {index} is the {role}'s, which cannot follow the {before}'s")]
    RoleOrder {
        /// Which message, from 0.
        index: usize,
        /// Who speaks.
        role: Role,
        /// Who spoke before.
        before: Role,
    },
    /// Calls without results, or results without calls.
    #[error(
        "before message {index} there are {calls} calls and {results} results, expected as many"
    )]
    Unanswered {
        /// The first message behind them, from 0.
        index: usize,
        /// Calls.
        calls: usize,
        /// Results.
        results: usize,
    },
    /// A picture, a sound or a thought where only text can stand.
    #[error("message {index}, the {role}'s, holds {kind}, expected text")]
    NotText {
        /// Which message, from 0.
        index: usize,
        /// Who speaks.
        role: Role,
        /// What it holds.
        kind: PartKind,
    },
    /// A picture where the template could show one, and the model cannot see.
    #[error("a user's message holds an image, which Mistral 7B cannot read: leave it out")]
    Image,
    /// Text and calls, or neither.
    #[error(
        "message {index}, the assistant's, has both text and tool calls or neither, expected one of them"
    )]
    TextOrCalls {
        /// Which message, from 0.
        index: usize,
    },
    /// Consecutive messages of the assistant that are text and calls when they are joined.
    #[error("consecutive messages of the assistant have text and tool calls, expected one of them")]
    TextAndCallsJoined,
    /// An answer of empty parts.
    #[error("a message of the assistant has parts, and all are empty: expected text")]
    EmptyAnswer,
    /// `prefix` in the middle.
    #[error("message {index} has `prefix`, which only the last message may have")]
    PrefixNotLast {
        /// Which message, from 0.
        index: usize,
    },
    /// A name that is none.
    #[error(
        "a function is called {name:?} in {place}, expected 1 to 64 letters, digits, `_` or `-`"
    )]
    FunctionName {
        /// The name.
        name: String,
        /// Where it stands.
        place: FunctionPlace,
    },
    /// A schema that is none.
    #[error(
        "the parameters of tool {tool:?} are no JSON schema (draft 7): {at} is {found}, expected {expected}"
    )]
    Schema {
        /// Name of the tool.
        tool: String,
        /// Where in the schema, as in `properties.city.type`; `schema` is the whole.
        at: String,
        /// Found.
        found: String,
        /// Expected.
        expected: &'static str,
    },
    /// A call that no result can refer to.
    #[error("message {index} has a tool call with {}, expected an id of 9 letters or digits", told(.id))]
    CallId {
        /// Which message, from 0.
        index: usize,
        /// The id, if there is one.
        id: Option<String>,
    },
    /// A result of no call.
    #[error("message {index}, a tool's, has no tool_call_id, expected that of a call")]
    NoResultId {
        /// Which message, from 0.
        index: usize,
    },
    /// A result of a call that cannot be.
    #[error("message {index}, a tool's, has tool_call_id {id:?}, expected 9 letters or digits")]
    ResultId {
        /// Which message, from 0.
        index: usize,
        /// The id.
        id: String,
    },
    /// Templates v1 and plain know no calls.
    #[error("the template has no tool calls and results: use a model of v0.3")]
    NoToolTurns,
    /// Template v2 knows one result.
    #[error("template v2 shows one tool result for each message with calls, and there are more")]
    SeveralResults,
    /// Arguments or a result that Python's JSON would refuse to read.
    #[error("JSON in a tool call or result cannot be read")]
    Embedded {
        /// Where and why.
        source: JsonError,
    },
    /// A vocabulary without the pieces of a template.
    #[error(
        "the vocabulary has no control piece {piece}, which template {template} writes: choose another template"
    )]
    NoPiece {
        /// The piece.
        piece: &'static str,
        /// The template.
        template: super::TemplateVersion,
    },
    /// A template in Jinja that fails, or refuses the conversation.
    #[cfg(feature = "jinja")]
    #[error(transparent)]
    Template(#[from] super::jinja::JinjaError),
    /// The text cannot be encoded.
    #[error("a part of the conversation cannot be encoded")]
    Tokenizer {
        /// Why.
        #[from]
        source: TokenizerError,
    },
}

/// Where a function's name can stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FunctionPlace {
    /// Among the tools that are offered.
    Tools,
    /// In a call.
    Call,
    /// In a result.
    Result,
}

impl std::fmt::Display for FunctionPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tools => "the tools offered",
            Self::Call => "a tool call",
            Self::Result => "a tool's result",
        })
    }
}

fn told(id: &Option<String>) -> String {
    id.as_ref().map_or_else(|| "no id".to_owned(), |id| format!("id {id:?}"))
}

impl ChatError {
    /// The class of exception that mistral-common 1.13 raises for the same request, as in
    /// `InvalidMessageStructureException`. `ValidationError` is pydantic's; `RecursionError` and
    /// the like are Python's own.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Json { source } | Self::Embedded { source } => json_class(source),
            Self::Field { .. } => "ValidationError",
            Self::NoModel | Self::ReasoningEffort | Self::NoResultId { .. } => {
                "InvalidRequestException"
            }
            Self::NothingToContinue
            | Self::NoMessages
            | Self::FirstMessage { .. }
            | Self::LastMessage
            | Self::RoleOrder { .. }
            | Self::Unanswered { .. } => "InvalidMessageStructureException",
            Self::NotText { role, .. } => match role {
                Role::System => "InvalidSystemPromptException",
                Role::User => "InvalidUserMessageException",
                Role::Assistant => "InvalidAssistantMessageException",
                Role::Tool => "InvalidToolMessageException",
            },
            Self::TextOrCalls { .. } | Self::PrefixNotLast { .. } => {
                "InvalidAssistantMessageException"
            }
            Self::FunctionName { place, .. } => match place {
                FunctionPlace::Tools => "InvalidToolException",
                FunctionPlace::Call => "InvalidFunctionCallException",
                FunctionPlace::Result => "InvalidToolMessageException",
            },
            Self::Schema { .. } => "InvalidToolSchemaException",
            Self::CallId { .. } => "InvalidFunctionCallException",
            Self::ResultId { .. } => "InvalidToolMessageException",
            Self::Truncation | Self::NoToolTurns | Self::EmptyAnswer => "TokenizerException",
            Self::SeveralResults => "UnsupportedTokenizerFeatureException",
            Self::TextAndCallsJoined => "ValueError",
            Self::Image => "AssertionError",
            #[cfg(feature = "jinja")]
            Self::Template(_) => "TemplateError",
            Self::NoPiece { .. } | Self::Tokenizer { .. } => "RuntimeError",
        }
    }
}

fn json_class(error: &JsonError) -> &'static str {
    use super::json::JsonProblem;
    match error.problem {
        JsonProblem::TooDeep { .. } => "RecursionError",
        JsonProblem::TooManyDigits { .. } => "ValueError",
        // Python reads it, and its tokenizer then cannot.
        JsonProblem::LoneSurrogate => "RuntimeError",
        _ => "JSONDecodeError",
    }
}
