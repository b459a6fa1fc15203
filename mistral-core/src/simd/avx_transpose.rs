//! Rows that become columns, with the instructions of AVX2.
//!
//! Interleaving the first half of some vectors with the second half is a rotation of the bits of all
//! places. As many rounds of it as a place has bits of its number in a vector put rows where columns
//! were:
//!
//! ```text
//! a0 a1 a2 a3        a0 c0 a1 c1        a0 b0 c0 d0
//! b0 b1 b2 b3   ->   a2 c2 a3 c3   ->   a1 b1 c1 d1
//! c0 c1 c2 c3        b0 d0 b1 d1        a2 b2 c2 d2
//! d0 d1 d2 d3        b2 d2 b3 d3        a3 b3 c3 d3
//! ```
//!
//! Interleaving stays within the halves of a register, so two squares are turned at a time, side by
//! side, and the halves are joined at the end.

use std::arch::x86_64::*;

use super::LANES;

/// [`Simd::transpose`](super::Simd::transpose).
///
/// # Safety
///
/// The CPU has AVX2.
#[inline(always)]
pub(super) unsafe fn transpose<const N: usize>(
    rows: [&[u8; N]; LANES],
    out: &mut [[u8; N]; LANES],
) {
    const { assert!(N == 2 * LANES || N == 4 * LANES, "elements of two or four bytes") };
    // SAFETY: the caller has seen AVX2; every register lies within rows of so many bytes.
    unsafe {
        if N == 2 * LANES {
            let (a, b) = (halves::<N, 0>(rows), halves::<N, 8>(rows));
            for i in 0..8 {
                store(out, i, 0, _mm256_permute2x128_si256::<0x20>(a[i], b[i]));
                store(out, 8 + i, 0, _mm256_permute2x128_si256::<0x31>(a[i], b[i]));
            }
        } else {
            floats::<N, 0>(rows, out);
            floats::<N, 8>(rows, out);
        }
    }
}

/// Sixteen columns of the eight rows from `ROW` on: a register has those of `i` and of `8 + i`.
#[inline(always)]
unsafe fn halves<const N: usize, const ROW: usize>(rows: [&[u8; N]; LANES]) -> [__m256i; 8] {
    // SAFETY: as in `transpose`.
    unsafe {
        let mut v = [_mm256_setzero_si256(); 8];
        for (v, row) in v.iter_mut().zip(&rows[ROW..]) {
            *v = load(row, 0);
        }
        for _ in 0..3 {
            let old = v;
            for i in 0..4 {
                v[2 * i] = _mm256_unpacklo_epi16(old[i], old[i + 4]);
                v[2 * i + 1] = _mm256_unpackhi_epi16(old[i], old[i + 4]);
            }
        }
        v
    }
}

/// The eight columns from `COLUMN` on, of all rows.
#[inline(always)]
unsafe fn floats<const N: usize, const COLUMN: usize>(
    rows: [&[u8; N]; LANES],
    out: &mut [[u8; N]; LANES],
) {
    // SAFETY: as in `transpose`.
    unsafe {
        let (a, b) = (fours::<N, COLUMN, 0>(rows), fours::<N, COLUMN, 4>(rows));
        let (c, d) = (fours::<N, COLUMN, 8>(rows), fours::<N, COLUMN, 12>(rows));
        for i in 0..4 {
            let (first, second) = (COLUMN + i, COLUMN + 4 + i);
            store(out, first, 0, _mm256_permute2x128_si256::<0x20>(a[i], b[i]));
            store(out, first, 32, _mm256_permute2x128_si256::<0x20>(c[i], d[i]));
            store(out, second, 0, _mm256_permute2x128_si256::<0x31>(a[i], b[i]));
            store(out, second, 32, _mm256_permute2x128_si256::<0x31>(c[i], d[i]));
        }
    }
}

/// Eight columns of the four rows from `ROW` on: a register has those of `i` and of `4 + i`.
#[inline(always)]
unsafe fn fours<const N: usize, const COLUMN: usize, const ROW: usize>(
    rows: [&[u8; N]; LANES],
) -> [__m256i; 4] {
    // SAFETY: as in `transpose`.
    unsafe {
        let mut v = [_mm256_setzero_si256(); 4];
        for (v, row) in v.iter_mut().zip(&rows[ROW..]) {
            *v = load(row, 4 * COLUMN);
        }
        for _ in 0..2 {
            let old = v;
            for i in 0..2 {
                v[2 * i] = _mm256_unpacklo_epi32(old[i], old[i + 2]);
                v[2 * i + 1] = _mm256_unpackhi_epi32(old[i], old[i + 2]);
            }
        }
        v
    }
}

/// The 32 bytes from `at` on.
#[inline(always)]
unsafe fn load<const N: usize>(row: &[u8; N], at: usize) -> __m256i {
    debug_assert!(at + 32 <= N);
    // SAFETY: as in `transpose`.
    unsafe { _mm256_loadu_si256(row.as_ptr().add(at).cast()) }
}

/// Stores 32 bytes from `at` on into row `i`.
#[inline(always)]
unsafe fn store<const N: usize>(out: &mut [[u8; N]; LANES], i: usize, at: usize, v: __m256i) {
    debug_assert!(at + 32 <= N);
    // SAFETY: as in `transpose`.
    unsafe { _mm256_storeu_si256(out[i].as_mut_ptr().add(at).cast(), v) }
}
