//! Integer products on NEON.
//!
//! Codes lie in registers by input and not by output: one register has input k0 of sixteen outputs,
//! the next k1. The loads of two or four interleaved elements bring them there, so that products
//! need no sums of neighbours.

use std::arch::aarch64::*;

use super::{F32x16, Neon};
use crate::simd::{Integers, LANES, Simd};

/// Sixteen numbers of 16 bits, for outputs 0..8 and 8..16.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Int16x16(int16x8_t, int16x8_t);

/// Sixteen numbers of 32 bits, for outputs 0..4, 4..8, 8..12 and 12..16.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Int32x16(int32x4_t, int32x4_t, int32x4_t, int32x4_t);

/// Widens sixteen signed bytes.
#[inline(always)]
fn widen_i8(_proof: Neon, x: int8x16_t) -> Int16x16 {
    // SAFETY: the token proves NEON.
    unsafe { Int16x16(vmovl_s8(vget_low_s8(x)), vmovl_high_s8(x)) }
}

/// Widens sixteen unsigned bytes.
#[inline(always)]
fn widen_u8(_proof: Neon, x: uint8x16_t) -> Int16x16 {
    // SAFETY: the token proves NEON.
    unsafe {
        Int16x16(
            vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(x))),
            vreinterpretq_s16_u16(vmovl_high_u8(x)),
        )
    }
}

/// `sums + codes * x`, modulo `2^16`. Codes are below 128.
#[inline(always)]
fn dot_i8(_proof: Neon, sums: Int16x16, codes: uint8x16_t, x: u8) -> Int16x16 {
    // SAFETY: the token proves NEON.
    unsafe {
        let (codes, x) = (vreinterpretq_s8_u8(codes), vdupq_n_s8(x as i8));
        Int16x16(
            vmlal_s8(sums.0, vget_low_s8(codes), vget_low_s8(x)),
            vmlal_high_s8(sums.1, codes, x),
        )
    }
}

/// `sums + codes * x`, modulo `2^32`.
#[inline(always)]
fn dot_i16(_proof: Neon, sums: Int32x16, codes: Int16x16, x: i16) -> Int32x16 {
    // SAFETY: the token proves NEON.
    unsafe {
        Int32x16(
            vmlal_n_s16(sums.0, vget_low_s16(codes.0), x),
            vmlal_high_n_s16(sums.1, codes.0, x),
            vmlal_n_s16(sums.2, vget_low_s16(codes.1), x),
            vmlal_high_n_s16(sums.3, codes.1, x),
        )
    }
}

/// One sum for each output.
#[inline(always)]
fn whole(_proof: Neon, [even, odd]: [Int16x16; 2]) -> Int32x16 {
    // SAFETY: the token proves NEON.
    unsafe {
        Int32x16(
            vaddl_s16(vget_low_s16(even.0), vget_low_s16(odd.0)),
            vaddl_high_s16(even.0, odd.0),
            vaddl_s16(vget_low_s16(even.1), vget_low_s16(odd.1)),
            vaddl_high_s16(even.1, odd.1),
        )
    }
}

impl Integers for Neon {
    /// Inputs k0, k1, k2 and k3 of all outputs.
    type Bytes = uint8x16x4_t;
    /// Inputs k0 and k1 of all outputs.
    type Words = [Int16x16; 2];
    /// The sums of the inputs k0 and k1 of all steps, and those of k2 and k3.
    type ByteSums = [Int16x16; 2];
    type ByteScales = Int32x16;
    type WordSums = Int32x16;

    #[inline(always)]
    fn load_bytes(self, bytes: &[u8; 64]) -> uint8x16x4_t {
        // SAFETY: `self` proves NEON; there are 64 bytes.
        unsafe { vld4q_u8(bytes.as_ptr()) }
    }

    #[inline(always)]
    fn store_bytes(self, codes: uint8x16x4_t, out: &mut [u8; 64]) {
        // SAFETY: `self` proves NEON; there are 64 bytes.
        unsafe { vst4q_u8(out.as_mut_ptr(), codes) }
    }

    #[inline(always)]
    fn field<const SHIFT: i32, const MASK: u8>(self, codes: uint8x16x4_t) -> uint8x16x4_t {
        // A shift to the right by an immediate is at least one: to the left by less than nothing.
        // SAFETY: `self` proves NEON.
        unsafe {
            let field = |x| vandq_u8(vshlq_u8(x, vdupq_n_s8(-SHIFT as i8)), vdupq_n_u8(MASK));
            uint8x16x4_t(field(codes.0), field(codes.1), field(codes.2), field(codes.3))
        }
    }

    #[inline(always)]
    fn join_fields<const SHIFT: i32>(self, low: uint8x16x4_t, high: uint8x16x4_t) -> uint8x16x4_t {
        // SAFETY: `self` proves NEON.
        unsafe {
            let join = |low, high| vorrq_u8(low, vshlq_n_u8::<SHIFT>(high));
            uint8x16x4_t(
                join(low.0, high.0),
                join(low.1, high.1),
                join(low.2, high.2),
                join(low.3, high.3),
            )
        }
    }

    #[inline(always)]
    fn spread_bytes(self, bytes: &[u8; LANES]) -> uint8x16x4_t {
        // SAFETY: `self` proves NEON; there are sixteen bytes.
        let bytes = unsafe { vld1q_u8(bytes.as_ptr()) };
        uint8x16x4_t(bytes, bytes, bytes, bytes)
    }

    #[inline(always)]
    fn scale_bytes(
        self,
        codes: uint8x16x4_t,
        factors: uint8x16x4_t,
        addends: uint8x16x4_t,
    ) -> uint8x16x4_t {
        // SAFETY: `self` proves NEON.
        unsafe {
            uint8x16x4_t(
                vmlaq_u8(addends.0, codes.0, factors.0),
                vmlaq_u8(addends.1, codes.1, factors.1),
                vmlaq_u8(addends.2, codes.2, factors.2),
                vmlaq_u8(addends.3, codes.3, factors.3),
            )
        }
    }

    #[inline(always)]
    fn load_words(self, words: &[u8; 64]) -> [Int16x16; 2] {
        let p: *const i16 = words.as_ptr().cast();
        // SAFETY: `self` proves NEON; there are 64 bytes, and NEON loads need no alignment.
        let (a, b) = unsafe { (vld2q_s16(p), vld2q_s16(p.add(16))) };
        [Int16x16(a.0, b.0), Int16x16(a.1, b.1)]
    }

    #[inline(always)]
    fn store_words(self, [k0, k1]: [Int16x16; 2], out: &mut [u8; 64]) {
        let p: *mut i16 = out.as_mut_ptr().cast();
        // SAFETY: `self` proves NEON; there are 64 bytes, and NEON stores need no alignment.
        unsafe {
            vst2q_s16(p, int16x8x2_t(k0.0, k1.0));
            vst2q_s16(p.add(16), int16x8x2_t(k0.1, k1.1));
        }
    }

    #[inline(always)]
    fn widen_signed(self, bytes: &[u8; 32]) -> [Int16x16; 2] {
        // SAFETY: `self` proves NEON; there are 32 bytes.
        let x = unsafe { vld2q_s8(bytes.as_ptr().cast()) };
        [widen_i8(self, x.0), widen_i8(self, x.1)]
    }

    #[inline(always)]
    fn even_bytes(self, codes: uint8x16x4_t) -> [Int16x16; 2] {
        [widen_u8(self, codes.0), widen_u8(self, codes.2)]
    }

    #[inline(always)]
    fn odd_bytes(self, codes: uint8x16x4_t) -> [Int16x16; 2] {
        [widen_u8(self, codes.1), widen_u8(self, codes.3)]
    }

    #[inline(always)]
    fn start_bytes(self, even: i16, odd: i16) -> [Int16x16; 2] {
        // SAFETY: `self` proves NEON.
        let (even, odd) = unsafe { (vdupq_n_s16(even), vdupq_n_s16(odd)) };
        [Int16x16(even, even), Int16x16(odd, odd)]
    }

    #[inline(always)]
    fn dot_bytes(
        self,
        [even, odd]: [Int16x16; 2],
        codes: uint8x16x4_t,
        x: [u8; 4],
    ) -> [Int16x16; 2] {
        // 8 steps of 2 * 15 * 127 are below 2^15, and a sum on the way may wrap.
        [
            dot_i8(self, dot_i8(self, even, codes.0, x[0]), codes.1, x[1]),
            dot_i8(self, dot_i8(self, odd, codes.2, x[2]), codes.3, x[3]),
        ]
    }

    #[inline(always)]
    fn total_bytes(self, sums: [Int16x16; 2]) -> F32x16 {
        self.total_words(whole(self, sums))
    }

    #[inline(always)]
    fn load_byte_scales(self, bytes: &[u8; LANES]) -> Int32x16 {
        // SAFETY: `self` proves NEON; there are sixteen bytes.
        unsafe {
            let words = widen_u8(self, vld1q_u8(bytes.as_ptr()));
            Int32x16(
                vmovl_s16(vget_low_s16(words.0)),
                vmovl_high_s16(words.0),
                vmovl_s16(vget_low_s16(words.1)),
                vmovl_high_s16(words.1),
            )
        }
    }

    #[inline(always)]
    fn add_scaled_bytes(self, totals: F32x16, sums: [Int16x16; 2], scales: Int32x16) -> F32x16 {
        let sums = whole(self, sums);
        // SAFETY: `self` proves NEON.
        let product = unsafe {
            Int32x16(
                vmulq_s32(sums.0, scales.0),
                vmulq_s32(sums.1, scales.1),
                vmulq_s32(sums.2, scales.2),
                vmulq_s32(sums.3, scales.3),
            )
        };
        self.add(totals, self.total_words(product))
    }

    #[inline(always)]
    fn start_words(self, start: i32) -> Int32x16 {
        // SAFETY: `self` proves NEON.
        let v = unsafe { vdupq_n_s32(start) };
        Int32x16(v, v, v, v)
    }

    #[inline(always)]
    fn dot_words(self, sums: Int32x16, [k0, k1]: [Int16x16; 2], x: [u8; 4]) -> Int32x16 {
        let [a, b, c, d] = x;
        let sums = dot_i16(self, sums, k0, i16::from_le_bytes([a, b]));
        dot_i16(self, sums, k1, i16::from_le_bytes([c, d]))
    }

    #[inline(always)]
    fn total_words(self, sums: Int32x16) -> F32x16 {
        // SAFETY: `self` proves NEON.
        unsafe {
            F32x16(
                vcvtq_f32_s32(sums.0),
                vcvtq_f32_s32(sums.1),
                vcvtq_f32_s32(sums.2),
                vcvtq_f32_s32(sums.3),
            )
        }
    }
}
