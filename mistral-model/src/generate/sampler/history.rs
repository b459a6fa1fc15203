//! The tokens so far, as penalties and filters see them.

use std::collections::HashMap;
use std::num::NonZeroUsize;

/// Which tokens penalties and filters see.
///
/// The prompt is what [`Sampler::observe`](super::Sampler::observe) was given, the output what
/// [`Sampler::sample`](super::Sampler::sample) has drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum HistorySpan {
    /// All of both.
    #[default]
    PromptAndOutput,
    /// The output alone, as presence and frequency penalties are often defined for chats.
    Output,
    /// The last so many tokens, of the output and then of the prompt. Memory is bounded by it.
    Last(NonZeroUsize),
}

/// Tokens in their order, and how often each of them stands there.
#[derive(Debug, Clone, Default)]
pub(super) struct History {
    span: HistorySpan,
    /// The visible tokens, behind some that are not any more.
    tokens: Vec<u32>,
    /// Of the visible tokens.
    counts: HashMap<u32, u32>,
}

impl History {
    pub(super) fn new(span: HistorySpan) -> Self {
        Self { span, ..Self::default() }
    }

    /// Tokens that were not drawn.
    pub(super) fn observe(&mut self, tokens: &[u32]) {
        if self.span != HistorySpan::Output {
            tokens.iter().for_each(|token| self.push(*token));
        }
    }

    pub(super) fn push(&mut self, token: u32) {
        if let HistorySpan::Last(most) = self.span {
            self.make_room(most.get());
        }
        self.tokens.push(token);
        *self.counts.entry(token).or_default() += 1;
    }

    /// Forgets the oldest of `most` visible tokens.
    fn make_room(&mut self, most: usize) {
        if self.tokens.len() < most {
            return;
        }
        let oldest = self.tokens[self.tokens.len() - most];
        if let Some(count) = self.counts.get_mut(&oldest) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&oldest);
            }
        }
        // Only when as many are forgotten as are visible: so each token is moved once on average.
        if self.tokens.len() / 2 >= most {
            self.tokens.drain(..self.tokens.len() + 1 - most);
        }
    }

    /// The visible tokens, oldest first.
    pub(super) fn tokens(&self) -> &[u32] {
        let hidden = match self.span {
            HistorySpan::Last(most) => self.tokens.len().saturating_sub(most.get()),
            _ => 0,
        };
        &self.tokens[hidden..]
    }

    /// How often each of the visible tokens stands there, in no order.
    pub(super) fn counts(&self) -> impl Iterator<Item = (u32, u32)> {
        self.counts.iter().map(|(token, count)| (*token, *count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_tokens_and_their_counts_are_those_of_a_plain_list() {
        for most in 1..=5 {
            let mut history = History::new(HistorySpan::Last(NonZeroUsize::new(most).unwrap()));
            let mut all = Vec::new();
            for step in 0..40u32 {
                let token = step * step % 7;
                all.push(token);
                if step < 10 {
                    history.observe(&[token])
                } else {
                    history.push(token)
                }
                let visible = &all[all.len().saturating_sub(most)..];
                assert_eq!(history.tokens(), visible);
                assert!(history.tokens.len() <= 2 * most);
                for token in 0..7 {
                    let count = visible.iter().filter(|t| **t == token).count() as u32;
                    let found = history.counts().find(|(t, _)| *t == token);
                    assert_eq!(found, (count > 0).then_some((token, count)), "after {step}");
                }
            }
        }
    }

    #[test]
    fn of_the_output_alone_the_prompt_is_no_part() {
        let mut history = History::new(HistorySpan::Output);
        history.observe(&[1, 2, 3]);
        history.push(4);
        assert_eq!(history.tokens(), [4]);
        assert_eq!(history.counts().collect::<Vec<_>>(), [(4, 1)]);
    }
}
