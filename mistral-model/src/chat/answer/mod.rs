//! What a model answers: text, and calls of tools.

mod calls;
mod error;

pub use calls::{CallParser, parse_calls};
pub use error::{AnswerError, CallError, CallProblem};

use super::encoder::ChatEncoder;
use super::message::ToolCall;
use crate::generate::TextStream;
use crate::tokenizer::Tokenizer;

/// Reads an answer token by token: text until the control piece `[TOOL_CALLS]`, calls behind it.
///
/// A call comes out with the token that completes it. A model without that control piece gives
/// text alone.
///
/// ```no_run
/// use mistral_model::chat::{AnswerParser, ChatEncoder};
/// use mistral_model::Tokenizer;
///
/// let tokenizer = Tokenizer::open("Mistral-7B-Instruct-v0.3")?;
/// let chat = ChatEncoder::new(&tokenizer)?;
/// let mut answer = AnswerParser::new(&chat);
/// let mut ids = vec![5]; // [TOOL_CALLS]
/// ids.extend(tokenizer.encode_without_bos(r#"[{"name": "ping", "arguments": {}}]"#)?);
/// let mut calls = Vec::new();
/// for id in ids {
///     calls.extend(answer.push(id)?.calls);
/// }
/// assert_eq!(answer.finish()?.text, "");
/// assert_eq!(calls[0].name, "ping");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct AnswerParser<'t> {
    stream: TextStream<'t>,
    tool_calls: Option<u32>,
    calls: Option<CallParser>,
    fresh: TextStream<'t>,
}

/// What has become certain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AnswerPart {
    /// Text to show.
    pub text: String,
    /// Calls that are complete.
    pub calls: Vec<ToolCall>,
}

impl<'t> AnswerParser<'t> {
    /// At the start of an answer to what `chat` has encoded.
    pub fn new(chat: &ChatEncoder<'t>) -> Self {
        Self { tool_calls: chat.tool_calls(), ..Self::of_text(chat.tokenizer()) }
    }

    /// At the start of an answer that is text whatever comes.
    pub fn of_text(tokenizer: &'t Tokenizer) -> Self {
        let fresh = TextStream::new(tokenizer);
        Self { stream: fresh.clone(), tool_calls: None, calls: None, fresh }
    }

    /// The next token of the answer; not the one that ends it.
    ///
    /// # Errors
    ///
    /// - [`AnswerError::Token`]: no piece has this id.
    /// - [`AnswerError::Call`]: the calls are malformed, and where.
    pub fn push(&mut self, token: u32) -> Result<AnswerPart, AnswerError> {
        if self.calls.is_none() && Some(token) == self.tool_calls {
            let text = self.stream.finish().unwrap_or_default().to_owned();
            // The space before the first piece behind a control is not part of the text.
            self.stream = self.fresh.clone();
            self.calls = Some(CallParser::new());
            return Ok(AnswerPart { text, calls: Vec::new() });
        }
        let text = self.stream.push(token)?.unwrap_or_default();
        Ok(match &mut self.calls {
            Some(calls) => AnswerPart { text: String::new(), calls: calls.push(text)? },
            None => AnswerPart { text: text.to_owned(), calls: Vec::new() },
        })
    }

    /// The answer is over: what was held back of it.
    ///
    /// # Errors
    ///
    /// [`AnswerError::Call`]: it ends in the middle of its calls.
    pub fn finish(mut self) -> Result<AnswerPart, AnswerError> {
        let text = self.stream.finish().unwrap_or_default();
        match self.calls {
            Some(mut calls) => {
                let rest = calls.push(text)?;
                calls.finish()?;
                Ok(AnswerPart { text: String::new(), calls: rest })
            }
            None => Ok(AnswerPart { text: text.to_owned(), calls: Vec::new() }),
        }
    }
}
