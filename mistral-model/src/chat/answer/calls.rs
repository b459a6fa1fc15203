//! Calls from the JSON behind `[TOOL_CALLS]`: `[{"name": ..., "arguments": {...}, "id": ...}]`.

use super::error::{CallError, CallProblem};
use crate::chat::json::Json;
use crate::chat::message::ToolCall;
use crate::chat::validate::{is_call_id, is_function_name};

/// Reads calls from pieces of text as they come.
///
/// ```
/// use mistral_model::chat::CallParser;
///
/// let mut calls = CallParser::new();
/// assert_eq!(calls.push(r#"[{"name": "add", "argume"#)?, []);
/// let first = calls.push(r#"nts": {"a": 1, "b": 2}}, {"#)?;
/// assert_eq!(first[0].name, "add");
/// assert_eq!(first[0].arguments, r#"{"a": 1, "b": 2}"#);
/// // The second call has not come to its end.
/// assert!(calls.finish().is_err());
/// # Ok::<(), mistral_model::chat::CallError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct CallParser {
    state: State,
    /// Bytes before the piece under way.
    offset: usize,
    /// Calls that are complete.
    calls: usize,
    failed: Option<CallError>,
}

#[derive(Debug, Clone, Default)]
enum State {
    /// Before the list.
    #[default]
    Start,
    /// Behind `[` or a comma.
    Expecting { first: bool },
    /// Inside a call.
    Inside(Call),
    /// Behind a call.
    Behind,
    /// Behind the list.
    End,
}

/// A call that has begun.
#[derive(Debug, Clone)]
struct Call {
    /// Where.
    start: usize,
    text: String,
    /// Open brackets of both kinds.
    depth: usize,
    string: Quote,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Quote {
    Outside,
    Inside,
    Escape,
}

/// All calls of a whole text.
///
/// # Errors
///
/// What is malformed, and where.
pub fn parse_calls(text: &str) -> Result<Vec<ToolCall>, CallError> {
    let mut parser = CallParser::new();
    let calls = parser.push(text)?;
    parser.finish()?;
    Ok(calls)
}

impl CallParser {
    /// Before the first piece.
    pub fn new() -> Self {
        Self::default()
    }

    /// The calls that this piece completes.
    ///
    /// Cost: linear in the text.
    ///
    /// # Errors
    ///
    /// What is malformed, and where; a call is looked at when it is complete. From then on every
    /// piece gives the same error.
    pub fn push(&mut self, piece: &str) -> Result<Vec<ToolCall>, CallError> {
        let mut calls = Vec::new();
        for (at, c) in piece.char_indices() {
            let step = match &self.failed {
                Some(error) => Err(error.clone()),
                None => self.step(self.offset + at, c),
            };
            calls.extend(step.inspect_err(|error| self.failed = Some(error.clone()))?);
        }
        self.offset += piece.len();
        match &self.failed {
            Some(error) => Err(error.clone()),
            None => Ok(calls),
        }
    }

    /// No piece follows.
    ///
    /// # Errors
    ///
    /// [`CallProblem::Unfinished`], or the error of before.
    pub fn finish(self) -> Result<(), CallError> {
        let expected = match &self.state {
            State::Start => "`[`",
            State::Expecting { .. } => "a call",
            State::Inside(_) => "the end of the call",
            State::Behind => "`,` or `]`",
            State::End => return self.failed.map_or(Ok(()), Err),
        };
        let unfinished = self.error(self.offset, CallProblem::Unfinished { expected });
        Err(self.failed.unwrap_or(unfinished))
    }

    fn error(&self, offset: usize, problem: CallProblem) -> CallError {
        CallError { call: self.calls, offset, problem }
    }

    fn step(&mut self, at: usize, c: char) -> Result<Option<ToolCall>, CallError> {
        if let State::Inside(call) = &mut self.state {
            if !call.ends_with(c) {
                return Ok(None);
            }
            let (start, text) = (call.start, std::mem::take(&mut call.text));
            let value = Json::parse(&text).map_err(|e| CallError::json(self.calls, start, e))?;
            let call = tool_call(&value).map_err(|problem| self.error(start, problem))?;
            self.state = State::Behind;
            self.calls += 1;
            return Ok(Some(call));
        }
        if matches!(c, ' ' | '\t' | '\n' | '\r') {
            return Ok(None);
        }
        let (next, expected) = match (&self.state, c) {
            (State::Start, '[') => (State::Expecting { first: true }, ""),
            (State::Expecting { .. }, '{') => (State::Inside(Call::new(at)), ""),
            (State::Expecting { first: true }, ']') | (State::Behind, ']') => (State::End, ""),
            (State::Behind, ',') => (State::Expecting { first: false }, ""),
            (State::Start, _) => (State::Start, "`[`"),
            (State::Expecting { .. }, _) => (State::Start, "`{`"),
            (State::Behind, _) => (State::Start, "`,` or `]`"),
            (State::End | State::Inside(_), _) => (State::Start, "the end of the answer"),
        };
        if !expected.is_empty() {
            return Err(self.error(at, CallProblem::Unexpected { found: c, expected }));
        }
        self.state = next;
        Ok(None)
    }
}

impl Call {
    /// Behind its opening bracket.
    fn new(start: usize) -> Self {
        Self { start, text: "{".to_owned(), depth: 1, string: Quote::Outside }
    }

    /// Takes a character, and tells whether it closes the outermost bracket.
    fn ends_with(&mut self, c: char) -> bool {
        self.text.push(c);
        self.string = match (self.string, c) {
            (Quote::Outside, '"') | (Quote::Escape, _) => Quote::Inside,
            (Quote::Inside, '\\') => Quote::Escape,
            (Quote::Inside, '"') => Quote::Outside,
            (string, _) => string,
        };
        if self.string == Quote::Outside {
            match c {
                '{' | '[' => self.depth += 1,
                '}' | ']' => self.depth -= 1,
                _ => {}
            }
        }
        self.depth == 0
    }
}

/// A call from its object. Fields that no template writes are not looked at.
fn tool_call(value: &Json) -> Result<ToolCall, CallProblem> {
    let field = |field: &'static str, expected: &'static str, fits: &dyn Fn(&Json) -> bool| {
        let found = match value.get(field) {
            Some(found) if fits(found) => return Ok(found),
            Some(Json::String(text)) => format!("{text:?}"),
            Some(other) => other.kind().to_owned(),
            None => "missing".to_owned(),
        };
        Err(CallProblem::Field { field, found, expected })
    };
    let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
    let name = field("name", "1 to 64 letters, digits, `_` or `-`", &|name| {
        name.as_str().is_some_and(is_function_name)
    })?;
    let arguments = field("arguments", "an object", &|arguments| {
        matches!(arguments, Json::Object(_) | Json::String(_))
    })?;
    let id = value.get("id").filter(|id| **id != Json::Null).map(|_| {
        field("id", "9 letters or digits", &|id| id.as_str().is_some_and(is_call_id)).map(text)
    });
    let arguments = match arguments {
        // Arguments that are no JSON are shown to the model as a string, and it may do likewise.
        Json::String(arguments) => arguments.clone(),
        object => object.to_string(),
    };
    Ok(ToolCall { id: id.transpose()?, name: text(name), arguments })
}
