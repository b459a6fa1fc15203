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

impl Request {
    /// One continuation, or the choices of a question.
    pub(crate) fn new(context: String, continuations: Vec<String>) -> Self {
        let kind = match continuations.len() {
            1 => Kind::Continuation,
            _ => Kind::Choices { answer: None },
        };
        Self { context, continuations, kind }
    }

    pub(crate) fn from_json(line: &str) -> Result<Self, NotARequest> {
        let Line { context, continuation, choices, answer } = serde_json::from_str(line)?;
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
