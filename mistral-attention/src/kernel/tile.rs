//! Some queries of one key/value head, with the whole query group, against some blocks.
//!
//! ```text
//!                         block 30          block 31          block 32
//!   query 3968 head 0   ················ ················ 1
//!              head 1   ················ ················ 1
//!                ..                                                      six rows at a time;
//!   query 3969 head 0   ················ ················ 11             ranges, not masks
//!              head 1   ················ ················ 11
//! ```
//!
//! Rows are pairs of a query and a head, the heads of a query side by side: neighbours see nearly
//! the same keys. Six rows are taken together, because six times sixteen sums fill the registers; with
//! AVX-512 they meet four panels at once.

use std::marker::PhantomData;
use std::ops::Range;

use mistral_core::half::{bf16, f16};
use mistral_core::kv::{Int8, KvElement, KvFormat, OutputSink, PANEL, Queries, Seen};
use mistral_core::simd::{Integers, Kernel, Level};
use mistral_core::tile;
use ndarray::{ArrayView3, ArrayViewMut2, ArrayViewMut3, Axis};

use super::block::{Block, BlockMemory, blocks_of, most_blocks, within_block};
use super::block_softmax::{Softmax, block_softmax, soft_cap};
use super::partial::{Partials, Weights};
use super::{BLOCK, Job};
use crate::plan::Plan;

/// Rows that pass over a block together.
pub(super) const ROW_GROUP: usize = 6;

/// Rows from which on it pays to widen a block once, instead of each time that six rows read it.
const WIDEN_FROM: usize = 24;

/// Whether so many rows read blocks widened.
pub(super) fn widens(format: KvFormat, rows: usize) -> bool {
    // Integers are multiplied as they are stored, whatever the number of queries.
    format != KvFormat::Int8 && rows >= WIDEN_FROM
}

/// The rows of some queries of one key/value head.
#[derive(Clone)]
pub(super) struct Tile<'j, 'q, 'v, 's, E: KvElement> {
    pub(super) job: &'j Job<'q, 'v, 's, E>,
    pub(super) kv_head: usize,
    pub(super) queries: Range<usize>,
}

/// The two parts of what a tile sees, in the order in which they are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Sinks that lie before the window.
    Sinks,
    /// The window.
    Window,
}

impl<E: KvElement> Tile<'_, '_, '_, '_, E> {
    /// Rows of the tile.
    pub(super) fn rows(&self) -> usize {
        self.queries.len() * self.job.plan.config().group_size()
    }

    fn visible(&self, part: Part) -> Range<usize> {
        match part {
            Part::Sinks => self.job.plan.sinks_of_any(self.queries.clone()),
            Part::Window => self.job.plan.visible_to_any(self.queries.clone()),
        }
    }

    /// The blocks of which at least one query sees something, numbered in the order in which they
    /// are merged.
    pub(super) fn blocks(&self) -> Range<usize> {
        0..blocks_of(&self.visible(Part::Sinks)).len()
            + blocks_of(&self.visible(Part::Window)).len()
    }

    /// The most of them at any position from which as many keys are seen.
    pub(super) fn most_blocks(&self) -> usize {
        blocks_of(&self.visible(Part::Sinks)).len() + most_blocks(self.visible(Part::Window).len())
    }

    /// Where number `number` of [`blocks`](Self::blocks) lies.
    pub(super) fn block(&self, number: usize) -> (Part, usize) {
        let sinks = blocks_of(&self.visible(Part::Sinks));
        match number.checked_sub(sinks.len()) {
            None => (Part::Sinks, sinks.start + number),
            Some(number) => (Part::Window, blocks_of(&self.visible(Part::Window)).start + number),
        }
    }

    /// Fills the memory with the tile's queries, scaled.
    pub(super) fn load_queries(&self, queries: &mut Queries, sink_queries: &mut Queries) {
        self.load(self.job.q, queries);
        if let Some(q) = self.job.sink_queries.filter(|_| !self.visible(Part::Sinks).is_empty()) {
            self.load(q, sink_queries);
        }
    }

    fn load(&self, q: ArrayView3<'_, f32>, queries: &mut Queries) {
        let config = self.job.plan.config();
        let (group, scale) = (config.group_size(), config.scale());
        let rows = self.rows();
        queries.reserve(rows, config.head_dim(), E::FORMAT);
        for row in 0..rows {
            let token = q.index_axis(Axis(0), self.queries.start + row / group);
            let source = token.index_axis(Axis(0), self.kv_head * group + row % group);
            for (target, q) in queries.row_mut(row).iter_mut().zip(source) {
                *target = q * scale;
            }
        }
        if E::FORMAT == KvFormat::Int8 {
            round_queries(self.job.level, queries, rows);
        }
    }

    /// Adds what the tile's rows see of some blocks, in order.
    pub(super) fn attend(
        &self,
        memory: &mut BlockMemory,
        queries: (&Queries, &Queries),
        blocks: Range<usize>,
        partials: &mut Partials<'_>,
    ) {
        let level = self.job.level;
        self.each_block(memory, queries, blocks, |format, pass| {
            attend(level, format, pass, partials)
        });
    }

    /// Brings in block after block and hands each to `work`, with the format of its panels.
    pub(super) fn each_block(
        &self,
        memory: &mut BlockMemory,
        (queries, sink_queries): (&Queries, &Queries),
        blocks: Range<usize>,
        mut work: impl FnMut(KvFormat, Pass<'_>),
    ) {
        let Some(head) = self.job.kv.head(self.kv_head) else {
            return;
        };
        let plan = &self.job.plan;
        let head_dim = plan.config().head_dim();
        let wide = widens(E::FORMAT, self.rows());
        let last = blocks.end;
        for number in blocks {
            let (part, index) = self.block(number);
            let rows = within_block(&self.visible(part), index);
            let queries = match part {
                Part::Sinks if self.job.sink_queries.is_some() => sink_queries,
                _ => queries,
            };
            let mut block = if wide {
                memory.wide(self.job.level, &head, head_dim, index, &rows)
            } else {
                memory.direct(self.job.level, &head, head_dim, index, &rows)
            };
            if !wide && number + 1 < last {
                let (part, index) = self.block(number + 1);
                block = block.with_ahead(&head, index, &within_block(&self.visible(part), index));
            }
            let tile = self.queries.clone();
            let pass = Pass { plan, tile, queries, block, part, index };
            work(if wide { <E::Wide as KvElement>::FORMAT } else { E::FORMAT }, pass);
        }
    }

    /// Writes `o / l` to the tile's part of `out`, `(queries, group_size, head_dim)`, and the
    /// log-sum-exp to `lse`, `(queries, group_size)`.
    pub(super) fn finish(
        &self,
        partials: &Partials<'_>,
        out: &mut ArrayViewMut3<'_, f32>,
        lse: Option<&mut ArrayViewMut2<'_, f32>>,
    ) {
        let heads = self.job.plan.config().group_size();
        for (query, mut out) in out.outer_iter_mut().enumerate() {
            let saw_nothing = self.job.plan.sees_nothing(self.queries.start + query);
            for (head, mut out) in out.outer_iter_mut().enumerate() {
                let row = partials.normalised(query * heads + head, saw_nothing);
                for (out, value) in out.iter_mut().zip(row) {
                    *out = value;
                }
            }
        }
        if let Some(lse) = lse {
            for ((query, head), lse) in lse.indexed_iter_mut() {
                *lse = partials.log_sum_exp(query * heads + head);
            }
        }
    }
}

// What follows no longer knows what keys and values are stored as until it is told at run time: so
// the kernels are compiled once, here, and not again in every crate that calls them.

/// Rounds queries for keys that are integers.
fn round_queries(level: Level, queries: &mut Queries, rows: usize) {
    level.dispatch(RoundQueries { queries, rows });
}

struct RoundQueries<'m> {
    queries: &'m mut Queries,
    rows: usize,
}

impl Kernel for RoundQueries<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Integers>(self, simd: S) {
        for row in 0..self.rows {
            Int8::load_query(simd, self.queries, row);
        }
    }
}

/// Adds a block to what all rows of a tile have summed.
fn attend(level: Level, format: KvFormat, pass: Pass<'_>, partials: &mut Partials<'_>) {
    match format {
        KvFormat::F32 => level.dispatch(Attend::<f32>::new(pass, partials)),
        KvFormat::F16 => level.dispatch(Attend::<f16>::new(pass, partials)),
        KvFormat::BF16 => level.dispatch(Attend::<bf16>::new(pass, partials)),
        _ => level.dispatch(Attend::<Int8>::new(pass, partials)),
    }
}

/// One block for all rows of a tile.
#[derive(Clone)]
pub(super) struct Pass<'p> {
    plan: &'p Plan,
    tile: Range<usize>,
    queries: &'p Queries,
    block: Block<'p>,
    pub(super) part: Part,
    pub(super) index: usize,
}

/// [`attend`] for one format.
struct Attend<'p, 'a, 'm, E> {
    pass: Pass<'p>,
    partials: &'a mut Partials<'m>,
    element: PhantomData<E>,
}

impl<'p, 'a, 'm, E: KvElement> Attend<'p, 'a, 'm, E> {
    fn new(pass: Pass<'p>, partials: &'a mut Partials<'m>) -> Self {
        Self { pass, partials, element: PhantomData }
    }
}

impl<E: KvElement> Kernel for Attend<'_, '_, '_, E> {
    type Output = ();

    const INTEGERS: bool = matches!(E::FORMAT, KvFormat::Int8);

    #[inline(always)]
    fn run<S: Integers>(mut self, simd: S) {
        let rows = self.pass.rows();
        let mut first = 0;
        if S::SUMS == 1 {
            while first < rows {
                self.group::<S, 1, 1>(simd, first);
                first += 1;
            }
        }
        let many_registers = S::SUMS >= 4 * ROW_GROUP;
        while first < rows {
            // Each size is compiled for every format and level, so there are three of them.
            let (n, ()) = match rows - first {
                1..4 => (1, self.group::<S, 1, 4>(simd, first)),
                // Four rows are decoding. Floats are bound by memory, which more panels at once
                // only disturb; integers by arithmetic.
                4 | 5 | 8 if many_registers && Self::INTEGERS => {
                    (4, self.group::<S, 4, 2>(simd, first))
                }
                4 | 5 | 8 => (4, self.group::<S, 4, 1>(simd, first)),
                _ if many_registers => (ROW_GROUP, self.group::<S, ROW_GROUP, 4>(simd, first)),
                _ => (ROW_GROUP, self.group::<S, ROW_GROUP, 1>(simd, first)),
            };
            first += n;
        }
    }
}

impl<E: KvElement> Attend<'_, '_, '_, E> {
    /// `R` rows from `first` on; `P` panels at once, so that few rows too have chains enough to
    /// keep the multipliers busy.
    #[inline(always)]
    fn group<S: Integers, const R: usize, const P: usize>(&mut self, simd: S, first: usize) {
        let Some(seen) = self.pass.seen::<R>(first) else {
            return;
        };
        let mut scores = [[0.0; BLOCK]; R];
        self.pass.scores::<S, E, R, P>(simd, first, &seen, &mut scores);
        let mut softmax = [None; R];
        for r in 0..R {
            if !seen.rows[r].is_empty() {
                softmax[r] = Some(block_softmax(simd, &mut scores[r], seen.rows[r].clone()));
            }
        }
        let ahead = (first == 0).then_some(self.pass.block);
        let weights = self.partials.add_softmax(simd, first, softmax);
        let mut sink = AddOutputs { simd, first, partials: self.partials, weights, softmax, ahead };
        E::outputs::<S, R, P>(simd, &scores, &seen, self.pass.block.values(), &mut sink);
    }
}

impl Pass<'_> {
    pub(super) fn rows(&self) -> usize {
        self.tile.len() * self.plan.config().group_size()
    }

    /// What `R` rows from `first` on see of the block.
    #[inline(always)]
    pub(super) fn seen<const R: usize>(&self, first: usize) -> Option<Seen<R>> {
        let group = self.plan.config().group_size();
        let mut rows = [const { 0..0 }; R];
        for (r, row) in rows.iter_mut().enumerate() {
            let query = self.tile.start + (first + r) / group;
            let visible = match self.part {
                Part::Sinks => self.plan.visible_sinks(query),
                Part::Window => self.plan.visible(query),
            };
            *row = within_block(&visible, self.index);
        }
        Seen::new(rows)
    }

    /// `scores[r][j] = q'[first + r] . k[j]`, soft-capped, for the panels of which a row sees
    /// something.
    #[inline(always)]
    pub(super) fn scores<S: Integers, E: KvElement, const R: usize, const P: usize>(
        &self,
        simd: S,
        first: usize,
        seen: &Seen<R>,
        scores: &mut [[f32; BLOCK]; R],
    ) {
        let queries = (self.queries, first);
        let end = seen.any.end.div_ceil(PANEL);
        let mut panel = seen.any.start / PANEL;
        while panel + P <= end {
            let mut panels: [&[u8]; P] = [&[]; P];
            for (p, keys) in panels.iter_mut().enumerate() {
                *keys = self.block.keys(panel + p);
            }
            let sums = E::scores::<S, R, P>(simd, queries, panels);
            for (scores, sums) in scores.iter_mut().zip(sums) {
                for (p, sums) in sums.into_iter().enumerate() {
                    tile::store(simd, sums, &mut scores[(panel + p) * PANEL..]);
                }
            }
            panel += P;
        }
        // Left out where it would be the same code once more.
        let left = if P > 1 { panel..end } else { 0..0 };
        for panel in left {
            let sums = E::scores::<S, R, 1>(simd, queries, [self.block.keys(panel)]);
            for (scores, [sums]) in scores.iter_mut().zip(sums) {
                tile::store(simd, sums, &mut scores[panel * PANEL..]);
            }
        }
        if let Some(cap) = self.plan.config().soft_cap() {
            for scores in scores {
                soft_cap(simd, scores, &seen.any, cap);
            }
        }
    }
}

/// Adds outputs of a block to those of the rows that saw something of it.
struct AddOutputs<'a, 'm, 'b, S, const R: usize> {
    simd: S,
    first: usize,
    partials: &'a mut Partials<'m>,
    weights: Weights,
    softmax: [Option<Softmax>; R],
    /// The block whose successor is to be asked for.
    ahead: Option<Block<'b>>,
}

impl<S: Integers, const R: usize> OutputSink<S> for AddOutputs<'_, '_, '_, S, R> {
    #[inline(always)]
    fn take(&mut self, row: usize, column: usize, sums: S::F32x16) {
        if let Some(block) = self.ahead.filter(|_| row == 0) {
            block.prefetch_ahead(self.simd, column);
        }
        if self.softmax[row].is_some() {
            self.partials.add_out(self.simd, (self.first, row), column, &self.weights, sums);
        }
    }
}
