//! The same sum as [`reference`](crate::reference), fast, with bits that depend on nothing but the
//! inputs.
//!
//! The arithmetic of one query and one head is fixed:
//!
//! 1. `q' = scale * q`, rounded once. The score of key `j` is one chain of fused multiply-adds
//!    over rising `d`.
//! 2. Keys are cut into blocks of [`BLOCK`] with borders at fixed *absolute* positions, whatever
//!    segments or chunks there are. Inside a block, over the keys that the query sees:
//!    `m = max s_j`, `p_j = e^(s_j - m)`, `l = Σ p_j` in sixteen lanes by `j mod 16`, and
//!    `o = Σ p_j v_j`, one chain over rising `j` for each element.
//! 3. Blocks are merged in order of position ([`partial`]), and `out = o / l`.
//!
//! So prefill, decode, any chunk, and any number of threads do the same operations in the same
//! order; they differ in what they keep close by:
//!
//! - [`tile`]: some queries of one key/value head against some blocks. A block's keys and values
//!   are widened once into panels and used by the whole query group and all queries of the tile.
//! - [`prefill`]: the tiles of a call, spread over threads.
//! - [`decode`]: few queries and a long history: the blocks are spread over threads as well.

use mistral_core::Element;
use mistral_core::kv::KvView;
use mistral_core::simd::Level;
use mistral_core::threads;
use ndarray::{ArrayView3, ArrayViewMut3};

use crate::plan::Plan;

mod block;
mod block_softmax;
mod decode;
mod partial;
mod prefill;
mod tile;

use block::BLOCK;

/// Below so many multiply-adds, handing work to other threads costs more than it saves.
const SERIAL_BELOW: usize = 1 << 18;

/// What all tasks of a call share.
struct Job<'q, 'a, E: Element> {
    level: Level,
    plan: Plan,
    q: ArrayView3<'q, f32>,
    kv: KvView<'a, E>,
    /// Threads that the work is cut for.
    threads: usize,
}

/// Computes a checked call.
pub(crate) fn forward<E: Element>(
    level: Level,
    plan: Plan,
    q: ArrayView3<'_, f32>,
    kv: &KvView<'_, E>,
    out: ArrayViewMut3<'_, f32>,
) {
    let keys = plan.visible_to_any(0..plan.q_len()).len();
    let work = q.len().saturating_mul(keys);
    let job = Job {
        level,
        plan,
        q,
        kv: *kv,
        threads: if work < SERIAL_BELOW { 1 } else { threads::count() },
    };
    if decode::pays(&job) {
        decode::forward(&job, out);
    } else {
        prefill::forward(&job, out);
    }
}
