//! Repetition, presence and frequency penalties: logits of tokens that were there already.
//!
//! A token that stands `n` times in the history changes its logit from `l` to
//!
//! ```text
//! l' = (l / repetition  if l > 0,  l * repetition  otherwise) - presence - n * frequency
//! ```
//!
//! The repetition penalty is the one of arXiv:1909.05858 section 4.1, which divides every logit. A
//! negative one would become likelier by that, so here, as everywhere since, it is multiplied. The
//! other two are those of OpenAI's interface. With `l = 3`, `n = 2`, a repetition penalty of 1.2, a
//! presence penalty of 0.5 and a frequency penalty of 0.25: `3 / 1.2 - 0.5 - 2 * 0.25 = 1.5`.

use super::history::History;
use super::options::SamplerOptions;

/// The three penalties, checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Penalties {
    repetition: f32,
    presence: f32,
    frequency: f32,
}

impl Penalties {
    /// `None` if none of them changes anything.
    pub(super) fn new(options: &SamplerOptions) -> Option<Self> {
        let penalties = Self {
            repetition: options.repetition_penalty,
            presence: options.presence_penalty,
            frequency: options.frequency_penalty,
        };
        let idle =
            penalties.repetition == 1.0 && penalties.presence == 0.0 && penalties.frequency == 0.0;
        (!idle).then_some(penalties)
    }

    /// Changes the logits of the tokens in the history, whatever their order: each on its own.
    ///
    /// Tokens of the history without a logit are passed over.
    pub(super) fn apply(self, history: &History, logits: &mut [f32]) {
        for (token, count) in history.counts() {
            if let Some(logit) = logits.get_mut(token as usize) {
                let repeated =
                    if *logit > 0.0 { *logit / self.repetition } else { *logit * self.repetition };
                *logit = repeated - self.presence - count as f32 * self.frequency;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logit_changes_as_the_formula_says() {
        let options = SamplerOptions {
            repetition_penalty: 1.2,
            presence_penalty: 0.5,
            frequency_penalty: 0.25,
            ..SamplerOptions::default()
        };
        let mut history = History::default();
        history.observe(&[1, 2, 1, 9]);
        let mut logits = [3.0, 3.0, -3.0, -3.0];
        Penalties::new(&options).unwrap().apply(&history, &mut logits);
        assert_eq!(logits, [3.0, 3.0 / 1.2 - 1.0, -3.0 * 1.2 - 0.75, -3.0]);
    }

    #[test]
    fn penalties_that_change_nothing_are_none() {
        assert!(Penalties::new(&SamplerOptions::default()).is_none());
        let options = SamplerOptions { frequency_penalty: -0.5, ..SamplerOptions::default() };
        assert!(Penalties::new(&options).is_some());
    }
}
