//! A conversation as plain text, for models that were trained for none, such as the demo model.
//!
//! ```text
//! <s>"{system}\n\nUser: {user}\nAssistant:" "{assistant}\n" "User: {user}\nAssistant:"
//! ```
//!
//! No control piece but `<s>`. Nothing tells a `User:` that somebody types from the template's own.

use super::writer::Writer;
use crate::chat::error::ChatError;
use crate::chat::turns::{Turn, Turns};

/// Where the model begins to speak for the user.
pub(super) const STOP_STRINGS: &[&str] = &["\nUser:"];

pub(super) fn write(
    turns: &Turns<'_>,
    turn: &Turn<'_>,
    index: usize,
    out: &mut Writer<'_>,
) -> Result<(), ChatError> {
    match turn {
        Turn::User { text, .. } => {
            let question = format!("User: {text}\nAssistant:");
            // The first turn is always the user's.
            let text = if index == 0 { turns.with_system(&question) } else { question };
            out.text(&text)
        }
        Turn::Assistant(answer) if !answer.calls.is_empty() => Err(ChatError::NoToolTurns),
        Turn::Assistant(answer) if answer.text.is_empty() => Err(ChatError::EmptyAnswer),
        Turn::Assistant(answer) if answer.prefix => out.text(&answer.text),
        Turn::Assistant(answer) => out.text(&format!("{}\n", answer.text)),
        Turn::Result(_) => Err(ChatError::NoToolTurns),
    }
}
