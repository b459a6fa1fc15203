//! Requests as iterators: whoever asks for a token moves all of them on.

use std::borrow::Borrow;
use std::cell::{RefCell, RefMut};
use std::collections::{HashMap, VecDeque};
use std::iter::FusedIterator;

use super::request::{Event, Finish, Progress, Request, RequestId};
use super::{Scheduler, SchedulerOptions};
use crate::error::ModelError;
use crate::transformer::Transformer;

/// A [`Scheduler`] that many iterators share.
///
/// To ask one of them for a token runs steps until it has one; what the steps give to others waits
/// for those. It belongs to one thread; a server of many threads gives a [`Scheduler`] a thread of
/// its own and sends it requests.
///
/// ```
/// # use mistral_model::{Config, DType, Sampler, Transformer};
/// use mistral_model::scheduler::{Engine, Request, SchedulerOptions};
///
/// # let config = Config { dim: 64, n_layers: 2, n_heads: 4, n_kv_heads: 2, head_dim: 16,
/// #     hidden_dim: 96, vocab_size: 100, ..Config::mistral_7b_v01() };
/// # let model = Transformer::random(&config, DType::F32, 7)?;
/// let engine = Engine::new(&model, SchedulerOptions::default())?;
/// let request = |prompt| Request::new(prompt, Sampler::greedy()).ignore_eos().max_tokens(5);
/// let mut first = engine.generate(request(vec![1, 42]))?;
/// let second = engine.generate(request(vec![1, 7, 9]))?;
/// first.next(); // a pass for both
/// drop(first); // its memory is free
/// let tokens: Result<Vec<u32>, _> = second.collect();
/// assert_eq!(tokens?.len(), 5);
/// # Ok::<(), mistral_model::ModelError>(())
/// ```
#[derive(Debug)]
pub struct Engine<M>(RefCell<State<M>>);

#[derive(Debug)]
struct State<M> {
    scheduler: Scheduler<M>,
    /// What happened to the requests of iterators that were not asked yet.
    inboxes: HashMap<RequestId, VecDeque<Progress>>,
}

impl<M: Borrow<Transformer> + Clone> Engine<M> {
    /// An engine without requests.
    ///
    /// # Errors
    ///
    /// As [`Scheduler::new`].
    pub fn new(model: M, options: SchedulerOptions) -> Result<Self, ModelError> {
        Ok(Self::from_scheduler(Scheduler::new(model, options)?))
    }

    /// Goes on with a scheduler: one that holds prefixes, for instance. The events of requests that
    /// it has already are dropped.
    pub fn from_scheduler(scheduler: Scheduler<M>) -> Self {
        Self(RefCell::new(State { scheduler, inboxes: HashMap::new() }))
    }

    /// Submits a request and returns an iterator over its tokens. Dropping it cancels the request
    /// and frees its memory at once.
    ///
    /// # Errors
    ///
    /// - [`ModelError::Busy`]: called by a filter of a sampler, in the middle of a step.
    /// - As [`Scheduler::submit`].
    pub fn generate(&self, request: Request) -> Result<Completion<'_, M>, ModelError> {
        let mut state = self.state()?;
        let id = state.scheduler.submit(request)?;
        state.inboxes.insert(id, VecDeque::new());
        Ok(Completion { engine: self, id, finish: None, ended: false })
    }

    /// Bytes of all keys and values, as [`Scheduler::cache_bytes`]; `None` in the middle of a step.
    pub fn cache_bytes(&self) -> Option<usize> {
        Some(self.state().ok()?.scheduler.cache_bytes())
    }

    fn state(&self) -> Result<RefMut<'_, State<M>>, ModelError> {
        self.0.try_borrow_mut().map_err(|_| ModelError::Busy)
    }
}

impl<M: Borrow<Transformer> + Clone> State<M> {
    /// The next thing that happened to a request, after as many steps as that takes.
    fn next(&mut self, id: RequestId) -> Result<Option<Progress>, ModelError> {
        loop {
            match self.inboxes.get_mut(&id).map(VecDeque::pop_front) {
                Some(Some(progress)) => return Ok(Some(progress)),
                Some(None) if !self.scheduler.is_idle() => {}
                _ => return Ok(None),
            }
            for Event { request, progress } in self.scheduler.step()? {
                if let Some(inbox) = self.inboxes.get_mut(&request) {
                    inbox.push_back(progress);
                }
            }
        }
    }
}

/// The tokens of one request of an [`Engine`], as they are written.
///
/// It ends with the text, or after an error. [`TextGenerator`](crate::generate::TextGenerator)
/// makes text of it.
#[derive(Debug)]
#[must_use = "a completion that is dropped is cancelled"]
pub struct Completion<'e, M: Borrow<Transformer> + Clone> {
    engine: &'e Engine<M>,
    id: RequestId,
    finish: Option<Finish>,
    ended: bool,
}

impl<M: Borrow<Transformer> + Clone> Completion<'_, M> {
    /// Why the text is complete; `None` while it is not, and after an error.
    pub fn finish(&self) -> Option<Finish> {
        self.finish
    }

    fn step(&mut self) -> Result<Option<u32>, ModelError> {
        match self.engine.state()?.next(self.id)? {
            Some(Progress::Token(token)) => Ok(Some(token)),
            Some(Progress::Failed(error)) => Err(error),
            Some(Progress::Finished(finish)) => {
                self.finish = Some(finish);
                Ok(None)
            }
            None => Ok(None),
        }
    }
}

impl<M: Borrow<Transformer> + Clone> Iterator for Completion<'_, M> {
    type Item = Result<u32, ModelError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let step = self.step();
        self.ended = !matches!(step, Ok(Some(_)));
        step.transpose()
    }
}

impl<M: Borrow<Transformer> + Clone> FusedIterator for Completion<'_, M> {}

impl<M: Borrow<Transformer> + Clone> Drop for Completion<'_, M> {
    fn drop(&mut self) {
        // Nobody else can be in a step: only a filter runs there, and none can own what borrows
        // the engine.
        if let Ok(mut state) = self.engine.state() {
            state.scheduler.cancel(self.id);
            state.inboxes.remove(&self.id);
        }
    }
}
