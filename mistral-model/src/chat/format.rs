//! What a conversation needs of a template, whoever made it.

use super::answer::AnswerParser;
use super::encoder::{ChatEncoder, Prompt};
use super::error::ChatError;
use super::request::ChatRequest;
use super::validate::Validation;
use crate::tokenizer::Tokenizer;

/// Turns a conversation into ids, and the answer's ids back.
pub trait ChatFormat {
    /// The vocabulary.
    fn tokenizer(&self) -> &Tokenizer;

    /// The ids of a conversation, up to where the answer begins.
    ///
    /// # Errors
    ///
    /// What is wrong with the conversation.
    fn prompt(&self, request: &ChatRequest) -> Result<Prompt, ChatError>;

    /// Reads an answer.
    fn answer(&self) -> AnswerParser<'_>;

    /// Texts that end an answer.
    fn stop_strings(&self) -> &'static [&'static str] {
        &[]
    }
}

impl ChatFormat for ChatEncoder<'_> {
    fn tokenizer(&self) -> &Tokenizer {
        ChatEncoder::tokenizer(self)
    }

    fn prompt(&self, request: &ChatRequest) -> Result<Prompt, ChatError> {
        self.encode(request, Validation::Test)
    }

    fn answer(&self) -> AnswerParser<'_> {
        AnswerParser::new(self)
    }

    fn stop_strings(&self) -> &'static [&'static str] {
        self.template().stop_strings()
    }
}
