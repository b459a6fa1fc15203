//! A conversation to token ids.

use super::error::ChatError;
use super::json::Json;
use super::request::ChatRequest;
use super::template::{Template, TemplateVersion};
use super::tool::Tool;
use super::turns::Turns;
use super::validate::{self, Validation};
use crate::tokenizer::Tokenizer;

/// Turns conversations into the token ids that a model of Mistral's was trained on.
///
/// Control pieces are written as ids between texts that are encoded each on its own, never as a
/// part of a string: `[INST]` or `</s>` in what somebody types stays text. `<s>` comes once.
///
/// ```no_run
/// use mistral_model::chat::{ChatEncoder, ChatRequest, Message, Validation};
/// use mistral_model::Tokenizer;
///
/// let tokenizer = Tokenizer::open("Mistral-7B-Instruct-v0.3")?;
/// let chat = ChatEncoder::new(&tokenizer)?;
/// let request = ChatRequest::new([Message::user("What is the capital of France?")]);
/// let prompt = chat.encode(&request, Validation::Test)?;
/// assert_eq!(prompt.ids, [1, 3, 2592, 1117, 1040, 6333, 1070, 5611, 29572, 4]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct ChatEncoder<'t> {
    tokenizer: &'t Tokenizer,
    version: TemplateVersion,
    template: Template,
}

/// A conversation as ids, for the model to go on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// From `<s>` to where the answer begins, or to the end of what is there of it.
    pub ids: Vec<u32>,
    /// How many of the last ids are the beginning of the answer: 0 without `prefix`.
    pub prefix_len: usize,
}

impl Prompt {
    /// The ids of the beginning of the answer.
    pub fn prefix(&self) -> &[u32] {
        &self.ids[self.ids.len().saturating_sub(self.prefix_len)..]
    }
}

impl<'t> ChatEncoder<'t> {
    /// With the template that the vocabulary is for, as [`TemplateVersion::of`] tells.
    ///
    /// # Errors
    ///
    /// [`ChatError::NoPiece`]: the vocabulary is none of Mistral's.
    pub fn new(tokenizer: &'t Tokenizer) -> Result<Self, ChatError> {
        Self::with_template(tokenizer, TemplateVersion::of(tokenizer))
    }

    /// With the template that is asked for.
    ///
    /// # Errors
    ///
    /// [`ChatError::NoPiece`]: the template writes a control piece that the vocabulary lacks.
    pub fn with_template(
        tokenizer: &'t Tokenizer,
        version: TemplateVersion,
    ) -> Result<Self, ChatError> {
        Ok(Self { tokenizer, version, template: Template::new(version, tokenizer)? })
    }

    /// The template in use.
    pub fn template(&self) -> TemplateVersion {
        self.version
    }

    /// The vocabulary in use.
    pub fn tokenizer(&self) -> &'t Tokenizer {
        self.tokenizer
    }

    /// The piece behind which an answer is calls of tools, in templates that have them.
    pub fn tool_calls(&self) -> Option<u32> {
        self.template.tool_calls()
    }

    /// The ids of a conversation, those of mistral-common 1.13.
    ///
    /// Neighbouring messages of the user or of the assistant are joined by an empty line, and so
    /// are parts of a message and system prompts. If the user does not begin, an empty question is
    /// put in front.
    ///
    /// Cost: linear in the texts.
    ///
    /// # Errors
    ///
    /// Every [`ChatError`] but [`Json`](ChatError::Json) and [`Field`](ChatError::Field); each of
    /// them tells which rule is broken and by which message.
    pub fn encode(
        &self,
        request: &ChatRequest,
        validation: Validation,
    ) -> Result<Prompt, ChatError> {
        validate::check(request, self.version, validation)?;
        let turns = Turns::new(&request.messages)?;
        let tools = match request.tools.as_slice() {
            [] => String::new(),
            tools => Json::Array(tools.iter().map(Tool::to_json).collect()).to_string(),
        };
        let written = self.template.write(&turns, &tools, self.tokenizer)?;
        Ok(Prompt { ids: written.ids, prefix_len: written.prefix_len })
    }
}
