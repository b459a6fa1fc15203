//! Run-time SIMD behind one vocabulary of sixteen lanes.
//!
//! A *level* (scalar, AVX2, AVX-512 with and without VNNI and BF16, NEON) is a token: holding one proves that
//! this CPU has the feature, so its methods are safe. [`Level::dispatch`] enters the right
//! `#[target_feature]` function once and runs a [`Kernel`], safe generic code that is inlined into
//! it. A new level is one module and one line in the list of `level.rs`.
//!
//! Every level computes the same thing in the same order, lane by lane: a vector is always
//! sixteen `f32`, held in one AVX-512 register, two of AVX2, four of NEON or in a plain array. No
//! method adds lanes together; the few reductions that lie inside a row go through [`sum_lanes`],
//! one fixed tree. So all levels agree in every bit, and the scalar level is the oracle for the
//! others.
//!
//! This folder is the only place in the workspace, next to one memory map, with `unsafe` in it.

use half::{bf16, f16};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx_transpose;
mod bytes;
mod exp;
mod integers;
mod level;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod neon;
mod scalar;

pub(crate) use bytes::{Line, bytes_of, bytes_of_elements, bytes_of_mut, lanes_of, lanes_of_mut};
pub use exp::exp;
pub use integers::Integers;
pub use level::Level;

/// Lanes in a vector, and outputs in a weight panel.
pub const LANES: usize = 16;

/// Sixteen elements side by side in memory, aligned so that no load crosses a cache line.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(32))]
pub struct Lanes<E>(pub [E; LANES]);

impl<E: Copy + Default> Default for Lanes<E> {
    fn default() -> Self {
        Self([E::default(); LANES])
    }
}

/// The operations of one SIMD level on vectors of sixteen `f32`.
///
/// Each lane follows IEEE 754 with round to nearest even; [`Simd::mul_add`] rounds once.
pub trait Simd: Copy + Send + Sync + 'static {
    /// Sixteen `f32`.
    type F32x16: Copy + Send + Sync;

    /// How many vectors of sums stay in registers beside what they are made of: 6, 24 where there are
    /// 32 registers of sixteen lanes. A level without vector registers has 1: kernels leave out what
    /// would only be large there.
    const SUMS: usize = 6;

    /// `x` in every lane.
    fn splat(self, x: f32) -> Self::F32x16;

    /// Loads sixteen values.
    fn load(self, x: &[f32; LANES]) -> Self::F32x16;

    /// Loads and widens sixteen values, exactly.
    fn load_f16(self, x: &[f16; LANES]) -> Self::F32x16;

    /// Loads and widens sixteen values, exactly.
    fn load_bf16(self, x: &[bf16; LANES]) -> Self::F32x16;

    /// Stores sixteen values.
    fn store(self, v: Self::F32x16, out: &mut [f32; LANES]);

    /// `a + b`.
    fn add(self, a: Self::F32x16, b: Self::F32x16) -> Self::F32x16;

    /// `a - b`.
    fn sub(self, a: Self::F32x16, b: Self::F32x16) -> Self::F32x16;

    /// `a * b`.
    fn mul(self, a: Self::F32x16, b: Self::F32x16) -> Self::F32x16;

    /// `a / b`.
    fn div(self, a: Self::F32x16, b: Self::F32x16) -> Self::F32x16;

    /// `a * b + c`, rounded once.
    fn mul_add(self, a: Self::F32x16, b: Self::F32x16, c: Self::F32x16) -> Self::F32x16;

    /// `a > b ? a : b`: `b` where either is NaN.
    fn max(self, a: Self::F32x16, b: Self::F32x16) -> Self::F32x16;

    /// `a < b ? a : b`: `b` where either is NaN.
    fn min(self, a: Self::F32x16, b: Self::F32x16) -> Self::F32x16;

    /// `x < bound ? 0 : y`: `y` where `x` is NaN.
    fn zero_below(self, x: Self::F32x16, bound: Self::F32x16, y: Self::F32x16) -> Self::F32x16;

    /// `2^n` for lanes of the form `1.5 * 2^23 + n` with `n` in -126..=127.
    fn exp2_of_shifted(self, shifted: Self::F32x16) -> Self::F32x16;

    /// The lowest byte of each lane's bits.
    #[inline(always)]
    fn low_bytes(self, v: Self::F32x16) -> [u8; LANES] {
        let mut lanes = [0.0; LANES];
        self.store(v, &mut lanes);
        let mut bytes = [0; LANES];
        for (byte, lane) in bytes.iter_mut().zip(lanes) {
            *byte = lane.to_bits() as u8;
        }
        bytes
    }

    /// The lower half of each lane's bits, in little-endian order.
    #[inline(always)]
    fn low_words(self, v: Self::F32x16) -> [[u8; 2]; LANES] {
        let mut lanes = [0.0; LANES];
        self.store(v, &mut lanes);
        let mut words = [[0; 2]; LANES];
        for (word, lane) in words.iter_mut().zip(lanes) {
            *word = (lane.to_bits() as u16).to_le_bytes();
        }
        words
    }

    /// Loads sixteen pairs: the upper halves of the lanes lie first, all sixteen of them, then the
    /// lower halves. They are bits for [`Simd::dot_pairs`], no numbers.
    #[inline(always)]
    fn load_pairs(self, pairs: &[[bf16; 2]; LANES]) -> Self::F32x16 {
        join_each_pair(self, pairs)
    }

    /// The products of the upper halves, then of the lower ones, added to `sums`: each rounded once,
    /// and what is below [`f32::MIN_POSITIVE`] counts as zero, before and after.
    #[inline(always)]
    fn dot_pairs(self, x: Self::F32x16, w: Self::F32x16, sums: Self::F32x16) -> Self::F32x16 {
        dot_each_pair(self, x, w, sums)
    }

    /// Rows become columns: element `i` of row `j` becomes element `j` of row `i`, in sixteen rows of
    /// sixteen elements of two or four bytes, `N` bytes a row.
    #[inline(always)]
    fn transpose<const N: usize>(self, rows: [&[u8; N]; LANES], out: &mut [[u8; N]; LANES]) {
        const { assert!(N == 2 * LANES || N == 4 * LANES, "elements of two or four bytes") };
        let size = N / LANES;
        for (i, out) in out.iter_mut().enumerate() {
            for (out, row) in out.chunks_exact_mut(size).zip(rows) {
                out.copy_from_slice(&row[i * size..][..size]);
            }
        }
    }

    /// Hints that `data[index..]` is read soon. Any index is fine.
    fn prefetch<T>(self, data: &[T], index: usize) {
        let _ = (data, index);
    }
}

/// Two halves as the bits of one lane.
#[inline(always)]
pub(crate) fn join_pair(upper: bf16, lower: bf16) -> f32 {
    f32::from_bits(u32::from(upper.to_bits()) << 16 | u32::from(lower.to_bits()))
}

/// [`Simd::load_pairs`], lane by lane.
#[inline(always)]
fn join_each_pair<S: Simd>(simd: S, pairs: &[[bf16; 2]; LANES]) -> S::F32x16 {
    let (mut lanes, halves) = ([0.0; LANES], pairs.as_flattened());
    for (i, lane) in lanes.iter_mut().enumerate() {
        *lane = join_pair(halves[i], halves[LANES + i]);
    }
    simd.load(&lanes)
}

/// [`Simd::dot_pairs`], lane by lane.
#[inline(always)]
fn dot_each_pair<S: Simd>(simd: S, x: S::F32x16, w: S::F32x16, sums: S::F32x16) -> S::F32x16 {
    let (mut x_lanes, mut w_lanes, mut out) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
    simd.store(x, &mut x_lanes);
    simd.store(w, &mut w_lanes);
    simd.store(sums, &mut out);
    for ((x, w), sum) in x_lanes.into_iter().zip(w_lanes).zip(&mut out) {
        let upper = |pair: f32| normal(f32::from_bits(pair.to_bits() & 0xffff_0000));
        let lower = |pair: f32| normal(f32::from_bits(pair.to_bits() << 16));
        *sum = normal(upper(x).mul_add(upper(w), normal(*sum)));
        *sum = normal(lower(x).mul_add(lower(w), *sum));
    }
    simd.load(&out)
}

/// `x`, or zero of its sign where it is subnormal.
#[inline(always)]
fn normal(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { 0.0f32.copysign(x) } else { x }
}

/// Code that is generic over the level. `run` must be `#[inline(always)]`, or the compiler will
/// not use the level's instructions in it.
pub trait Kernel {
    /// What the kernel computes.
    type Output;

    /// Whether it multiplies integers. One that does not is compiled once for levels that differ in
    /// nothing else.
    const INTEGERS: bool = true;

    /// Whether it multiplies pairs ([`Simd::dot_pairs`]) and neither plain floats nor integers.
    const PAIRS: bool = false;

    /// Runs at one level. A kernel without integers asks for `S: Simd` alone.
    fn run<S: Integers>(self, simd: S) -> Self::Output;
}

/// The sum of sixteen lanes in one fixed tree: `(0+8) (1+9) ...`, then halves of eight, four, two.
#[inline(always)]
pub fn sum_lanes<S: Simd>(simd: S, v: S::F32x16) -> f32 {
    fold_lanes(simd, v, |a, b| a + b)
}

/// The largest of sixteen lanes.
#[inline(always)]
pub fn max_lanes<S: Simd>(simd: S, v: S::F32x16) -> f32 {
    fold_lanes(simd, v, |a, b| if a > b { a } else { b })
}

#[inline(always)]
fn fold_lanes<S: Simd>(simd: S, v: S::F32x16, join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    simd.store(v, &mut lanes);
    // Arrays of their own for each half: the compiler keeps those in registers.
    let eight: [f32; 8] = fold_halves(&lanes, &join);
    let four: [f32; 4] = fold_halves(&eight, &join);
    let two: [f32; 2] = fold_halves(&four, &join);
    join(two[0], two[1])
}

/// Joins each of the first `N` lanes with the one `N` further on.
#[inline(always)]
fn fold_halves<const N: usize>(lanes: &[f32], join: impl Fn(f32, f32) -> f32) -> [f32; N] {
    let mut folded = [0.0; N];
    let (low, high) = lanes.split_at(N);
    for ((folded, low), high) in folded.iter_mut().zip(low).zip(high) {
        *folded = join(*low, *high);
    }
    folded
}

#[cfg(test)]
mod tests;
