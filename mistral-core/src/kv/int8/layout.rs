//! Where codes and scales lie.
//!
//! ```text
//! panel of sixteen keys       for each 32 elements: 16 steps of 32 bytes, then 16 scales
//!     step 0    position 0: d0 d1 | position 1: d0 d1 | .. | position 15: d0 d1
//!     step 1    position 0: d2 d3 | ..
//!
//! column of sixteen values    a step of 32 bytes for each two positions; scales last
//!     step 0    d0: position 0 1 | d1: position 0 1 | .. | d15: position 0 1
//!     step 1    d0: position 2 3 | ..
//!     scales    for each 32 elements: position 0 1 2 ..
//! ```

use half::f16;

use crate::kv::PANEL;
use crate::kv::element::ValueRows;
use crate::simd::LANES;

/// Elements that share a scale.
pub(super) const GROUP: usize = 32;

/// Codes of sixteen positions by 32 elements of keys, and their scales.
pub(super) const KEY_CODES: usize = PANEL * GROUP;
pub(super) const KEY_TILE: usize = KEY_CODES + 2 * PANEL;

/// Bytes of a step: sixteen sums by two terms.
pub(super) const STEP: usize = 2 * LANES;

/// Where code `d` of a lane lies in a key panel.
pub(super) fn key_code(lane: usize, d: usize) -> usize {
    d / GROUP * KEY_TILE + d % GROUP / 2 * STEP + lane % PANEL * 2 + d % 2
}

pub(super) fn key_scale(lane: usize, group: usize) -> usize {
    group * KEY_TILE + KEY_CODES + 2 * (lane % PANEL)
}

/// Where code `d` of a row lies among `rows` values.
pub(super) fn value_code(rows: usize, row: usize, d: usize) -> usize {
    d / LANES * rows * LANES + row / 2 * STEP + d % LANES * 2 + row % 2
}

/// Where the scales of a group of elements lie among `rows` values of `width` vectors.
pub(super) fn value_scales(rows: usize, width: usize, group: usize) -> usize {
    rows * (width * LANES + group * size_of::<f16>())
}

pub(super) fn value_scale(rows: usize, width: usize, row: usize, group: usize) -> usize {
    value_scales(rows, width, group) + row * size_of::<f16>()
}

/// The vectors of a row: the inverse of [`KvElement::value_panel_bytes`].
pub(super) fn width_of(values: ValueRows<'_>) -> usize {
    // Two vectors share a scale.
    let (row, pair) = (values.bytes.len() / values.rows.max(1), 2 * LANES + size_of::<f16>());
    row / pair * 2 + usize::from(!row.is_multiple_of(pair))
}
