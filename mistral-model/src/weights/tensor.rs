//! What a file says of one tensor.

use std::fmt;
use std::ops::Range;

use mistral_core::WeightFormat;
use mistral_core::simd::LANES as PANEL;
use safetensors::Dtype;

/// How a file holds the elements of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stored {
    /// Row after row, in one of the formats.
    Rows(WeightFormat),
    /// In the kernels' own layout: what [`Checkpoint::write`](super::Checkpoint::write) writes.
    Panels(WeightFormat),
    /// A type of GGUF files that is not read, by its number.
    Ggml(u32),
    /// Signed bytes, with f16 scales for each 32 in a tensor of their own.
    Int8,
    /// Something that weights are not.
    Other(Dtype),
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rows(format) => format.fmt(f),
            Self::Panels(format) => f.pad(&format!("{format} panels")),
            Self::Ggml(id) => f.pad(&format!("ggml type {id}")),
            Self::Int8 => f.pad("i8"),
            Self::Other(dtype) => f.pad(&format!("{dtype:?}").to_lowercase()),
        }
    }
}

impl From<Dtype> for Stored {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::Rows(WeightFormat::F32),
            Dtype::F16 => Self::Rows(WeightFormat::F16),
            Dtype::BF16 => Self::Rows(WeightFormat::BF16),
            Dtype::I8 => Self::Int8,
            other => Self::Other(other),
        }
    }
}

/// Where a tensor lies in a file, and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorInfo {
    /// How the elements are held.
    pub stored: Stored,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// First byte in the file.
    pub offset: u64,
    /// Number of bytes.
    pub bytes: u64,
}

impl TensorInfo {
    /// The part of a matrix of `all` rows that holds some of them, with the room that panels keep
    /// for rows behind the last one.
    pub(super) fn rows(&self, rows: Range<usize>, all: usize) -> Self {
        let (stop, all) = match self.stored {
            Stored::Panels(_) => (rows.end.next_multiple_of(PANEL), all.next_multiple_of(PANEL)),
            _ => (rows.end, all),
        };
        let row = self.bytes / all.max(1) as u64;
        let offset = self.offset + rows.start as u64 * row;
        Self { offset, bytes: (stop - rows.start) as u64 * row, ..self.clone() }
    }

    /// The tensor's bytes in a file that is in memory.
    pub(super) fn range(&self) -> Range<usize> {
        let from = self.offset as usize;
        from..from + self.bytes as usize
    }
}
