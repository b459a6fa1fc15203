//! Template v1, of Mistral 7B v0.1 and v0.2.
//!
//! ```text
//! <s>"[INST] {system}\n\n{user} [/INST]" "{assistant}"</s>"[INST] {user} [/INST]"
//! ```
//!
//! Each pair of quotes is encoded on its own; `[INST]` is text, as the models learned it. The system
//! prompt stands before the first question. Tools that are offered are not shown.

use super::controls::{Ends, is_control};
use super::writer::Writer;
use crate::chat::error::ChatError;
use crate::chat::turns::{Turn, Turns};
use crate::tokenizer::Tokenizer;

/// Pieces of the vocabulary of 7B v0.1; fine-tunes add theirs behind them.
const PIECES: usize = 32_000;

/// Whether a vocabulary is that of 7B v0.1 and v0.2.
pub(super) fn fits(tokenizer: &Tokenizer) -> bool {
    tokenizer.vocab_size() >= PIECES
        && !is_control(tokenizer, "[INST]")
        && is_control(tokenizer, "</s>")
}

pub(super) fn write(
    turns: &Turns<'_>,
    turn: &Turn<'_>,
    index: usize,
    ends: Ends,
    out: &mut Writer<'_>,
) -> Result<(), ChatError> {
    match turn {
        Turn::User { text, .. } => {
            // The first turn is always the user's.
            let text = if index == 0 { turns.with_system(text) } else { text.clone() };
            out.text(&format!("[INST] {text} [/INST]"))
        }
        Turn::Assistant(answer) if !answer.calls.is_empty() => Err(ChatError::NoToolTurns),
        Turn::Assistant(answer) if answer.text.is_empty() => Err(ChatError::EmptyAnswer),
        Turn::Assistant(answer) => {
            out.text(&answer.text)?;
            if !answer.prefix {
                out.control(ends.eos);
            }
            Ok(())
        }
        Turn::Result(_) => Err(ChatError::NoToolTurns),
    }
}
