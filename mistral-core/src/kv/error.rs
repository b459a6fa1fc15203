//! What can be wrong with a view.

use super::PAGE;

/// What can be wrong with keys and values before any attention is computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KvError {
    /// Keys and values differ in shape.
    #[error("keys have shape {keys:?} and values {values:?}, expected the same")]
    ShapeMismatch {
        /// Shape of the keys.
        keys: (usize, usize, usize),
        /// Shape of the values.
        values: (usize, usize, usize),
    },
    /// The last axis is strided.
    #[error(
        "the last axis of {array} has stride {stride}, expected 1: copy it with `as_standard_layout`"
    )]
    NotContiguous {
        /// `"keys"` or `"values"`.
        array: &'static str,
        /// Stride found, in elements.
        stride: isize,
    },
    /// The last position does not fit in `usize`.
    #[error("{len} positions from {start} on do not fit in usize")]
    PositionOverflow {
        /// First position.
        start: usize,
        /// Number of positions.
        len: usize,
    },
    /// Nothing to attend to.
    #[error("the view holds no position, expected at least the query's own")]
    Empty,
    /// More segments than a ring and a chunk have.
    #[error("more than {limit} segments with positions in one view")]
    TooManySegments {
        /// Most segments a view holds.
        limit: usize,
    },
    /// A gap, an overlap or a wrong order.
    #[error("a segment starts at position {found}, expected {expected}, where the one before ends")]
    NotConsecutive {
        /// End of the segment before.
        expected: usize,
        /// Start found.
        found: usize,
    },
    /// Segments of different models.
    #[error(
        "a segment has (n_kv_heads, head_dim) = {found:?}, expected {first:?} as in the first segment"
    )]
    HeadsDiffer {
        /// Heads and head size of the first segment.
        first: (usize, usize),
        /// Heads and head size found.
        found: (usize, usize),
    },
    /// Pages, or keys and values for one, of other heads.
    #[error("(n_kv_heads, head_dim) is {found:?}, expected {expected:?} as in the page")]
    PageShape {
        /// Heads and head size found.
        found: (usize, usize),
        /// Heads and head size of the page.
        expected: (usize, usize),
    },
    /// A slot beyond the last.
    #[error("there is no slot {found} in pages with {slots} slots")]
    NoSuchSlot {
        /// The slot asked for.
        found: usize,
        /// Slots there are.
        slots: usize,
    },
    /// A page with too few slots, and another behind it.
    #[error("page {page} has {slots} slots and is not the last, expected {PAGE}")]
    ShortPage {
        /// Which.
        page: usize,
        /// Its slots.
        slots: usize,
    },
    /// A head beyond the last.
    #[error("there is no key/value head {found}, the page has {n_kv_heads}")]
    NoSuchHead {
        /// The head asked for.
        found: usize,
        /// Heads there are.
        n_kv_heads: usize,
    },
    /// The allocator has no more memory.
    #[error("no memory for {bytes} bytes of keys and values")]
    OutOfMemory {
        /// Bytes asked for; `usize::MAX` if the number does not fit.
        bytes: usize,
    },
}
