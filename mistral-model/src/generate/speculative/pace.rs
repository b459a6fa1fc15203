//! How many guesses are worth it.
//!
//! A pass with `k` guesses costs `1 + c k`. If each is right with probability `p`, it gives
//! `1 + p + p^2 + .. + p^k` tokens. The best `k` has the most tokens for the cost. `p` is what came
//! of earlier guesses of the same confidence, the recent ones counting more.
//!
//! Two accounts keep the loss small, whatever the text: no pass is taken whose guesses, were all of
//! them wrong, would bring the cost of everything so far above [`MOST_COST`] for a token; and
//! guesses that are only made to find out whether things have changed cost less than [`PROBES`] of
//! the tokens. No clock is read: the same text is guessed in the same way.

use mistral_core::DType;

use crate::transformer::Transformer;

/// Cost of everything for a token, in passes, that is never exceeded.
const MOST_COST: f64 = 1.03;
/// Share of the tokens that guesses against experience may cost.
const PROBES: f64 = 0.01;
/// What is left of experience after each pass.
const MEMORY: f64 = 0.9;
/// Levels of confidence.
const LEVELS: usize = 4;

#[derive(Debug, Clone)]
pub(super) struct Pace {
    draft_cost: f64,
    tokens: f64,
    /// Cost of all passes.
    spent: f64,
    /// Cost of guesses against experience.
    probed: f64,
    experience: [Experience; LEVELS],
}

/// How often guesses were right.
#[derive(Debug, Clone, Copy)]
struct Experience {
    right: f64,
    all: f64,
}

impl Experience {
    fn chance(self) -> f64 {
        self.right / self.all
    }
}

impl Pace {
    /// Each guess costs that many passes of a token.
    pub(super) fn new(draft_cost: f64) -> Self {
        let draft_cost = if draft_cost.is_finite() { draft_cost.max(0.0) } else { f64::MAX };
        // Before there is any: the surer, the better, and soon overruled.
        let experience = [0.3, 0.5, 0.7, 0.8].map(|right| Experience { right, all: 1.0 });
        Self { draft_cost, tokens: 0.0, spent: 0.0, probed: 0.0, experience }
    }

    /// How many guesses to make, at most `most`.
    pub(super) fn drafts(&mut self, confidence: usize, most: usize) -> usize {
        let chance = self.experience[confidence.min(LEVELS - 1)].chance();
        let (mut best, mut tokens, mut right) = ((0, 1.0), 1.0, 1.0);
        for drafts in 1..=most {
            right *= chance;
            tokens += right;
            let rate = tokens / self.cost(drafts);
            if rate > best.1 {
                best = (drafts, rate);
            }
        }
        let affordable = MOST_COST * (self.tokens + 1.0) - self.spent;
        let wanted = match best.0 {
            0 if self.probed + self.draft_cost <= PROBES * self.tokens => 1,
            drafts => drafts,
        };
        let drafts = (0..=wanted).rev().find(|drafts| self.cost(*drafts) <= affordable);
        let drafts = drafts.unwrap_or(0);
        if best.0 == 0 && drafts > 0 {
            self.probed += self.draft_cost;
        }
        drafts
    }

    /// A pass without guesses.
    pub(super) fn note_plain(&mut self) {
        self.tokens += 1.0;
        self.spent += 1.0;
    }

    /// A pass with so many guesses, of which so many first ones were right.
    pub(super) fn note_drafts(&mut self, confidence: usize, drafts: usize, right: usize) {
        self.tokens += 1.0 + right as f64;
        self.spent += self.cost(drafts);
        let experience = &mut self.experience[confidence.min(LEVELS - 1)];
        // What stands behind a wrong guess tells nothing.
        let tried = if right < drafts { right + 1 } else { right };
        experience.right = MEMORY * experience.right + right as f64;
        experience.all = MEMORY * experience.all + tried as f64;
    }

    fn cost(&self, drafts: usize) -> f64 {
        1.0 + self.draft_cost * drafts as f64
    }
}

/// What another token adds to a pass of one, in such passes.
///
/// One row is bound by reading the weights, more rows by arithmetic too, the sooner the fewer bits
/// a weight has. A model that fits into the caches is hardly bound by reading at all.
pub(super) fn row_cost(model: &Transformer) -> f64 {
    const CACHED: usize = 32 << 20;
    let in_f32 = model.config().weight_bytes(DType::F32).unwrap_or(usize::MAX);
    let bits = 32.0 * model.bytes() as f64 / in_f32 as f64;
    match bits {
        _ if model.bytes() < CACHED => 0.6,
        24.0.. => 0.15,
        12.0.. => 0.25,
        7.0.. => 0.2,
        _ => 0.5,
    }
}
