//! The rules that a conversation must keep, those of mistral-common.

use super::error::{ChatError, FunctionPlace};
use super::message::{Content, Message, PartKind, Role, ToolCall};
use super::request::ChatRequest;
use super::schema;
use super::template::TemplateVersion;

/// How strict a request is looked at; mistral-common's modes of the same names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Validation {
    /// Calls at the very end may lack results, and the model need not be named.
    #[default]
    Test,
    /// A complete request to a server: it names its model, and every call has its result.
    Serving,
}

/// What `id` is in a request that has none.
const NULL_ID: &str = "null";

/// Looks at everything that does not depend on how the template writes it.
pub(super) fn check(
    request: &ChatRequest,
    template: TemplateVersion,
    mode: Validation,
) -> Result<(), ChatError> {
    if mode == Validation::Serving && request.model.is_none() {
        return Err(ChatError::NoModel);
    }
    let messages = &request.messages;
    check_ends(messages)?;
    check_order(messages)?;
    check_results(messages, mode)?;
    for (index, message) in messages.iter().enumerate() {
        Place { index, last: index + 1 == messages.len(), template }.check(message)?;
    }
    for tool in &request.tools {
        schema::check(tool)?;
        check_name(&tool.name, FunctionPlace::Tools)?;
    }
    if request.reasoning_effort {
        return Err(ChatError::ReasoningEffort);
    }
    if request.truncate_for_context_length {
        return Err(ChatError::Truncation);
    }
    Ok(())
}

fn check_ends(messages: &[Message]) -> Result<(), ChatError> {
    match messages {
        [] => Err(ChatError::NoMessages),
        [only] => match only.role() {
            Role::User | Role::System => Ok(()),
            role => Err(ChatError::FirstMessage { role }),
        },
        [.., Message::Assistant { prefix: false, .. }] => Err(ChatError::LastMessage),
        _ => Ok(()),
    }
}

fn check_order(messages: &[Message]) -> Result<(), ChatError> {
    for (index, pair) in messages.windows(2).enumerate() {
        let (before, role) = (pair[0].role(), pair[1].role());
        let fits = match before {
            Role::System | Role::User => role != Role::Tool,
            Role::Assistant | Role::Tool => role != Role::System,
        };
        if !fits {
            return Err(ChatError::RoleOrder { index: index + 1, role, before });
        }
    }
    Ok(())
}

/// As many results as calls before the assistant speaks again. Calls in the very first message are
/// not counted.
fn check_results(messages: &[Message], mode: Validation) -> Result<(), ChatError> {
    let (mut calls, mut results) = (0, 0);
    for (index, message) in messages.iter().enumerate().skip(1) {
        match message {
            Message::Tool { .. } => results += 1,
            Message::Assistant { tool_calls, .. } => {
                if calls != results {
                    return Err(ChatError::Unanswered { index, calls, results });
                }
                (calls, results) = (tool_calls.len(), 0);
            }
            _ => {}
        }
    }
    if mode == Validation::Serving && calls != results {
        return Err(ChatError::Unanswered { index: messages.len(), calls, results });
    }
    Ok(())
}

/// A message among the others.
struct Place {
    index: usize,
    last: bool,
    template: TemplateVersion,
}

impl Place {
    fn check(&self, message: &Message) -> Result<(), ChatError> {
        if let Some(content) = message.content() {
            self.check_parts(message.role(), content)?;
        }
        match message {
            Message::System { .. } | Message::User { .. } => Ok(()),
            Message::Assistant { content, tool_calls, prefix } => {
                let text = content.as_ref().is_some_and(|content| !content.is_empty());
                if text != tool_calls.is_empty() {
                    return Err(ChatError::TextOrCalls { index: self.index });
                }
                tool_calls.iter().try_for_each(|call| self.check_call(call))?;
                if *prefix && !self.last {
                    return Err(ChatError::PrefixNotLast { index: self.index });
                }
                Ok(())
            }
            Message::Tool { call_id, name, .. } => {
                if let Some(name) = name {
                    check_name(name, FunctionPlace::Result)?;
                }
                self.check_result_id(call_id.as_deref())
            }
        }
    }

    fn check_parts(&self, role: Role, content: &Content) -> Result<(), ChatError> {
        // Templates from v3 on could show a user's image, if the model had eyes.
        let allowed =
            |kind| kind == PartKind::Image && role == Role::User && self.template.has_call_ids();
        match content.other_parts().find(|kind| !allowed(*kind)) {
            Some(kind) => Err(ChatError::NotText { index: self.index, role, kind }),
            None => Ok(()),
        }
    }

    fn check_call(&self, call: &ToolCall) -> Result<(), ChatError> {
        let id = call.id.as_deref().filter(|id| *id != NULL_ID);
        if self.template.has_call_ids() && !id.is_some_and(is_call_id) {
            return Err(ChatError::CallId { index: self.index, id: id.map(str::to_owned) });
        }
        check_name(&call.name, FunctionPlace::Call)
    }

    fn check_result_id(&self, id: Option<&str>) -> Result<(), ChatError> {
        let index = self.index;
        match id {
            _ if !self.template.has_call_ids() => Ok(()),
            None => Err(ChatError::NoResultId { index }),
            Some(id) if is_call_id(id) => Ok(()),
            Some(id) => Err(ChatError::ResultId { index, id: id.to_owned() }),
        }
    }
}

/// Nine letters or digits. A line break behind them passes, as it does in mistral-common.
pub(super) fn is_call_id(id: &str) -> bool {
    let id = id.strip_suffix('\n').unwrap_or(id);
    id.len() == 9 && id.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// Likewise 1 to 64 letters, digits, `_` or `-`.
pub(super) fn is_function_name(name: &str) -> bool {
    let name = name.strip_suffix('\n').unwrap_or(name);
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

fn check_name(name: &str, place: FunctionPlace) -> Result<(), ChatError> {
    if is_function_name(name) {
        return Ok(());
    }
    Err(ChatError::FunctionName { name: name.to_owned(), place })
}
