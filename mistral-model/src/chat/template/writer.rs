//! Ids in a row: controls by id, texts encoded each on its own.

use super::Written;
use crate::chat::error::ChatError;
use crate::chat::json::Json;
use crate::tokenizer::Tokenizer;

pub(super) struct Writer<'t> {
    tokenizer: &'t Tokenizer,
    ids: Vec<u32>,
    /// Where the turn under way begins.
    turn: usize,
}

impl<'t> Writer<'t> {
    /// The one place that writes the start of a sequence.
    pub(super) fn new(tokenizer: &'t Tokenizer, bos: Option<u32>) -> Self {
        Self { tokenizer, ids: bos.into_iter().collect(), turn: 0 }
    }

    pub(super) fn start_turn(&mut self) {
        self.turn = self.ids.len();
    }

    pub(super) fn control(&mut self, id: u32) {
        self.ids.push(id);
    }

    pub(super) fn text(&mut self, text: &str) -> Result<(), ChatError> {
        self.ids.extend(self.tokenizer.encode_without_bos(text)?);
        Ok(())
    }

    pub(super) fn json(&mut self, value: &Json) -> Result<(), ChatError> {
        self.text(&value.to_string())
    }

    pub(super) fn finish(self, prefix: bool) -> Written {
        let prefix_len = if prefix { self.ids.len() - self.turn } else { 0 };
        Written { ids: self.ids, prefix_len }
    }
}
