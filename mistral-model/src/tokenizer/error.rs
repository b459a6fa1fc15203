//! What can be wrong with a tokenizer and with what it is given.

use std::path::PathBuf;

use super::sentencepiece::{ModelFileError, PieceProblem};

/// A tokenizer file that cannot be used, or text or ids that it cannot turn.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A folder without a tokenizer.
    #[error(
        "no tokenizer in {}, expected {expected}: name the file itself, or a folder that has one",
        folder.display()
    )]
    NoFile {
        /// The folder.
        folder: PathBuf,
        /// Names of files that would do.
        expected: &'static str,
    },
    /// A file that holds no tokenizer of its format.
    #[error("{} is no tokenizer that can be used", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: Box<TokenizerError>,
    },
    /// Longer than any real tokenizer.
    #[error("the tokenizer has {found} bytes, expected at most {limit}")]
    TooLong {
        /// Bytes found.
        found: u64,
        /// Bytes accepted.
        limit: u64,
    },
    /// Brackets in brackets in brackets.
    #[error("the tokenizer's JSON is nested deeper than {limit} at byte {offset}")]
    TooDeep {
        /// Levels accepted.
        limit: usize,
        /// Where the first level beyond them opens.
        offset: usize,
    },
    /// Not JSON, or without the parts of a tokenizer.json.
    #[error("the tokenizer's JSON cannot be read")]
    Json {
        /// Where and why.
        source: serde_json::Error,
    },
    /// A part that works in another way than Mistral's tokenizers.
    #[error("the tokenizer's {part} is {found}, expected {expected}")]
    Unsupported {
        /// The part, as it is named in the file.
        part: &'static str,
        /// Found.
        found: String,
        /// What this crate knows.
        expected: &'static str,
    },
    /// Vocabulary and merges that do not fit each other.
    #[error("the tokenizer's vocabulary, merges or added tokens do not fit each other")]
    Inconsistent {
        /// Which, and why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An id that would need a huge table.
    #[error("piece {piece:?} has id {id}, expected less than {limit}")]
    IdTooLarge {
        /// The piece.
        piece: String,
        /// Its id.
        id: u32,
        /// Ids accepted.
        limit: u32,
    },
    /// Two pieces of one id.
    #[error("pieces {first:?} and {second:?} both have id {id}")]
    DuplicateId {
        /// The id.
        id: u32,
        /// One of them.
        first: String,
        /// The other.
        second: String,
    },
    /// A piece that a vocabulary cannot have.
    #[error("the piece of id {id} cannot be used: {problem}")]
    Piece {
        /// Its id.
        id: usize,
        /// Why not.
        problem: PieceProblem,
    },
    /// A SentencePiece `.model` file that cannot be used.
    #[error("the SentencePiece model cannot be used")]
    ModelFile {
        /// Why not.
        #[from]
        source: ModelFileError,
    },
    /// A GGUF file whose vocabulary cannot be read.
    #[error("{} has no tokenizer that can be used", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: crate::weights::GgufError,
    },
    /// Names a piece that the vocabulary lacks.
    #[error("the tokenizer's {part} is {piece:?}, which is not in its vocabulary")]
    NoSuchPiece {
        /// The part, as it is named in the file.
        part: &'static str,
        /// The piece.
        piece: String,
    },
    /// A sequence should start with `<s>`, and there is none.
    #[error("the tokenizer has no piece that starts a sequence: use `encode_without_bos`")]
    NoBos,
    /// A vocabulary in which merges lead to a control piece.
    #[error(
        "text became control piece {piece:?} ({id}), which only a template may use: \
         the tokenizer's merges should not lead to it"
    )]
    ControlFromText {
        /// Its id.
        id: u32,
        /// The piece.
        piece: String,
    },
    /// A character that the vocabulary can say in no way.
    #[error(
        "{character:?} has no piece, in a vocabulary without byte pieces and without an unknown piece"
    )]
    NoPiece {
        /// The character.
        character: char,
    },
    /// More text than can be encoded at once.
    #[error("the text has {found} bytes, expected at most {limit}: encode it in parts")]
    TextTooLong {
        /// Bytes, a space counted as the three of its mark.
        found: usize,
        /// Bytes accepted.
        limit: usize,
    },
    /// The text cannot be encoded.
    #[error("the text cannot be encoded")]
    Encode {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An id that no piece has.
    #[error("token id {id} has no piece, expected one of the {vocab_size} of the vocabulary")]
    UnknownId {
        /// The id.
        id: u32,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
}
