//! Template v2.
//!
//! ```text
//! <s>[INST]"{user}"[/INST]"{assistant}"</s>
//! [AVAILABLE_TOOLS]"{tools}"[/AVAILABLE_TOOLS][INST]"{system}\n\n{user}"[/INST]
//! [TOOL_CALLS]"[{"name": ..., "arguments": ...}]"</s>
//! [TOOL_RESULTS]"[{"name": ..., "content": ...}]"[/TOOL_RESULTS]
//! ```
//!
//! Tools and the system prompt stand before the last question. Calls and results before it are
//! dropped. An answer loses the spaces at its end.

use super::controls::Controls;
use super::writer::Writer;
use crate::chat::error::ChatError;
use crate::chat::json::{Json, object};
use crate::chat::turns::{Answer, Call, Outcome, Turn, Turns};

/// A conversation being written.
pub(super) struct Page<'p> {
    pub(super) turns: &'p Turns<'p>,
    /// The tools that are offered, as JSON; empty if there are none.
    pub(super) tools: &'p str,
    pub(super) controls: &'p Controls,
}

impl Page<'_> {
    pub(super) fn write(
        &self,
        turn: &Turn<'_>,
        index: usize,
        out: &mut Writer<'_>,
    ) -> Result<(), ChatError> {
        let past = index < self.turns.last_user();
        match turn {
            Turn::User { text, image } => self.user(text, *image, past, out),
            Turn::Assistant(answer) => {
                check_answer(answer)?;
                if past && !answer.calls.is_empty() {
                    return Ok(());
                }
                self.answer(answer, call, out)
            }
            Turn::Result(_) if past => Ok(()),
            Turn::Result(outcome) => self.result(&Json::Array(vec![result(outcome)?]), out),
        }
    }

    /// A question, with tools and the system prompt if no other question follows.
    pub(super) fn user(
        &self,
        text: &str,
        image: bool,
        past: bool,
        out: &mut Writer<'_>,
    ) -> Result<(), ChatError> {
        if image {
            return Err(ChatError::Image);
        }
        if !past && !self.tools.is_empty() {
            out.control(self.controls.begin_tools);
            out.text(self.tools)?;
            out.control(self.controls.end_tools);
        }
        out.control(self.controls.begin_inst);
        if past {
            out.text(text)?;
        } else {
            out.text(&self.turns.with_system(text))?;
        }
        out.control(self.controls.end_inst);
        Ok(())
    }

    /// A text, or calls as `call` writes them.
    pub(super) fn answer(
        &self,
        answer: &Answer<'_>,
        call: impl Fn(&Call<'_>) -> Result<Json, ChatError>,
        out: &mut Writer<'_>,
    ) -> Result<(), ChatError> {
        if answer.calls.is_empty() {
            out.text(answer.text.trim_end_matches(' '))?;
        } else {
            out.control(self.controls.tool_calls);
            let calls = answer.calls.iter().map(call).collect::<Result<_, _>>()?;
            out.json(&Json::Array(calls))?;
        }
        if !answer.prefix {
            out.control(self.controls.ends.eos);
        }
        Ok(())
    }

    pub(super) fn result(&self, result: &Json, out: &mut Writer<'_>) -> Result<(), ChatError> {
        out.control(self.controls.begin_results);
        out.json(result)?;
        out.control(self.controls.end_results);
        Ok(())
    }
}

/// Either text or calls.
pub(super) fn check_answer(answer: &Answer<'_>) -> Result<(), ChatError> {
    match (answer.text.is_empty(), answer.calls.is_empty()) {
        (false, false) => Err(ChatError::TextAndCallsJoined),
        (true, true) => Err(ChatError::EmptyAnswer),
        _ => Ok(()),
    }
}

/// At most one result behind each turn of the assistant with calls, from the last question on.
pub(super) fn check_results(turns: &Turns<'_>) -> Result<(), ChatError> {
    let mut results = None;
    for turn in turns.turns.iter().skip(turns.last_user()) {
        results = match (turn, results) {
            (Turn::Assistant(answer), _) => (!answer.calls.is_empty()).then_some(0),
            (Turn::Result(_), Some(0)) => Some(1),
            (Turn::Result(_), Some(_)) => return Err(ChatError::SeveralResults),
            _ => None,
        };
    }
    Ok(())
}

fn call(call: &Call<'_>) -> Result<Json, ChatError> {
    Ok(object([("name", Json::from(call.name)), ("arguments", call.arguments.value()?)]))
}

fn result(outcome: &Outcome<'_>) -> Result<Json, ChatError> {
    let name = outcome.name.map_or(Json::Null, Json::from);
    Ok(object([("name", name), ("content", outcome.content.value()?)]))
}
