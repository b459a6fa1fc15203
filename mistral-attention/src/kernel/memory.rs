//! What calls work in, and how much of it they need.

use mistral_core::kv::{KvElement, Queries};
use mistral_core::simd::{LANES, Lanes};
use mistral_core::threads;

use super::block::BlockMemory;
use super::block_softmax::Softmax;
use super::{Job, decode, prefill, tile};

/// A task's memory: panels of a block, the scaled queries of its rows, and what they have summed.
#[derive(Debug, Default)]
pub(crate) struct Task {
    pub(super) block: BlockMemory,
    pub(super) queries: Queries,
    pub(super) sink_queries: Queries,
    pub(super) softmax: Vec<Softmax>,
    pub(super) sums: Vec<Lanes<f32>>,
}

/// The parts of a history whose blocks are shared out: what each row has summed of each block.
#[derive(Debug, Default)]
pub(crate) struct PartsMemory {
    pub(super) softmax: Vec<Softmax>,
    pub(super) sums: Vec<Lanes<f32>>,
}

/// Calls that a thread has begun at once, as far as memory is made ready for them. There may be more
/// in a large batch, which then allocates: better than to hold memory for all of its members.
const NESTED: usize = 4;

/// The most that calls of a shape take at the same time, also at the next positions.
///
/// Which thread computes what is chance, and with it which memory is used for what, and how much of
/// it at once: so all of it is made ready before a call, lest one that comes later finds it wanting.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Demand {
    /// Tasks: at most one a thread.
    pub(crate) tasks: usize,
    /// The most rows (pairs of a query and a head) of a task.
    rows: usize,
    head_dim: usize,
    sink_queries: bool,
    /// Calls that share out blocks, and the rows of all parts of one.
    pub(crate) parts: usize,
    part_rows: usize,
}

impl Demand {
    /// That of one call.
    pub(super) fn of<E: KvElement>(job: &Job<'_, '_, '_, E>) -> Self {
        let config = job.plan.config();
        let group = config.group_size();
        let part_rows = decode::most_part_rows(job);
        Self {
            tasks: job.threads,
            rows: job.plan.q_len().min(prefill::tile_queries(group)) * group,
            head_dim: config.head_dim(),
            sink_queries: job.sink_queries.is_some(),
            parts: usize::from(part_rows > 0),
            part_rows,
        }
    }

    /// That of calls at the same time.
    pub(crate) fn beside(self, other: Self) -> Self {
        Self {
            tasks: threads::count(),
            rows: self.rows.max(other.rows),
            head_dim: self.head_dim,
            sink_queries: self.sink_queries || other.sink_queries,
            // A thread that waits for others to finish its parts takes up another call.
            parts: (self.parts + other.parts).min(NESTED * threads::count()),
            part_rows: self.part_rows.max(other.part_rows),
        }
    }

    fn width(&self) -> usize {
        self.head_dim.div_ceil(LANES)
    }
}

impl Task {
    /// Makes room; what is there already stays.
    pub(crate) fn reserve<E: KvElement>(&mut self, demand: &Demand) {
        let &Demand { rows, head_dim, .. } = demand;
        self.block.reserve::<E>(head_dim, tile::widens(E::FORMAT, rows));
        self.queries.reserve(rows, head_dim, E::FORMAT);
        if demand.sink_queries {
            self.sink_queries.reserve(rows, head_dim, E::FORMAT);
        }
        reserve(&mut self.softmax, rows);
        reserve(&mut self.sums, rows * demand.width());
    }
}

impl PartsMemory {
    /// As [`Task::reserve`].
    pub(crate) fn reserve(&mut self, demand: &Demand) {
        reserve(&mut self.softmax, demand.part_rows);
        reserve(&mut self.sums, demand.part_rows * demand.width());
    }
}

/// Makes room for `n` in all.
fn reserve<T>(memory: &mut Vec<T>, n: usize) {
    memory.reserve(n.saturating_sub(memory.len()));
}
