//! One step: who joins, who begins where, who has how many tokens in the pass, what came of it.

use std::borrow::Borrow;
use std::mem;

use super::request::{Event, Finish, Progress, RequestId};
use super::sequence::{Sequence, Start};
use super::shares::shares;
use super::{Scheduler, Waiting};
use crate::error::ModelError;
use crate::transformer::Transformer;

impl<M: Borrow<Transformer> + Clone> Scheduler<M> {
    /// One pass over the weights, and what came of it, request by request in the order in which
    /// they were submitted. Nothing if there is nothing to do.
    ///
    /// # Errors
    ///
    /// What is wrong with one request is an event of that one ([`Progress::Failed`]). Here it is
    /// what stops all of them, before anything is computed: [`ModelError::OutOfMemory`]. The next
    /// step tries again.
    ///
    /// # Cost
    ///
    /// A row of matmul for each token, at most `max_running + max_chunk`; the weights are read once.
    pub fn step(&mut self) -> Result<Vec<Event>, ModelError> {
        self.admit();
        self.begin();
        self.share_out();
        let outcomes = self.pass()?;
        self.take_note(outcomes);
        let mut events = mem::take(&mut self.events);
        events.sort_by_key(|event| event.request);
        Ok(events)
    }

    fn tell(&mut self, request: RequestId, progress: Progress) {
        self.events.push(Event { request, progress });
    }

    /// Lets in those at the front of the queue, as long as there is room. Nobody overtakes, so
    /// nobody waits for ever.
    fn admit(&mut self) {
        while let Some(Waiting { id, request, held, bytes }) = self.queue.pop_front() {
            if request.max_tokens == 0 {
                self.tell(id, Progress::Finished(Finish::MaxTokens));
                continue;
            }
            let left = self.options.max_cache_bytes.unwrap_or(usize::MAX);
            let left = left.saturating_sub(self.reserved_bytes());
            let places = self.running.iter().filter(|sequence| !sequence.held).count();
            if bytes <= left && (held || places < self.options.max_running) {
                self.running.push(Sequence::new(id, request, held, bytes));
            } else if self.running.iter().all(Sequence::is_at_rest) {
                // Only prefixes that are held take up room, and no step would end them.
                self.tell(
                    id,
                    Progress::Failed(ModelError::CacheBudget { needed: bytes, budget: left }),
                );
            } else {
                self.queue.push_front(Waiting { id, request, held, bytes });
                return;
            }
        }
    }

    /// Gives a session to those who have none, unless it is worth waiting for a common prefix.
    fn begin(&mut self) {
        self.running.iter_mut().for_each(|sequence| sequence.pause_at = usize::MAX);
        let mut index = 0;
        while let Some((earlier, [sequence, ..])) = self.running.split_at_mut_checked(index) {
            index += 1;
            if sequence.has_started() {
                continue;
            }
            let started = match sequence.start_among(earlier) {
                Start::Empty => sequence.start_empty(self.model.clone(), self.options.session),
                Start::Branch { donor, len } => sequence.start_as(&earlier[donor], len),
                Start::Wait { donor, len } => {
                    earlier[donor].pause_at = earlier[donor].pause_at.min(len);
                    continue;
                }
            };
            if let Err(error) = started {
                index -= 1;
                let id = self.running.remove(index).id;
                self.tell(id, Progress::Failed(error));
            }
        }
    }

    /// A token for each one that writes, and the budget for those that read.
    fn share_out(&mut self) {
        let mut readers = Vec::new();
        for sequence in &mut self.running {
            sequence.share = 0;
            if sequence.is_reading() && sequence.has_started() {
                readers.push(sequence);
            } else if sequence.has_started() {
                sequence.share = sequence.missing();
            }
        }
        let wanted: Vec<_> = readers.iter().map(|sequence| sequence.readable()).collect();
        let shares = shares(self.options.session.max_chunk, &wanted);
        for (sequence, share) in readers.into_iter().zip(shares) {
            sequence.share = share;
        }
    }

    /// The pass, and what became of each that took part.
    fn pass(&mut self) -> Result<Vec<Result<(), ModelError>>, ModelError> {
        let mut turns: Vec<_> = self.running.iter_mut().filter_map(Sequence::turn).collect();
        let tokens: usize = turns.iter().map(|turn| turn.tokens.len()).sum();
        let outcomes = self.batch.forward(&mut turns)?;
        self.computed += tokens as u64;
        Ok(outcomes.into_iter().map(|outcome| outcome.map(|_| ())).collect())
    }

    /// Draws tokens, and lets go of those who are done.
    fn take_note(&mut self, outcomes: Vec<Result<(), ModelError>>) {
        let mut outcomes = outcomes.into_iter();
        let events = &mut self.events;
        self.running.retain_mut(|sequence| {
            if sequence.share == 0 {
                return true;
            }
            let request = sequence.id;
            let mut tell = |progress| events.push(Event { request, progress });
            let outcome = outcomes.next().unwrap_or(Ok(()));
            match outcome.and_then(|()| sequence.advance()) {
                Err(error) => {
                    tell(Progress::Failed(error));
                    false
                }
                Ok(advance) => {
                    if let Some(token) = advance.token {
                        tell(Progress::Token(token));
                    }
                    if let Some(finish) = advance.finish {
                        tell(Progress::Finished(finish));
                    }
                    matches!(advance.finish, None | Some(Finish::Held))
                }
            }
        });
    }
}
