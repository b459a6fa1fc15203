//! A conversation with a model, turn by turn.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::fmt;
use std::iter::FusedIterator;

use super::answer::{AnswerError, AnswerParser, AnswerPart};
use super::error::ChatError;
use super::format::ChatFormat;
use super::message::{Content, Message, ToolCall};
use super::request::ChatRequest;
use crate::error::ModelError;
use crate::generate::{Generator, Sampler, StopStrings};
use crate::session::Session;
use crate::transformer::Transformer;

/// Messages, and a session that has read them.
///
/// Each turn encodes the whole conversation as the template wants it and reads only what the
/// session has not read already: what differs is taken back, if the session can, and otherwise all
/// is read again. So the answers are those of a session that starts anew at each turn.
///
/// ```
/// # use mistral_model::{Config, DType, Sampler, Session, SessionOptions, Tokenizer, Transformer};
/// use mistral_model::chat::{ChatEncoder, ChatRequest, Conversation, Message};
/// use mistral_model::generate::StopStrings;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../mistral-cli/demo/model");
///
/// let model = Transformer::open(folder)?;
/// let tokenizer = Tokenizer::open(folder)?;
/// let format = ChatEncoder::new(&tokenizer)?;
/// let session = Session::new(&model, SessionOptions::default())?;
/// let mut chat = Conversation::new(&format, session, ChatRequest::default(), StopStrings::default());
/// let mut reply = chat.say(Message::user("Tell me a tale."), Sampler::greedy(), 20)?;
/// while let Some(part) = reply.next() {
///     print!("{}", part?.text);
/// }
/// reply.finish();
/// assert_eq!(chat.request().messages.len(), 2);
/// # Ok(())
/// # }
/// ```
pub struct Conversation<'c, M> {
    format: &'c dyn ChatFormat,
    session: Session<M>,
    request: ChatRequest,
    stops: StopStrings,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConversationError {
    /// The conversation cannot be written.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// The model cannot read it, or cannot go on.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The answer cannot be read.
    #[error(transparent)]
    Answer(#[from] AnswerError),
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReplyEnd {
    /// The model ended it, or a stop string came up.
    Complete,
    /// As many tokens as were allowed.
    MaxTokens,
    /// The model's context is full.
    ContextFull,
    /// It was not read to its end.
    Stopped,
}

impl<'c, M: Borrow<Transformer>> Conversation<'c, M> {
    /// A conversation that goes on from `request`, with stop strings beside those of the format.
    /// What the session holds already is used as far as it fits.
    pub fn new(
        format: &'c dyn ChatFormat,
        session: Session<M>,
        request: ChatRequest,
        stops: StopStrings,
    ) -> Self {
        Self { format, session, request, stops }
    }

    /// What was said so far.
    pub fn request(&self) -> &ChatRequest {
        &self.request
    }

    /// What was said so far, to be changed: the next turn reads what has become different.
    pub fn request_mut(&mut self) -> &mut ChatRequest {
        &mut self.request
    }

    /// The session.
    pub fn session(&self) -> &Session<M> {
        &self.session
    }

    /// Adds a message and starts an answer of at most `max_tokens` tokens. The sampler is given the
    /// conversation to [observe](Sampler::observe).
    ///
    /// # Errors
    ///
    /// The conversation is then as before.
    ///
    /// - [`ConversationError::Chat`]: the message cannot stand here.
    /// - [`ConversationError::Model`]: all of [`Session::set_tokens`], such as a full context.
    pub fn say(
        &mut self,
        message: Message,
        mut sampler: Sampler,
        max_tokens: usize,
    ) -> Result<Reply<'_, M>, ConversationError> {
        self.request.messages.push(message);
        if let Err(error) = self.read() {
            self.request.messages.pop();
            return Err(error);
        }
        sampler.observe(self.session.tokens());
        // The last token is shown and never appended, so one more fits than there is room for.
        let room = self.session.remaining().map_or(usize::MAX, |room| room.saturating_add(1));
        Ok(Reply {
            tokens: self.session.generate_more(sampler)?,
            parser: Some(self.format.answer()),
            stops: self.stops.clone(),
            messages: &mut self.request.messages,
            said: String::new(),
            calls: Vec::new(),
            left: max_tokens.min(room),
            full: if room < max_tokens { ReplyEnd::ContextFull } else { ReplyEnd::MaxTokens },
            end: None,
        })
    }

    /// Brings the session to where the answer begins.
    fn read(&mut self) -> Result<(), ConversationError> {
        let ids = self.format.prompt(&self.request)?.ids;
        self.session.set_tokens(&ids)?;
        Ok(())
    }
}

impl<M> fmt::Debug for Conversation<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conversation").field("request", &self.request).finish_non_exhaustive()
    }
}

/// An answer that is being written: an iterator over what becomes certain of it.
///
/// Nothing runs unless the next part is asked for. [`finish`](Self::finish) adds what was said to
/// the conversation, also when it was not read to its end; without it the question stands alone.
///
/// Calls of tools come with an id each, for templates want one and models may leave it out: then it
/// is `call00000`, or the next such that the conversation lacks.
#[derive(Debug)]
#[must_use = "a reply is written while it is read"]
pub struct Reply<'s, M> {
    tokens: Generator<'s, M>,
    /// `None` when it has given its last.
    parser: Option<AnswerParser<'s>>,
    stops: StopStrings,
    messages: &'s mut Vec<Message>,
    said: String,
    calls: Vec<ToolCall>,
    left: usize,
    /// What the end of the tokens left means.
    full: ReplyEnd,
    end: Option<ReplyEnd>,
}

impl<M> Reply<'_, M> {
    /// Why the answer ended; `None` while it has not, and after an error.
    pub fn end(&self) -> Option<ReplyEnd> {
        self.end
    }

    /// Adds the answer to the conversation, as a message of its own or as the rest of a prefix.
    /// An empty answer leaves no message.
    pub fn finish(self) -> ReplyEnd {
        let end = self.end.unwrap_or(ReplyEnd::Stopped);
        if let Some(Message::Assistant { content, tool_calls, prefix }) = self.messages.last_mut()
            && *prefix
        {
            let begun = content.as_ref().map(|c| c.texts().collect::<String>());
            let text = begun.unwrap_or_default() + &self.said;
            *content = Some(Content::Text(text)).filter(|_| self.calls.is_empty());
            *prefix = false;
            tool_calls.extend(self.calls);
        } else if !self.calls.is_empty() {
            self.messages.push(Message::tool_calls(self.calls));
        } else if !self.said.is_empty() {
            self.messages.push(Message::assistant(self.said));
        }
        end
    }

    /// What may be shown of a part.
    fn show(&mut self, part: AnswerPart) -> AnswerPart {
        let text = self.stops.push(&part.text).to_owned();
        if self.stops.stopped().is_some() {
            self.end = Some(ReplyEnd::Complete);
        }
        self.note(AnswerPart { text, calls: part.calls })
    }

    fn note(&mut self, mut part: AnswerPart) -> AnswerPart {
        self.said.push_str(&part.text);
        for call in &mut part.calls {
            call.id = call.id.take().or_else(|| Some(self.free_id()));
            self.calls.push(call.clone());
        }
        part
    }

    /// The first id that no call of the conversation has: what comes out does not depend on chance.
    fn free_id(&self) -> String {
        let before = self.messages.iter().flat_map(Message::calls).chain(&self.calls);
        let taken: HashSet<_> = before.filter_map(|call| call.id.as_deref()).collect();
        // One number more than there are ids: one of them is free.
        let ids = (0..=taken.len()).map(|n| format!("call{n:05}"));
        ids.into_iter().find(|id| !taken.contains(id.as_str())).unwrap_or_default()
    }

    /// No token follows: what was held back comes out.
    fn close(&mut self, end: ReplyEnd) -> Option<Result<AnswerPart, ConversationError>> {
        let rest = self.parser.take()?.finish();
        let mut part = match rest {
            Ok(rest) => self.show(rest),
            Err(error) => return Some(Err(error.into())),
        };
        let held = self.stops.finish().to_owned();
        self.said.push_str(&held);
        part.text.push_str(&held);
        self.end = Some(end);
        (part != AnswerPart::default()).then_some(Ok(part))
    }
}

impl<M: Borrow<Transformer>> Iterator for Reply<'_, M> {
    type Item = Result<AnswerPart, ConversationError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.end.is_none() {
            let parser = self.parser.as_mut()?;
            if self.left == 0 {
                return self.close(self.full);
            }
            self.left -= 1;
            let part = match self.tokens.next() {
                None => return self.close(ReplyEnd::Complete),
                Some(Ok(token)) => parser.push(token).map_err(ConversationError::from),
                Some(Err(error)) => Err(error.into()),
            };
            let part = match part {
                Ok(part) => self.show(part),
                Err(error) => {
                    self.parser = None;
                    return Some(Err(error));
                }
            };
            if part != AnswerPart::default() {
                return Some(Ok(part));
            }
        }
        None
    }
}

impl<M: Borrow<Transformer>> FusedIterator for Reply<'_, M> {}
