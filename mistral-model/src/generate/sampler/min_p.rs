//! Min-p: tokens not too much less likely than the likeliest (arXiv:2407.01082 section 3).

use super::candidates::Candidate;

/// Keeps candidates at least `share` times as likely as the likeliest of them.
pub(super) fn keep_comparable(candidates: &mut Vec<Candidate>, share: f32) {
    let likeliest = candidates.iter().map(|c| c.probability).fold(0.0, f32::max);
    let bar = share * likeliest;
    candidates.retain(|c| c.probability >= bar);
}
