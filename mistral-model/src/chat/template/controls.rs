//! Control pieces: what steers a model and is never text.

use super::TemplateVersion;
use crate::chat::error::ChatError;
use crate::tokenizer::Tokenizer;

/// The start of a sequence and the end of an answer.
#[derive(Debug, Clone, Copy)]
pub(in crate::chat) struct Ends {
    pub(super) bos: u32,
    pub(super) eos: u32,
}

/// The pieces that templates from v2 on write.
#[derive(Debug, Clone, Copy)]
pub(in crate::chat) struct Controls {
    pub(super) ends: Ends,
    pub(super) begin_inst: u32,
    pub(super) end_inst: u32,
    pub(super) tool_calls: u32,
    pub(super) begin_tools: u32,
    pub(super) end_tools: u32,
    pub(super) begin_results: u32,
    pub(super) end_results: u32,
}

impl Ends {
    pub(super) fn of(tokenizer: &Tokenizer, template: TemplateVersion) -> Result<Self, ChatError> {
        Ok(Self {
            bos: control(tokenizer, template, "<s>")?,
            eos: control(tokenizer, template, "</s>")?,
        })
    }
}

impl Controls {
    pub(super) fn of(tokenizer: &Tokenizer, template: TemplateVersion) -> Result<Self, ChatError> {
        let id = |piece| control(tokenizer, template, piece);
        Ok(Self {
            ends: Ends::of(tokenizer, template)?,
            begin_inst: id("[INST]")?,
            end_inst: id("[/INST]")?,
            tool_calls: id("[TOOL_CALLS]")?,
            begin_tools: id("[AVAILABLE_TOOLS]")?,
            end_tools: id("[/AVAILABLE_TOOLS]")?,
            begin_results: id("[TOOL_RESULTS]")?,
            end_results: id("[/TOOL_RESULTS]")?,
        })
    }
}

/// Whether the vocabulary has this control piece.
pub(super) fn is_control(tokenizer: &Tokenizer, piece: &str) -> bool {
    find(tokenizer, piece).is_some()
}

fn control(
    tokenizer: &Tokenizer,
    template: TemplateVersion,
    piece: &'static str,
) -> Result<u32, ChatError> {
    find(tokenizer, piece).ok_or(ChatError::NoPiece { piece, template })
}

/// A piece of this name that is no text: an ordinary one could come from what a user types.
pub(in crate::chat) fn find(tokenizer: &Tokenizer, piece: &str) -> Option<u32> {
    let id = tokenizer.id(piece)?;
    tokenizer.decode(&[id]).is_ok_and(|text| text.is_empty()).then_some(id)
}
