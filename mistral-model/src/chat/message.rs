//! What is said in a conversation, and by whom.

use std::fmt;

use super::json::{Json, JsonError};

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Instructions that hold for the whole conversation.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// A tool that the model has called.
    Tool,
}

impl Role {
    pub(super) const ALL: [Self; 4] = [Self::System, Self::User, Self::Assistant, Self::Tool];

    /// As it is written in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A contribution to a conversation.
///
/// ```
/// use mistral_model::chat::{Message, Role};
///
/// let question = Message::user("And of Italy?");
/// assert_eq!(question.role(), Role::User);
/// assert_eq!(question.text(), "And of Italy?");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Message {
    /// Instructions.
    System {
        /// The text.
        content: Content,
    },
    /// What the person says.
    User {
        /// The text.
        content: Content,
    },
    /// What the model has said: a text or calls of tools, not both.
    Assistant {
        /// The text, if it is one.
        content: Option<Content>,
        /// The calls, if it is some.
        tool_calls: Vec<ToolCall>,
        /// The model is to go on with this message, which must be the last.
        prefix: bool,
    },
    /// What a tool answers.
    Tool {
        /// The answer: JSON, or any text.
        content: Content,
        /// The call that is answered; templates before v3 do without.
        call_id: Option<String>,
        /// The function's name; only template v2 shows it to the model.
        name: Option<String>,
    },
}

impl Message {
    /// Instructions.
    pub fn system(content: impl Into<Content>) -> Self {
        Self::System { content: content.into() }
    }

    /// What the person says.
    pub fn user(content: impl Into<Content>) -> Self {
        Self::User { content: content.into() }
    }

    /// What the model has said.
    pub fn assistant(content: impl Into<Content>) -> Self {
        Self::Assistant { content: Some(content.into()), tool_calls: Vec::new(), prefix: false }
    }

    /// The beginning of an answer that the model is to go on with.
    pub fn prefix(content: impl Into<Content>) -> Self {
        Self::Assistant { content: Some(content.into()), tool_calls: Vec::new(), prefix: true }
    }

    /// Calls of tools by the model.
    pub fn tool_calls(tool_calls: Vec<ToolCall>) -> Self {
        Self::Assistant { content: None, tool_calls, prefix: false }
    }

    /// What a tool answers to a call.
    pub fn tool_result(call: &ToolCall, content: impl Into<Content>) -> Self {
        let (call_id, name) = (call.id.clone(), Some(call.name.clone()));
        Self::Tool { content: content.into(), call_id, name }
    }

    /// Who speaks.
    pub fn role(&self) -> Role {
        match self {
            Self::System { .. } => Role::System,
            Self::User { .. } => Role::User,
            Self::Assistant { .. } => Role::Assistant,
            Self::Tool { .. } => Role::Tool,
        }
    }

    /// What is said, if it is not only calls.
    pub fn content(&self) -> Option<&Content> {
        match self {
            Self::System { content } | Self::User { content } | Self::Tool { content, .. } => {
                Some(content)
            }
            Self::Assistant { content, .. } => content.as_ref(),
        }
    }

    /// The calls of tools in it; none but the assistant makes any.
    pub fn calls(&self) -> &[ToolCall] {
        match self {
            Self::Assistant { tool_calls, .. } => tool_calls,
            _ => &[],
        }
    }

    /// The text of the content, its parts joined by an empty line as the templates join them.
    pub fn text(&self) -> String {
        self.content().map(|content| join(content.texts())).unwrap_or_default()
    }
}

/// The texts that are not empty, with an empty line between them.
pub(super) fn join<'t>(texts: impl IntoIterator<Item = &'t str>) -> String {
    let mut joined = String::new();
    for text in texts.into_iter().filter(|text| !text.is_empty()) {
        joined.push_str(if joined.is_empty() { "" } else { "\n\n" });
        joined.push_str(text);
    }
    joined
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Content {
    /// One text.
    Text(String),
    /// Several parts.
    Parts(Vec<Part>),
}

impl Content {
    /// Neither a character nor a part.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Text(text) => text.is_empty(),
            Self::Parts(parts) => parts.is_empty(),
        }
    }

    /// The texts in order; what is no text is left out.
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        let (text, parts) = match self {
            Self::Text(text) => (Some(text.as_str()), &[][..]),
            Self::Parts(parts) => (None, parts.as_slice()),
        };
        text.into_iter().chain(parts.iter().filter_map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            Part::Other(_) => None,
        }))
    }

    /// The kinds of the parts that are no text.
    pub(super) fn other_parts(&self) -> impl Iterator<Item = PartKind> + '_ {
        let parts = match self {
            Self::Text(_) => &[][..],
            Self::Parts(parts) => parts.as_slice(),
        };
        parts.iter().filter_map(|part| match part {
            Part::Text(_) => None,
            Part::Other(kind) => Some(*kind),
        })
    }
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// A part of what a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// A text.
    Text(String),
    /// What Mistral's requests may hold and Mistral 7B cannot read: an error when it is encoded.
    Other(PartKind),
}

/// Kinds of parts beside text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PartKind {
    /// A picture, inline or by its address.
    Image,
    /// A sound, inline or by its address.
    Audio,
    /// What a model thought before it answered.
    Thinking,
}

impl fmt::Display for PartKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Image => "an image",
            Self::Audio => "audio",
            Self::Thinking => "thinking",
        })
    }
}

/// A call of a function by the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// What a result refers to: nine letters or digits from template v3 on.
    pub id: Option<String>,
    /// Name of the function.
    pub name: String,
    /// The arguments as JSON. A text that is no JSON goes to the model as a string, and the empty
    /// text as an object without members.
    pub arguments: String,
}

impl ToolCall {
    /// A call with its id.
    pub fn new(
        id: impl Into<String>,
        name: impl Into<String>,
        arguments: impl Into<String>,
    ) -> Self {
        Self { id: Some(id.into()), name: name.into(), arguments: arguments.into() }
    }

    /// The arguments as a value.
    ///
    /// # Errors
    ///
    /// Where they are no JSON.
    pub fn arguments(&self) -> Result<Json, JsonError> {
        Json::parse(&self.arguments)
    }
}
