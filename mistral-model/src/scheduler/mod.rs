//! Many requests that come and go, one pass over the weights a step (continuous batching).
//!
//! Source: the iteration-level scheduling of Orca (Yu et al., OSDI 2022), with prompts read in
//! pieces between the decode steps of others (Sarathi, arXiv:2308.16369). Its [`Batch`] computes;
//! here is decided who takes part in which pass. [`Scheduler`] tells by events what happened;
//! [`Engine`] has an iterator for each request.

mod engine;
mod request;
mod sequence;
mod shares;
mod step;

use std::borrow::Borrow;
use std::collections::VecDeque;

pub use self::engine::{Completion, Engine};
pub use self::request::{Event, Finish, Progress, Request, RequestId};
use self::sequence::Sequence;
use crate::batch::Batch;
use crate::error::ModelError;
use crate::generate::Sampler;
use crate::session::SessionOptions;
use crate::transformer::Transformer;

/// How much a scheduler takes on at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulerOptions {
    /// The cache of each request. Its `max_chunk` is the most prompt tokens that are read in one
    /// step, of all requests together: the longer, the fewer steps a prompt takes, and the longer
    /// those wait who are decoding. Default 96, as many rows as matmul takes at a time.
    pub session: SessionOptions,
    /// Most requests that are decoded together. Default 16.
    pub max_running: usize,
    /// Most bytes of keys and values. Requests wait until theirs fit. Default: no limit.
    pub max_cache_bytes: Option<usize>,
}

impl Default for SchedulerOptions {
    fn default() -> Self {
        let session = SessionOptions { max_chunk: 96, ..SessionOptions::default() };
        Self { session, max_running: 16, max_cache_bytes: None }
    }
}

/// Serves many requests over one model, each as if it were alone.
///
/// A step is one pass over the weights: the next token of every request that writes, and some
/// tokens of the prompts of those that read. Requests join and leave at every step. A request's
/// text and logits are, bit for bit, those that it has alone. Nothing runs between the steps:
/// whoever calls [`step`](Self::step) does the work, on the threads of their rayon pool.
///
/// A prompt that begins as the text of another request does takes over its keys and values (memory
/// too, as far as neither overwrites it): what is common is computed once. To have a prefix ready
/// for requests that come later, [`hold`](Self::hold) it.
///
/// ```
/// # use mistral_model::{Config, DType, Sampler, Transformer};
/// use mistral_model::scheduler::{Progress, Request, Scheduler, SchedulerOptions};
///
/// # let config = Config { dim: 64, n_layers: 2, n_heads: 4, n_kv_heads: 2, head_dim: 16,
/// #     hidden_dim: 96, vocab_size: 100, ..Config::mistral_7b_v01() };
/// # let model = Transformer::random(&config, DType::F32, 7)?;
/// let mut scheduler = Scheduler::new(&model, SchedulerOptions::default())?;
/// let request = |prompt| Request::new(prompt, Sampler::greedy()).ignore_eos().max_tokens(5);
/// let first = scheduler.submit(request(vec![1, 42]))?;
/// let second = scheduler.submit(request(vec![1, 7, 9]))?;
/// let mut written = [0, 0];
/// while !scheduler.is_idle() {
///     for event in scheduler.step()? {
///         match event.progress {
///             Progress::Token(_) => written[usize::from(event.request == second)] += 1,
///             Progress::Finished(_) => assert!([first, second].contains(&event.request)),
///             Progress::Failed(error) => return Err(error),
///         }
///     }
/// }
/// assert_eq!((written, scheduler.cache_bytes()), ([5, 5], 0));
/// # Ok::<(), mistral_model::ModelError>(())
/// ```
#[derive(Debug)]
pub struct Scheduler<M> {
    model: M,
    options: SchedulerOptions,
    batch: Batch<M>,
    /// Those that wait for room, in the order in which they came.
    queue: VecDeque<Waiting>,
    /// Those that have room, in the same order.
    running: Vec<Sequence<M>>,
    /// Tokens that went through the layers.
    computed: u64,
    /// Told by the next step that goes well.
    events: Vec<Event>,
    /// The number of the next request.
    next: u64,
}

/// A request that has no room yet.
#[derive(Debug)]
struct Waiting {
    id: RequestId,
    request: Request,
    held: bool,
    /// Bytes that its cache may grow to.
    bytes: usize,
}

impl<M: Borrow<Transformer> + Clone> Scheduler<M> {
    /// A scheduler without requests.
    ///
    /// # Errors
    ///
    /// - [`ModelError::ZeroChunk`], [`ModelError::ZeroRunning`]: `max_chunk` or `max_running` is 0.
    /// - [`ModelError::HeavyHitters`]: sessions with heavy hitters, whose text depends on how a
    ///   prompt is cut.
    /// - [`ModelError::OutOfMemory`], [`ModelError::Cache`]: the memory of a step cannot be had.
    pub fn new(model: M, options: SchedulerOptions) -> Result<Self, ModelError> {
        if options.session.max_chunk == 0 {
            return Err(ModelError::ZeroChunk);
        }
        if options.max_running == 0 {
            return Err(ModelError::ZeroRunning);
        }
        if options.session.heavy_hitters.is_some() {
            return Err(ModelError::HeavyHitters { what: "a scheduler" });
        }
        let rows = options.max_running.saturating_add(options.session.max_chunk);
        let batch = Batch::new(model.clone(), rows)?;
        let (queue, running, events) = (VecDeque::new(), Vec::new(), Vec::new());
        Ok(Self { model, options, batch, queue, running, computed: 0, events, next: 0 })
    }

    /// Puts a request at the end of the queue. Nothing is computed yet.
    ///
    /// # Errors
    ///
    /// - [`ModelError::EmptyPrompt`], [`ModelError::UnknownToken`]: the prompt is wrong.
    /// - [`ModelError::Adapter`]: an adapter was opened for a model of other sizes.
    /// - [`ModelError::ContextFull`]: the prompt is longer than the context.
    /// - [`ModelError::CacheBudget`]: it would never fit into `max_cache_bytes`.
    pub fn submit(&mut self, request: Request) -> Result<RequestId, ModelError> {
        self.enqueue(request, false)
    }

    /// Computes a prefix, without adapters, and keeps it for prompts that begin with it, until it is
    /// [cancelled](Self::cancel). It writes nothing.
    ///
    /// # Errors
    ///
    /// As [`submit`](Self::submit).
    pub fn hold(&mut self, prefix: impl Into<Vec<u32>>) -> Result<RequestId, ModelError> {
        let request = Request::new(prefix, Sampler::greedy()).max_tokens(1);
        self.enqueue(request, true)
    }

    fn enqueue(&mut self, request: Request, held: bool) -> Result<RequestId, ModelError> {
        let model = self.model.borrow();
        let prompt = request.prompt.len();
        if prompt == 0 {
            return Err(ModelError::EmptyPrompt);
        }
        model.check_tokens(&request.prompt)?;
        request.adapters.iter().try_for_each(|adapter| adapter.check(model.config()))?;
        let limit = model.config().cache().limit().unwrap_or(usize::MAX);
        if prompt > limit {
            let context_len = model.config().context_len;
            return Err(ModelError::ContextFull { tokens: prompt, position: 0, context_len });
        }
        // The last token written needs no place.
        let tokens = prompt.saturating_add(request.max_tokens.saturating_sub(1)).min(limit);
        let bytes = self.options.session.cache_bytes(model.config(), tokens)?;
        if let Some(budget) = self.options.max_cache_bytes.filter(|budget| bytes > *budget) {
            return Err(ModelError::CacheBudget { needed: bytes, budget });
        }
        let id = RequestId(self.next);
        self.next += 1;
        self.queue.push_back(Waiting { id, request, held, bytes });
        Ok(id)
    }

    /// Forgets a request, whatever it is doing, and frees its memory at once: whether it was known.
    /// There is no event. Others that wait for a prefix of it compute that themselves.
    pub fn cancel(&mut self, request: RequestId) -> bool {
        let known = self.queue.len() + self.running.len();
        self.queue.retain(|waiting| waiting.id != request);
        self.running.retain(|sequence| sequence.id != request);
        self.queue.len() + self.running.len() < known
    }

    /// Whether there is nothing to do: no request but prefixes that are held.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.running.iter().all(Sequence::is_at_rest)
    }

    /// Requests that wait for room.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Requests that have room, prefixes that are held included.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Tokens of a request that are in its cache; `None` if it is not running.
    pub fn position(&self, request: RequestId) -> Option<usize> {
        self.sequence(request).map(Sequence::position)
    }

    /// The logits from which a request's last token was drawn; `None` before its first token, and
    /// when it has ended.
    pub fn logits(&self, request: RequestId) -> Option<&[f32]> {
        self.sequence(request)?.logits()
    }

    /// Bytes of all keys and values. What requests share counts for each of them.
    pub fn cache_bytes(&self) -> usize {
        self.running.iter().map(Sequence::cache_bytes).sum()
    }

    /// Bytes set aside for the keys and values of the requests that run: what they can grow to.
    /// Never above `max_cache_bytes`.
    pub fn reserved_bytes(&self) -> usize {
        self.running.iter().map(|sequence| sequence.reserved).sum()
    }

    /// Tokens that went through the layers so far, those that failed included. What a request took
    /// over from another is not among its own.
    pub fn tokens_computed(&self) -> u64 {
        self.computed
    }

    fn sequence(&self, request: RequestId) -> Option<&Sequence<M>> {
        self.running.iter().find(|sequence| sequence.id == request)
    }
}
