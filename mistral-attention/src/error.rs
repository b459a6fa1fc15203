//! What can be wrong with a configuration or with the arrays of one call.

/// A configuration that makes no sense, or arrays that do not fit it.
///
/// [`Attention::new`](crate::Attention::new) finds the first group, the calls the second, before
/// they write anything.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AttentionError {
    /// A window in which a query would not even see its own key.
    #[error("a window of 0 keys, expected at least 1: a query sees its own key")]
    ZeroWindow,
    /// A size of 0.
    #[error("{name} is 0, expected at least 1")]
    ZeroSize {
        /// `"n_heads"`, `"n_kv_heads"` or `"head_dim"`.
        name: &'static str,
    },
    /// Query heads that cannot be shared out evenly among the key/value heads.
    #[error(
        "n_heads = {n_heads} is not a multiple of n_kv_heads = {n_kv_heads}: each key/value head \
         serves as many query heads as any other"
    )]
    UngroupedHeads {
        /// Query heads.
        n_heads: usize,
        /// Key/value heads.
        n_kv_heads: usize,
    },
    /// A softmax scale that is NaN or infinite.
    #[error("the softmax scale is {found}, expected a finite number")]
    BadScale {
        /// The scale given.
        found: f32,
    },
    /// A soft-cap that is no bound.
    #[error("the soft-cap is {found}, expected a finite number of at least {}", f32::MIN_POSITIVE)]
    BadSoftCap {
        /// The soft-cap given.
        found: f32,
    },
    /// Queries of another shape than the configuration says.
    #[error("q has (n_heads, head_dim) = {found:?}, expected {expected:?}")]
    QueryShape {
        /// Heads and head size found.
        found: (usize, usize),
        /// Heads and head size of the configuration.
        expected: (usize, usize),
    },
    /// Keys and values of another shape than the configuration says.
    #[error("the key/value view has (n_kv_heads, head_dim) = {found:?}, expected {expected:?}")]
    KvShape {
        /// Heads and head size found.
        found: (usize, usize),
        /// Heads and head size of the configuration.
        expected: (usize, usize),
    },
    /// An output of another shape than the queries.
    #[error("out has shape {found:?}, expected {expected:?} as q")]
    OutShape {
        /// Shape of the output.
        found: (usize, usize, usize),
        /// Shape of the queries.
        expected: (usize, usize, usize),
    },
    /// Queries beyond the last position that there is.
    #[error("{queries} queries from position {first} on reach beyond the largest position")]
    PositionOverflow {
        /// Position of the first query.
        first: usize,
        /// Queries given.
        queries: usize,
    },
    /// A part of a history that is two ranges.
    #[error(
        "a part of a history holds {sinks} sinks and the positions from {view_starts_at} on, \
         expected one range: give the sinks as a part of their own"
    )]
    PartWithGap {
        /// Sinks in the view.
        sinks: usize,
        /// The oldest position behind the gap.
        view_starts_at: usize,
    },
    /// More queries than positions: some query's own key is missing.
    #[error(
        "{queries} queries, but the view holds {positions} positions: each query's own key must be in it"
    )]
    TooManyQueries {
        /// Queries given.
        queries: usize,
        /// Positions in the view.
        positions: usize,
    },
    /// The first query sees keys that are no longer in the view.
    #[error(
        "the first query sees keys from position {needed_from} on, but the view starts at \
         {view_starts_at}: give the cache the same window, and commit a chunk after it has been \
         attended to"
    )]
    MissingHistory {
        /// The oldest position that the first query sees.
        needed_from: usize,
        /// The oldest position in the view.
        view_starts_at: usize,
    },
    /// The pinned first positions are not all in the view.
    #[error(
        "queries see the first {needed} positions, but the view holds {found} of them: pin them in \
         the cache and add them with `KvView::with_sinks`"
    )]
    MissingSinks {
        /// Sinks that the last query sees.
        needed: usize,
        /// Sinks in the view.
        found: usize,
    },
    /// A further array of a call that does not fit its queries or keys.
    #[error("{array} has shape {found:?}, expected {expected:?}")]
    Shape {
        /// Which array.
        array: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that fits.
        expected: Vec<usize>,
    },
    /// A slice that is not so many whole rows.
    #[error("{array} has {found} elements, expected a multiple of {row} (heads * head_dim)")]
    SliceLength {
        /// `"q"`, `"keys"`, `"values"` or `"out"`.
        array: &'static str,
        /// Elements found.
        found: usize,
        /// Elements of a row.
        row: usize,
    },
    /// An array that cannot be addressed.
    #[error("an array cannot have its shape")]
    Unaddressable(#[from] ndarray::ShapeError),
    /// Keys and values that make no view.
    #[error(transparent)]
    Kv(#[from] mistral_core::kv::KvError),
    /// The caller wanted no result any more. What is in `out` is of no use.
    #[error("attention was cancelled")]
    Cancelled,
}
