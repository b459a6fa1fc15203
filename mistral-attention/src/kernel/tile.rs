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
//! the same keys. Six rows are taken together, because six times sixteen sums fill the registers.
//! Over the keys that all six see, values are added for all of them in one pass; the ragged ends
//! are added row by row, before and after, so that each row's chain runs over rising positions and
//! never touches a key that the row does not see.

use std::ops::Range;

use mistral_core::Element;
use mistral_core::kv::HeadView;
use mistral_core::simd::{Kernel, LANES, Lanes, Level, Simd};
use mistral_core::tile;
use ndarray::{ArrayViewMut3, Axis};

use super::block::{Block, blocks_of, within_block};
use super::block_softmax::{Softmax, block_softmax};
use super::partial::Partials;
use super::{BLOCK, Job};
use crate::plan::Plan;

/// Rows that pass over a block together.
const ROW_GROUP: usize = 6;

/// A task's memory: one block, and the scaled queries of its rows.
pub(super) struct Scratch {
    block: Block,
    queries: Vec<f32>,
}

impl Scratch {
    /// For up to `rows` rows of `head_dim` elements.
    pub(super) fn new(rows: usize, head_dim: usize) -> Self {
        Self { block: Block::new(head_dim.div_ceil(LANES)), queries: vec![0.0; rows * head_dim] }
    }
}

/// The rows of some queries of one key/value head.
pub(super) struct Tile<'j, 'q, 'a, E: Element> {
    pub(super) job: &'j Job<'q, 'a, E>,
    pub(super) kv_head: usize,
    pub(super) queries: Range<usize>,
}

impl<E: Element> Tile<'_, '_, '_, E> {
    /// Rows of the tile.
    pub(super) fn rows(&self) -> usize {
        self.queries.len() * self.job.plan.config().group_size()
    }

    /// The blocks of which at least one query sees something.
    pub(super) fn blocks(&self) -> Range<usize> {
        blocks_of(&self.job.plan.visible_to_any(self.queries.clone()))
    }

    /// Fills the scratch with this tile's queries, scaled.
    pub(super) fn load_queries(&self, scratch: &mut Scratch) {
        let config = self.job.plan.config();
        let group = config.group_size();
        let scale = config.scale();
        let rows = scratch.queries.chunks_exact_mut(config.head_dim());
        for (row, target) in rows.take(self.rows()).enumerate() {
            let query = self.queries.start + row / group;
            let head = self.kv_head * group + row % group;
            let source = self.job.q.index_axis(Axis(0), query);
            for (t, q) in target.iter_mut().zip(source.index_axis(Axis(0), head)) {
                *t = q * scale;
            }
        }
    }

    /// Adds what the tile's rows see of `blocks`, in order.
    pub(super) fn attend(
        &self,
        scratch: &mut Scratch,
        blocks: Range<usize>,
        partials: &mut Partials<'_>,
    ) {
        let Some(head) = self.job.kv.head(self.kv_head) else {
            return;
        };
        let visible = self.job.plan.visible_to_any(self.queries.clone());
        for index in blocks {
            self.job.level.dispatch(Load {
                block: &mut scratch.block,
                head: &head,
                index,
                rows: within_block(&visible, index),
            });
            let pass = Pass {
                plan: &self.job.plan,
                queries: self.queries.clone(),
                scratch,
                index,
                partials,
            };
            pass.run_at(self.job.level);
        }
    }

    /// Writes `o / l` to the tile's part of `out`, `(queries, group_size, head_dim)`.
    pub(super) fn finish(&self, partials: &Partials<'_>, out: &mut ArrayViewMut3<'_, f32>) {
        let heads = self.job.plan.config().group_size();
        for (query, mut out) in out.outer_iter_mut().enumerate() {
            for (head, mut out) in out.outer_iter_mut().enumerate() {
                let row = partials.normalised(query * heads + head);
                for (out, value) in out.iter_mut().zip(row) {
                    *out = value;
                }
            }
        }
    }
}

/// Widens one block.
struct Load<'s, 'h, 'a, E: Element> {
    block: &'s mut Block,
    head: &'h HeadView<'a, E>,
    index: usize,
    rows: Range<usize>,
}

impl<E: Element> Kernel for Load<'_, '_, '_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        self.block.load(simd, self.head, self.index, self.rows);
    }
}

/// One block for all rows of a tile. It no longer knows what keys and values were stored as, so it
/// is compiled once a level, and in this crate.
struct Pass<'p, 'm> {
    plan: &'p Plan,
    queries: Range<usize>,
    scratch: &'p Scratch,
    index: usize,
    partials: &'p mut Partials<'m>,
}

impl Kernel for Pass<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        self.all_rows(simd);
    }
}

impl Pass<'_, '_> {
    #[inline(never)]
    fn run_at(self, level: Level) {
        level.dispatch(self);
    }

    #[inline(always)]
    fn all_rows<S: Simd>(&mut self, simd: S) {
        let rows = self.queries.len() * self.plan.config().group_size();
        let mut first = 0;
        while rows - first >= ROW_GROUP {
            self.group::<S, ROW_GROUP, 1>(simd, first);
            first += ROW_GROUP;
        }
        match rows - first {
            5 => self.group::<S, 5, 1>(simd, first),
            4 => self.group::<S, 4, 1>(simd, first),
            3 => self.group::<S, 3, 2>(simd, first),
            2 => self.group::<S, 2, 3>(simd, first),
            1 => self.group::<S, 1, 4>(simd, first),
            _ => {}
        }
    }

    /// `R` rows from `first` on; `P` panels at once, so that few rows too have chains enough to
    /// keep the multipliers busy.
    #[inline(always)]
    fn group<S: Simd, const R: usize, const P: usize>(&mut self, simd: S, first: usize) {
        let plan = self.plan;
        let group = plan.config().group_size();
        let seen: [Range<usize>; R] = std::array::from_fn(|r| {
            let query = self.queries.start + (first + r) / group;
            within_block(&plan.visible(query), self.index)
        });
        let Some(extent) = Extent::of(&seen) else {
            return;
        };
        let mut scores = [[0.0; BLOCK]; R];
        self.scores::<S, R, P>(simd, first, &extent.any, &mut scores);
        let mut softmax = [None; R];
        for r in 0..R {
            if !seen[r].is_empty() {
                softmax[r] = Some(block_softmax(simd, &mut scores[r], seen[r].clone()));
            }
        }
        self.outputs::<S, R, P>(simd, first, &scores, (&seen, &extent), softmax);
    }

    /// `scores[r][j] = q'[first + r] . k[j]` for the panels that hold positions `seen`.
    #[inline(always)]
    fn scores<S: Simd, const R: usize, const P: usize>(
        &self,
        simd: S,
        first: usize,
        seen: &Range<usize>,
        scores: &mut [[f32; BLOCK]; R],
    ) {
        let head_dim = self.plan.config().head_dim();
        let block = &self.scratch.block;
        let queries: [&[f32]; R] =
            std::array::from_fn(|r| &self.scratch.queries[(first + r) * head_dim..][..head_dim]);
        let end = seen.end.div_ceil(LANES);
        let mut panel = seen.start / LANES;
        while panel + P <= end {
            let panels: [_; P] = std::array::from_fn(|p| block.key_panel(panel + p));
            let sums = tile::accumulate(simd, queries, panels, tile::zeros(simd));
            for (scores, sums) in scores.iter_mut().zip(sums) {
                for (p, sums) in sums.into_iter().enumerate() {
                    tile::store(simd, sums, &mut scores[(panel + p) * LANES..]);
                }
            }
            panel += P;
        }
        for panel in panel..end {
            let sums = tile::accumulate(simd, queries, [block.key_panel(panel)], tile::zeros(simd));
            for (scores, [sums]) in scores.iter_mut().zip(sums) {
                tile::store(simd, sums, &mut scores[panel * LANES..]);
            }
        }
    }

    /// Adds `Σ_j p[r][j] v[j]` to the rows' outputs.
    #[inline(always)]
    fn outputs<S: Simd, const R: usize, const P: usize>(
        &mut self,
        simd: S,
        first: usize,
        p: &[[f32; BLOCK]; R],
        (seen, extent): (&[Range<usize>; R], &Extent),
        softmax: [Option<Softmax>; R],
    ) {
        let weights = self.partials.add_softmax(simd, first, softmax);
        let block = &self.scratch.block;
        let width = self.partials.width;
        let mut column = 0;
        while column + P <= width {
            let panels: [_; P] = std::array::from_fn(|i| block.value_panel(column + i));
            let sums = weighted_sums(simd, p, panels, seen, extent);
            for r in (0..R).filter(|&r| softmax[r].is_some()) {
                for (i, &sums) in sums[r].iter().enumerate() {
                    self.partials.add_out(simd, (first, r), column + i, &weights, sums);
                }
            }
            column += P;
        }
        for column in column..width {
            let sums = weighted_sums(simd, p, [block.value_panel(column)], seen, extent);
            for r in (0..R).filter(|&r| softmax[r].is_some()) {
                self.partials.add_out(simd, (first, r), column, &weights, sums[r][0]);
            }
        }
    }
}

/// What the rows of a group see of a block.
struct Extent {
    /// Positions that at least one row sees.
    any: Range<usize>,
    /// Positions that every row sees; rows that see nothing of the block don't count.
    all: Range<usize>,
    /// Whether some row sees more than `all`.
    ragged: bool,
}

impl Extent {
    /// `None` if no row sees anything.
    #[inline(always)]
    fn of(seen: &[Range<usize>]) -> Option<Self> {
        let mut rows = seen.iter().filter(|range| !range.is_empty());
        let first = rows.next()?;
        let mut any = first.clone();
        let mut all = first.clone();
        for row in rows {
            any = any.start.min(row.start)..any.end.max(row.end);
            all = all.start.max(row.start)..all.end.min(row.end);
        }
        if all.is_empty() {
            all = 0..0;
        }
        let ragged = any != all;
        Some(Self { any, all, ragged })
    }
}

/// `Σ_j p[r][j] v[j]` over the positions that row `r` sees, one chain over rising `j`.
#[inline(always)]
fn weighted_sums<S: Simd, const R: usize, const P: usize>(
    simd: S,
    p: &[[f32; BLOCK]; R],
    values: [&[Lanes<f32>]; P],
    seen: &[Range<usize>; R],
    extent: &Extent,
) -> tile::Sums<S, R, P> {
    let mut sums = tile::zeros::<S, R, P>(simd);
    let all = &extent.all;
    if extent.ragged {
        for r in 0..R {
            let end = all.start.max(seen[r].start).min(seen[r].end);
            sums[r] = add_values(simd, [&p[r]], values, seen[r].start..end, [sums[r]])[0];
        }
    }
    sums = add_values(simd, std::array::from_fn(|r| &p[r]), values, all.clone(), sums);
    if extent.ragged {
        for r in 0..R {
            let start = all.end.max(seen[r].start).min(seen[r].end);
            sums[r] = add_values(simd, [&p[r]], values, start..seen[r].end, [sums[r]])[0];
        }
    }
    sums
}

/// `sums[r] + Σ_j p[r][j] v[j]` over the positions in `range`, which every row sees.
#[inline(always)]
fn add_values<S: Simd, const R: usize, const P: usize>(
    simd: S,
    p: [&[f32; BLOCK]; R],
    values: [&[Lanes<f32>]; P],
    range: Range<usize>,
    sums: tile::Sums<S, R, P>,
) -> tile::Sums<S, R, P> {
    let p: [&[f32]; R] = std::array::from_fn(|r| &p[r][range.clone()]);
    let values = values.map(|v| &v[range.clone()]);
    tile::accumulate(simd, p, values, sums)
}
