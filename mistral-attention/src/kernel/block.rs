//! A block of keys and values, widened to f32 and brought into panels.
//!
//! ```text
//! keys     as they come: a row a position      panel of 16 positions: a vector for each d
//!                 d = 0 1 2 ..                           position 0 1 .. 15
//!     position 0    a b c                           d = 0         a e ..
//!     position 1    e f g                           d = 1         b f ..
//!
//! values   a row a position                    panel of 16 elements: a vector for each position
//! ```
//!
//! Both products of attention then are the outer-product tile of [`mistral_core::tile`]: scores are
//! sums over `d` for sixteen positions at once, outputs are sums over positions for sixteen
//! elements at once.

use std::ops::Range;

use mistral_core::Element;
use mistral_core::kv::HeadView;
use mistral_core::simd::{LANES, Lanes, Simd};

/// Positions in a block. Block `b` holds `b * BLOCK .. (b + 1) * BLOCK`: this number is part of the
/// arithmetic, so changing it changes bits.
pub(super) const BLOCK: usize = 128;

/// Vectors from one value panel to the next. One more than a block holds: the vectors of one
/// position would otherwise all fall into the same cache set.
const VALUE_STRIDE: usize = BLOCK + 1;

/// Bytes in a cache line.
const CACHE_LINE: usize = 64;

/// The blocks that hold `positions`, by number.
pub(super) fn blocks_of(positions: &Range<usize>) -> Range<usize> {
    positions.start / BLOCK..positions.end.div_ceil(BLOCK)
}

/// The part of `positions` in block `block`, counted from the start of the block.
#[inline(always)]
pub(super) fn within_block(positions: &Range<usize>, block: usize) -> Range<usize> {
    let start = block * BLOCK;
    let clip = |position: usize| position.saturating_sub(start).min(BLOCK);
    clip(positions.start)..clip(positions.end)
}

/// One block of one head, in f32.
pub(super) struct Block {
    keys: Vec<Lanes<f32>>,
    values: Vec<Lanes<f32>>,
    /// `head_dim` in vectors, rounded up.
    width: usize,
}

impl Block {
    /// Room for a block of heads of `width` vectors.
    pub(super) fn new(width: usize) -> Self {
        Self {
            keys: vec![Lanes::default(); BLOCK * width],
            values: vec![Lanes::default(); VALUE_STRIDE * width],
            width,
        }
    }

    /// Brings in positions `rows` (counted from the start) of block `block`.
    ///
    /// Other rows keep what was there before; nobody may look at them.
    #[inline(always)]
    pub(super) fn load<S: Simd, E: Element>(
        &mut self,
        simd: S,
        head: &HeadView<'_, E>,
        block: usize,
        rows: Range<usize>,
    ) {
        let start = block * BLOCK;
        let depth = self.width * LANES;
        for first in (rows.start / LANES * LANES..rows.end).step_by(LANES) {
            let from = first.max(rows.start);
            let to = (first + LANES).min(rows.end);
            // Rows lie a row of all heads apart, which the CPU does not foresee.
            let ahead = start + to..start + to + LANES;
            for row in head.keys(ahead) {
                prefetch(simd, row);
            }
            for row in head.values(start + from..start + to) {
                prefetch(simd, row);
            }
            let panel = &mut self.keys[first * self.width..][..depth];
            for (i, key) in (from - first..).zip(head.keys(start + from..start + to)) {
                widen(simd, key, |d, lanes| panel[d * LANES + i] = lanes);
            }
            let (squares, _) = panel.as_chunks_mut::<LANES>();
            for square in squares {
                simd.transpose(square);
            }
        }
        for (i, value) in (rows.start..).zip(head.values(start + rows.start..start + rows.end)) {
            widen(simd, value, |d, lanes| {
                self.values[d * VALUE_STRIDE + i] = lanes;
            });
        }
    }

    /// Keys of positions `16 * index ..`: a vector for each `d`.
    #[inline(always)]
    pub(super) fn key_panel(&self, index: usize) -> &[Lanes<f32>] {
        let depth = self.width * LANES;
        &self.keys[index * depth..][..depth]
    }

    /// Values of elements `16 * index ..`: a vector for each position.
    #[inline(always)]
    pub(super) fn value_panel(&self, index: usize) -> &[Lanes<f32>] {
        &self.values[index * VALUE_STRIDE..][..BLOCK]
    }
}

/// Asks for every cache line of a row.
#[inline(always)]
fn prefetch<S: Simd, E: Element>(simd: S, row: &[E]) {
    for element in (0..row.len()).step_by(CACHE_LINE / size_of::<E>()) {
        simd.prefetch(row, element);
    }
}

/// Widens a row, sixteen elements at a time; the last vector is filled up with zeros.
#[inline(always)]
fn widen<S: Simd, E: Element>(simd: S, row: &[E], mut store: impl FnMut(usize, Lanes<f32>)) {
    let (full, rest) = row.as_chunks::<LANES>();
    let mut wide = Lanes::default();
    for (d, elements) in full.iter().enumerate() {
        simd.store(E::load(simd, &Lanes(*elements)), &mut wide.0);
        store(d, wide);
    }
    if !rest.is_empty() {
        let mut elements = Lanes::default();
        elements.0[..rest.len()].copy_from_slice(rest);
        simd.store(E::load(simd, &elements), &mut wide.0);
        store(full.len(), wide);
    }
}
