//! SentencePiece vocabularies of byte-pair merges: pieces with a score and a type.
//!
//! They come from a `.model` file (`model_file.rs` and `settings.rs`, over the
//! wire format of `wire.rs`) or from a GGUF
//! file, and can be written as a `.model` or as a `tokenizer.json` (`export.rs`). What is checked of
//! them is here; `bpe/` encodes with them.

mod error;
mod export;
mod model_file;
mod settings;
mod wire;

pub use error::{ModelFileError, PieceProblem};
pub(super) use model_file::MAX_BYTES;

use std::collections::HashMap;

use super::error::TokenizerError;
use super::pieces::{MAX_IDS, byte_of};

/// Bytes of a piece: four times the longest of Mistral's.
const LONGEST_PIECE: usize = 256;

/// What a piece is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PieceType {
    /// Formed by merges.
    Normal,
    /// Stands for text without a piece.
    Unknown,
    /// Steers the model and is never formed from text.
    Control,
    /// Found in the text before any merge.
    UserDefined,
    /// Takes an id and no more.
    Unused,
    /// One byte of a character without a piece.
    Byte,
}

impl PieceType {
    /// The number that files have for it.
    pub(crate) fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }

    fn number(self) -> u64 {
        match self {
            Self::Normal => 1,
            Self::Unknown => 2,
            Self::Control => 3,
            Self::UserDefined => 4,
            Self::Unused => 5,
            Self::Byte => 6,
        }
    }
}

/// A SentencePiece vocabulary of byte-pair merges.
///
/// ```
/// use mistral_model::tokenizer::{PieceType, SentencePieces};
///
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tokenizer/v3/tokenizer.model");
/// let pieces = SentencePieces::from_model(&std::fs::read(path)?)?;
/// assert_eq!(pieces.pieces[3], ("[INST]".to_owned(), 0.0, PieceType::Control));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct SentencePieces {
    /// Text, score and type, in the order of the ids.
    pub pieces: Vec<(String, f32, PieceType)>,
    /// The piece that starts a sequence. It counts as a control piece, whatever its type.
    pub bos: Option<u32>,
    /// Whether encoding puts a space before the text.
    pub space_before_text: bool,
}

impl SentencePieces {
    /// What the piece of `id` is for.
    pub(super) fn type_of(&self, id: usize) -> Option<PieceType> {
        let (_, _, kind) = self.pieces.get(id)?;
        let is_bos = self.bos.is_some_and(|bos| bos as usize == id);
        Some(if is_bos { PieceType::Control } else { *kind })
    }

    /// Refuses what no vocabulary can have.
    pub(super) fn check(&self) -> Result<(), TokenizerError> {
        let mut checker = Checker::default();
        for (id, (piece, score, kind)) in self.pieces.iter().enumerate() {
            let checked = checker.add(piece, *score, *kind);
            checked.map_err(|problem| TokenizerError::Piece { id, problem })?;
        }
        if let Some(bos) = self.bos.filter(|bos| *bos as usize >= self.pieces.len()) {
            return Err(TokenizerError::NoSuchPiece { part: "bos", piece: bos.to_string() });
        }
        match checker.bytes {
            0 | 256 => Ok(()),
            found => {
                Err(TokenizerError::ModelFile { source: ModelFileError::BytePieces { found } })
            }
        }
    }
}

/// Looks at one piece after the other.
#[derive(Debug, Default)]
struct Checker<'a> {
    ids: HashMap<&'a str, usize>,
    unknown: Option<usize>,
    /// Byte pieces so far, all of them different.
    bytes: usize,
}

impl<'a> Checker<'a> {
    fn add(&mut self, piece: &'a str, score: f32, kind: PieceType) -> Result<(), PieceProblem> {
        let id = self.ids.len();
        let limit = MAX_IDS as usize;
        if id >= limit {
            return Err(PieceProblem::TooMany { limit });
        }
        if piece.is_empty() {
            return Err(PieceProblem::Empty);
        }
        if piece.len() > LONGEST_PIECE {
            return Err(PieceProblem::TooLong { found: piece.len(), limit: LONGEST_PIECE });
        }
        if score.is_nan() {
            return Err(PieceProblem::Score { piece: piece.to_owned() });
        }
        if let Some(first) = self.ids.insert(piece, id) {
            return Err(PieceProblem::Duplicate { piece: piece.to_owned(), first });
        }
        match kind {
            PieceType::Byte if byte_of(piece).is_none() => {
                Err(PieceProblem::NotAByte { piece: piece.to_owned() })
            }
            PieceType::Byte => {
                self.bytes += 1;
                Ok(())
            }
            PieceType::Unknown => match self.unknown.replace(id) {
                None => Ok(()),
                Some(first) => Err(PieceProblem::SecondUnknown { piece: piece.to_owned(), first }),
            },
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(all: &[(&str, f32, PieceType)]) -> Option<(usize, PieceProblem)> {
        let pieces = all.iter().map(|(text, score, kind)| ((*text).to_owned(), *score, *kind));
        let pieces =
            SentencePieces { pieces: pieces.collect(), bos: None, space_before_text: true };
        match pieces.check() {
            Ok(()) => None,
            Err(TokenizerError::Piece { id, problem }) => Some((id, problem)),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_vocabulary_that_cannot_be_is_refused_by_the_piece() {
        use PieceType::{Byte, Normal, Unknown};
        let (a, b) = (("a", 0.0, Normal), ("b", 0.0, Normal));
        assert_eq!(problem(&[a, b]), None);
        let twice = problem(&[a, b, ("a", -1.0, PieceType::Control)]);
        assert_eq!(twice, Some((2, PieceProblem::Duplicate { piece: "a".into(), first: 0 })));
        assert_eq!(problem(&[a, ("", 0.0, Normal)]), Some((1, PieceProblem::Empty)));
        let (longest, longer) = ("a".repeat(LONGEST_PIECE), "a".repeat(LONGEST_PIECE + 1));
        assert_eq!(problem(&[(&longest, 0.0, Normal)]), None);
        let long = problem(&[(&longer, 0.0, Normal)]);
        assert_eq!(long, Some((0, PieceProblem::TooLong { found: 257, limit: 256 })));
        let score = problem(&[("a", f32::NAN, Normal)]);
        assert_eq!(score, Some((0, PieceProblem::Score { piece: "a".into() })));
        let byte = problem(&[("<0x0a>", 0.0, Byte)]);
        assert_eq!(byte, Some((0, PieceProblem::NotAByte { piece: "<0x0a>".into() })));
        let unknown = problem(&[("a", 0.0, Unknown), b, ("c", 0.0, Unknown)]);
        assert_eq!(unknown, Some((2, PieceProblem::SecondUnknown { piece: "c".into(), first: 0 })));
    }

    #[test]
    fn bytes_have_a_piece_all_of_them_or_none() {
        let bytes = |n: usize| SentencePieces {
            pieces: (0..n).map(|b| (format!("<0x{b:02X}>"), 0.0, PieceType::Byte)).collect(),
            bos: None,
            space_before_text: true,
        };
        assert!(bytes(0).check().is_ok() && bytes(256).check().is_ok());
        let error = bytes(255).check().unwrap_err();
        let TokenizerError::ModelFile { source } = error else { panic!("{error:?}") };
        assert!(matches!(source, ModelFileError::BytePieces { found: 255 }));
    }

    #[test]
    fn a_sequence_can_only_start_with_a_piece() {
        let pieces = vec![("a".to_owned(), 0.0, PieceType::Normal)];
        let pieces = SentencePieces { pieces, bos: Some(1), space_before_text: true };
        assert!(matches!(pieces.check(), Err(TokenizerError::NoSuchPiece { .. })));
        let pieces = SentencePieces { bos: Some(0), ..pieces };
        assert!(pieces.check().is_ok());
        assert_eq!(pieces.type_of(0), Some(PieceType::Control));
    }
}
