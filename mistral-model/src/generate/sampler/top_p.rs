//! Top-p: the nucleus of a distribution (arXiv:1904.09751 section 3.1).

use super::candidates::{Candidate, keep_share};

/// Keeps the fewest likeliest candidates that together reach `share` of the probability.
pub(super) fn keep_nucleus(candidates: &mut Vec<Candidate>, share: f32) {
    keep_share(candidates, f64::from(share), Candidate::by_probability);
}
