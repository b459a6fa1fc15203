//! From logits to a token: greedy, or drawn after temperature, top-k, top-p and min-p.

use mistral_core::ops::softmax;

use super::error::SamplerError;
use super::rng::Xoshiro256;

/// How a token is drawn. The default draws from the model's own distribution, with seed 0.
///
/// The settings apply in the order of the fields. All three filters keep the likeliest tokens, so
/// each of them only shortens the list that the one before it left.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplerOptions {
    /// Divides the logits: below 1 sharper, above 1 flatter. 0 always takes the largest logit.
    pub temperature: f32,
    /// Keep the `k` likeliest tokens. `None` keeps all.
    pub top_k: Option<usize>,
    /// Keep the fewest likeliest tokens that together reach this share of the probability that
    /// top-k left (nucleus sampling, arXiv:1904.09751 section 3.1). 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this many times as likely as the likeliest (arXiv:2407.01082
    /// section 3). 0 keeps all.
    pub min_p: f32,
    /// Where the stream of random numbers starts.
    pub seed: u64,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        Self { temperature: 1.0, top_k: None, top_p: 1.0, min_p: 0.0, seed: 0 }
    }
}

impl SamplerOptions {
    fn validate(&self) -> Result<(), SamplerError> {
        let Self { temperature, top_k, top_p, min_p, .. } = *self;
        if !(temperature.is_finite() && temperature >= 0.0) {
            return Err(SamplerError::Temperature { found: temperature });
        }
        if top_k == Some(0) {
            return Err(SamplerError::TopK);
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(SamplerError::TopP { found: top_p });
        }
        if !(0.0..=1.0).contains(&min_p) {
            return Err(SamplerError::MinP { found: min_p });
        }
        Ok(())
    }
}

/// Draws tokens from logits.
///
/// The same seed, options and logits give the same tokens on every platform, SIMD level and
/// version of this crate: the random numbers are xoshiro256++ (one number a token; greedy takes
/// none), the exponential is [`softmax`]'s, sums run in a fixed order, and of equal logits the
/// lower token id comes first.
///
/// ```
/// use mistral_model::generate::{Sampler, SamplerOptions};
///
/// let logits = [1.0, 3.0, -2.0, 2.9];
/// assert_eq!(Sampler::greedy().sample(&logits)?, 1);
///
/// let mut sampler = Sampler::new(SamplerOptions { top_k: Some(2), seed: 7, ..Default::default() })?;
/// let token = sampler.sample(&logits)?;
/// assert!(token == 1 || token == 3);
/// # Ok::<(), mistral_model::generate::SamplerError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Sampler {
    options: SamplerOptions,
    rng: Xoshiro256,
    /// Probability by token id. Kept between tokens, as is `candidates`.
    probabilities: Vec<f32>,
    candidates: Vec<Candidate>,
}

/// A token that may be drawn.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    probability: f32,
    id: u32,
}

impl Candidate {
    /// Likeliest first, then the lower id.
    fn order(&self, other: &Self) -> std::cmp::Ordering {
        // Probabilities are never NaN nor -0, so that the total order is the numeric one.
        let by_probability = other.probability.total_cmp(&self.probability);
        by_probability.then(self.id.cmp(&other.id))
    }
}

impl Sampler {
    /// A sampler with checked options.
    ///
    /// # Errors
    ///
    /// - [`SamplerError::Temperature`]: not finite, or below 0.
    /// - [`SamplerError::TopK`]: is 0.
    /// - [`SamplerError::TopP`]: not above 0 and at most 1.
    /// - [`SamplerError::MinP`]: not in 0 to 1.
    pub fn new(options: SamplerOptions) -> Result<Self, SamplerError> {
        options.validate()?;
        Ok(Self::from_valid(options))
    }

    /// Always the token with the largest logit; of several, the lowest id.
    pub fn greedy() -> Self {
        Self::from_valid(SamplerOptions { temperature: 0.0, ..SamplerOptions::default() })
    }

    fn from_valid(options: SamplerOptions) -> Self {
        Self {
            options,
            rng: Xoshiro256::from_seed(options.seed),
            probabilities: Vec::new(),
            candidates: Vec::new(),
        }
    }

    /// The options that it was made with.
    pub fn options(&self) -> &SamplerOptions {
        &self.options
    }

    /// The next token, given one logit for each token of the vocabulary.
    ///
    /// # Errors
    ///
    /// - [`SamplerError::NoLogits`]: `logits` is empty.
    /// - [`SamplerError::TooManyLogits`]: more than token ids can name.
    /// - [`SamplerError::NotFinite`]: a logit is NaN or infinite. No random number is used up.
    ///
    /// # Cost
    ///
    /// Linear in the vocabulary; with top-k or top-p, plus a sort of what they keep. Allocates
    /// for the first token only.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32, SamplerError> {
        let (token, largest) = largest(logits)?;
        if self.options.temperature == 0.0 {
            return Ok(token);
        }
        self.fill(logits, largest);
        if let Some(k) = self.options.top_k {
            keep_likeliest(&mut self.candidates, k);
        }
        if self.options.top_p < 1.0 {
            keep_nucleus(&mut self.candidates, f64::from(self.options.top_p));
        }
        if self.options.min_p > 0.0 {
            // The largest logit survived whatever came before.
            let bar = self.options.min_p * self.probabilities[token as usize];
            self.candidates.retain(|c| c.probability >= bar);
        }
        let share = self.rng.next_f64();
        Ok(draw(&self.candidates, share).unwrap_or(token))
    }

    /// Every token with its probability at this temperature, in the order of ids.
    fn fill(&mut self, logits: &[f32], largest: f32) {
        let temperature = self.options.temperature;
        self.probabilities.clear();
        // Subtracted before the division: `logit / temperature` may overflow, this only underflows.
        self.probabilities.extend(logits.iter().map(|l| (l - largest) / temperature));
        softmax(&mut self.probabilities);
        self.candidates.clear();
        self.candidates.extend(
            (0u32..)
                .zip(&self.probabilities)
                .map(|(id, &probability)| Candidate { probability, id }),
        );
    }
}

/// The first of the largest logits, after a check of all of them.
fn largest(logits: &[f32]) -> Result<(u32, f32), SamplerError> {
    if u32::try_from(logits.len()).is_err() {
        return Err(SamplerError::TooManyLogits { found: logits.len() });
    }
    let mut best: Option<(u32, f32)> = None;
    for (token, &logit) in (0u32..).zip(logits) {
        if !logit.is_finite() {
            return Err(SamplerError::NotFinite { token, found: logit });
        }
        if best.is_none_or(|(_, largest)| logit > largest) {
            best = Some((token, logit));
        }
    }
    best.ok_or(SamplerError::NoLogits)
}

/// Keeps the `k` likeliest, sorted.
fn keep_likeliest(candidates: &mut Vec<Candidate>, k: usize) {
    if k < candidates.len() {
        candidates.select_nth_unstable_by(k, Candidate::order);
        candidates.truncate(k);
    }
    candidates.sort_unstable_by(Candidate::order);
}

/// Keeps the shortest run of likeliest candidates whose probabilities reach `share` of the whole.
///
/// For probabilities 0.5, 0.3, 0.15, 0.05 a share of 0.8 keeps two and 0.81 keeps three.
fn keep_nucleus(candidates: &mut Vec<Candidate>, share: f64) {
    /// Sorted at first; nearly always enough for a language model.
    const FIRST: usize = 128;
    let goal = share * total(candidates);
    let mut sorted = 0;
    let mut reached = 0.0;
    while sorted < candidates.len() {
        // Sorting all is the greatest part of the cost for a nucleus of a few: sort the head, and
        // four times as many when the head is not enough.
        let rest = &mut candidates[sorted..];
        let step = FIRST.max(3 * sorted).min(rest.len());
        if step < rest.len() {
            rest.select_nth_unstable_by(step, Candidate::order);
        }
        rest[..step].sort_unstable_by(Candidate::order);
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
fn draw(candidates: &[Candidate], share: f64) -> Option<u32> {
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
