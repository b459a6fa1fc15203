//! Conversations: messages to token ids, as Mistral's models were trained to read them.
//!
//! [`ChatEncoder`] writes the ids of a [`ChatRequest`]; the [templates](TemplateVersion) are those
//! of mistral-common, one file each in `template/`, and so are the rules that a conversation must
//! keep (`validate.rs`) and the form of JSON inside it ([`Json`]).

mod encoder;
mod error;
mod fields;
mod json;
mod message;
mod pattern;
mod request;
mod schema;
mod template;
mod tool;
mod turns;
mod validate;

pub use encoder::{ChatEncoder, Prompt};
pub use error::{ChatError, FunctionPlace};
pub use json::{Integer, Json, JsonError, JsonProblem};
pub use message::{Content, Message, Part, PartKind, Role, ToolCall};
pub use request::ChatRequest;
pub use template::{TemplateVersion, UnknownTemplate};
pub use tool::Tool;
pub use validate::Validation;
