//! How many guesses are worth it.
//!
//! A pass with `k` guesses costs `1 + c k`. If each is right with probability `p`, it gives
//! `1 + p + p^2 + .. + p^k` tokens. The best `k` has the most tokens for the cost. `p` is what came
//! of earlier guesses of the same confidence, the recent ones counting more.
//!
//! Two accounts keep the loss small, whatever the text: no pass is taken whose guesses, were all of
//! them wrong, would bring the loss so far above the share of the time that is allowed; and guesses
//! that are only made to find out whether things have changed cost less than [`PROBES`] of the
//! tokens. Both count what a drafter has to do first, once: a draft model reads the prompt too. No
//! clock is read: the same text is guessed in the same way.

use mistral_core::DType;

use crate::transformer::Transformer;

/// Share of the tokens that guesses against experience may cost.
const PROBES: f64 = 0.01;
/// What is left of experience after each pass.
const MEMORY: f64 = 0.9;
/// Levels of confidence.
const LEVELS: usize = 4;

#[derive(Debug, Clone)]
pub(super) struct Pace {
    draft_cost: f64,
    max_loss: f64,
    /// What was there before the first token, in passes.
    before: f64,
    tokens: f64,
    /// Cost of all passes, and of what drafters had to do first.
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
    /// Each guess costs `draft_cost` passes of a token. At most `max_loss` of the time is lost, that
    /// of `before`, in passes, included.
    pub(super) fn new(draft_cost: f64, max_loss: f64, before: f64) -> Self {
        let positive = |x: f64, otherwise| if x.is_finite() { x.max(0.0) } else { otherwise };
        let (draft_cost, max_loss) = (positive(draft_cost, f64::MAX), positive(max_loss, 0.0));
        // Before there is any: the surer, the better, and soon overruled.
        let experience = [0.3, 0.5, 0.7, 0.8].map(|right| Experience { right, all: 1.0 });
        Self { draft_cost, max_loss, before, tokens: 0.0, spent: 0.0, probed: 0.0, experience }
    }

    /// How many guesses to make, at most `most`, if `debt` passes have to be made up for first.
    pub(super) fn drafts(&mut self, confidence: usize, most: usize, debt: f64) -> usize {
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
        let tokens = self.tokens + 1.0;
        let affordable = tokens + self.max_loss * (self.before + tokens) - self.spent - debt;
        let probe = self.draft_cost + debt;
        let wanted = match best.0 {
            0 if self.probed + probe <= PROBES * self.tokens => 1,
            drafts => drafts,
        };
        let drafts = (1..=wanted).rev().find(|drafts| self.cost(*drafts) <= affordable);
        let drafts = drafts.unwrap_or(0);
        if drafts > 0 {
            self.spent += debt;
            if best.0 == 0 {
                self.probed += probe;
            }
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
    // About what `cargo bench -p benches --bench serving` prints as `rows/...`.
    match bits {
        _ if model.bytes() < CACHED => 0.4,
        24.0.. => 0.2,
        7.0.. => 0.25,
        _ => 0.4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many passes go by before the first guess.
    fn first_guess(debt: f64, max_loss: f64, before: f64) -> usize {
        let mut pace = Pace::new(0.2, max_loss, before);
        let passes = (0..10_000).take_while(|_| {
            let none = pace.drafts(2, 4, debt) == 0;
            if none {
                pace.note_plain();
            }
            none
        });
        passes.count()
    }

    #[test]
    fn what_a_drafter_does_first_is_paid_out_of_the_loss_that_is_allowed() {
        // 0.03 (before + tokens) >= debt + 0.2
        assert_eq!(first_guess(0.0, 0.03, 0.0), 6);
        assert_eq!(first_guess(10.01, 0.03, 0.0), 340);
        assert_eq!(first_guess(10.01, 0.03, 300.0), 40);
        assert_eq!(first_guess(10.0, 1.0, 300.0), 0);
        assert_eq!(first_guess(0.0, f64::NAN, 0.0), 10_000);
    }

    #[test]
    fn a_drafter_that_is_never_worth_it_is_hardly_tried() {
        // Each guess costs more than a pass, as that of a draft model as large as the model.
        let mut pace = Pace::new(1.2, 0.03, 0.0);
        for _ in 0..4000 {
            assert_eq!(pace.drafts(2, 8, 60.0), 0);
            pace.note_plain();
        }
        assert_eq!(pace.drafts(2, 8, 0.0), 1);
    }
}
