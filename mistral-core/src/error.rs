//! What can be wrong with the inputs of a matrix or an operation.

use crate::format::WeightFormat;

/// A weight matrix that cannot be made or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MatrixError {
    /// A matrix without rows or columns.
    #[error("a weight matrix of {rows} x {cols} has no elements, expected at least 1 x 1")]
    NoElements {
        /// Rows (outputs).
        rows: usize,
        /// Columns (inputs).
        cols: usize,
    },
    /// Size does not fit the address space, or the allocator refused it.
    #[error("no memory for a weight matrix of {rows} x {cols} in {format}")]
    OutOfMemory {
        /// Rows (outputs).
        rows: usize,
        /// Columns (inputs).
        cols: usize,
        /// How they are stored.
        format: WeightFormat,
    },
    /// Rows that are no whole number of blocks.
    #[error("rows of {cols} weights cannot be stored in {format}, expected a multiple of {block}")]
    Columns {
        /// Columns (inputs).
        cols: usize,
        /// The format.
        format: WeightFormat,
        /// Weights in a block.
        block: usize,
    },
    /// A weight that no block can hold.
    #[error("the weight in row {row}, column {col} is not finite and cannot be stored in {format}")]
    NotFinite {
        /// Row (output).
        row: usize,
        /// Column (input).
        col: usize,
        /// The format.
        format: WeightFormat,
    },
    /// A finite weight that would become infinite.
    #[error(
        "the weight in row {row}, column {col} is too large for {format}, which would make it \
         infinite: choose a format of wider range, such as f32"
    )]
    TooLarge {
        /// Row (output).
        row: usize,
        /// Column (input).
        col: usize,
        /// The format.
        format: WeightFormat,
    },
    /// Bytes that are not the panels of a matrix.
    #[error("{found} bytes for the panels of {rows} x {cols} in {format}, expected {expected}")]
    Panels {
        /// Rows (outputs).
        rows: usize,
        /// Columns (inputs).
        cols: usize,
        /// How they are stored.
        format: WeightFormat,
        /// Bytes found.
        found: usize,
        /// Bytes expected.
        expected: usize,
    },
    /// Panels that vectors cannot be loaded from.
    #[error("the panels do not begin on a border of 32 bytes: read them instead of sharing them")]
    Alignment,
    /// Panels that were written for machines of the other byte order.
    #[error("panels in files are little-endian, and this machine is big-endian")]
    ByteOrder,
    /// A row that the matrix does not have.
    #[error("row {row} of a weight matrix with {rows} rows")]
    NoSuchRow {
        /// Row asked for.
        row: usize,
        /// Rows there are.
        rows: usize,
    },
    /// A target of the wrong length.
    #[error("a row of {cols} elements does not fit a slice of {found}")]
    RowLength {
        /// Elements in a row.
        cols: usize,
        /// Length of the slice.
        found: usize,
    },
}

/// Arrays that do not fit an operation.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum OpError {
    /// A dimension differs from what the other arguments imply.
    #[error("{op}: {what} is {found}, expected {expected}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// Which dimension of which argument.
        what: &'static str,
        /// Found.
        found: usize,
        /// Expected.
        expected: usize,
    },
    /// The elements of a row do not lie side by side.
    #[error("{op}: rows of {what} are not contiguous: copy it with `as_standard_layout`")]
    NotContiguous {
        /// The operation.
        op: &'static str,
        /// Which argument.
        what: &'static str,
    },
    /// Rotation pairs dimensions.
    #[error("rope: head_dim is {found}, expected an even number above 0")]
    OddHeadDim {
        /// Found.
        found: usize,
    },
    /// Heads of more elements than there is memory for.
    #[error("rope: no memory for the angles of a head_dim of {found}")]
    HeadDimTooLarge {
        /// Found.
        found: usize,
    },
    /// The rotation's base frequency is no positive finite number.
    #[error("rope: theta is {found}, expected a finite number above 0")]
    BadTheta {
        /// Found.
        found: f64,
    },
}
