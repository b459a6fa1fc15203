//! Keys and values in 8 bits, with a scale for each 32 elements.
//!
//! A key or value of one position and head is cut into blocks of 32 elements: an element is
//! `scale * code` with `scale = max|x| / 127`, stored as f16, as in [`Q8_0`]. Products are taken in
//! integers, for which the other factor is rounded to 16 bits: this costs a hundredth of what the
//! 8 bits cost. Sums of integers are exact, so every SIMD level and every number of queries gives
//! the same bits.
//!
//! - Queries have a scale for each 32 elements. A score is a chain of fused multiply-adds over the
//!   sums of 32 elements.
//! - The weights of the softmax, none of which is above 1, are multiplied with the scales of the
//!   values first, and have a scale for each block of attention: an output is one sum over all
//!   positions of the block. Example: two positions with weights 1 and 1/2 and values of 2.54 and
//!   1.27, that is codes 127 with scales 0.02 and 0.01. The largest scale, 0.02, stands for 32767:
//!   the weights become 32767 and 8192 (8191.75 before rounding), and the output
//!   `(32767 + 8192) * 127 * 0.02 / 32767 = 3.17502` for 3.175.

mod layout;
mod outputs;

use std::hint::black_box;

use half::f16;

use self::layout::{
    GROUP, KEY_CODES, KEY_TILE, STEP, key_code, key_scale, value_code, value_scale, width_of,
};
use self::outputs::{integer_sums, round_weights, weigh};
use super::element::{
    BLOCK, KvElement, OutputSink, Queries, Seen, ValueRows, ValueRowsMut, Values, sealed,
};
use super::{KvFormat, PANEL};
use crate::quant::{Block, Q8_0, round_block};
use crate::simd::{Integers, LANES, Level, lanes_of};
use crate::tile::{self, Sums};

/// The format [`KvFormat::Int8`] as a type: half the memory of f16.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Int8;

/// How far ahead of the reading keys and values are asked for, in bytes.
const AHEAD: usize = 2048;

/// Steps in a group of a key: two elements each.
const STEPS: usize = GROUP / 2;

/// Largest magnitude of a rounded query or weight.
const LARGEST: f32 = 32767.0;

/// 32 elements at most as codes and a scale, an f16 as this machine has it. A scale that is not
/// finite keeps what is none.
fn quantise(x: &[f32]) -> ([i8; GROUP], [u8; 2]) {
    let Q8_0 { codes, scale } = Q8_0::quantise(x);
    let finite = x.iter().all(|x| x.is_finite());
    let scale = if finite { f16::from_le_bytes(scale) } else { f16::NAN };
    (codes, scale.to_ne_bytes())
}

impl sealed::Sealed for Int8 {}

impl KvElement for Int8 {
    const FORMAT: KvFormat = KvFormat::Int8;

    type Wide = Self;

    fn key_panel_bytes(head_dim: usize) -> usize {
        head_dim.div_ceil(GROUP).saturating_mul(KEY_TILE)
    }

    fn value_panel_bytes(head_dim: usize) -> usize {
        let codes = head_dim.div_ceil(LANES).saturating_mul(PANEL * LANES);
        codes.saturating_add(head_dim.div_ceil(GROUP).saturating_mul(2 * PANEL))
    }

    fn write_key(panel: &mut [u8], lane: usize, key: &[f32]) {
        for (group, x) in key.chunks(GROUP).enumerate() {
            let (codes, scale) = quantise(x);
            for (k, code) in codes.iter().enumerate() {
                panel[key_code(lane, group * GROUP + k)] = *code as u8;
            }
            panel[key_scale(lane, group)..][..2].copy_from_slice(&scale);
        }
    }

    fn write_value(to: ValueRowsMut<'_>, row: usize, value: &[f32]) {
        let ValueRowsMut { bytes, rows } = to;
        let width = value.len().div_ceil(LANES);
        for (group, x) in value.chunks(GROUP).enumerate() {
            let (codes, scale) = quantise(x);
            for (k, code) in codes.iter().take(x.len()).enumerate() {
                bytes[value_code(rows, row, group * GROUP + k)] = *code as u8;
            }
            bytes[value_scale(rows, width, row, group)..][..2].copy_from_slice(&scale);
        }
    }

    fn read_key(panel: &[u8], lane: usize, key: &mut [f32]) {
        for (d, x) in key.iter_mut().enumerate() {
            let at = key_scale(lane, d / GROUP);
            let scale = f16::from_ne_bytes([panel[at], panel[at + 1]]);
            *x = f32::from(panel[key_code(lane, d)] as i8) * scale.to_f32();
        }
    }

    fn read_value(from: ValueRows<'_>, row: usize, value: &mut [f32]) {
        let ValueRows { bytes, rows } = from;
        let width = width_of(from);
        for (d, x) in value.iter_mut().enumerate() {
            let at = value_scale(rows, width, row, d / GROUP);
            let scale = f16::from_ne_bytes([bytes[at], bytes[at + 1]]);
            *x = f32::from(bytes[value_code(rows, row, d)] as i8) * scale.to_f32();
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

    fn copy_values(
        (to, at): (ValueRowsMut<'_>, usize),
        (from, first): (ValueRows<'_>, usize),
        n: usize,
        head_dim: usize,
    ) {
        let width = head_dim.div_ceil(LANES);
        let in_steps = [at, first, n].iter().all(|x| x.is_multiple_of(2));
        for column in (0..width).map(|column| column * LANES) {
            if in_steps {
                let source = &from.bytes[value_code(from.rows, first, column)..][..n * LANES];
                to.bytes[value_code(to.rows, at, column)..][..n * LANES].copy_from_slice(source);
                continue;
            }
            for (at, first) in (at..at + n).zip(first..) {
                for d in column..column + LANES {
                    to.bytes[value_code(to.rows, at, d)] =
                        from.bytes[value_code(from.rows, first, d)];
                }
            }
        }
        for group in 0..head_dim.div_ceil(GROUP) {
            let source = &from.bytes[value_scale(from.rows, width, first, group)..][..2 * n];
            to.bytes[value_scale(to.rows, width, at, group)..][..2 * n].copy_from_slice(source);
        }
    }

    // There are no arrays of this type: a segment of rows cannot be made of it.
    fn place_key(_panel: &mut [u8], _lane: usize, _row: &[Self]) {}

    fn place_keys(_level: Level, _panel: &mut [u8], _rows: [&[Self]; PANEL]) {}

    fn place_value(_to: ValueRowsMut<'_>, _row: usize, _value: &[Self]) {}

    fn widen_row(_row: &[Self], _out: &mut [f32]) {}

    // Nothing is wider: many queries read the codes as they are.
    #[inline(always)]
    fn widen_keys<S: Integers>(_simd: S, _from: &[u8], _to: &mut [u8]) {}

    #[inline(always)]
    fn widen_values<S: Integers>(
        _simd: S,
        _from: (ValueRows<'_>, usize),
        _to: (ValueRowsMut<'_>, usize),
    ) {
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
            pack(&integers, &mut queries.steps[at * STEPS..][..STEPS]);
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
        // Hidden from the compiler, which would unroll the loop over the steps, widen the codes of
        // all of them first and run out of registers.
        let n = black_box(STEPS).min(STEPS);
        let ahead = if P > 1 { P * panels[0].len() } else { AHEAD };
        for group in 0..groups {
            let mut steps: [&[[u8; 4]]; R] = [&[]; R];
            for (r, steps) in steps.iter_mut().enumerate() {
                *steps = &queries.steps[((first + r) * groups + group) * STEPS..][..n];
            }
            let mut codes: [&[[u8; STEP]]; P] = [&[]; P];
            for (codes, panel) in codes.iter_mut().zip(panels) {
                *codes = &panel[group * KEY_TILE..].as_chunks().0[..n];
            }
            let sums = add_steps(simd, codes, steps, ahead, [[simd.start_words(0); P]; R]);
            for p in 0..P {
                let scales = load_scales(simd, &panels[p][group * KEY_TILE + KEY_CODES..]);
                for r in 0..R {
                    let factor = queries.scales[(first + r) * groups + group];
                    let factor = simd.mul(scales, simd.splat(factor));
                    let sums = simd.total_words(sums[r][p]);
                    totals[r][p] = simd.mul_add(sums, factor, totals[r][p]);
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
        let mut words = [[[0; 2]; BLOCK]; R];
        for group in 0..values.width.div_ceil(2) {
            let mut scales = [0.0; R];
            let mut factors = [0.0; BLOCK];
            for r in 0..R {
                if seen.rows[r].is_empty() {
                    words[r] = [[0; 2]; BLOCK];
                    continue;
                }
                // Nearly always the same as those of the row before.
                if r == 0 || seen.rows[r] != seen.rows[r - 1] {
                    scales[r] = weigh(simd, &seen.rows[r], values, group, &mut factors);
                } else {
                    scales[r] = scales[r - 1];
                }
                round_weights(simd, &p[r], &factors, &seen.rows[r], &mut words[r]);
            }
            let mut column = 2 * group;
            if 2 * R <= S::SUMS && column + 2 <= values.width {
                let sums = integer_sums::<S, R, 2>(simd, &words, &seen.any, values, column);
                hand_over(simd, sums, &scales, column, sink);
                column += 2;
            }
            for column in column..values.width.min(2 * group + 2) {
                let sums = integer_sums::<S, R, 1>(simd, &words, &seen.any, values, column);
                hand_over(simd, sums, &scales, column, sink);
            }
        }
    }
}

/// Hands sums of integers to `sink`, as what they stand for in each row.
#[inline(always)]
fn hand_over<S: Integers, const R: usize, const P: usize>(
    simd: S,
    sums: [[S::WordSums; P]; R],
    scales: &[f32; R],
    column: usize,
    sink: &mut impl OutputSink<S>,
) {
    for (r, sums) in sums.into_iter().enumerate() {
        for (p, sums) in sums.into_iter().enumerate() {
            let total = simd.mul(simd.total_words(sums), simd.splat(scales[r]));
            sink.take(r, column + p, total);
        }
    }
}

/// `sums[r][p] + Σ codes[p] * x[r]` over the steps, of which all slices have as many. Asks memory for
/// what lies `ahead` bytes further on.
#[inline(always)]
fn add_steps<S: Integers, const R: usize, const P: usize>(
    simd: S,
    codes: [&[[u8; STEP]]; P],
    x: [&[[u8; 4]]; R],
    ahead: usize,
    mut sums: [[S::WordSums; P]; R],
) -> [[S::WordSums; P]; R] {
    for step in 0..codes[0].len() {
        for p in 0..P {
            simd.prefetch(&codes[p][step], ahead);
            let codes = simd.widen_signed(&codes[p][step]);
            for r in 0..R {
                sums[r][p] = simd.dot_words(sums[r][p], codes, x[r][step]);
            }
        }
    }
    sums
}

/// Sixteen f16, widened.
#[inline(always)]
fn load_scales<S: Integers>(simd: S, bytes: &[u8]) -> S::F32x16 {
    match lanes_of::<f16>(&bytes[..2 * LANES]) {
        [scales] => simd.load_f16(&scales.0),
        _ => simd.splat(f32::NAN),
    }
}

/// Rounded numbers, two to a step.
#[inline(always)]
fn pack(integers: &[i32; GROUP], steps: &mut [[u8; 4]]) {
    for (step, [a, b]) in steps.iter_mut().zip(integers.as_chunks::<2>().0) {
        *step = ((*a & 0xffff) | (*b << 16)).to_le_bytes();
    }
}
