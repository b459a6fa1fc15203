//! The tokens that may still be drawn, with their probabilities.

use std::cmp::Ordering;

/// A token that may be drawn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub(super) probability: f32,
    pub(super) id: u32,
}

impl Candidate {
    /// Likeliest first, then the lower id.
    pub(super) fn by_probability(&self, other: &Self) -> Ordering {
        // Probabilities are never NaN nor -0, so that the total order is the numeric one.
        let by_probability = other.probability.total_cmp(&self.probability);
        by_probability.then(self.id.cmp(&other.id))
    }
}

/// Keeps the shortest run of candidates, in the given order, whose probabilities reach `share` of
/// the whole.
///
/// For probabilities 0.5, 0.3, 0.15, 0.05 in this order a share of 0.8 keeps two and 0.81 three.
pub(super) fn keep_share(
    candidates: &mut Vec<Candidate>,
    share: f64,
    order: impl Fn(&Candidate, &Candidate) -> Ordering,
) {
    /// Sorted at first; nearly always enough for a language model.
    const FIRST: usize = 128;
    let goal = share * total(candidates);
    let mut sorted = 0;
    let mut reached = 0.0;
    while sorted < candidates.len() {
        // Sorting all is the greatest part of the cost where a few are kept: sort the head, and
        // four times as many when the head is not enough.
        let rest = &mut candidates[sorted..];
        let step = FIRST.max(3 * sorted).min(rest.len());
        if step < rest.len() {
            rest.select_nth_unstable_by(step, &order);
        }
        rest[..step].sort_unstable_by(&order);
        for (index, candidate) in rest[..step].iter().enumerate() {
            reached += f64::from(candidate.probability);
            if reached >= goal {
                candidates.truncate(sorted + index + 1);
                return;
            }
        }
        sorted += step;
    }
}

/// The candidate at `share` (0 to 1) of the summed probability. One of probability zero is never
/// drawn.
pub(super) fn draw(candidates: &[Candidate], share: f64) -> Option<u32> {
    let goal = share * total(candidates);
    let mut reached = 0.0;
    let mut last = None;
    for candidate in candidates.iter().filter(|c| c.probability > 0.0) {
        reached += f64::from(candidate.probability);
        last = Some(candidate.id);
        if reached > goal {
            break;
        }
    }
    last
}

/// Summed in order, in f64.
fn total(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|c| f64::from(c.probability)).sum()
}
