//! Keys and values in 8 bits, with a scale for each 32 elements.
//!
//! A key or value of one position and head is cut into blocks of 32 elements: an element is
//! `scale * code` with `scale = max|x| / 127`, stored as f16, as in [`Q8_0`]. Products are taken in
//! integers: queries, and the weights of the softmax, are rounded to 16 bits with a scale of their
//! own for each 32, which costs a hundredth of what the 8 bits cost. The inner sums are exact, the
//! outer ones chains of fused multiply-adds over rising blocks, so every SIMD level and every
//! number of queries gives the same bits.
//!
//! ```text
//! panel of sixteen keys       for each 32 elements: 16 steps of 32 bytes, then 16 scales
//!     step 0    position 0: d0 d1 | position 1: d0 d1 | .. | position 15: d0 d1
//!     step 1    position 0: d2 d3 | ..
//!
//! panel of sixteen values     for each 16 elements: 8 steps of 32 bytes; at the end all scales
//!     step 0    d0: position 0 1 | d1: position 0 1 | .. | d15: position 0 1
//!     step 1    d0: position 2 3 | ..
//!     scales    for each 32 elements: positions 0 .. 15
//! ```

use half::f16;

use super::element::{BLOCK, KvElement, OutputSink, Queries, Seen, Values, sealed};
use super::{KvFormat, PANEL};
use crate::quant::{Block, Q8_0, round_block};
use crate::simd::{Integers, LANES};
use crate::tile::{self, Sums};

/// The format [`KvFormat::Int8`] as a type: half the memory of f16.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Int8;

/// Elements, or positions, that share a scale.
const GROUP: usize = 32;

/// Codes of sixteen positions by 32 elements of keys, and their scales.
const KEY_CODES: usize = PANEL * GROUP;
const KEY_TILE: usize = KEY_CODES + 2 * PANEL;

/// Codes of sixteen positions by sixteen elements of values.
const VALUE_TILE: usize = PANEL * LANES;

/// Bytes of a step: sixteen sums by two terms.
const STEP: usize = 2 * LANES;

/// How far ahead of the reading keys are asked for, in bytes.
const AHEAD: usize = 1024;

/// Largest magnitude of a rounded query.
const LARGEST: f32 = 32767.0;

/// 32 elements at most as codes and a scale. A scale that is not finite keeps what is none.
fn quantise(x: &[f32]) -> Q8_0 {
    let mut block = Q8_0::quantise(x);
    if x.iter().any(|x| !x.is_finite()) {
        block.scale = f16::NAN.to_le_bytes();
    }
    block
}

/// Where code `d` of a lane lies in a key panel.
fn key_code(lane: usize, d: usize) -> usize {
    d / GROUP * KEY_TILE + d % GROUP / 2 * STEP + lane % PANEL * 2 + d % 2
}

fn key_scale(lane: usize, group: usize) -> usize {
    group * KEY_TILE + KEY_CODES + 2 * (lane % PANEL)
}

/// Where code `d` of a lane lies in a value panel.
fn value_code(lane: usize, d: usize) -> usize {
    d / LANES * VALUE_TILE + lane % PANEL / 2 * STEP + d % LANES * 2 + lane % 2
}

/// Where the scales of a group of elements lie in a value panel of `width` vectors.
fn value_scales(width: usize, group: usize) -> usize {
    width * VALUE_TILE + group * 2 * PANEL
}

fn value_scale(width: usize, lane: usize, group: usize) -> usize {
    value_scales(width, group) + 2 * (lane % PANEL)
}

/// The vectors in a value panel: the inverse of [`KvElement::value_panel_bytes`].
fn width_of(panel: &[u8]) -> usize {
    // Two vectors share a row of scales.
    let pair = 2 * VALUE_TILE + 2 * PANEL;
    panel.len() / pair * 2 + usize::from(!panel.len().is_multiple_of(pair))
}

impl sealed::Sealed for Int8 {}

impl KvElement for Int8 {
    const FORMAT: KvFormat = KvFormat::Int8;

    type Wide = Self;

    fn key_panel_bytes(head_dim: usize) -> usize {
        head_dim.div_ceil(GROUP).saturating_mul(KEY_TILE)
    }

    fn value_panel_bytes(head_dim: usize) -> usize {
        let codes = head_dim.div_ceil(LANES).saturating_mul(VALUE_TILE);
        codes.saturating_add(head_dim.div_ceil(GROUP).saturating_mul(2 * PANEL))
    }

    fn write_key(panel: &mut [u8], lane: usize, key: &[f32]) {
        for (group, x) in key.chunks(GROUP).enumerate() {
            let block = quantise(x);
            for (k, code) in block.codes.iter().enumerate() {
                panel[key_code(lane, group * GROUP + k)] = *code as u8;
            }
            panel[key_scale(lane, group)..][..2].copy_from_slice(&block.scale);
        }
    }

    fn write_value(panel: &mut [u8], lane: usize, value: &[f32]) {
        let width = value.len().div_ceil(LANES);
        for (group, x) in value.chunks(GROUP).enumerate() {
            let block = quantise(x);
            for (k, code) in block.codes.iter().take(x.len()).enumerate() {
                panel[value_code(lane, group * GROUP + k)] = *code as u8;
            }
            panel[value_scale(width, lane, group)..][..2].copy_from_slice(&block.scale);
        }
    }

    fn read_key(panel: &[u8], lane: usize, key: &mut [f32]) {
        for (d, x) in key.iter_mut().enumerate() {
            let at = key_scale(lane, d / GROUP);
            let scale = f16::from_le_bytes([panel[at], panel[at + 1]]);
            *x = f32::from(panel[key_code(lane, d)] as i8) * scale.to_f32();
        }
    }

    fn read_value(panel: &[u8], lane: usize, value: &mut [f32]) {
        let width = width_of(panel);
        for (d, x) in value.iter_mut().enumerate() {
            let at = value_scale(width, lane, d / GROUP);
            let scale = f16::from_le_bytes([panel[at], panel[at + 1]]);
            *x = f32::from(panel[value_code(lane, d)] as i8) * scale.to_f32();
        }
    }

    fn copy_key(to: (&mut [u8], usize), from: (&[u8], usize), head_dim: usize) {
        for group in 0..head_dim.div_ceil(GROUP) {
            for d in (group * GROUP..(group + 1) * GROUP).step_by(2) {
                let pair = &from.0[key_code(from.1, d)..][..2];
                to.0[key_code(to.1, d)..][..2].copy_from_slice(pair);
            }
            let scale = &from.0[key_scale(from.1, group)..][..2];
            to.0[key_scale(to.1, group)..][..2].copy_from_slice(scale);
        }
    }

    fn copy_value(to: (&mut [u8], usize), from: (&[u8], usize), head_dim: usize) {
        let width = head_dim.div_ceil(LANES);
        for d in 0..head_dim {
            to.0[value_code(to.1, d)] = from.0[value_code(from.1, d)];
        }
        for group in 0..head_dim.div_ceil(GROUP) {
            let scale = &from.0[value_scale(width, from.1, group)..][..2];
            to.0[value_scale(width, to.1, group)..][..2].copy_from_slice(scale);
        }
    }

    // There are no arrays of this type: a segment of rows cannot be made of it.
    fn place_key(_panel: &mut [u8], _lane: usize, _row: &[Self]) {}

    fn place_value(_panel: &mut [u8], _lane: usize, _row: &[Self]) {}

    fn widen_row(_row: &[Self], _out: &mut [f32]) {}

    #[inline(always)]
    fn widen_keys<S: Integers>(_simd: S, from: &[u8], to: &mut [u8]) {
        to.copy_from_slice(from);
    }

    #[inline(always)]
    fn widen_values<S: Integers>(_simd: S, from: &[u8], to: (&mut [u8], usize, usize)) {
        to.0.copy_from_slice(from);
    }

    #[inline(always)]
    fn load_query<S: Integers>(simd: S, queries: &mut Queries, row: usize) {
        let groups = queries.head_dim().div_ceil(GROUP);
        for group in 0..groups {
            let q = &queries.row(row)[group * GROUP..];
            let mut block = [0.0; GROUP];
            let n = q.len().min(GROUP);
            block[..n].copy_from_slice(&q[..n]);
            let (scale, integers) = round_block(simd, &block, LARGEST);
            let at = row * groups + group;
            queries.scales[at] = scale;
            pack(&integers, &mut queries.steps[at * 16..][..16]);
        }
    }

    #[inline(always)]
    fn scores<S: Integers, const R: usize, const P: usize>(
        simd: S,
        (queries, first): (&Queries, usize),
        panels: [&[u8]; P],
    ) -> Sums<S, R, P> {
        let groups = queries.head_dim().div_ceil(GROUP);
        let mut totals = tile::zeros::<S, R, P>(simd);
        for group in 0..groups {
            let mut steps: [&[[u8; 4]]; R] = [&[]; R];
            for (r, steps) in steps.iter_mut().enumerate() {
                *steps = &queries.steps[((first + r) * groups + group) * 16..][..16];
            }
            for p in 0..P {
                let tile = &panels[p][group * KEY_TILE..][..KEY_TILE];
                let (codes, scales) = tile.split_at(KEY_CODES);
                let mut sums = [simd.start_words(0); R];
                for (step, codes) in codes.as_chunks::<STEP>().0.iter().enumerate() {
                    simd.prefetch(codes, AHEAD);
                    let codes = simd.widen_signed(codes);
                    for r in 0..R {
                        sums[r] = simd.dot_words(sums[r], codes, steps[r][step]);
                    }
                }
                let scales = load_scales(simd, scales);
                for r in 0..R {
                    let factor = queries.scales[(first + r) * groups + group];
                    let factor = simd.mul(scales, simd.splat(factor));
                    totals[r][p] = simd.mul_add(simd.total_words(sums[r]), factor, totals[r][p]);
                }
            }
        }
        totals
    }

    #[inline(always)]
    fn outputs<S: Integers, const R: usize, const P: usize>(
        simd: S,
        p: &[[f32; BLOCK]; R],
        seen: &Seen<R>,
        values: Values<'_>,
        sink: &mut impl OutputSink<S>,
    ) {
        // Groups of positions have fixed borders in the block, like the block itself.
        let groups = seen.any.start / GROUP..seen.any.end.div_ceil(GROUP);
        for element in 0..values.width.div_ceil(2) {
            let mut steps = [[[[0; 4]; GROUP / 2]; BLOCK / GROUP]; R];
            let mut scales = [[0.0; BLOCK / GROUP]; R];
            for r in 0..R {
                for group in groups.clone() {
                    let weights = weigh(simd, &p[r], &seen.rows[r], values, element, group);
                    let (scale, integers) = round_block(simd, &weights, LARGEST);
                    scales[r][group] = scale;
                    pack(&integers, &mut steps[r][group]);
                }
            }
            for column in 2 * element..values.width.min(2 * element + 2) {
                let mut totals = [simd.splat(0.0); R];
                for group in groups.clone() {
                    let mut sums = [simd.start_words(0); R];
                    for half in 0..GROUP / PANEL {
                        let panel = values.panels[group * (GROUP / PANEL) + half];
                        if panel.is_empty() {
                            continue;
                        }
                        let codes = &panel[column * VALUE_TILE..][..VALUE_TILE];
                        for (step, codes) in codes.as_chunks::<STEP>().0.iter().enumerate() {
                            // The next column, which is read after this one of all panels.
                            simd.prefetch(codes, VALUE_TILE);
                            let codes = simd.widen_signed(codes);
                            for r in 0..R {
                                let x = steps[r][group][half * (PANEL / 2) + step];
                                sums[r] = simd.dot_words(sums[r], codes, x);
                            }
                        }
                    }
                    for r in 0..R {
                        let factor = simd.splat(scales[r][group]);
                        totals[r] = simd.mul_add(simd.total_words(sums[r]), factor, totals[r]);
                    }
                }
                for (r, total) in totals.into_iter().enumerate() {
                    sink.take(r, column, total);
                }
            }
        }
    }
}

/// The softmax weights of a group of positions, times the scales of a group of elements; 0 where
/// the row sees nothing.
#[inline(always)]
fn weigh<S: Integers>(
    simd: S,
    p: &[f32; BLOCK],
    seen: &std::ops::Range<usize>,
    values: Values<'_>,
    element: usize,
    group: usize,
) -> [f32; GROUP] {
    let mut weights = [0.0; GROUP];
    for (half, weights) in weights.as_chunks_mut::<PANEL>().0.iter_mut().enumerate() {
        let first = group * GROUP + half * PANEL;
        let from = seen.start.clamp(first, first + PANEL) - first;
        let to = seen.end.clamp(first, first + PANEL) - first;
        if from < to {
            let panel = values.panels[first / PANEL];
            let scales = load_scales(simd, &panel[value_scales(values.width, element)..]);
            let p = p[first..].first_chunk().unwrap_or(&[0.0; PANEL]);
            simd.store(simd.mul(simd.load(p), scales), weights);
            weights[..from].fill(0.0);
            weights[to..].fill(0.0);
        }
    }
    weights
}

/// Sixteen f16, widened.
#[inline(always)]
fn load_scales<S: Integers>(simd: S, bytes: &[u8]) -> S::F32x16 {
    let mut halves = [f16::ZERO; PANEL];
    for (half, bytes) in halves.iter_mut().zip(bytes.as_chunks().0) {
        *half = f16::from_le_bytes(*bytes);
    }
    simd.load_f16(&halves)
}

/// Rounded numbers, two to a step.
#[inline(always)]
fn pack(integers: &[i32; GROUP], steps: &mut [[u8; 4]]) {
    for (step, [a, b]) in steps.iter_mut().zip(integers.as_chunks::<2>().0) {
        *step = ((*a & 0xffff) | (*b << 16)).to_le_bytes();
    }
}
