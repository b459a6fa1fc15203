//! Requests to be scored: from the command line, or from a file with one a line.

use serde::Deserialize;

/// What is asked for.
#[derive(Debug, PartialEq)]
pub(crate) struct Request {
    pub(crate) context: String,
    /// What is scored after it.
    pub(crate) continuations: Vec<String>,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    /// The likelihood of the one continuation.
    Continuation,
    /// Which continuation the model takes; perhaps the right one is known.
    Choices { answer: Option<usize> },
}

/// A line that is no request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotARequest {
    #[error("it is empty, not the JSON of a request: write one, or take the line out")]
    Empty,
    #[error("it begins with a byte order mark (U+FEFF), expected JSON: save the file without one")]
    ByteOrderMark,
    #[error(
        "it is not UTF-8: its byte {offset} is {found:#04x}; convert it, for instance with iconv"
    )]
    NotUtf8 { offset: usize, found: u8 },
    #[error("it is not the JSON of a request")]
    Json(#[from] serde_json::Error),
    #[error("expected either \"continuation\" or \"choices\"")]
    NeitherOrBoth,
    #[error("\"choices\" is empty, expected at least one")]
    NoChoices,
    #[error("\"answer\" is {found}, expected the number of a choice, 0 to {last}")]
    Answer { found: usize, last: usize },
    #[error("\"answer\" belongs to \"choices\", and there are none")]
    AnswerWithoutChoices,
}

/// A line of a file.
#[derive(Deserialize)]
#[serde(expecting = "an object with a context")]
struct Line {
    context: String,
    continuation: Option<String>,
    choices: Option<Vec<String>>,
    answer: Option<usize>,
}

/// The text of a line that may hold JSON.
pub(crate) fn text(line: &[u8]) -> Result<&str, NotARequest> {
    let text = str::from_utf8(line).map_err(|error| {
        let offset = error.valid_up_to();
        NotARequest::NotUtf8 { offset, found: line[offset] }
    })?;
    if text.starts_with('\u{feff}') {
        return Err(NotARequest::ByteOrderMark);
    }
    if text.trim().is_empty() { Err(NotARequest::Empty) } else { Ok(text) }
}

impl Request {
    /// One continuation, or the choices of a question.
    pub(crate) fn new(context: String, continuations: Vec<String>) -> Self {
        let kind = match continuations.len() {
            1 => Kind::Continuation,
            _ => Kind::Choices { answer: None },
        };
        Self { context, continuations, kind }
    }

    pub(crate) fn from_json(line: &[u8]) -> Result<Self, NotARequest> {
        let Line { context, continuation, choices, answer } = serde_json::from_str(text(line)?)?;
        match (continuation, choices) {
            (Some(_), None) if answer.is_some() => Err(NotARequest::AnswerWithoutChoices),
            (Some(continuation), None) => {
                Ok(Self { context, continuations: vec![continuation], kind: Kind::Continuation })
            }
            (None, Some(choices)) => {
                let last = choices.len().checked_sub(1).ok_or(NotARequest::NoChoices)?;
                if let Some(found) = answer.filter(|answer| *answer > last) {
                    return Err(NotARequest::Answer { found, last });
                }
                Ok(Self { context, continuations: choices, kind: Kind::Choices { answer } })
            }
            _ => Err(NotARequest::NeitherOrBoth),
        }
    }
}
