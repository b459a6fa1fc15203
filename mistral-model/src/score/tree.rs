//! Requests as a tree of tokens, read from the root to the leaves.

use std::borrow::Borrow;
use std::iter::zip;
use std::ops::Range;

use super::error::{RequestError, ScoreError};
use super::likelihood::LogLikelihood;
use crate::batch::{Batch, LogitsOf, Turn};
use crate::probability::Distribution;
use crate::session::Session;
use crate::transformer::Transformer;

/// A request.
#[derive(Debug)]
pub(super) struct Line {
    /// Context and continuation; at least one token of each.
    pub(super) tokens: Vec<u32>,
    /// Tokens of the context.
    pub(super) context: usize,
    /// Its place among the requests.
    pub(super) index: usize,
}

impl Line {
    /// What the model has to read: all but the last token, after which nothing is asked.
    pub(super) fn inputs(&self) -> &[u32] {
        self.tokens.split_last().map_or(&[], |(_, inputs)| inputs)
    }
}

/// The tree of some requests while it is read.
///
/// ```text
///     fork (session)         branch (session)      fork
///     has read <s> a b ──────── c d e f ────────── ...
///                      └─────── g                  each branch a session of its own
/// ```
#[derive(Debug)]
pub(super) struct Tree<'r, M> {
    /// In the order of their inputs: those below a fork are neighbours.
    lines: &'r [Line],
    /// By the requests' places.
    scores: Vec<LogLikelihood>,
    /// Those with branches that nobody has begun to read, the latest last.
    forks: Vec<Fork<M>>,
    /// Those on their way through the model.
    branches: Vec<Branch<M>>,
}

/// Where sequences part: `lines` have in common what the session has read.
#[derive(Debug)]
struct Fork<M> {
    session: Session<M>,
    /// Not those of branches that were begun.
    lines: Range<usize>,
}

/// Tokens between two forks, on their way through the model.
#[derive(Debug)]
struct Branch<M> {
    session: Session<M>,
    /// Those that have these tokens.
    lines: Range<usize>,
    /// Tokens from the start of the sequence to the end of the branch.
    end: usize,
    /// Where the tokens of the pass under way begin.
    start: usize,
    /// The first position after which logits are wanted.
    wanted: usize,
}

impl<'r, M: Borrow<Transformer> + Clone> Tree<'r, M> {
    /// `lines` are in the order of their inputs, and `root` is a session without a token.
    pub(super) fn new(lines: &'r [Line], root: Session<M>) -> Self {
        let mut scores = vec![LogLikelihood::default(); lines.len()];
        for line in lines {
            scores[line.index].per_token.reserve_exact(line.tokens.len() - line.context);
        }
        let whole = Fork { session: root, lines: 0..lines.len() };
        Self { lines, scores, forks: vec![whole], branches: Vec::new() }
    }

    /// The likelihoods in the order of the requests.
    pub(super) fn into_scores(self) -> Vec<LogLikelihood> {
        self.scores
    }

    /// Begins branches until there are `at_once`; whether there is anything left to read.
    ///
    /// The latest forks come first, so that at most `at_once` of them wait at each level.
    pub(super) fn grow(&mut self, at_once: usize) -> Result<bool, ScoreError> {
        while self.branches.len() < at_once {
            let Some(mut fork) = self.forks.pop() else {
                break;
            };
            let start = fork.session.position();
            let below = &self.lines[fork.lines.clone()];
            // Lines that end here stand before those that go on.
            let ended = below.partition_point(|line| line.inputs().len() <= start);
            let Some(next) = below.get(ended).and_then(|line| line.inputs().get(start)) else {
                continue;
            };
            let alike = below[ended..].partition_point(|line| line.inputs()[start] == *next);
            let lines = fork.lines.start + ended..fork.lines.start + ended + alike;
            fork.lines.start = lines.end;
            let session = if fork.lines.is_empty() {
                fork.session
            } else {
                let session = fork.session.fork_at(start)?;
                self.forks.push(fork);
                session
            };
            self.branches.push(Branch::new(session, self.lines, lines));
        }
        Ok(!self.branches.is_empty())
    }

    /// Takes the next tokens of the branches through the model, as many as a pass has room for.
    pub(super) fn pass<N: Borrow<Transformer>>(
        &mut self,
        batch: &mut Batch<N>,
    ) -> Result<(), ScoreError> {
        let mut room = batch.capacity();
        let mut turns = Vec::with_capacity(self.branches.len());
        let mut members = Vec::with_capacity(self.branches.len());
        for branch in &mut self.branches {
            let tokens = room.min(branch.end - branch.start);
            if tokens == 0 {
                continue;
            }
            room -= tokens;
            let (start, stop) = (branch.start, branch.start + tokens);
            let logits = match branch.wanted {
                wanted if wanted >= stop => LogitsOf::Nothing,
                wanted if wanted + 1 == stop => LogitsOf::Last,
                _ => LogitsOf::All,
            };
            let tokens = &self.lines[branch.lines.start].inputs()[start..stop];
            turns.push(Turn { session: &mut branch.session, tokens, logits });
            members.push((branch.lines.clone(), stop));
        }
        let outcomes = batch.forward(&mut turns)?;
        for ((lines, stop), outcome) in zip(members, outcomes) {
            let index = self.lines[lines.start].index;
            let logits = outcome.map_err(|error| ScoreError::Request {
                index,
                source: RequestError::Model(error),
            })?;
            // The rows end where the tokens do.
            for (position, row) in (stop - logits.nrows()..).zip(logits.outer_iter()) {
                let logits = row.to_slice().unwrap_or_default();
                score(&self.lines[lines.clone()], position, logits, &mut self.scores);
            }
        }
        self.harvest();
        Ok(())
    }

    /// Turns branches that were read into forks, if any line goes on there.
    fn harvest(&mut self) {
        for branch in &mut self.branches {
            branch.start = branch.session.position();
        }
        let read = self.branches.extract_if(.., |branch| branch.start == branch.end);
        // The last line is the one that goes on, if one does.
        let goes_on = |branch: &Branch<M>| {
            let last = self.lines[branch.lines.clone()].last();
            last.is_some_and(|line| line.inputs().len() > branch.end)
        };
        let forks = read.filter(goes_on);
        self.forks.extend(forks.map(|Branch { session, lines, .. }| Fork { session, lines }));
    }
}

impl<M> Branch<M> {
    /// What `chosen` of the lines have in common, from where the session stands.
    fn new(session: Session<M>, lines: &[Line], chosen: Range<usize>) -> Self
    where
        M: Borrow<Transformer>,
    {
        let chosen_lines = &lines[chosen.clone()];
        // In lexicographic order nothing between two lines differs earlier than they do.
        let end = match chosen_lines {
            [first, .., last] => common(first.inputs(), last.inputs()),
            [only] => only.inputs().len(),
            [] => session.position(),
        };
        let wanted = chosen_lines.iter().map(|line| line.context - 1).min().unwrap_or(end);
        Self { start: session.position(), session, lines: chosen, end, wanted }
    }
}

/// How many of the first tokens are the same.
fn common(a: &[u32], b: &[u32]) -> usize {
    zip(a, b).take_while(|(a, b)| a == b).count()
}

/// Scores the token after `position` of each line whose continuation it belongs to.
fn score(lines: &[Line], position: usize, logits: &[f32], scores: &mut [LogLikelihood]) {
    let mut distribution = None;
    for line in lines.iter().filter(|line| position + 1 >= line.context) {
        let distribution = distribution.get_or_insert_with(|| Distribution::of(logits));
        scores[line.index].push(distribution.score(line.tokens[position + 1]));
    }
}
