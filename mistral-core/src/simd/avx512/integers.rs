//! Integer products of AVX-512.

use std::arch::x86_64::*;

use super::Avx512;
use crate::simd::integers::dot_octets_as_words;
use crate::simd::{Integers, LANES, Simd};

impl<const VNNI: bool, const BF16: bool> Avx512<VNNI, BF16> {
    /// The sum of two numbers of 16 bits for each output.
    #[inline(always)]
    fn add_pairs(self, pairs: __m512i) -> __m512i {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)) }
    }

    /// [`Integers::ByteSums`] as one sum of 32 bits for each output.
    #[inline(always)]
    fn whole(self, sums: __m512i) -> __m512i {
        if VNNI { sums } else { self.add_pairs(sums) }
    }
}

impl<const VNNI: bool, const BF16: bool> Integers for Avx512<VNNI, BF16> {
    type Bytes = __m512i;
    type Words = __m512i;
    /// With VNNI, one of 32 bits for each output. Without, two of 16 bits: the sums of the even and
    /// of the odd pair of each step.
    type ByteSums = __m512i;
    /// As floats, whose products are exact: integers are multiplied at half the rate.
    type ByteScales = __m512;
    type WordSums = __m512i;

    #[inline(always)]
    fn load_bytes(self, bytes: &[u8; 64]) -> __m512i {
        // SAFETY: `self` proves AVX-512; there are 64 bytes.
        unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store_bytes(self, codes: __m512i, out: &mut [u8; 64]) {
        // SAFETY: `self` proves AVX-512; there are 64 bytes.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), codes) }
    }

    #[inline(always)]
    fn field<const SHIFT: i32, const MASK: u8>(self, codes: __m512i) -> __m512i {
        // There is no shift of bytes: the mask drops what a shift of pairs brings over. Shifts by a
        // constant ask for an `u32` here: one by a vector, which the compiler knows to be constant.
        // SAFETY: `self` proves AVX-512.
        unsafe {
            let shifted = _mm512_srlv_epi16(codes, _mm512_set1_epi16(SHIFT as i16));
            _mm512_and_si512(shifted, _mm512_set1_epi8(MASK as i8))
        }
    }

    #[inline(always)]
    fn join_fields<const SHIFT: i32>(self, low: __m512i, high: __m512i) -> __m512i {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_or_si512(low, _mm512_sllv_epi16(high, _mm512_set1_epi16(SHIFT as i16))) }
    }

    #[inline(always)]
    fn spread_bytes(self, bytes: &[u8; LANES]) -> __m512i {
        // SAFETY: `self` proves AVX-512; there are sixteen bytes.
        unsafe {
            let each = _mm512_cvtepu8_epi32(_mm_loadu_si128(bytes.as_ptr().cast()));
            let lowest = _mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12);
            _mm512_shuffle_epi8(each, _mm512_broadcast_i32x4(lowest))
        }
    }

    #[inline(always)]
    fn scale_bytes(self, codes: __m512i, factors: __m512i, addends: __m512i) -> __m512i {
        // There is no product of bytes: a pair of them times one factor carries nothing over.
        // SAFETY: `self` proves AVX-512.
        unsafe {
            let factors = _mm512_and_si512(factors, _mm512_set1_epi16(0xff));
            _mm512_add_epi8(_mm512_mullo_epi16(codes, factors), addends)
        }
    }

    #[inline(always)]
    fn load_words(self, words: &[u8; 64]) -> __m512i {
        self.load_bytes(words)
    }

    #[inline(always)]
    fn store_words(self, codes: __m512i, out: &mut [u8; 64]) {
        self.store_bytes(codes, out);
    }

    #[inline(always)]
    fn widen_signed(self, bytes: &[u8; 32]) -> __m512i {
        // SAFETY: `self` proves AVX-512; there are 32 bytes.
        unsafe { _mm512_cvtepi8_epi16(_mm256_loadu_si256(bytes.as_ptr().cast())) }
    }

    #[inline(always)]
    fn even_bytes(self, codes: __m512i) -> __m512i {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_and_si512(codes, _mm512_set1_epi16(0xff)) }
    }

    #[inline(always)]
    fn odd_bytes(self, codes: __m512i) -> __m512i {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_srli_epi16::<8>(codes) }
    }

    #[inline(always)]
    fn start_bytes(self, even: i16, odd: i16) -> __m512i {
        // SAFETY: `self` proves AVX-512.
        let pairs = unsafe { _mm512_set1_epi32(i32::from(even) & 0xffff | i32::from(odd) << 16) };
        // Added as vectors, not as scalars, of which there would be too many for the registers.
        if VNNI { self.add_pairs(pairs) } else { pairs }
    }

    #[inline(always)]
    fn dot_bytes(self, sums: __m512i, codes: __m512i, x: [u8; 4]) -> __m512i {
        // SAFETY: `self` proves AVX-512, and VNNI where it is used.
        unsafe {
            let x = _mm512_set1_epi32(i32::from_le_bytes(x));
            if VNNI {
                _mm512_dpbusd_epi32(sums, codes, x)
            } else {
                // 8 steps of 2 * 15 * 127 are below 2^15, and a sum on the way may wrap.
                _mm512_add_epi16(sums, _mm512_maddubs_epi16(codes, x))
            }
        }
    }

    #[inline(always)]
    fn total_bytes(self, sums: __m512i) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_cvtepi32_ps(self.whole(sums)) }
    }

    #[inline(always)]
    fn load_byte_scales(self, bytes: &[u8; LANES]) -> __m512 {
        // SAFETY: `self` proves AVX-512; there are sixteen bytes.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(bytes.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn add_scaled_bytes(self, totals: __m512, sums: __m512i, scales: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        let sums = unsafe { _mm512_cvtepi32_ps(self.whole(sums)) };
        self.mul_add(sums, scales, totals)
    }

    #[inline(always)]
    fn start_words(self, start: i32) -> __m512i {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_set1_epi32(start) }
    }

    #[inline(always)]
    fn dot_words(self, sums: __m512i, codes: __m512i, x: [u8; 4]) -> __m512i {
        // SAFETY: `self` proves AVX-512, and VNNI where it is used.
        unsafe {
            let x = _mm512_set1_epi32(i32::from_le_bytes(x));
            if VNNI {
                _mm512_dpwssd_epi32(sums, codes, x)
            } else {
                _mm512_add_epi32(sums, _mm512_madd_epi16(codes, x))
            }
        }
    }

    #[inline(always)]
    fn dot_octets(self, sums: __m512i, codes: __m512i, x: [u8; 4]) -> __m512i {
        if !VNNI {
            return dot_octets_as_words(self, sums, codes, x);
        }
        // SAFETY: `self` proves AVX-512 with VNNI.
        unsafe { _mm512_dpbusd_epi32(sums, codes, _mm512_set1_epi32(i32::from_le_bytes(x))) }
    }

    #[inline(always)]
    fn total_words(self, sums: __m512i) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_cvtepi32_ps(sums) }
    }

    #[inline(always)]
    fn round_words(self, x: __m512, out: &mut [[u8; 2]; LANES]) {
        // SAFETY: `self` proves AVX-512; `out` has 32 bytes.
        unsafe {
            let words = _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(x));
            _mm256_storeu_si256(out.as_mut_ptr().cast(), words);
        }
    }
}
