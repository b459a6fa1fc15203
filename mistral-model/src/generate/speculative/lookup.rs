//! Guesses from the text itself: what followed the same tokens before.

use std::collections::HashMap;

use super::Drafter;
use crate::generate::Sampler;

/// Most earlier places that are compared with the end of the text.
const PLACES: usize = 32;
/// Most tokens that are compared at each.
const LONGEST: usize = 16;

/// Guesses that the text goes on as it did where it last said the same (prompt lookup).
///
/// At least the last two tokens must have come before; of several places the one counts that has
/// the most tokens before it in common, of these the latest. It pays where a text repeats itself or
/// its prompt: summaries, code that is changed, answers that quote.
///
/// Cost: a few comparisons a token, and some 40 bytes of memory.
///
/// ```
/// use mistral_model::Sampler;
/// use mistral_model::generate::{Drafter, PromptLookup};
///
/// let mut lookup = PromptLookup::new();
/// lookup.observe(&[7, 8, 9, 10, 11, 5, 8, 9]);
/// let mut drafts = Vec::new();
/// lookup.draft(4, &Sampler::greedy(), &mut drafts);
/// assert_eq!(drafts, [10, 11, 5, 8]); // as after the first 8, 9
/// ```
#[derive(Debug, Clone, Default)]
pub struct PromptLookup {
    text: Vec<u32>,
    /// Where each pair of tokens ended last.
    last: HashMap<[u32; 2], usize>,
    /// For each place, where the pair that ends there ended before.
    before: Vec<Option<usize>>,
}

impl PromptLookup {
    /// A lookup without a text.
    pub fn new() -> Self {
        Self::default()
    }

    /// The place from which to copy, and how many tokens before it are those at the end.
    fn best(&self) -> Option<(usize, usize)> {
        let mut best: Option<(usize, usize)> = None;
        let mut place = self.before.last().copied().flatten();
        for _ in 0..PLACES {
            let Some(end) = place else {
                break;
            };
            let here = self.text[..end].iter().rev();
            let pairs = here.zip(self.text.iter().rev()).take(LONGEST);
            let common = pairs.take_while(|(a, b)| a == b).count();
            if best.is_none_or(|(_, most)| common > most) {
                best = Some((end, common));
            }
            if common == LONGEST {
                break;
            }
            place = self.before.get(end - 1).copied().flatten();
        }
        best
    }
}

impl Drafter for PromptLookup {
    fn observe(&mut self, tokens: &[u32]) {
        for token in tokens {
            let pair = self.text.last().map(|before| [*before, *token]);
            self.text.push(*token);
            let end = self.text.len();
            self.before.push(pair.and_then(|pair| self.last.insert(pair, end)));
        }
    }

    fn confidence(&mut self) -> Option<usize> {
        self.best().map(|(_, common)| match common {
            0..=2 => 0,
            3..=4 => 1,
            5..=9 => 2,
            _ => 3,
        })
    }

    fn draft(&mut self, most: usize, _sampler: &Sampler, drafts: &mut Vec<u32>) {
        let Some((start, _)) = self.best() else {
            return;
        };
        // Past its end the text is taken to go on as it does here: what repeats goes on repeating.
        let period = self.text.len() - start;
        drafts.extend((0..most).map(|i| self.text[start + i % period]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drafts(text: &[u32], most: usize) -> Vec<u32> {
        let mut lookup = PromptLookup::new();
        lookup.observe(text);
        let mut drafts = Vec::new();
        lookup.draft(most, &Sampler::greedy(), &mut drafts);
        assert_eq!(lookup.confidence().is_none(), drafts.is_empty());
        drafts
    }

    #[test]
    fn the_longest_match_counts_and_of_these_the_latest() {
        assert_eq!(drafts(&[1, 2, 3, 4, 9, 2, 3, 5, 1, 2, 3], 2), [4, 9]);
        assert_eq!(drafts(&[2, 3, 4, 9, 2, 3, 5, 8, 2, 3], 2), [5, 8]);
    }

    #[test]
    fn a_text_that_repeats_itself_goes_on_doing_so() {
        assert_eq!(drafts(&[5, 6, 7, 5, 6, 7, 5, 6], 7), [7, 5, 6, 7, 5, 6, 7]);
        assert_eq!(drafts(&[4, 4, 4], 3), [4, 4, 4]);
    }

    #[test]
    fn what_never_came_before_is_not_guessed() {
        for text in [&[][..], &[1], &[1, 2], &[1, 2, 3, 4, 5], &[1, 2, 1]] {
            assert!(drafts(text, 3).is_empty(), "{text:?}");
        }
    }
}
