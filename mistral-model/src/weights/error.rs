//! What can be wrong with the files of a model.

use std::io;
use std::path::PathBuf;

use mistral_core::{MatrixError, OpError, WeightFormat};
use safetensors::Dtype;

use super::gguf::GgufError;
use super::shown::Shown;
use super::tensor::Stored;
use crate::config::ConfigError;

/// Files that no model can be read from.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The operating system refuses.
    #[error("cannot read {}", .path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No known file in the folder.
    #[error(
        "{} holds no model, expected config.json with model.safetensors (or \
         model.safetensors.index.json), params.json with consolidated.safetensors, or one GGUF file",
        .path.display()
    )]
    NoModel {
        /// The folder, or a file that is no GGUF file.
        path: PathBuf,
    },
    /// A JSON file that is too long.
    #[error("{} has {found} bytes, expected at most {limit}", .path.display())]
    FileTooLong {
        /// The file.
        path: PathBuf,
        /// Found.
        found: u64,
        /// Most that is read.
        limit: u64,
    },
    /// A configuration that cannot be used.
    #[error("{} cannot be used", .path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: ConfigError,
    },
    /// An index that is not the JSON expected.
    #[error("{} is no index of shards", .path.display())]
    Index {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: serde_json::Error,
    },
    /// An index that points elsewhere.
    #[error(
        "{} names \"{}\", expected the plain name of a file beside it",
        .path.display(), Shown(.file)
    )]
    IndexEscapes {
        /// The index.
        path: PathBuf,
        /// What it names.
        file: String,
    },
    /// A damaged or hostile GGUF file, or one of another architecture.
    #[error("{} cannot be used", .path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: GgufError,
    },
    /// A damaged or hostile safetensors file.
    #[error("{} is damaged", .path.display())]
    Archive {
        /// The file.
        path: PathBuf,
        /// How.
        source: ArchiveError,
    },
    /// The tensors are not those of the configuration: all of the differences.
    #[error("the weights do not fit the configuration:{}", crate::config::list(.problems))]
    Tensors {
        /// At least one.
        problems: Vec<TensorProblem>,
    },
    /// A file that cannot be written.
    #[error("cannot write the weights")]
    Write {
        /// Why.
        source: io::Error,
    },
    /// A sum that cannot be computed.
    #[error("{} cannot be merged with an adapter", Shown(.tensor))]
    Merge {
        /// The tensor.
        tensor: String,
        /// Why.
        source: OpError,
    },
    /// No memory, or no elements.
    #[error("{} cannot be loaded", Shown(.tensor))]
    Matrix {
        /// The tensor.
        tensor: String,
        /// Why.
        source: MatrixError,
    },
}

/// One tensor that is not as the configuration needs it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorProblem {
    /// Not there.
    #[error("{} is missing", Shown(.tensor))]
    Missing {
        /// The tensor.
        tensor: String,
    },
    /// There, and not asked for.
    #[error("{} in {} belongs to no part of the model", Shown(.tensor), .path.display())]
    Unexpected {
        /// The tensor.
        tensor: String,
        /// The file.
        path: PathBuf,
    },
    /// In two files.
    #[error("{} is in {} and again in {}", Shown(.tensor), .first.display(), .second.display())]
    Repeated {
        /// The tensor.
        tensor: String,
        /// One file.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// Not in the file that the index names.
    #[error("{} is not in {}, where the index puts it", Shown(.tensor), Shown(.file))]
    NotWhereIndexed {
        /// The tensor.
        tensor: String,
        /// The file.
        file: String,
    },
    /// Of another shape.
    #[error("{} at byte {offset} has shape {found:?}, expected {expected:?}", Shown(.tensor))]
    Shape {
        /// The tensor.
        tensor: String,
        /// Where it lies in its file.
        offset: u64,
        /// Found.
        found: Vec<usize>,
        /// Expected.
        expected: Vec<usize>,
    },
    /// Of a type that is no weight's.
    #[error("{} at byte {offset} has type {found}, expected {expected}", Shown(.tensor))]
    Type {
        /// The tensor.
        tensor: String,
        /// Where it lies in its file.
        offset: u64,
        /// Found.
        found: Stored,
        /// Expected.
        expected: &'static str,
    },
    /// Rows that the format asked for cannot hold.
    #[error(
        "{} at byte {offset} has rows of {cols} weights, expected a multiple of {block} for \
         {format}",
        Shown(.tensor)
    )]
    Columns {
        /// The tensor.
        tensor: String,
        /// Where it lies in its file.
        offset: u64,
        /// Weights of a row.
        cols: usize,
        /// The format.
        format: WeightFormat,
        /// Weights of a block.
        block: usize,
    },
}

/// A safetensors file whose header cannot be trusted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// Shorter than it says.
    #[error("the file has {found} bytes, expected at least {expected}")]
    Truncated {
        /// Found.
        found: u64,
        /// Expected.
        expected: u64,
    },
    /// Longer than any header needs.
    #[error("the header has {found} bytes, expected at most {limit}")]
    HeaderTooLong {
        /// Found.
        found: u64,
        /// Limit.
        limit: u64,
    },
    /// Not text.
    #[error("the header is not UTF-8 at byte {offset}")]
    HeaderNotUtf8 {
        /// In the file.
        offset: u64,
    },
    /// Not the JSON expected.
    #[error("the header is not the JSON that was expected")]
    HeaderNotJson {
        /// Why not.
        #[from]
        source: serde_json::Error,
    },
    /// The same name twice.
    #[error("{} is there twice", Shown(.tensor))]
    Duplicate {
        /// The tensor.
        tensor: String,
    },
    /// A type that the format does not know.
    #[error("{} has unknown type \"{}\"", Shown(.tensor), Shown(.found))]
    UnknownDType {
        /// The tensor.
        tensor: String,
        /// Found.
        found: String,
    },
    /// Offsets that no bytes belong to.
    #[error("{} lies at {begin}..{end} of the data, expected inside 0..{data}", Shown(.tensor))]
    OutsideFile {
        /// The tensor.
        tensor: String,
        /// First byte.
        begin: u64,
        /// Byte after the last.
        end: u64,
        /// Bytes of data.
        data: u64,
    },
    /// Not as many bytes as its shape needs.
    #[error(
        "{} at byte {offset} has {found} bytes, expected those of {shape:?} {dtype:?}",
        Shown(.tensor)
    )]
    SizeMismatch {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<u64>,
        /// Its type.
        dtype: Dtype,
        /// In the file.
        offset: u64,
        /// Bytes found.
        found: u64,
    },
    /// Metadata that does not fit its tensor.
    #[error(
        "{} is said to hold panels \"{}\" and has {} bytes, expected FORMAT ROWSxCOLS and \
         the bytes of that in a tensor of type U8",
        Shown(.tensor),
        Shown(.entry),
        .found.map_or("no".to_owned(), |found| found.to_string())
    )]
    Panels {
        /// The tensor.
        tensor: String,
        /// What the metadata says.
        entry: String,
        /// Bytes of the tensor; `None` if it is of another type or not there.
        found: Option<u64>,
    },
    /// A layout that is not read any more, or not yet.
    #[error(
        "the file holds panels of layout version \"{}\", expected {expected:?}: quantise the \
         original weights again",
        Shown(.found)
    )]
    PanelsVersion {
        /// Found.
        found: String,
        /// Expected.
        expected: &'static str,
    },
    /// Panels whose rows are in nobody knows which order.
    #[error(
        "the file holds panels and its rope_layout is {}, expected \"half_split\" or \
         \"interleaved\": quantise the original weights again",
        .found.as_ref().map_or("missing".to_owned(), |found| format!("\"{}\"", Shown(found)))
    )]
    RopeLayout {
        /// Found; `None` if the metadata says nothing.
        found: Option<String>,
    },
    /// More than one entry of the header is wrong.
    #[error("several tensors are wrong:{}", crate::config::list(.problems))]
    Several {
        /// At least two.
        problems: Vec<ArchiveError>,
    },
    /// A gap, or an overlap with the tensor before.
    #[error(
        "{} starts at byte {found}, expected {expected}, where the one before ends",
        Shown(.tensor)
    )]
    NotConsecutive {
        /// The tensor.
        tensor: String,
        /// Start found.
        found: u64,
        /// End of the tensor before.
        expected: u64,
    },
    /// Bytes that belong to no tensor.
    #[error("the file has {found} bytes, expected {expected}, where the last tensor ends")]
    TrailingBytes {
        /// Found.
        found: u64,
        /// Expected.
        expected: u64,
    },
    /// Somebody wrote to the file while it was opened.
    #[error("the file has {found} bytes now and had {expected} before")]
    LengthChanged {
        /// Found.
        found: u64,
        /// Expected.
        expected: u64,
    },
}
