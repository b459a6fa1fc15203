//! Locally typical sampling (arXiv:2202.00666): tokens about as surprising as was to be expected.
//!
//! A token of probability `p` carries the information `-ln p`. Its expected value is the entropy
//! `H = -Σ p ln p`. Tokens are taken in the order of their distance from it, `|-ln p - H|`, until
//! they have the wanted share of the probability. The likeliest token may be left out: it says less
//! than was to be expected.
//!
//! For probabilities 0.6, 0.2, 0.1, 0.1 the information is 0.51, 1.61, 2.30, 2.30 and the entropy
//! 1.09. The distances are 0.58, 0.52, 1.21, 1.21: a share of 0.2 keeps the second token alone.

use super::candidates::{Candidate, keep_share};

/// Keeps the fewest most typical candidates that together reach `share` of the probability.
///
/// `scores` are, by token, the logits over the temperature, less any constant; `distances` is memory
/// for as many. No logarithm is taken, as that differs from one platform's library to the next:
/// with `ln p = s - ln Z` the distance is `|s - Σ p s|`, where `ln Z` has cancelled out.
pub(super) fn keep_typical(
    candidates: &mut Vec<Candidate>,
    share: f32,
    scores: impl Fn(u32) -> f32,
    distances: &mut Vec<f32>,
) {
    let possible = || candidates.iter().filter(|c| c.probability > 0.0);
    let weighted = |c: &Candidate| f64::from(c.probability) * f64::from(scores(c.id));
    let total: f64 = possible().map(|c| f64::from(c.probability)).sum();
    let expected = possible().map(weighted).sum::<f64>() / total;

    let most = candidates.iter().map(|c| c.id as usize + 1).max().unwrap_or(0);
    distances.clear();
    // An impossible token is infinitely far from anything.
    distances.resize(most, f32::INFINITY);
    for candidate in possible() {
        let distance = (f64::from(scores(candidate.id)) - expected).abs();
        distances[candidate.id as usize] = distance as f32;
    }
    keep_share(candidates, f64::from(share), |a, b| {
        let distance = |c: &Candidate| distances[c.id as usize];
        distance(a).total_cmp(&distance(b)).then(a.id.cmp(&b.id))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of four tokens are kept.
    fn kept(share: f32) -> Vec<u32> {
        let probabilities = [0.6f32, 0.2, 0.1, 0.1];
        let mut candidates: Vec<_> = (0u32..)
            .zip(probabilities)
            .map(|(id, probability)| Candidate { probability, id })
            .collect();
        let scores = |id: u32| probabilities[id as usize].ln() + 5.0;
        keep_typical(&mut candidates, share, scores, &mut vec![9.0; 9]);
        candidates.iter().map(|c| c.id).collect()
    }

    #[test]
    fn the_worked_example_is_right() {
        assert_eq!(kept(0.19), [1]);
        assert_eq!(kept(0.79), [1, 0]);
        assert_eq!(kept(0.85), [1, 0, 2]);
        assert_eq!(kept(1.0), [1, 0, 2, 3]);
    }
}
