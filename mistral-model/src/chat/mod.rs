//! Conversations: messages to token ids, as Mistral's models were trained to read them.
//!
//! [`ChatEncoder`] writes the ids of a [`ChatRequest`]; the [templates](TemplateVersion) are those
//! of mistral-common, one file each in `template/`, and so are the rules that a conversation must
//! keep (`validate.rs`) and the form of JSON inside it ([`Json`]). [`AnswerParser`] reads what the
//! model answers, [`Conversation`] keeps a session over many turns, and the guardrails of the paper
//! are [`ChatRequest::guarded`] and [`moderate`]. With the feature `jinja`, `JinjaEncoder` runs the
//! `chat_template` of models that are not Mistral's own. [`FimEncoder`] writes no conversation, but
//! a text with a gap to fill.

mod answer;
mod conversation;
mod encoder;
mod error;
mod fields;
mod fim;
mod format;
mod guardrail;
#[cfg(feature = "jinja")]
mod jinja;
mod json;
mod message;
mod moderation;
mod pattern;
mod request;
mod schema;
mod template;
mod tool;
mod turns;
mod validate;

pub use answer::{
    AnswerError, AnswerParser, AnswerPart, CallError, CallParser, CallProblem, parse_calls,
};
pub use conversation::{Conversation, ConversationError, Reply, ReplyEnd};
pub use encoder::{ChatEncoder, Prompt};
pub use error::{ChatError, FunctionPlace};
pub use fim::{FimEncoder, FimError};
pub use format::ChatFormat;
pub use guardrail::SYSTEM_PROMPT;
#[cfg(feature = "jinja")]
pub use jinja::{JinjaEncoder, JinjaError, JinjaTemplate};
pub use json::{Integer, Json, JsonError, JsonProblem};
pub use message::{Content, Message, Part, PartKind, Role, ToolCall};
pub use moderation::{Moderation, ModerationError, Subject, Verdict, moderate};
pub use request::ChatRequest;
pub use template::{TemplateVersion, UnknownTemplate};
pub use tool::Tool;
pub use validate::Validation;
