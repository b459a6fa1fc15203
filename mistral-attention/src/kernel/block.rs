//! A block of keys and values as a tile reads it: panels where they lie, or brought together.
//!
//! ```text
//!   positions     0..16     16..32    32..48   ..   112..128
//!                 page      page      page     ..   page and chunk
//!   few queries   as it is  as it is  as it is      gathered
//!   many queries  widened   widened   widened       gathered, widened
//! ```
//!
//! Panels of a cache's pages are read in place wherever a panel lies in one page. Rows of arrays,
//! and panels that begin in one segment and end in another, are copied into a panel of the same
//! format first. Many queries have every panel widened to f32 once.

use std::marker::PhantomData;
use std::ops::Range;

use mistral_core::half::{bf16, f16};
use mistral_core::kv::{HeadView, KvElement, KvFormat, PANEL, Panel, PanelMemory, Values};
use mistral_core::simd::{Integers, Kernel, LANES, Level, Simd};

use super::BLOCK;

/// Panels in a block.
const PANELS: usize = BLOCK / PANEL;

/// Rows of a widened panel of values. One more than a block holds: the vectors of one position
/// would otherwise all fall into the same cache set.
const WIDE_ROWS: usize = BLOCK + 1;

/// Bytes of keys that are asked for before a block is begun: the kernel asks for the others itself.
const FIRST_KEYS: usize = 1024;

/// Bytes in a cache line.
const CACHE_LINE: usize = 64;

/// The blocks that hold `positions`, by number.
pub(super) fn blocks_of(positions: &Range<usize>) -> Range<usize> {
    if positions.is_empty() {
        return 0..0;
    }
    positions.start / BLOCK..positions.end.div_ceil(BLOCK)
}

/// The part of `positions` in block `block`, counted from the start of the block.
#[inline(always)]
pub(super) fn within_block(positions: &Range<usize>, block: usize) -> Range<usize> {
    let start = block * BLOCK;
    let clip = |position: usize| position.saturating_sub(start).min(BLOCK);
    clip(positions.start)..clip(positions.end)
}

/// Memory for the panels of a block that are not read in place.
#[derive(Debug, Default)]
pub(super) struct BlockMemory {
    gathered_keys: PanelMemory,
    gathered_values: PanelMemory,
    wide_keys: PanelMemory,
    wide_values: PanelMemory,
}

/// The panels of one block of one head.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    keys: [&'a [u8]; PANELS],
    values: [&'a [u8]; PANELS],
    positions: usize,
    rows: usize,
    width: usize,
    /// The first keys of the block after it, if they are read from memory.
    ahead: &'a [u8],
}

impl<'a> Block<'a> {
    /// Keys of positions `16 * index ..`.
    #[inline(always)]
    pub(super) fn keys(&self, index: usize) -> &'a [u8] {
        self.keys[index]
    }

    /// Asks for the values of panel `index` that are read first, those of one vector a position: the
    /// kernel asks for the others itself.
    #[inline(always)]
    pub(super) fn prefetch_values<S: Simd>(&self, simd: S, index: usize) {
        let values = self.values[index];
        prefetch(simd, values, values.len() / self.width.max(1));
    }

    /// Whether no column of the values comes after `column`.
    #[inline(always)]
    pub(super) fn is_last(&self, column: usize) -> bool {
        column + 1 == self.width
    }

    /// Asks for the first keys of the next block.
    #[inline(always)]
    pub(super) fn prefetch_ahead<S: Simd>(&self, simd: S) {
        prefetch(simd, self.ahead, FIRST_KEYS);
    }

    /// Says which keys come next.
    pub(super) fn with_ahead<'v: 'a, E: KvElement>(
        mut self,
        head: &HeadView<'v, E>,
        index: usize,
        rows: &Range<usize>,
    ) -> Self {
        let seen = index * BLOCK + rows.start..index * BLOCK + rows.end.min(PANEL);
        self.ahead = head.panel(&seen).map_or(&[], |panel| panel.keys);
        self
    }

    /// The values.
    #[inline(always)]
    pub(super) fn values(&self) -> Values<'_> {
        let Self { positions, rows, width, .. } = *self;
        Values { panels: &self.values, positions, rows, width }
    }
}

impl BlockMemory {
    /// The panels that hold positions `rows` (counted from the start) of block `index`, as they
    /// are stored.
    pub(super) fn direct<'m, 'v: 'm, E: KvElement>(
        &'m mut self,
        head: &HeadView<'v, E>,
        head_dim: usize,
        index: usize,
        rows: &Range<usize>,
    ) -> Block<'m> {
        let (key, value) = (E::key_panel_bytes(head_dim), E::value_panel_bytes(head_dim));
        let mut panels: [Option<Panel<'v>>; PANELS] = [None; PANELS];
        for (p, panel) in panels.iter_mut().enumerate() {
            let Some(seen) = within_panel(rows, p) else {
                continue;
            };
            let seen = index * BLOCK + seen.start..index * BLOCK + seen.end;
            *panel = head.panel(&seen);
            if panel.is_none() {
                self.gathered_keys.reserve(PANELS * key);
                self.gathered_values.reserve(PANELS * value);
                let keys = &mut self.gathered_keys.bytes_mut()[p * key..][..key];
                let values = &mut self.gathered_values.bytes_mut()[p * value..][..value];
                head.gather(seen, keys, values);
            }
        }
        let memory = &*self;
        let mut block = Block {
            keys: [&[]; PANELS],
            values: [&[]; PANELS],
            positions: PANEL,
            rows: PANEL,
            width: head_dim.div_ceil(LANES),
            ahead: &[],
        };
        for (p, panel) in panels.into_iter().enumerate() {
            if within_panel(rows, p).is_none() {
                continue;
            }
            (block.keys[p], block.values[p]) = match panel {
                Some(panel) => (panel.keys, panel.values),
                None => (
                    &memory.gathered_keys.bytes()[p * key..][..key],
                    &memory.gathered_values.bytes()[p * value..][..value],
                ),
            };
        }
        block
    }

    /// The same panels, widened: for `E::Wide`.
    pub(super) fn wide<'m, 'v: 'm, E: KvElement>(
        &'m mut self,
        level: Level,
        head: &HeadView<'v, E>,
        head_dim: usize,
        index: usize,
        rows: &Range<usize>,
    ) -> Block<'m> {
        let width = head_dim.div_ceil(LANES);
        let key = E::Wide::key_panel_bytes(head_dim);
        let value = width * WIDE_ROWS * LANES * size_of::<f32>();
        let mut wide_keys = std::mem::take(&mut self.wide_keys);
        let mut wide_values = std::mem::take(&mut self.wide_values);
        wide_keys.reserve(PANELS * key);
        wide_values.reserve(value);
        let block = self.direct(head, head_dim, index, rows);
        let keys = &mut wide_keys.bytes_mut()[..PANELS * key];
        let values = &mut wide_values.bytes_mut()[..value];
        widen(level, E::FORMAT, block, (keys, values), rows);
        self.wide_keys = wide_keys;
        self.wide_values = wide_values;
        let memory = &*self;
        let mut block = Block {
            keys: [&[]; PANELS],
            values: [&[]; PANELS],
            positions: BLOCK,
            rows: WIDE_ROWS,
            width,
            ahead: &[],
        };
        for (p, keys) in block.keys.iter_mut().enumerate() {
            *keys = &memory.wide_keys.bytes()[p * key..][..key];
        }
        block.values[0] = &memory.wide_values.bytes()[..value];
        block
    }
}

/// Asks for the first `bytes` of a panel.
#[inline(always)]
fn prefetch<S: Simd>(simd: S, panel: &[u8], bytes: usize) {
    for line in (0..panel.len().min(bytes)).step_by(CACHE_LINE) {
        simd.prefetch(panel, line);
    }
}

/// The part of `rows` in panel `p` of the block, if there is one.
#[inline(always)]
fn within_panel(rows: &Range<usize>, p: usize) -> Option<Range<usize>> {
    let seen = rows.start.max(p * PANEL)..rows.end.min((p + 1) * PANEL);
    (!seen.is_empty()).then_some(seen)
}

/// Widens the panels of a block.
fn widen(
    level: Level,
    format: KvFormat,
    block: Block<'_>,
    (keys, values): (&mut [u8], &mut [u8]),
    rows: &Range<usize>,
) {
    let rows = rows.clone();
    match format {
        KvFormat::F16 => {
            level.dispatch(Widen::<f16> { block, keys, values, rows, element: PhantomData });
        }
        KvFormat::BF16 => {
            level.dispatch(Widen::<bf16> { block, keys, values, rows, element: PhantomData });
        }
        _ => level.dispatch(Widen::<f32> { block, keys, values, rows, element: PhantomData }),
    }
}

/// [`widen`] for one format.
struct Widen<'a, 'm, E> {
    block: Block<'a>,
    keys: &'m mut [u8],
    values: &'m mut [u8],
    rows: Range<usize>,
    element: PhantomData<E>,
}

impl<E: KvElement> Kernel for Widen<'_, '_, E> {
    type Output = ();

    const INTEGERS: bool = false;

    #[inline(always)]
    fn run<S: Integers>(self, simd: S) {
        let bytes = self.keys.len() / PANELS;
        for (p, keys) in self.keys.chunks_exact_mut(bytes).enumerate() {
            if within_panel(&self.rows, p).is_some() {
                E::widen_keys(simd, self.block.keys[p], keys);
                let to = (&mut *self.values, p * PANEL, WIDE_ROWS);
                E::widen_values(simd, self.block.values[p], to);
            }
        }
    }
}
