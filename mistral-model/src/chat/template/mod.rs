//! Versions of Mistral's chat template, one file each, and which of them a vocabulary is for.

mod controls;
mod plain;
mod v1;
mod v2;
mod v3;
mod v3_7b;
mod writer;

use std::fmt;
use std::str::FromStr;

pub(super) use controls::find as find_control;
use controls::{Controls, Ends};
use writer::Writer;

use super::error::ChatError;
use super::turns::{Turn, Turns};
use crate::tokenizer::Tokenizer;

/// A version of Mistral's chat template.
///
/// | version | model | vocabulary |
/// |---|---|---|
/// | `V1` | 7B v0.1 and v0.2 | 32,000 pieces, `[INST]` is text |
/// | `V2` | none of 7B | 32,768 pieces, `[INST]` is a control |
/// | `V3` | Mixtral 8x22B | as `V2`, with `[IMG]`, `[PREFIX]` and `[SUFFIX]` |
/// | `V3For7B` | 7B v0.3 | that of `V2`, byte for byte |
/// | `Plain` | any, trained for chats or not | any |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TemplateVersion {
    /// `[INST]` as text; no tools.
    V1,
    /// Control pieces, tools, one result a turn; calls before the last question are dropped.
    V2,
    /// Calls and results carry ids, and all of them stay.
    V3,
    /// [`V3`](Self::V3) on the vocabulary of 7B v0.3.
    V3For7B,
    /// `User:` and `Assistant:` as text, for models without a template; no tools.
    Plain,
}

impl TemplateVersion {
    /// All versions, oldest first.
    pub const ALL: [Self; 5] = [Self::V1, Self::V2, Self::V3, Self::V3For7B, Self::Plain];

    /// The version that models with this vocabulary were trained with.
    ///
    /// With the control pieces `[INST]` and `[IMG]` it is for `V3`. Without `[IMG]` it was published
    /// as "v2" and came with 7B v0.3, whose template is v3: it is taken for `V3For7B`, and `V2` is
    /// never found, only asked for. Without `[INST]` it is for `V1` if it has the 32,000 pieces of
    /// 7B v0.1, perhaps with others behind them, and else for `Plain`.
    pub fn of(tokenizer: &Tokenizer) -> Self {
        if v3::fits(tokenizer) {
            Self::V3
        } else if v3_7b::fits(tokenizer) {
            Self::V3For7B
        } else if v1::fits(tokenizer) {
            Self::V1
        } else {
            Self::Plain
        }
    }

    /// As it is written on a command line: `v1`, `v2`, `v3`, `v3-7b` or `plain`.
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::V3 => "v3",
            Self::V3For7B => "v3-7b",
            Self::Plain => "plain",
        }
    }

    /// Texts that end an answer because they begin the next question.
    pub fn stop_strings(self) -> &'static [&'static str] {
        if self == Self::Plain { plain::STOP_STRINGS } else { &[] }
    }

    /// Whether calls and results refer to each other.
    pub(super) fn has_call_ids(self) -> bool {
        matches!(self, Self::V3 | Self::V3For7B)
    }
}

impl fmt::Display for TemplateVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that no template has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no chat template is called {found:?}, expected v1, v2, v3, v3-7b or plain")]
pub struct UnknownTemplate {
    /// The name.
    pub found: String,
}

impl FromStr for TemplateVersion {
    type Err = UnknownTemplate;

    fn from_str(name: &str) -> Result<Self, UnknownTemplate> {
        let version = Self::ALL.into_iter().find(|version| version.name() == name);
        version.ok_or_else(|| UnknownTemplate { found: name.to_owned() })
    }
}

/// A template with the control pieces that it writes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Template {
    V1(Ends),
    V2(Controls),
    V3(Controls),
    Plain { bos: Option<u32> },
}

/// The ids of a conversation.
pub(super) struct Written {
    pub(super) ids: Vec<u32>,
    /// How many of the last ids are the beginning of the answer.
    pub(super) prefix_len: usize,
}

impl Template {
    pub(super) fn new(version: TemplateVersion, tokenizer: &Tokenizer) -> Result<Self, ChatError> {
        Ok(match version {
            TemplateVersion::V1 => Self::V1(Ends::of(tokenizer, version)?),
            TemplateVersion::V2 => Self::V2(Controls::of(tokenizer, version)?),
            TemplateVersion::V3 | TemplateVersion::V3For7B => {
                Self::V3(Controls::of(tokenizer, version)?)
            }
            TemplateVersion::Plain => Self::Plain { bos: tokenizer.bos_token() },
        })
    }

    fn bos(&self) -> Option<u32> {
        match self {
            Self::V1(ends) => Some(ends.bos),
            Self::V2(controls) | Self::V3(controls) => Some(controls.ends.bos),
            Self::Plain { bos } => *bos,
        }
    }

    /// The piece behind which an answer is calls.
    pub(super) fn tool_calls(&self) -> Option<u32> {
        match self {
            Self::V1(_) | Self::Plain { .. } => None,
            Self::V2(controls) | Self::V3(controls) => Some(controls.tool_calls),
        }
    }

    /// The ids of a conversation. Texts are encoded part by part, and controls stand between them
    /// as ids: no text can become one.
    pub(super) fn write(
        &self,
        turns: &Turns<'_>,
        tools: &str,
        tokenizer: &Tokenizer,
    ) -> Result<Written, ChatError> {
        if let Self::V2(_) = self {
            v2::check_results(turns)?;
        }
        let mut out = Writer::new(tokenizer, self.bos());
        for (index, turn) in turns.turns.iter().enumerate() {
            out.start_turn();
            match self {
                Self::V1(ends) => v1::write(turns, turn, index, *ends, &mut out)?,
                Self::V2(controls) => {
                    v2::Page { turns, tools, controls }.write(turn, index, &mut out)?;
                }
                Self::V3(controls) => {
                    v3::write(&v2::Page { turns, tools, controls }, turn, index, &mut out)?;
                }
                Self::Plain { .. } => plain::write(turns, turn, index, &mut out)?,
            }
        }
        let prefix = matches!(turns.turns.last(), Some(Turn::Assistant(answer)) if answer.prefix);
        Ok(out.finish(prefix))
    }
}
