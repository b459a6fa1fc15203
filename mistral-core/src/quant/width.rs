//! How codes meet inputs: in 4 and 8 bits, in 8 and 16, or in 8 and 8.

use super::kernel::{STEP, widen_bytes};
use crate::simd::{Integers, LANES, Simd};

/// Where the inputs k0, k1, k2, k3 stand in four bytes that become two steps of words: those of one
/// step are every other byte.
pub(crate) const QUAD: [usize; 4] = [0, 2, 1, 3];

/// How wide codes and inputs are when they meet.
pub(crate) trait Width: Copy + Send + Sync + 'static {
    /// Inputs in a step.
    const INPUTS: usize;
    /// Largest magnitude of a rounded input that there is room for.
    const LARGEST: f32;
    /// The codes of one step.
    type Codes<S: Integers>: Copy;
    /// Sixteen sums.
    type Sums<S: Integers>: Copy;
    /// Sixteen factors of the sums of a group.
    type Factors<S: Integers>: Copy;

    /// The steps of sixteen inputs, which are the lower bits of each lane.
    fn pack<S: Simd>(simd: S, inputs: S::F32x16, steps: &mut [[u8; 4]]);

    /// The sum of all inputs of some steps.
    fn sum(steps: &[[u8; 4]]) -> i32;

    /// What sums start with: `-offset * Σ inputs`, in a form that [`Width::start`] takes.
    #[inline(always)]
    fn start_of(steps: &[[u8; 4]], offset: i32) -> i32 {
        -offset * Self::sum(steps)
    }

    /// Loads the codes that [`Width::store`] stored.
    fn load<S: Integers>(simd: S, step: &[u8; STEP]) -> Self::Codes<S>;

    /// Stores codes.
    fn store<S: Integers>(simd: S, codes: Self::Codes<S>, step: &mut [u8; STEP]);

    /// Sums that start with what [`Width::start_of`] gave.
    fn start<S: Integers>(simd: S, start: i32) -> Self::Sums<S>;

    /// Adds the products of one step.
    fn dot<S: Integers>(
        simd: S,
        sums: Self::Sums<S>,
        codes: Self::Codes<S>,
        x: [u8; 4],
    ) -> Self::Sums<S>;

    /// The sums as `f32`.
    fn total<S: Integers>(simd: S, sums: Self::Sums<S>) -> S::F32x16;

    /// The integer factors of a group: signed bytes.
    fn factors<S: Integers>(simd: S, bytes: &[u8; LANES]) -> Self::Factors<S>;

    /// `totals + sums * factors`.
    fn add_scaled<S: Integers>(
        simd: S,
        totals: S::F32x16,
        sums: Self::Sums<S>,
        factors: Self::Factors<S>,
    ) -> S::F32x16;
}

/// Two integers of 16 bits as a step of [`Wide`].
#[inline(always)]
pub(crate) fn join_words([first, second]: [i32; 2]) -> [u8; 4] {
    (first as u32 & 0xffff | (second as u32) << 16).to_le_bytes()
}

/// Unsigned codes of 4 bits against inputs of 8 bits.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Narrow {}

/// Codes of up to 8 bits against inputs of 16 bits.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wide {}

/// Unsigned codes of 8 bits against inputs of 8 bits, both in the order of [`QUAD`].
#[derive(Debug, Clone, Copy)]
pub(crate) enum Octets {}

impl Width for Narrow {
    const INPUTS: usize = 4;
    const LARGEST: f32 = 127.0;
    type Codes<S: Integers> = S::Bytes;
    type Sums<S: Integers> = S::ByteSums;
    type Factors<S: Integers> = S::ByteScales;

    #[inline(always)]
    fn pack<S: Simd>(simd: S, inputs: S::F32x16, steps: &mut [[u8; 4]]) {
        steps.copy_from_slice(simd.low_bytes(inputs).as_chunks().0);
    }

    #[inline(always)]
    fn sum(steps: &[[u8; 4]]) -> i32 {
        steps.as_flattened().iter().map(|byte| i32::from(*byte as i8)).sum()
    }

    #[inline(always)]
    fn start_of(steps: &[[u8; 4]], offset: i32) -> i32 {
        let (mut even, mut odd) = (0, 0);
        for step in steps {
            let [a, b, c, d] = step.map(|byte| i32::from(byte as i8));
            even -= offset * (a + b);
            odd -= offset * (c + d);
        }
        (even & 0xffff) | (odd << 16)
    }

    #[inline(always)]
    fn load<S: Integers>(simd: S, step: &[u8; STEP]) -> S::Bytes {
        simd.load_bytes(step)
    }

    #[inline(always)]
    fn store<S: Integers>(simd: S, codes: S::Bytes, step: &mut [u8; STEP]) {
        simd.store_bytes(codes, step);
    }

    #[inline(always)]
    fn start<S: Integers>(simd: S, start: i32) -> S::ByteSums {
        simd.start_bytes(start as i16, (start >> 16) as i16)
    }

    #[inline(always)]
    fn dot<S: Integers>(simd: S, sums: S::ByteSums, codes: S::Bytes, x: [u8; 4]) -> S::ByteSums {
        simd.dot_bytes(sums, codes, x)
    }

    #[inline(always)]
    fn total<S: Integers>(simd: S, sums: S::ByteSums) -> S::F32x16 {
        simd.total_bytes(sums)
    }

    #[inline(always)]
    fn factors<S: Integers>(simd: S, bytes: &[u8; LANES]) -> S::ByteScales {
        simd.load_byte_scales(bytes)
    }

    /// Products are exact: sums are below `2^16`, factors have 6 bits and no sign.
    #[inline(always)]
    fn add_scaled<S: Integers>(
        simd: S,
        totals: S::F32x16,
        sums: S::ByteSums,
        factors: S::ByteScales,
    ) -> S::F32x16 {
        simd.add_scaled_bytes(totals, sums, factors)
    }
}

impl Width for Wide {
    const INPUTS: usize = 2;
    const LARGEST: f32 = 32767.0;
    type Codes<S: Integers> = S::Words;
    type Sums<S: Integers> = S::WordSums;
    type Factors<S: Integers> = S::F32x16;

    #[inline(always)]
    fn pack<S: Simd>(simd: S, inputs: S::F32x16, steps: &mut [[u8; 4]]) {
        steps.as_flattened_mut().copy_from_slice(simd.low_words(inputs).as_flattened());
    }

    #[inline(always)]
    fn sum(steps: &[[u8; 4]]) -> i32 {
        let words = steps.as_flattened().as_chunks().0.iter();
        words.map(|word| i32::from(i16::from_le_bytes(*word))).sum()
    }

    #[inline(always)]
    fn load<S: Integers>(simd: S, step: &[u8; STEP]) -> S::Words {
        simd.load_words(step)
    }

    #[inline(always)]
    fn store<S: Integers>(simd: S, codes: S::Words, step: &mut [u8; STEP]) {
        simd.store_words(codes, step);
    }

    #[inline(always)]
    fn start<S: Integers>(simd: S, start: i32) -> S::WordSums {
        simd.start_words(start)
    }

    #[inline(always)]
    fn dot<S: Integers>(simd: S, sums: S::WordSums, codes: S::Words, x: [u8; 4]) -> S::WordSums {
        simd.dot_words(sums, codes, x)
    }

    #[inline(always)]
    fn total<S: Integers>(simd: S, sums: S::WordSums) -> S::F32x16 {
        simd.total_words(sums)
    }

    #[inline(always)]
    fn factors<S: Integers>(simd: S, bytes: &[u8; LANES]) -> S::F32x16 {
        widen_bytes(simd, bytes)
    }

    #[inline(always)]
    fn add_scaled<S: Integers>(
        simd: S,
        totals: S::F32x16,
        sums: S::WordSums,
        factors: S::F32x16,
    ) -> S::F32x16 {
        simd.mul_add(simd.total_words(sums), factors, totals)
    }
}

impl Width for Octets {
    const INPUTS: usize = 4;
    const LARGEST: f32 = 127.0;
    type Codes<S: Integers> = S::Bytes;
    type Sums<S: Integers> = S::WordSums;
    type Factors<S: Integers> = S::F32x16;

    #[inline(always)]
    fn pack<S: Simd>(simd: S, inputs: S::F32x16, steps: &mut [[u8; 4]]) {
        let bytes = simd.low_bytes(inputs);
        for (step, bytes) in steps.iter_mut().zip(bytes.as_chunks::<4>().0) {
            for (byte, k) in bytes.iter().zip(QUAD) {
                step[k] = *byte;
            }
        }
    }

    #[inline(always)]
    fn sum(steps: &[[u8; 4]]) -> i32 {
        Narrow::sum(steps)
    }

    #[inline(always)]
    fn load<S: Integers>(simd: S, step: &[u8; STEP]) -> S::Bytes {
        simd.load_bytes(step)
    }

    #[inline(always)]
    fn store<S: Integers>(simd: S, codes: S::Bytes, step: &mut [u8; STEP]) {
        simd.store_bytes(codes, step);
    }

    #[inline(always)]
    fn start<S: Integers>(simd: S, start: i32) -> S::WordSums {
        simd.start_words(start)
    }

    #[inline(always)]
    fn dot<S: Integers>(simd: S, sums: S::WordSums, codes: S::Bytes, x: [u8; 4]) -> S::WordSums {
        simd.dot_octets(sums, codes, x)
    }

    #[inline(always)]
    fn total<S: Integers>(simd: S, sums: S::WordSums) -> S::F32x16 {
        simd.total_words(sums)
    }

    #[inline(always)]
    fn factors<S: Integers>(simd: S, bytes: &[u8; LANES]) -> S::F32x16 {
        Wide::factors(simd, bytes)
    }

    #[inline(always)]
    fn add_scaled<S: Integers>(
        simd: S,
        totals: S::F32x16,
        sums: S::WordSums,
        factors: S::F32x16,
    ) -> S::F32x16 {
        Wide::add_scaled(simd, totals, sums, factors)
    }
}
