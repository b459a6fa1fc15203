//! Top-k: the `k` likeliest tokens.

use super::candidates::Candidate;

/// Keeps the `k` likeliest, sorted.
pub(super) fn keep_likeliest(candidates: &mut Vec<Candidate>, k: usize) {
    if k < candidates.len() {
        candidates.select_nth_unstable_by(k, Candidate::by_probability);
        candidates.truncate(k);
    }
    candidates.sort_unstable_by(Candidate::by_probability);
}
