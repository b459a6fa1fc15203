//! From logits to a token, one file a step.
//!
//! | step | file |
//! |---|---|
//! | settings, and their order | `options.rs` |
//! | what was read and written so far | `history.rs` |
//! | repetition, presence, frequency | `penalties.rs` |
//! | filters: a bias, a constraint, one's own | `filter.rs`, `bias.rs`, `../constraint/` |
//! | probabilities at a temperature | here |
//! | the shortest list worth drawing from | `top_k.rs`, `typical.rs`, `top_p.rs`, `min_p.rs` |
//! | the draw | `candidates.rs` |

mod bias;
mod candidates;
mod filter;
mod history;
mod min_p;
mod options;
mod penalties;
mod top_k;
mod top_p;
mod typical;

pub use bias::LogitBias;
pub use filter::{CloneFilter, LogitFilter};
pub use history::HistorySpan;
pub use options::SamplerOptions;

use mistral_core::ops::softmax;

use self::candidates::Candidate;
use self::history::History;
use self::penalties::Penalties;
use super::error::SamplerError;
use super::rng::Xoshiro256;

/// Draws tokens from logits, in the steps of [`SamplerOptions`].
///
/// # The same tokens, always
///
/// - *Platforms and versions.* The same seed, options and logits give the same tokens on every
///   platform, SIMD level and version of this crate: the random numbers are xoshiro256++, the
///   exponential is [`softmax`]'s, no logarithm is taken, sums run in a fixed order, and of equal
///   logits the lower token id comes first. (A filter of one's own must keep this by itself.)
/// - *One number a token.* The token drawn by the `n`-th successful call uses the `n`-th number of
///   the seed's stream, whatever the filters left over; greedy draws use none.
/// - *Speculation.* A draw depends on the seed, the number of draws before it, the history and the
///   logits of its position, and on nothing else. So a caller who knows the logits of several
///   positions in advance calls [`sample`](Self::sample) once for each, in order, and stops after
///   the first token that differs from the draft: every token drawn is one that is emitted, and the
///   text is that of decoding one by one.
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
///
/// // What was read before counts as said already.
/// let options =
///     SamplerOptions { presence_penalty: 0.5, temperature: 0.0, ..Default::default() };
/// let mut sampler = Sampler::new(options)?;
/// sampler.observe(&[1]);
/// assert_eq!(sampler.sample(&logits)?, 3);
/// # Ok::<(), mistral_model::generate::SamplerError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Sampler {
    options: SamplerOptions,
    rng: Xoshiro256,
    penalties: Option<Penalties>,
    filters: Vec<Box<dyn LogitFilter>>,
    history: History,
    buffers: Buffers,
}

/// Memory that is kept from one token to the next, each for one entry a token of the vocabulary.
#[derive(Debug, Clone, Default)]
struct Buffers {
    /// Logits after penalties and filters.
    changed: Vec<f32>,
    /// By token id.
    probabilities: Vec<f32>,
    candidates: Vec<Candidate>,
    /// By token id; of typical sampling.
    distances: Vec<f32>,
}

impl Sampler {
    /// A sampler with checked options.
    ///
    /// # Errors
    ///
    /// - [`SamplerError::RepetitionPenalty`]: not finite, or not above 0.
    /// - [`SamplerError::Penalty`]: presence or frequency penalty not in -2 to 2.
    /// - [`SamplerError::Temperature`]: not finite, or below 0.
    /// - [`SamplerError::TopK`]: is 0.
    /// - [`SamplerError::TypicalP`], [`SamplerError::TopP`]: not above 0 and at most 1.
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
            penalties: Penalties::new(&options),
            filters: Vec::new(),
            history: History::new(options.history),
            buffers: Buffers::default(),
        }
    }

    /// Adds a filter behind those that are there. To be done before [`observe`](Self::observe), so
    /// that it sees all of the history.
    pub fn with_filter(mut self, filter: impl LogitFilter + 'static) -> Self {
        self.filters.push(Box::new(filter));
        self
    }

    /// The options that it was made with.
    pub fn options(&self) -> &SamplerOptions {
        &self.options
    }

    /// Learns of tokens that it has not drawn: a prompt, an answer's given beginning, a message.
    ///
    /// [`Session::generate`](crate::Session::generate) does this with its prompt. Without penalties
    /// and filters nothing is kept.
    pub fn observe(&mut self, tokens: &[u32]) {
        if self.changes_logits() {
            self.history.observe(tokens);
        }
    }

    /// The next token, given one logit for each token of the vocabulary. It joins the history.
    ///
    /// # Errors
    ///
    /// No random number is used up, and the history stays as it was:
    ///
    /// - [`SamplerError::NoLogits`]: `logits` is empty.
    /// - [`SamplerError::TooManyLogits`]: more than token ids can name.
    /// - [`SamplerError::NotFinite`]: a logit is NaN or infinite.
    /// - [`SamplerError::Overflow`]: penalties or filters made a logit NaN or plus infinity.
    /// - [`SamplerError::AllForbidden`]: they left no token over.
    /// - Whatever a filter finds wrong.
    ///
    /// # Cost
    ///
    /// Linear in the vocabulary and in the different tokens of the history; with top-k, top-p or
    /// typical, plus a sort of what they keep. No allocation once the buffers have the
    /// vocabulary's size, but for a history that grows, and for what a filter allocates.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32, SamplerError> {
        let likeliest = likeliest(logits)?;
        if !self.changes_logits() {
            return Ok(self.draw(logits, likeliest));
        }
        // Taken out, so that the filters can borrow the history beside it.
        let mut changed = std::mem::take(&mut self.buffers.changed);
        changed.clear();
        changed.extend_from_slice(logits);
        let drawn = self.change(&mut changed).map(|likeliest| self.draw(&changed, likeliest));
        self.buffers.changed = changed;
        let token = drawn?;
        self.history.push(token);
        for filter in &mut self.filters {
            filter.accept(token)?;
        }
        Ok(token)
    }

    fn changes_logits(&self) -> bool {
        self.penalties.is_some() || !self.filters.is_empty()
    }

    /// Penalties and filters; the likeliest token that they leave over, with its logit.
    fn change(&mut self, logits: &mut [f32]) -> Result<(u32, f32), SamplerError> {
        if let Some(penalties) = self.penalties {
            penalties.apply(&self.history, logits);
        }
        for filter in &mut self.filters {
            filter.filter(self.history.tokens(), logits)?;
        }
        let overflown = |l: &f32| l.is_nan() || *l == f32::INFINITY;
        match (0u32..).zip(logits.iter()).find(|(_, logit)| overflown(logit)) {
            Some((token, &found)) => Err(SamplerError::Overflow { token, found }),
            None => largest(logits).ok_or(SamplerError::AllForbidden),
        }
    }

    /// Temperature and truncation, then the draw. Some logit is finite, `likeliest` the largest.
    fn draw(&mut self, logits: &[f32], likeliest: (u32, f32)) -> u32 {
        let (token, largest) = likeliest;
        let options = self.options;
        if options.temperature == 0.0 {
            return token;
        }
        // Subtracted before the division: `logit / temperature` may overflow, this only underflows.
        let score = |logit: f32| (logit - largest) / options.temperature;
        let Buffers { probabilities, candidates, distances, .. } = &mut self.buffers;
        probabilities.clear();
        probabilities.extend(logits.iter().map(|logit| score(*logit)));
        softmax(probabilities);
        candidates.clear();
        let by_id = (0u32..).zip(probabilities.iter());
        candidates.extend(by_id.map(|(id, &probability)| Candidate { probability, id }));

        if let Some(k) = options.top_k {
            top_k::keep_likeliest(candidates, k);
        }
        if options.typical_p < 1.0 {
            let score_of = |id: u32| score(logits[id as usize]);
            typical::keep_typical(candidates, options.typical_p, score_of, distances);
        }
        if options.top_p < 1.0 {
            top_p::keep_nucleus(candidates, options.top_p);
        }
        if options.min_p > 0.0 {
            min_p::keep_comparable(candidates, options.min_p);
        }
        candidates::draw(candidates, self.rng.next_f64()).unwrap_or(token)
    }
}

/// The likeliest token and its logit, after a check of the model's logits.
pub(super) fn likeliest(logits: &[f32]) -> Result<(u32, f32), SamplerError> {
    if u32::try_from(logits.len()).is_err() {
        return Err(SamplerError::TooManyLogits { found: logits.len() });
    }
    match (0u32..).zip(logits).find(|(_, logit)| !logit.is_finite()) {
        Some((token, &found)) => Err(SamplerError::NotFinite { token, found }),
        None => largest(logits).ok_or(SamplerError::NoLogits),
    }
}

/// The first of the largest logits above minus infinity.
fn largest(logits: &[f32]) -> Option<(u32, f32)> {
    let mut best = None;
    let mut bar = f32::NEG_INFINITY;
    for (token, &logit) in (0u32..).zip(logits) {
        if logit > bar {
            bar = logit;
            best = Some((token, logit));
        }
    }
    best
}
