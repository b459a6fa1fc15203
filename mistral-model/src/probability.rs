//! From logits to the logarithm of a probability.

/// What a model thought of a token that came.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct TokenScore {
    /// The natural logarithm of its probability: 0 or less.
    pub(crate) log_probability: f64,
    /// Whether no other token was likelier, and no token with a lower id as likely.
    pub(crate) greedy: bool,
}

/// The distribution that logits stand for: `softmax(logits)`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Distribution<'a> {
    logits: &'a [f32],
    /// The likeliest token; of several the first.
    best: usize,
    largest: f64,
    /// `ln(sum(exp(logit - largest)))`
    log_sum: f64,
}

impl<'a> Distribution<'a> {
    /// Computed in f64, for the sum has tens of thousands of terms, added in the order of the ids.
    /// The largest logit is taken off first, so that nothing overflows.
    ///
    /// Logits are finite: sessions see to that.
    pub(crate) fn of(logits: &'a [f32]) -> Self {
        let (mut best, mut largest) = (0, f32::NEG_INFINITY);
        for (id, &logit) in logits.iter().enumerate() {
            if logit > largest {
                (best, largest) = (id, logit);
            }
        }
        let largest = f64::from(largest);
        let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum();
        Self { logits, best, largest, log_sum: sum.ln() }
    }

    /// How likely a token is. One that the model does not have never comes.
    pub(crate) fn score(&self, token: u32) -> TokenScore {
        let token = token as usize;
        let logit = self.logits.get(token).map_or(f64::NEG_INFINITY, |&logit| f64::from(logit));
        let log_probability = logit - self.largest - self.log_sum;
        TokenScore { log_probability, greedy: token == self.best }
    }
}

#[cfg(test)]
mod tests {
    use super::{Distribution, TokenScore};

    #[test]
    fn equal_logits_share_the_probability_and_the_first_is_greedy() {
        let four = Distribution::of(&[7.5; 4]);
        let log_probability = -(4f64.ln());
        assert_eq!(four.score(0), TokenScore { log_probability, greedy: true });
        assert_eq!(four.score(1), TokenScore { log_probability, greedy: false });
        assert_eq!(four.score(3), four.score(1));
        assert_eq!(four.score(4).log_probability, f64::NEG_INFINITY);
    }

    #[test]
    fn huge_logits_neither_overflow_nor_vanish() {
        let three = Distribution::of(&[3e38, -3e38, 3e38]);
        assert_eq!(three.score(0).log_probability, -(2f64.ln()));
        // Beyond what exp can hold, and still a finite logarithm.
        let below = three.score(1).log_probability;
        assert_eq!(below, -2.0 * f64::from(3e38f32) - 2f64.ln());
        assert!(below.is_finite());
    }

    #[test]
    fn probabilities_of_all_tokens_add_up_to_one() {
        let logits: Vec<f32> = (0..1000).map(|i| ((i * 37) % 101) as f32 * 0.21 - 9.0).collect();
        let all = Distribution::of(&logits);
        let sum: f64 = (0..1000).map(|token| all.score(token).log_probability.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-12, "{sum}");
    }
}
