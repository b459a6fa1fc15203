//! What can be wrong with a GGUF file.

use mistral_core::WeightFormat;

use crate::weights::shown::Shown;

/// A GGUF file whose header cannot be trusted, or that holds another kind of model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// Another kind of file.
    #[error("the file begins with {found:?}, expected \"GGUF\"")]
    Magic {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// A version that is not read.
    #[error(
        "the file has version {found}, expected 2 or 3 in little-endian byte order: convert the \
         original model again"
    )]
    Version {
        /// Found.
        found: u32,
    },
    /// Ends too soon, or says that it has more than it has.
    #[error("the file ends at byte {len}, expected {needed} more bytes at {offset} for {what}")]
    Truncated {
        /// What is read there.
        what: &'static str,
        /// Where it begins.
        offset: u64,
        /// Bytes that it needs.
        needed: u64,
        /// Length of the file.
        len: u64,
    },
    /// More than any header needs.
    #[error(
        "the header says that {what} at byte {offset} takes {needed} bytes, expected a header of at \
         most {limit} in all"
    )]
    HeaderTooLong {
        /// What is read there.
        what: &'static str,
        /// Where it begins.
        offset: u64,
        /// Bytes that it needs.
        needed: u64,
        /// Most that is read.
        limit: u64,
    },
    /// A key, or a tensor's name, beyond what the format allows.
    #[error("{what} at byte {offset} has {found} bytes, expected at most {limit}")]
    NameTooLong {
        /// What is read there.
        what: &'static str,
        /// Where it begins.
        offset: u64,
        /// Bytes that it has.
        found: u64,
        /// Most that is read.
        limit: u64,
    },
    /// The file cannot be read, or there is no memory for its header.
    #[error("the header cannot be read")]
    Read {
        /// Why.
        #[from]
        source: std::io::Error,
    },
    /// A name or value that is no text.
    #[error("the string at byte {offset} is not UTF-8")]
    NotUtf8 {
        /// Where it begins.
        offset: u64,
    },
    /// A type of value that the format does not have.
    #[error("the value of {} at byte {offset} has type {found}, expected 0 to 12", Shown(.key))]
    ValueType {
        /// The key.
        key: String,
        /// Found.
        found: u32,
        /// Where it stands.
        offset: u64,
    },
    /// Arrays in arrays, which no model has.
    #[error("the value of {} at byte {offset} is an array of arrays", Shown(.key))]
    NestedArray {
        /// The key.
        key: String,
        /// Where it stands.
        offset: u64,
    },
    /// The same key twice.
    #[error("{} is there twice, again at byte {offset}", Shown(.key))]
    DuplicateKey {
        /// The key.
        key: String,
        /// Where it stands again.
        offset: u64,
    },
    /// The same tensor twice.
    #[error("tensor {} is there twice, again at byte {offset} of the header", Shown(.tensor))]
    DuplicateTensor {
        /// The tensor.
        tensor: String,
        /// Where it stands again.
        offset: u64,
    },
    /// Borders that are none.
    #[error("general.alignment is {found}, expected a power of two up to 2^20")]
    Alignment {
        /// Found.
        found: u64,
    },
    /// More dimensions than tensors have.
    #[error("tensor {} has {found} dimensions, expected 1 to 4", Shown(.tensor))]
    Dimensions {
        /// The tensor.
        tensor: String,
        /// Found.
        found: u32,
    },
    /// Sizes whose product is beyond any memory.
    #[error("tensor {} has the impossible shape {shape:?}", Shown(.tensor))]
    Shape {
        /// The tensor.
        tensor: String,
        /// Sizes, outermost first.
        shape: Vec<u64>,
    },
    /// Rows that are no whole number of blocks.
    #[error(
        "tensor {} at byte {offset} has rows of {cols} weights, expected a multiple of \
         {block} for {format}",
        Shown(.tensor)
    )]
    Columns {
        /// The tensor.
        tensor: String,
        /// Where it should lie.
        offset: u64,
        /// Weights of a row.
        cols: u64,
        /// Its format.
        format: WeightFormat,
        /// Weights of a block.
        block: usize,
    },
    /// A tensor that does not begin on a border.
    #[error(
        "tensor {} begins at byte {offset} of the data, expected a multiple of {alignment}",
        Shown(.tensor)
    )]
    Misaligned {
        /// The tensor.
        tensor: String,
        /// Where it begins, from the start of the data.
        offset: u64,
        /// The file's alignment.
        alignment: u64,
    },
    /// A tensor that lies beyond the end.
    #[error(
        "tensor {} lies at bytes {offset} to {end}, expected inside a file of {len}",
        Shown(.tensor)
    )]
    OutsideFile {
        /// The tensor.
        tensor: String,
        /// First byte.
        offset: u64,
        /// Byte after the last; the largest number if there is no such.
        end: u64,
        /// Length of the file.
        len: u64,
    },
    /// Two tensors that share bytes.
    #[error("tensors {} and {} overlap at byte {offset}", Shown(.first), Shown(.second))]
    Overlap {
        /// The one before.
        first: String,
        /// The one that begins inside it.
        second: String,
        /// Where it begins.
        offset: u64,
    },
    /// Bytes that belong to no tensor.
    #[error(
        "the file has {found} bytes, expected at most {expected}, where the last tensor and its \
         padding end"
    )]
    TrailingBytes {
        /// Found.
        found: u64,
        /// Expected.
        expected: u64,
    },
    /// A key that is needed.
    #[error("{} is missing", Shown(.key))]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A value of another kind.
    #[error("{} is {found}, expected {expected}", Shown(.key))]
    Value {
        /// The key.
        key: String,
        /// Found.
        found: String,
        /// Expected.
        expected: &'static str,
    },
    /// No tokenizer, or one that works in another way.
    #[error(
        "the file has {}, expected \"llama\": byte-pair merges by score, as SentencePiece makes them",
        .found.as_ref().map_or("no tokenizer".to_owned(), |found| {
            format!("a tokenizer of the kind {found}")
        })
    )]
    OtherTokenizer {
        /// Found; `None` if the file says nothing.
        found: Option<String>,
    },
    /// More than one thing is wrong.
    #[error("several things are wrong:{}", crate::config::list(.problems))]
    Several {
        /// At least two.
        problems: Vec<GgufError>,
    },
}

impl GgufError {
    /// No error, the only one, or all of them.
    pub(super) fn all(mut problems: Vec<Self>) -> Result<(), Self> {
        match problems.pop() {
            None => Ok(()),
            Some(only) if problems.is_empty() => Err(only),
            Some(last) => {
                problems.push(last);
                Err(Self::Several { problems })
            }
        }
    }
}
