//! The same sum as [`reference`](crate::reference), fast, with bits that depend on nothing but the
//! inputs.
//!
//! The arithmetic of one query and one head is fixed:
//!
//! 1. `q' = scale * q`, rounded once. The score of key `j` is one chain of fused multiply-adds
//!    over rising `d` (of integer sums over 32 `d` each, for int8), and is soft-capped if asked.
//! 2. Keys are cut into blocks of [`BLOCK`] with borders at fixed *absolute* positions, whatever
//!    segments or chunks there are. Inside a block, over the keys that the query sees:
//!    `m = max s_j`, `p_j = e^(s_j - m)`, `l = Σ p_j` in sixteen lanes by `j mod 16`, and
//!    `o = Σ p_j v_j`, one chain over rising `j` for each element.
//! 3. Blocks are merged in order of position ([`partial`]), and `out = o / l`. Sinks that lie
//!    before the window come first, as blocks of their own.
//!
//! So prefill, decode, any chunk, and any number of threads do the same operations in the same
//! order; they differ in what they keep close by:
//!
//! - [`tile`]: some queries of one key/value head against some blocks ([`block`]). A block's keys
//!   and values are used by the whole query group and all queries of the tile.
//! - [`prefill`]: the tiles of a call, spread over threads.
//! - [`decode`]: few queries and a long history: the blocks are spread over threads as well.
//! - [`key_sums`]: a second pass that says how much weight each key got.

use std::sync::atomic::{AtomicBool, Ordering};

use mistral_core::kv::{KvElement, KvView};
use mistral_core::simd::Level;
use mistral_core::threads;
use ndarray::{ArrayView3, ArrayViewMut2, ArrayViewMut3};

use crate::call::Options;
use crate::error::AttentionError;
use crate::plan::Plan;
use crate::scratch::Scratch;

mod block;
mod block_softmax;
mod decode;
mod key_sums;
mod memory;
mod partial;
mod prefill;
mod tile;

pub(crate) use memory::{Demand, PartsMemory, Task};
pub(crate) use mistral_core::kv::BLOCK;

/// Below so many multiply-adds, handing work to other threads costs more than it saves.
const SERIAL_BELOW: usize = 1 << 18;

/// What all tasks of a call share.
struct Job<'q, 'v, 's, E: KvElement> {
    level: Level,
    plan: Plan,
    q: ArrayView3<'q, f32>,
    /// What sinks before the window meet, if not `q`.
    sink_queries: Option<ArrayView3<'q, f32>>,
    kv: KvView<'v, E>,
    cancel: Option<&'s AtomicBool>,
    /// Whether a task was left out, even if the caller has taken the flag back since.
    stopped: AtomicBool,
    scratch: &'s Scratch,
    /// Threads that the work is cut for.
    threads: usize,
}

impl<'q, 'v, 's, E: KvElement> Job<'q, 'v, 's, E> {
    fn new<'o: 's>(
        level: Level,
        plan: Plan,
        (q, kv): (ArrayView3<'q, f32>, KvView<'v, E>),
        options: &Options<'q, 'o>,
        scratch: &'s Scratch,
    ) -> Self {
        let keys = plan.visible_to_any(0..plan.q_len()).len();
        let work = q.len().saturating_mul(keys);
        Self {
            level,
            plan,
            q,
            sink_queries: options.sink_queries,
            kv,
            cancel: options.cancel,
            stopped: AtomicBool::new(false),
            scratch,
            threads: if work < SERIAL_BELOW { 1 } else { threads::count() },
        }
    }

    /// Whether to stop: once it is so it stays so.
    fn cancelled(&self) -> bool {
        let cancelled = self.cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed));
        if cancelled {
            self.stopped.store(true, Ordering::Relaxed);
        }
        cancelled || self.stopped.load(Ordering::Relaxed)
    }
}

/// Where results go: `(queries, heads, head_dim)`, `(queries, heads)`, and for each key/value head
/// and position.
struct Outputs<'o> {
    out: ArrayViewMut3<'o, f32>,
    lse: Option<ArrayViewMut2<'o, f32>>,
    key_sums: Option<ArrayViewMut2<'o, f32>>,
}

/// What a checked call with at least one query takes of its scratch memory.
pub(crate) fn demand<'q, E: KvElement>(
    level: Level,
    plan: Plan,
    (q, kv): (ArrayView3<'q, f32>, KvView<'_, E>),
    options: &Options<'q, '_>,
    scratch: &Scratch,
) -> Demand {
    Demand::of(&Job::new(level, plan, (q, kv), options, scratch))
}

/// Computes a checked call with at least one query.
pub(crate) fn forward<'q, E: KvElement>(
    level: Level,
    plan: Plan,
    (q, kv): (ArrayView3<'q, f32>, KvView<'_, E>),
    options: Options<'q, '_>,
    out: ArrayViewMut3<'_, f32>,
) -> Result<(), AttentionError> {
    let own = Scratch::default();
    let job = Job::new(level, plan, (q, kv), &options, options.scratch.unwrap_or(&own));
    let outputs = Outputs { out, lse: options.lse, key_sums: options.key_sums };
    if outputs.key_sums.is_none() && decode::pays(&job) {
        decode::forward(&job, outputs);
    } else {
        prefill::forward(&job, outputs);
    }
    if job.cancelled() { Err(AttentionError::Cancelled) } else { Ok(()) }
}
