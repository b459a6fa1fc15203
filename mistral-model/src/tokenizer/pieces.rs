//! The vocabulary by id: what each piece is, and the text it stands for.

use std::collections::HashMap;
use std::sync::Arc;

use super::error::TokenizerError;

/// SentencePiece's mark for a space: U+2581, lower one eighth block.
pub(super) const SPACE_MARK: char = '\u{2581}';

/// Ids accepted: a table of a million pieces is eight times that of any Mistral.
pub(super) const MAX_IDS: u32 = 1 << 20;

/// One entry of a vocabulary.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    /// As it stands in the file, with [`SPACE_MARK`]s.
    pub(super) written: Arc<str>,
    pub(super) kind: Kind,
}

/// What a piece means in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Itself, with spaces for marks.
    Text,
    /// One byte of a character that is not in the vocabulary, written `<0x0A>`.
    Byte(u8),
    /// Nothing: it steers the model, as `<s>` and `[INST]` do.
    Control,
    /// Text that the vocabulary has no piece for.
    Unknown,
}

/// Pieces by id, and ids by what is written. Ids may have gaps.
#[derive(Debug, Clone, Default)]
pub(super) struct Pieces {
    by_id: Vec<Option<Piece>>,
    ids: HashMap<Arc<str>, u32>,
}

impl Pieces {
    /// Adds a piece, or says again what a known one is.
    pub(super) fn insert(
        &mut self,
        id: u32,
        written: &str,
        kind: Kind,
    ) -> Result<(), TokenizerError> {
        if id >= MAX_IDS {
            return Err(TokenizerError::IdTooLarge {
                piece: written.to_owned(),
                id,
                limit: MAX_IDS,
            });
        }
        let index = id as usize;
        if index >= self.by_id.len() {
            self.by_id.resize(index + 1, None);
        }
        let slot = &mut self.by_id[index];
        match slot {
            Some(piece) if &*piece.written != written => Err(TokenizerError::DuplicateId {
                id,
                first: piece.written.to_string(),
                second: written.to_owned(),
            }),
            Some(piece) => {
                piece.kind = kind;
                Ok(())
            }
            None => {
                let written: Arc<str> = written.into();
                self.ids.insert(Arc::clone(&written), id);
                *slot = Some(Piece { written, kind });
                Ok(())
            }
        }
    }

    /// Says what a known piece is.
    pub(super) fn set_kind(&mut self, id: u32, kind: Kind) {
        if let Some(Some(piece)) = self.by_id.get_mut(id as usize) {
            piece.kind = kind;
        }
    }

    /// The piece of an id.
    pub(super) fn get(&self, id: u32) -> Option<&Piece> {
        self.by_id.get(id as usize)?.as_ref()
    }

    /// The id of a piece as it is written.
    pub(super) fn id(&self, written: &str) -> Option<u32> {
        self.ids.get(written).copied()
    }

    /// Ids from 0 on, gaps included.
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }
}

/// The byte that `<0x00>` to `<0xFF>` name.
pub(super) fn byte_of(written: &str) -> Option<u8> {
    let hex = written.strip_prefix("<0x")?.strip_suffix('>')?;
    let plain = hex.len() == 2 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
    plain.then(|| u8::from_str_radix(hex, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_two_upper_case_hex_digits_name_a_byte() {
        assert_eq!(byte_of("<0x0A>"), Some(10));
        assert_eq!(byte_of("<0xFF>"), Some(255));
        for text in ["<0xA>", "<0x0a>", "<0x+1>", "<0x100>", "0x0A", "<0x0A"] {
            assert_eq!(byte_of(text), None, "{text}");
        }
    }

    #[test]
    fn ids_may_have_gaps_but_not_two_pieces_nor_be_huge() {
        let mut pieces = Pieces::default();
        pieces.insert(4, "a", Kind::Text).unwrap();
        pieces.insert(4, "a", Kind::Control).unwrap();
        assert_eq!(pieces.len(), 5);
        assert!(pieces.get(3).is_none());
        assert_eq!(pieces.get(4).unwrap().kind, Kind::Control);
        assert_eq!((pieces.id("a"), pieces.id("b")), (Some(4), None));
        let twice = pieces.insert(4, "b", Kind::Text).unwrap_err();
        assert!(matches!(twice, TokenizerError::DuplicateId { id: 4, .. }));
        let huge = pieces.insert(u32::MAX, "c", Kind::Text).unwrap_err();
        assert!(matches!(huge, TokenizerError::IdTooLarge { .. }));
    }
}
