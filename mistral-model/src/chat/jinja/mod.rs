//! Hugging Face's `chat_template`: templates that come with models that are not Mistral's own.
//!
//! A template is a program in Jinja that writes one string, controls and all. It is run with a limit
//! on steps, output and size, and the string is cut into controls and text again. What people said
//! cannot become a control there: `guard.rs` tells how.
//!
//! Not limited is the memory for what a template puts together on the way, see [`JinjaTemplate`]: of
//! what Jinja can do to a text only the product with a number is limited by the library, and neither
//! a sum of texts nor a filter can be watched from outside.

mod environment;
mod error;
mod guard;
mod source;
mod value;

pub use error::JinjaError;
pub use source::JinjaTemplate;

use std::io;
use std::time::SystemTime;

use minijinja::Value;

use self::guard::Guard;
use super::answer::AnswerParser;
use super::encoder::Prompt;
use super::error::ChatError;
use super::format::ChatFormat;
use super::message::{Message, Role};
use super::request::ChatRequest;
use crate::tokenizer::Tokenizer;

/// Bytes that a template may write beside what it is given.
const MAX_EXTRA_OUTPUT: usize = 1 << 20;

/// How often it may write what it is given.
const MAX_COPIES: usize = 4;

/// Conversations by a template of Hugging Face's kind.
///
/// The template itself writes `<s>` where its model wants it; none is added.
///
/// ```no_run
/// use mistral_model::chat::{ChatFormat, ChatRequest, JinjaEncoder, JinjaTemplate, Message};
/// use mistral_model::Tokenizer;
///
/// let tokenizer = Tokenizer::open("zephyr-7b-beta")?;
/// if let Some(template) = JinjaTemplate::open("zephyr-7b-beta")? {
///     let chat = JinjaEncoder::new(&tokenizer, template);
///     let ids = chat.prompt(&ChatRequest::new([Message::user("Hello")]))?.ids;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct JinjaEncoder<'t> {
    tokenizer: &'t Tokenizer,
    template: JinjaTemplate,
    /// Control pieces with their ids, longest first.
    controls: Vec<(String, u32)>,
    now: Option<SystemTime>,
}

impl<'t> JinjaEncoder<'t> {
    /// A template with the vocabulary of its model.
    ///
    /// Cost: a look at every piece.
    pub fn new(tokenizer: &'t Tokenizer, template: JinjaTemplate) -> Self {
        let ids = 0..u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
        let is_control = |id: &u32| tokenizer.decode(&[*id]).is_ok_and(|text| text.is_empty());
        let mut controls: Vec<_> = ids
            .filter(is_control)
            .filter_map(|id| Some((tokenizer.piece(id)?.to_owned(), id)))
            .filter(|(piece, _)| !piece.is_empty() && piece != "\u{2581}")
            .collect();
        controls.sort_by_key(|(piece, _)| std::cmp::Reverse(piece.len()));
        Self { tokenizer, template, controls, now: None }
    }

    /// Lets the template know this time, in UTC, and not that of the clock.
    pub fn at(self, now: SystemTime) -> Self {
        Self { now: Some(now), ..self }
    }

    /// What the template writes, as people would read it.
    ///
    /// # Errors
    ///
    /// - [`ChatError::NoMessages`]: nobody has spoken.
    /// - [`ChatError::Template`]: the template fails, refuses the conversation or exceeds a limit.
    pub fn render(&self, request: &ChatRequest) -> Result<String, ChatError> {
        let guard = self.guard(request);
        Ok(guard.without(&self.write(request, &guard)?))
    }

    fn guard(&self, request: &ChatRequest) -> Guard {
        let controls = self.controls.iter().map(|(piece, _)| piece.as_str());
        Guard::new(controls, &request.to_json().to_string(), self.template.source())
    }

    /// What the template writes, with what people said guarded.
    fn write(&self, request: &ChatRequest, guard: &Guard) -> Result<String, ChatError> {
        match request.messages.last() {
            None => return Err(ChatError::NoMessages),
            Some(Message::Assistant { prefix: true, .. }) => return Err(JinjaError::Prefix.into()),
            Some(last) if last.role() == Role::Assistant => return Err(ChatError::LastMessage),
            Some(_) => {}
        }
        let special = |piece: Option<&str>| piece.map_or(Value::UNDEFINED, Value::from);
        let piece = |id: Option<u32>| id.and_then(|id| self.tokenizer.piece(id));
        let bos = self.template.bos().or_else(|| piece(self.tokenizer.bos_token()));
        let eos = self.template.eos().or_else(|| piece(self.tokenizer.id("</s>")));
        let context = Value::from_pairs([
            ("messages", value::messages(request, guard)),
            ("tools", value::tools(request, guard)),
            ("add_generation_prompt", Value::from(true)),
            ("bos_token", special(bos)),
            ("eos_token", special(eos)),
        ]);
        let given = request.to_json().to_string().len();
        let limit = given.saturating_mul(MAX_COPIES).saturating_add(MAX_EXTRA_OUTPUT);
        let mut page = Page { bytes: Vec::new(), limit, full: false };
        let now = self.now.unwrap_or_else(SystemTime::now);
        let written = self.template.run(context, now, &mut page);
        if page.full {
            return Err(JinjaError::Output { limit }.into());
        }
        written?;
        // A template writes strings alone.
        Ok(String::from_utf8_lossy(&page.bytes).into_owned())
    }

    /// The control that a text begins with.
    fn control_at(&self, text: &str) -> Option<&(String, u32)> {
        self.controls.iter().find(|(piece, _)| text.starts_with(piece.as_str()))
    }
}

impl ChatFormat for JinjaEncoder<'_> {
    fn tokenizer(&self) -> &Tokenizer {
        self.tokenizer
    }

    fn prompt(&self, request: &ChatRequest) -> Result<Prompt, ChatError> {
        let guard = self.guard(request);
        let written = self.write(request, &guard)?;
        let mut ids = Vec::new();
        let text = |text: &str, ids: &mut Vec<u32>| {
            ids.extend(self.tokenizer.encode_without_bos(&guard.without(text))?);
            Ok::<_, ChatError>(())
        };
        let (mut begin, mut at) = (0, 0);
        while let Some(c) = written[at..].chars().next() {
            match self.control_at(&written[at..]) {
                Some((piece, id)) => {
                    text(&written[begin..at], &mut ids)?;
                    ids.push(*id);
                    at += piece.len();
                    begin = at;
                }
                None => at += c.len_utf8(),
            }
        }
        text(&written[begin..], &mut ids)?;
        Ok(Prompt { ids, prefix_len: 0 })
    }

    fn answer(&self) -> AnswerParser<'_> {
        AnswerParser::of_text(self.tokenizer)
    }
}

/// Takes what a template writes, up to a limit.
struct Page {
    bytes: Vec<u8>,
    limit: usize,
    full: bool,
}

impl io::Write for &mut Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len().saturating_add(bytes.len()) > self.limit {
            self.full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
