//! Template v3.
//!
//! As v2, but calls carry their ids, each result is a block of its own that names its call, and
//! calls and results of earlier questions stay:
//!
//! ```text
//! [TOOL_CALLS]"[{"name": ..., "arguments": ..., "id": ...}]"</s>
//! [TOOL_RESULTS]"{"content": ..., "call_id": ...}"[/TOOL_RESULTS]
//! ```

use super::controls::is_control;
use super::v2;
use super::writer::Writer;
use crate::chat::error::ChatError;
use crate::chat::json::{Json, object};
use crate::chat::turns::{Call, Outcome, Turn};
use crate::tokenizer::Tokenizer;

/// Whether a vocabulary is that of Mixtral 8x22B.
pub(super) fn fits(tokenizer: &Tokenizer) -> bool {
    is_control(tokenizer, "[INST]") && is_control(tokenizer, "[IMG]")
}

pub(super) fn write(
    page: &v2::Page<'_>,
    turn: &Turn<'_>,
    index: usize,
    out: &mut Writer<'_>,
) -> Result<(), ChatError> {
    match turn {
        Turn::User { text, image } => page.user(text, *image, index < page.turns.last_user(), out),
        Turn::Assistant(answer) => {
            v2::check_answer(answer)?;
            page.answer(answer, call, out)
        }
        Turn::Result(outcome) => page.result(&result(outcome)?, out),
    }
}

fn call(call: &Call<'_>) -> Result<Json, ChatError> {
    let mut members = vec![
        ("name".to_owned(), Json::from(call.name)),
        ("arguments".to_owned(), call.arguments.value()?),
    ];
    if let Some(id) = call.id {
        members.push(("id".to_owned(), Json::from(id)));
    }
    Ok(Json::Object(members))
}

fn result(outcome: &Outcome<'_>) -> Result<Json, ChatError> {
    let call_id = outcome.call_id.map_or(Json::Null, Json::from);
    Ok(object([("content", outcome.content.value()?), ("call_id", call_id)]))
}
