//! Messages as the templates take them: neighbours of one role joined, system prompts gathered,
//! JSON read.

use super::error::ChatError;
use super::json::{Json, JsonError, JsonProblem, object};
use super::message::{Message, Role, ToolCall, join};

/// A conversation that starts with a turn of the user.
pub(super) struct Turns<'r> {
    /// All system prompts.
    pub(super) system: String,
    pub(super) turns: Vec<Turn<'r>>,
}

/// All that one side says before another speaks.
pub(super) enum Turn<'r> {
    User {
        text: String,
        image: bool,
    },
    Assistant(Answer<'r>),
    /// Results are not joined: one turn each.
    Result(Outcome<'r>),
}

/// What the model has said.
pub(super) struct Answer<'r> {
    pub(super) text: String,
    pub(super) calls: Vec<Call<'r>>,
    pub(super) prefix: bool,
}

/// A call with its arguments as a value.
pub(super) struct Call<'r> {
    pub(super) id: Option<&'r str>,
    pub(super) name: &'r str,
    pub(super) arguments: Embedded,
}

/// A tool's answer as a value.
pub(super) struct Outcome<'r> {
    pub(super) call_id: Option<&'r str>,
    pub(super) name: Option<&'r str>,
    pub(super) content: Embedded,
}

impl<'r> Turns<'r> {
    pub(super) fn new(messages: &'r [Message]) -> Result<Self, ChatError> {
        let mut turns = Vec::new();
        for group in messages.chunk_by(|a, b| a.role() == b.role()) {
            let texts = || group.iter().filter_map(Message::content).flat_map(|c| c.texts());
            // A system prompt ends the turn before it, and is not one itself.
            match group.first().map(Message::role) {
                Some(Role::User) => {
                    let mut others =
                        group.iter().filter_map(Message::content).flat_map(|c| c.other_parts());
                    let image = others.next().is_some();
                    turns.push(Turn::User { text: join(texts()), image });
                }
                Some(Role::Assistant) => turns.push(Turn::Assistant(answer(group, join(texts()))?)),
                Some(Role::Tool) => {
                    for message in group {
                        turns.extend(outcome(message)?.map(Turn::Result));
                    }
                }
                Some(Role::System) | None => {}
            }
        }
        if !matches!(turns.first(), Some(Turn::User { .. })) {
            turns.insert(0, Turn::User { text: String::new(), image: false });
        }
        Ok(Self { system: system(messages), turns })
    }

    /// Index of the last turn of the user.
    pub(super) fn last_user(&self) -> usize {
        self.turns.iter().rposition(|turn| matches!(turn, Turn::User { .. })).unwrap_or_default()
    }

    /// The system prompt in front of a user's text.
    pub(super) fn with_system(&self, text: &str) -> String {
        match self.system.as_str() {
            "" => text.to_owned(),
            system => format!("{system}\n\n{text}"),
        }
    }
}

/// All system prompts; one that consists of empty parts still takes its empty line.
fn system(messages: &[Message]) -> String {
    let prompts = messages.iter().filter(|message| message.role() == Role::System);
    let said = prompts.filter(|message| message.content().is_some_and(|c| !c.is_empty()));
    said.map(Message::text).collect::<Vec<_>>().join("\n\n")
}

fn answer(group: &[Message], text: String) -> Result<Answer<'_>, ChatError> {
    let mut answer = Answer { text, calls: Vec::new(), prefix: false };
    for message in group {
        let Message::Assistant { tool_calls, prefix, .. } = message else { continue };
        answer.prefix |= prefix;
        for ToolCall { id, name, arguments } in tool_calls {
            let arguments = embedded(arguments)?;
            answer.calls.push(Call { id: id.as_deref(), name, arguments });
        }
    }
    Ok(answer)
}

fn outcome(message: &Message) -> Result<Option<Outcome<'_>>, ChatError> {
    let Message::Tool { call_id, name, .. } = message else { return Ok(None) };
    let content = embedded(&message.text())?;
    Ok(Some(Outcome { call_id: call_id.as_deref(), name: name.as_deref(), content }))
}

/// Text that stands inside JSON.
pub(super) struct Embedded(Result<Json, JsonError>);

impl Embedded {
    /// The value, to be written.
    pub(super) fn value(&self) -> Result<Json, ChatError> {
        self.0.clone().map_err(|source| ChatError::Embedded { source })
    }
}

/// Text as the value that it is, or else as a string. No text is an empty object.
fn embedded(text: &str) -> Result<Embedded, ChatError> {
    if text.is_empty() {
        return Ok(Embedded(Ok(object([]))));
    }
    match Json::parse(text) {
        Ok(value) => Ok(Embedded(Ok(value))),
        Err(source) => match source.problem {
            JsonProblem::TooDeep { .. } | JsonProblem::TooManyDigits { .. } => {
                Err(ChatError::Embedded { source })
            }
            // It can be read, and is an error only where it is written.
            JsonProblem::LoneSurrogate => Ok(Embedded(Err(source))),
            _ => Ok(Embedded(Ok(Json::from(text)))),
        },
    }
}
