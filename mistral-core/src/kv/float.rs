//! Keys and values in floats.

use std::hint::black_box;
use std::ops::Range;

use super::element::{
    BLOCK, KvElement, OutputSink, Queries, Seen, ValueRows, ValueRowsMut, Values, sealed,
};
use super::{KvFormat, PANEL};
use crate::element::{DType, Element};
use crate::simd::{
    Integers, Kernel, LANES, Lanes, Level, bytes_of_elements, lanes_of, lanes_of_mut,
};
use crate::tile::{self, Sums};

impl<E: Element> sealed::Sealed for E {}

/// How far ahead of the reading keys and values are asked for, in bytes.
const AHEAD: usize = 2048;

/// Position `lane` of a key panel, element by element.
fn key_of<E: Element>(panel: &[u8], lane: usize) -> impl Iterator<Item = &E> {
    lanes_of::<E>(panel).iter().map(move |lanes| &lanes.0[lane % LANES])
}

/// A row of values, sixteen elements at a time.
fn value_of<E: Element>(from: ValueRows<'_>, row: usize) -> impl Iterator<Item = &[E; LANES]> {
    let ValueRows { bytes, rows } = from;
    lanes_of::<E>(bytes).iter().skip(row).step_by(rows.max(1)).map(|lanes| &lanes.0)
}

/// As [`value_of`].
fn value_of_mut<E: Element>(
    to: ValueRowsMut<'_>,
    row: usize,
) -> impl Iterator<Item = &mut [E; LANES]> {
    let ValueRowsMut { bytes, rows } = to;
    lanes_of_mut::<E>(bytes).iter_mut().skip(row).step_by(rows.max(1)).map(|lanes| &mut lanes.0)
}

impl<E: Element> KvElement for E {
    const FORMAT: KvFormat = match E::DTYPE {
        DType::F32 => KvFormat::F32,
        DType::F16 => KvFormat::F16,
        DType::BF16 => KvFormat::BF16,
    };

    type Wide = f32;

    fn key_panel_bytes(head_dim: usize) -> usize {
        head_dim.saturating_mul(size_of::<Lanes<E>>())
    }

    fn value_panel_bytes(head_dim: usize) -> usize {
        head_dim.div_ceil(LANES).saturating_mul(PANEL * size_of::<Lanes<E>>())
    }

    fn write_key(panel: &mut [u8], lane: usize, key: &[f32]) {
        for (lanes, x) in lanes_of_mut::<E>(panel).iter_mut().zip(key) {
            lanes.0[lane % LANES] = E::from_f32(*x);
        }
    }

    fn write_value(to: ValueRowsMut<'_>, row: usize, value: &[f32]) {
        for (to, from) in value_of_mut::<E>(to, row).zip(value.chunks(LANES)) {
            E::round_slice(from, to);
        }
    }

    fn read_key(panel: &[u8], lane: usize, key: &mut [f32]) {
        for (to, from) in key.iter_mut().zip(key_of::<E>(panel, lane)) {
            *to = from.to_f32();
        }
    }

    fn read_value(from: ValueRows<'_>, row: usize, value: &mut [f32]) {
        for (to, from) in value.chunks_mut(LANES).zip(value_of::<E>(from, row)) {
            E::widen_row(&from[..to.len()], to);
        }
    }

    fn copy_key(to: (&mut [u8], usize), from: (&[u8], usize), _head_dim: usize) {
        let source = key_of::<E>(from.0, from.1);
        for (lanes, x) in lanes_of_mut::<E>(to.0).iter_mut().zip(source) {
            lanes.0[to.1 % LANES] = *x;
        }
    }

    fn copy_values(
        (to, at): (ValueRowsMut<'_>, usize),
        (from, first): (ValueRows<'_>, usize),
        n: usize,
        _head_dim: usize,
    ) {
        let columns = lanes_of_mut::<E>(to.bytes).chunks_exact_mut(to.rows.max(1));
        for (to, from) in columns.zip(lanes_of::<E>(from.bytes).chunks_exact(from.rows.max(1))) {
            to[at..at + n].copy_from_slice(&from[first..first + n]);
        }
    }

    fn place_key(panel: &mut [u8], lane: usize, row: &[Self]) {
        for (lanes, x) in lanes_of_mut::<E>(panel).iter_mut().zip(row) {
            lanes.0[lane % LANES] = *x;
        }
    }

    fn place_keys(level: Level, panel: &mut [u8], rows: [&[Self]; PANEL]) {
        let rows = rows.map(bytes_of_elements);
        match E::DTYPE {
            DType::F32 => level.dispatch(PlaceKeys::<64> { panel, rows }),
            DType::F16 | DType::BF16 => level.dispatch(PlaceKeys::<32> { panel, rows }),
        }
    }

    fn place_value(to: ValueRowsMut<'_>, row: usize, value: &[Self]) {
        let (vectors, rest) = value.as_chunks::<LANES>();
        let mut to = value_of_mut::<E>(to, row);
        // In this order: a pair whose first half is missing must not take the second.
        for (from, to) in vectors.iter().zip(to.by_ref()) {
            *to = *from;
        }
        if let Some(to) = to.next() {
            to[..rest.len()].copy_from_slice(rest);
        }
    }

    fn widen_row(row: &[Self], out: &mut [f32]) {
        for (to, from) in out.iter_mut().zip(row) {
            *to = from.to_f32();
        }
    }

    #[inline(always)]
    fn widen_keys<S: Integers>(simd: S, from: &[u8], to: &mut [u8]) {
        for (to, from) in lanes_of_mut::<f32>(to).iter_mut().zip(lanes_of::<E>(from)) {
            simd.store(E::load(simd, from), &mut to.0);
        }
    }

    #[inline(always)]
    fn widen_values<S: Integers>(
        simd: S,
        (from, first): (ValueRows<'_>, usize),
        (to, at): (ValueRowsMut<'_>, usize),
    ) {
        let columns = lanes_of_mut::<f32>(to.bytes).chunks_exact_mut(to.rows);
        for (to, from) in columns.zip(lanes_of::<E>(from.bytes).chunks_exact(from.rows)) {
            for (to, from) in to[at..].iter_mut().zip(&from[first..first + PANEL]) {
                simd.store(E::load(simd, from), &mut to.0);
            }
        }
    }

    #[inline(always)]
    fn load_query<S: Integers>(_simd: S, _queries: &mut Queries, _row: usize) {}

    #[inline(always)]
    fn scores<S: Integers, const R: usize, const P: usize>(
        simd: S,
        (queries, first): (&Queries, usize),
        panels: [&[u8]; P],
    ) -> Sums<S, R, P> {
        let mut rows: [&[f32]; R] = [&[]; R];
        for (r, row) in rows.iter_mut().enumerate() {
            *row = queries.row(first + r);
        }
        let mut keys: [&[Lanes<E>]; P] = [&[]; P];
        for (keys, panel) in keys.iter_mut().zip(panels) {
            *keys = lanes_of::<E>(panel);
        }
        tile::accumulate_ahead(
            simd,
            rows,
            keys,
            tile::zeros(simd),
            Some(AHEAD / size_of::<Lanes<E>>()),
        )
    }

    #[inline(always)]
    fn outputs<S: Integers, const R: usize, const P: usize>(
        simd: S,
        p: &[[f32; BLOCK]; R],
        seen: &Seen<R>,
        values: Values<'_>,
        sink: &mut impl OutputSink<S>,
    ) {
        // Hidden from the compiler, which would load weights of several rows ahead and run out of
        // registers.
        let rows = Rows { p: p.as_flattened(), stride: black_box(BLOCK) };
        let mut column = 0;
        while column + P <= values.width {
            let sums = weighted_sums::<S, E, R, P>(simd, rows, seen, values, column);
            for (r, sums) in sums.into_iter().enumerate() {
                for (i, sums) in sums.into_iter().enumerate() {
                    sink.take(r, column + i, sums);
                }
            }
            column += P;
        }
        // Left out where it would be the same code once more.
        let left = if P > 1 { column..values.width } else { 0..0 };
        for column in left {
            let sums = weighted_sums::<S, E, R, 1>(simd, rows, seen, values, column);
            for (r, [sums]) in sums.into_iter().enumerate() {
                sink.take(r, column, sums);
            }
        }
    }
}

/// Sixteen keys, of which sixteen elements have `N` bytes, into a panel.
struct PlaceKeys<'a, const N: usize> {
    panel: &'a mut [u8],
    rows: [&'a [u8]; PANEL],
}

impl<const N: usize> Kernel for PlaceKeys<'_, N> {
    type Output = ();

    const INTEGERS: bool = false;

    #[inline(always)]
    fn run<S: Integers>(self, simd: S) {
        let columns = self.panel.as_chunks_mut::<N>().0;
        for (i, columns) in columns.chunks_mut(LANES).enumerate() {
            let at = i * N;
            if let Ok(columns) = <&mut [_; LANES]>::try_from(&mut *columns) {
                let mut rows = [&[0; N]; PANEL];
                for (to, row) in rows.iter_mut().zip(self.rows) {
                    *to = row.get(at..).and_then(<[u8]>::first_chunk).unwrap_or(to);
                }
                simd.transpose(rows, columns);
            } else {
                let size = N / LANES;
                for (lane, row) in self.rows.into_iter().enumerate() {
                    let elements = row.get(at..).unwrap_or_default().chunks_exact(size);
                    for (column, element) in columns.iter_mut().zip(elements) {
                        column[lane * size..][..size].copy_from_slice(element);
                    }
                }
            }
        }
    }
}

/// The weights of some rows, `stride` apart.
#[derive(Clone, Copy)]
struct Rows<'a> {
    p: &'a [f32],
    stride: usize,
}

impl<'a> Rows<'a> {
    /// Row `r` and those after it.
    #[inline(always)]
    fn from(self, r: usize) -> Self {
        Self { p: &self.p[r * self.stride..], stride: self.stride }
    }
}

/// `Σ_j p[r][j] v[j]` over the positions that row `r` sees, one chain over rising `j`.
///
#[inline(always)]
fn weighted_sums<S: Integers, E: Element, const R: usize, const P: usize>(
    simd: S,
    p: Rows<'_>,
    seen: &Seen<R>,
    values: Values<'_>,
    column: usize,
) -> Sums<S, R, P> {
    if seen.is_ragged() {
        return ragged_sums::<S, E, R, P>(simd, p, seen, values, column);
    }
    // Both by themselves, or the sums would lie in memory for the sake of the ragged ends or of the
    // loop over runs.
    let (all, zeros) = (seen.all.clone(), tile::zeros(simd));
    if values.positions == BLOCK {
        return add_run::<S, E, R, P>(simd, p, values, (column, 0), all, zeros);
    }
    add::<S, E, R, P>(simd, p, values, column, all, zeros)
}

/// [`weighted_sums`] where rows see different positions: the ragged ends are added row by row,
/// before and after.
#[inline(always)]
fn ragged_sums<S: Integers, E: Element, const R: usize, const P: usize>(
    simd: S,
    p: Rows<'_>,
    seen: &Seen<R>,
    values: Values<'_>,
    column: usize,
) -> Sums<S, R, P> {
    let mut sums = tile::zeros::<S, R, P>(simd);
    let all = &seen.all;
    // Their number is hidden from the compiler: unrolled, these loops would be most of the kernel.
    let rows = black_box(R).min(R);
    for (r, (sums, seen)) in sums.iter_mut().zip(&seen.rows).take(rows).enumerate() {
        let range = seen.start..all.start.max(seen.start).min(seen.end);
        [*sums] = add::<S, E, 1, P>(simd, p.from(r), values, column, range, [*sums]);
    }
    sums = add::<S, E, R, P>(simd, p, values, column, all.clone(), sums);
    for (r, (sums, seen)) in sums.iter_mut().zip(&seen.rows).take(rows).enumerate() {
        let range = all.end.max(seen.start).min(seen.end)..seen.end;
        [*sums] = add::<S, E, 1, P>(simd, p.from(r), values, column, range, [*sums]);
    }
    sums
}

/// `sums[r] + Σ_j p[r][j] v[j]` over the positions in `range`, run by run.
#[inline(always)]
fn add<S: Integers, E: Element, const R: usize, const P: usize>(
    simd: S,
    p: Rows<'_>,
    values: Values<'_>,
    column: usize,
    range: Range<usize>,
    sums: Sums<S, R, P>,
) -> Sums<S, R, P> {
    let n = values.positions;
    let mut sums = sums;
    let mut from = range.start;
    while from < range.end {
        let to = range.end.min((from / n + 1) * n);
        sums = add_run::<S, E, R, P>(simd, p, values, (column, from / n), from..to, sums);
        from = to;
    }
    sums
}

/// The part of [`add`] in one run.
#[inline(always)]
fn add_run<S: Integers, E: Element, const R: usize, const P: usize>(
    simd: S,
    p: Rows<'_>,
    values: Values<'_>,
    (column, run): (usize, usize),
    range: Range<usize>,
    sums: Sums<S, R, P>,
) -> Sums<S, R, P> {
    let (from, first) = values.runs[run];
    let lanes = lanes_of::<E>(from.bytes);
    let mut rows: [&[f32]; R] = [&[]; R];
    for (r, row) in rows.iter_mut().enumerate() {
        *row = &p.from(r).p[range.clone()];
    }
    let first = first + range.start - run * values.positions;
    let mut columns: [&[Lanes<E>]; P] = [&[]; P];
    for (i, at) in columns.iter_mut().enumerate() {
        *at = &lanes[(column + i) * from.rows + first..][..range.len()];
    }
    tile::accumulate_ahead(simd, rows, columns, sums, Some(AHEAD / size_of::<Lanes<E>>()))
}
