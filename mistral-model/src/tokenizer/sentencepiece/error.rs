//! What can be wrong with a SentencePiece vocabulary and with the file that holds it.

/// A piece that a vocabulary cannot have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PieceProblem {
    /// No text.
    #[error("it is empty, expected at least one character")]
    Empty,
    /// A piece that no text contains.
    #[error("it has {found} bytes, expected at most {limit}")]
    TooLong {
        /// Bytes found.
        found: usize,
        /// Bytes accepted.
        limit: usize,
    },
    /// Two ids of one piece.
    #[error("{piece:?} has id {first} already")]
    Duplicate {
        /// The piece.
        piece: String,
        /// The other id.
        first: usize,
    },
    /// A score that is neither better nor worse than another.
    #[error("the score of {piece:?} is not a number")]
    Score {
        /// The piece.
        piece: String,
    },
    /// A type that pieces do not have.
    #[error("its type is {found}, expected 1 to 6")]
    Type {
        /// Found.
        found: u64,
    },
    /// A byte piece that names no byte.
    #[error("{piece:?} is of type byte, expected <0x00> to <0xFF>")]
    NotAByte {
        /// The piece.
        piece: String,
    },
    /// Two pieces for unknown text.
    #[error("{piece:?} is of type unknown, and so is the piece of id {first}, expected one")]
    SecondUnknown {
        /// The piece.
        piece: String,
        /// The other id.
        first: usize,
    },
    /// More pieces than any model has.
    #[error("a vocabulary has at most {limit} pieces")]
    TooMany {
        /// Pieces accepted.
        limit: usize,
    },
}

/// A SentencePiece `.model` file that cannot be used.
///
/// Offsets are bytes from the start of the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelFileError {
    /// Longer than any real vocabulary.
    #[error("the file has {found} bytes, expected at most {limit}")]
    TooLong {
        /// Bytes found.
        found: u64,
        /// Bytes accepted.
        limit: u64,
    },
    /// Ends too soon, or names a length beyond its end.
    #[error("{needed} bytes should follow at byte {offset}, and {left} do: is the file whole?")]
    Truncated {
        /// Where they should begin.
        offset: usize,
        /// Bytes that should follow.
        needed: u64,
        /// Bytes that do, in the message around.
        left: usize,
    },
    /// An integer of more than 64 bits.
    #[error("the integer at byte {offset} has more than 64 bits: is this a SentencePiece model?")]
    IntegerTooLong {
        /// Where it begins.
        offset: usize,
    },
    /// A field number that protocol buffers do not have.
    #[error(
        "the field at byte {offset} has number {found}, expected 1 to 536870911: is this a \
         SentencePiece model?"
    )]
    FieldNumber {
        /// Found.
        found: u64,
        /// Where its tag begins.
        offset: usize,
    },
    /// A way to write values that SentencePiece does not use.
    #[error(
        "field {field} at byte {offset} has wire type {found}, expected 0, 1, 2 or 5: is this a \
         SentencePiece model?"
    )]
    WireType {
        /// The field's number.
        field: u64,
        /// Found.
        found: u64,
        /// Where its tag begins.
        offset: usize,
    },
    /// A known field with a value of another kind.
    #[error("field {field} at byte {offset} is {found}, expected {expected}")]
    FieldType {
        /// The field's number in its message.
        field: u64,
        /// Found.
        found: &'static str,
        /// Expected.
        expected: &'static str,
        /// Where its tag begins.
        offset: usize,
    },
    /// A text that is none.
    #[error("field {field} is not UTF-8 at byte {offset}")]
    NotUtf8 {
        /// The field's number in its message.
        field: u64,
        /// The first byte that is wrong.
        offset: usize,
    },
    /// A piece that cannot be.
    #[error("the piece of id {id} at byte {offset} cannot be used: {problem}")]
    Piece {
        /// Its id.
        id: usize,
        /// Where it begins.
        offset: usize,
        /// Why not.
        problem: PieceProblem,
    },
    /// Only some bytes have a piece.
    #[error("{found} of the 256 bytes have a piece, expected all of them, or none")]
    BytePieces {
        /// Pieces found.
        found: usize,
    },
    /// A file without a vocabulary.
    #[error("the file holds no pieces: is this a SentencePiece model?")]
    NoPieces,
    /// No piece stands for unknown text.
    #[error("no piece is of type unknown, expected one: SentencePiece refuses such a file as well")]
    NoUnknown,
    /// A setting under which text would have other ids than here.
    #[error("{setting} at byte {offset} is {found}, expected {expected}")]
    Unsupported {
        /// The setting, as SentencePiece names it.
        setting: &'static str,
        /// Found.
        found: String,
        /// What Mistral's models have.
        expected: &'static str,
        /// Where it stands; the file's length if it is left out and its default is meant.
        offset: usize,
    },
}
