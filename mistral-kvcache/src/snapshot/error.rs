use std::io;
use std::path::PathBuf;

use crate::error::CacheError;

/// Why a sequence could not be saved or restored.
///
/// A refused snapshot leaves the cache as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The first bytes are not those of a snapshot.
    #[error("not a snapshot of a cache: it begins with {found:02x?}, expected {expected:02x?}")]
    NotASnapshot {
        /// The first eight bytes.
        found: [u8; 8],
        /// What they should be.
        expected: [u8; 8],
    },
    /// Written by a later version of this crate.
    #[error("the snapshot has version {found}, this version reads {expected}: prefill again")]
    UnknownVersion {
        /// Version of the snapshot.
        found: u32,
        /// The version that can be read.
        expected: u32,
    },
    /// Keys and values of other weights.
    #[error(
        "the snapshot belongs to a model with the fingerprint {}, expected {}",
        hex(found),
        hex(expected)
    )]
    OtherModel {
        /// Fingerprint in the snapshot.
        found: [u8; 32],
        /// Fingerprint of the model at hand.
        expected: [u8; 32],
    },
    /// A number for the format of keys and values that has no meaning.
    #[error("the snapshot has keys and values in format number {found}, expected at most 3")]
    UnknownFormat {
        /// The number.
        found: u32,
    },
    /// Keys and values in another format.
    #[error("the snapshot has keys and values as {found}, expected {expected} as in the cache")]
    OtherFormat {
        /// Format in the snapshot.
        found: mistral_core::kv::KvFormat,
        /// Format of the cache.
        expected: mistral_core::kv::KvFormat,
    },
    /// A cache of another size.
    #[error("the snapshot has {field} = {found}, expected {expected} as in the cache")]
    OtherConfig {
        /// Name of the field.
        field: &'static str,
        /// What the snapshot says.
        found: u64,
        /// What the cache has.
        expected: u64,
    },
    /// A layer with another window; 0 is none.
    #[error("the snapshot has a window of {found} in layer {layer}, expected {expected} (0: none)")]
    OtherWindow {
        /// The layer.
        layer: usize,
        /// What the snapshot says.
        found: u64,
        /// What the cache has.
        expected: u64,
    },
    /// A number that does not fit in `usize`.
    #[error("the snapshot has {field} = {found}, which does not fit in usize")]
    TooLarge {
        /// Name of the field.
        field: &'static str,
        /// What the snapshot says.
        found: u64,
    },
    /// A layer cannot hold these positions and no others.
    #[error(
        "the snapshot has positions {start}..{position} in layer {layer}, which a layer with a \
         window of {window} and a capacity of {capacity} cannot hold: use the same context_len"
    )]
    BadPositions {
        /// The layer.
        layer: usize,
        /// The oldest position.
        start: u64,
        /// The position after the last.
        position: usize,
        /// Window of the layer.
        window: usize,
        /// Most positions in it.
        capacity: usize,
    },
    /// The end came too early.
    #[error("the snapshot ends within the {part} that begins at byte {at}: it was cut off")]
    Truncated {
        /// What was being read.
        part: &'static str,
        /// Where that begins.
        at: u64,
    },
    /// Bytes were changed.
    #[error("the snapshot is damaged: its checksum is {found:016x}, expected {expected:016x}")]
    Checksum {
        /// Checksum in the snapshot.
        found: u64,
        /// Checksum of what it says.
        expected: u64,
    },
    /// More bytes follow.
    #[error("bytes follow after the end of the snapshot at byte {at}")]
    TrailingBytes {
        /// Where the snapshot ends.
        at: u64,
    },
    /// Reading or writing failed.
    #[error("a snapshot could not be read or written: {source}")]
    Io {
        /// Why.
        #[from]
        source: io::Error,
    },
    /// A file could not be opened, written or renamed.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The cache has no such sequence, or no room for another.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

/// A fingerprint as it is usually written.
fn hex(fingerprint: &[u8; 32]) -> String {
    fingerprint.iter().map(|byte| format!("{byte:02x}")).collect()
}
