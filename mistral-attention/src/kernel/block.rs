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
use mistral_core::kv::{
    HeadView, KvElement, KvFormat, PANEL, PanelMemory, Panels, ValueRows, ValueRowsMut, Values,
};
use mistral_core::simd::{Integers, Kernel, LANES, Level, Simd};

use super::BLOCK;

/// Panels in a block.
const PANELS: usize = BLOCK / PANEL;

/// Rows of a widened panel of values. One more than a block holds: the vectors of one position
/// would otherwise all fall into the same cache set.
const WIDE_ROWS: usize = BLOCK + 1;

/// Rows of gathered values, likewise: whole panels.
const GATHERED_ROWS: usize = BLOCK + PANEL;

/// Bytes of the next block that are asked for before it is begun: the kernel asks for the others
/// itself.
const FIRST_BYTES: usize = 4096;

/// Bytes of a widened panel of values.
fn wide_value_bytes(head_dim: usize) -> usize {
    head_dim.div_ceil(LANES) * WIDE_ROWS * LANES * size_of::<f32>()
}

/// Bytes of the gathered values of a block.
fn gathered_value_bytes<E: KvElement>(head_dim: usize) -> usize {
    GATHERED_ROWS / PANEL * E::value_panel_bytes(head_dim)
}

/// Bytes in a cache line.
const CACHE_LINE: usize = 64;

/// The blocks that hold `positions`, by number.
pub(super) fn blocks_of(positions: &Range<usize>) -> Range<usize> {
    if positions.is_empty() {
        return 0..0;
    }
    positions.start / BLOCK..positions.end.div_ceil(BLOCK)
}

/// The most blocks that so many consecutive positions lie in.
pub(super) fn most_blocks(positions: usize) -> usize {
    positions.saturating_sub(1).div_ceil(BLOCK) + usize::from(positions > 0)
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
    /// Sixteen positions each, or all of them in the first.
    values: [(ValueRows<'a>, usize); PANELS],
    positions: usize,
    width: usize,
    /// The keys of the block after it, if they lie elsewhere in memory.
    ahead: &'a [u8],
}

impl<'a> Block<'a> {
    /// Keys of positions `16 * index ..`.
    #[inline(always)]
    pub(super) fn keys(&self, index: usize) -> &'a [u8] {
        self.keys[index]
    }

    /// Asks for a part of the next block, while column `column` of the values is used.
    #[inline(always)]
    pub(super) fn prefetch_ahead<S: Simd>(&self, simd: S, column: usize) {
        let part = FIRST_BYTES / self.width.max(1);
        for line in (column * part..(column + 1) * part).step_by(CACHE_LINE) {
            simd.prefetch(self.ahead, line.min(self.ahead.len()));
        }
    }

    /// Where the values of panel `index` begin.
    #[inline(always)]
    fn rows_of(&self, index: usize) -> (ValueRows<'a>, usize) {
        if self.positions == BLOCK {
            let (rows, first) = self.values[0];
            (rows, first + index * PANEL)
        } else {
            self.values[index]
        }
    }

    /// Says which block comes next.
    pub(super) fn with_ahead<'v: 'a, E: KvElement>(
        mut self,
        head: &HeadView<'v, E>,
        index: usize,
        rows: &Range<usize>,
    ) -> Self {
        let seen = index * BLOCK + rows.start..index * BLOCK + rows.end;
        self.ahead = head.panels(&seen).map_or(&[], |panels| panels.keys);
        self
    }

    /// The values.
    #[inline(always)]
    pub(super) fn values(&self) -> Values<'_> {
        Values { runs: &self.values, positions: self.positions, width: self.width }
    }
}

impl BlockMemory {
    /// Makes room for all that blocks of such heads may need; what was there may remain.
    pub(super) fn reserve<E: KvElement>(&mut self, head_dim: usize, wide: bool) {
        self.gathered_keys.reserve(PANELS * E::key_panel_bytes(head_dim));
        self.gathered_values.reserve(gathered_value_bytes::<E>(head_dim));
        if wide {
            self.wide_keys.reserve(PANELS * E::Wide::key_panel_bytes(head_dim));
            self.wide_values.reserve(wide_value_bytes(head_dim));
        }
    }

    /// The panels that hold positions `rows` (counted from the start) of block `index`, as they
    /// are stored.
    pub(super) fn direct<'m, 'v: 'm, E: KvElement>(
        &'m mut self,
        level: Level,
        head: &HeadView<'v, E>,
        head_dim: usize,
        index: usize,
        rows: &Range<usize>,
    ) -> Block<'m> {
        let (key, value) = (E::key_panel_bytes(head_dim), gathered_value_bytes::<E>(head_dim));
        let mut block = Block {
            keys: [&[]; PANELS],
            values: [(ValueRows::default(), 0); PANELS],
            positions: PANEL,
            width: head_dim.div_ceil(LANES),
            ahead: &[],
        };
        let at = |rows: &Range<usize>| index * BLOCK + rows.start..index * BLOCK + rows.end;
        if let Some(Panels { keys, values, first }) = head.panels(&at(rows)) {
            let panels = rows.start / PANEL..rows.end.div_ceil(PANEL);
            for (p, keys) in panels.clone().zip(keys.chunks_exact(key)) {
                block.keys[p] = keys;
                block.values[p] = (values, first + (p - panels.start) * PANEL);
            }
            // The row of the block's first position, if there is one in this page.
            if let Some(first) = first.checked_sub(panels.start * PANEL) {
                (block.values[0], block.positions) = ((values, first), BLOCK);
            }
            return block;
        }
        let mut panels: [Option<Panels<'v>>; PANELS] = [None; PANELS];
        for (p, panel) in panels.iter_mut().enumerate() {
            let Some(seen) = within_panel(rows, p) else {
                continue;
            };
            *panel = head.panels(&at(&seen));
            if panel.is_none() {
                self.gathered_keys.reserve(PANELS * key);
                self.gathered_values.reserve(value);
                let keys = &mut self.gathered_keys.bytes_mut()[p * key..][..key];
                let bytes = &mut self.gathered_values.bytes_mut()[..value];
                let values = ValueRowsMut { bytes, rows: GATHERED_ROWS };
                head.gather(level, at(&seen), keys, values);
            }
        }
        let memory = &*self;
        for (p, panel) in panels.into_iter().enumerate() {
            if within_panel(rows, p).is_none() {
                continue;
            }
            (block.keys[p], block.values[p]) = match panel {
                Some(panel) => (panel.keys, (panel.values, panel.first)),
                None => {
                    let bytes = &memory.gathered_values.bytes()[..value];
                    let keys = &memory.gathered_keys.bytes()[p * key..][..key];
                    (keys, (ValueRows { bytes, rows: GATHERED_ROWS }, p * PANEL))
                }
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
        let value = wide_value_bytes(head_dim);
        let mut wide_keys = std::mem::take(&mut self.wide_keys);
        let mut wide_values = std::mem::take(&mut self.wide_values);
        wide_keys.reserve(PANELS * key);
        wide_values.reserve(value);
        let block = self.direct(level, head, head_dim, index, rows);
        let keys = &mut wide_keys.bytes_mut()[..PANELS * key];
        let values = &mut wide_values.bytes_mut()[..value];
        widen(level, E::FORMAT, block, (keys, values), rows);
        self.wide_keys = wide_keys;
        self.wide_values = wide_values;
        let memory = &*self;
        let mut block = Block {
            keys: [&[]; PANELS],
            values: [(ValueRows::default(), 0); PANELS],
            positions: BLOCK,
            width,
            ahead: &[],
        };
        for (p, keys) in block.keys.iter_mut().enumerate() {
            *keys = &memory.wide_keys.bytes()[p * key..][..key];
        }
        let bytes = &memory.wide_values.bytes()[..value];
        block.values[0] = (ValueRows { bytes, rows: WIDE_ROWS }, 0);
        block
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
                let to = ValueRowsMut { bytes: &mut *self.values, rows: WIDE_ROWS };
                E::widen_values(simd, self.block.rows_of(p), (to, p * PANEL));
            }
        }
    }
}
