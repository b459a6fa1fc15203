//! AVX2 with FMA and F16C: a vector is two registers of eight lanes.

use std::arch::is_x86_feature_detected as has;
use std::arch::x86_64::*;

use half::{bf16, f16};

use super::avx_transpose::transpose;
use super::level::Token;
use super::scalar::Scalar;
use super::{Integers, Kernel, LANES, Simd};

/// The token of this level. Only [`enter`] makes one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx2(());

/// Lanes 0..8 and 8..16.
#[derive(Debug, Clone, Copy)]
pub(super) struct F32x16(__m256, __m256);

impl Token for Avx2 {
    const NAME: &'static str = "avx2";

    type Floats = Self;
    type Integers = Self;
    type Pairs = Scalar;

    fn is_present() -> bool {
        has!("avx2") && has!("fma") && has!("f16c")
    }

    #[inline]
    unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: the caller has seen the features on this CPU.
        unsafe { enter(kernel) }
    }
}

/// Runs a kernel with the level's instructions enabled.
#[target_feature(enable = "avx2,fma,f16c")]
fn enter<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2(()))
}

macro_rules! lanewise {
    ($($name:ident => $intrinsic:ident),* $(,)?) => {$(
        #[inline(always)]
        fn $name(self, a: F32x16, b: F32x16) -> F32x16 {
            // SAFETY: `self` proves AVX2.
            unsafe { F32x16($intrinsic(a.0, b.0), $intrinsic(a.1, b.1)) }
        }
    )*};
}

impl Simd for Avx2 {
    type F32x16 = F32x16;

    #[inline(always)]
    fn splat(self, x: f32) -> F32x16 {
        // SAFETY: `self` proves AVX2.
        let v = unsafe { _mm256_set1_ps(x) };
        F32x16(v, v)
    }

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> F32x16 {
        let p = x.as_ptr();
        // SAFETY: `self` proves AVX2; `x` has sixteen elements.
        unsafe { F32x16(_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))) }
    }

    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> F32x16 {
        let p: *const __m128i = x.as_ptr().cast();
        // SAFETY: `self` proves F16C; `x` has sixteen elements of two bytes (`f16` is
        // `repr(transparent)` over `u16`): two registers of 128 bits.
        unsafe {
            F32x16(_mm256_cvtph_ps(_mm_loadu_si128(p)), _mm256_cvtph_ps(_mm_loadu_si128(p.add(1))))
        }
    }

    #[inline(always)]
    fn load_bf16(self, x: &[bf16; LANES]) -> F32x16 {
        let p: *const __m128i = x.as_ptr().cast();
        // SAFETY: `self` proves AVX2; `x` has sixteen elements of two bytes (`bf16` is
        // `repr(transparent)` over `u16`): two registers of 128 bits.
        unsafe {
            let widen =
                |half| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(half)));
            F32x16(widen(_mm_loadu_si128(p)), widen(_mm_loadu_si128(p.add(1))))
        }
    }

    #[inline(always)]
    fn store(self, v: F32x16, out: &mut [f32; LANES]) {
        let p = out.as_mut_ptr();
        // SAFETY: `self` proves AVX2; `out` has sixteen elements.
        unsafe {
            _mm256_storeu_ps(p, v.0);
            _mm256_storeu_ps(p.add(8), v.1);
        }
    }

    lanewise! {
        add => _mm256_add_ps,
        sub => _mm256_sub_ps,
        mul => _mm256_mul_ps,
        div => _mm256_div_ps,
        max => _mm256_max_ps,
        min => _mm256_min_ps,
    }

    #[inline(always)]
    fn mul_add(self, a: F32x16, b: F32x16, c: F32x16) -> F32x16 {
        // SAFETY: `self` proves FMA.
        unsafe { F32x16(_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1)) }
    }

    #[inline(always)]
    fn zero_below(self, x: F32x16, bound: F32x16, y: F32x16) -> F32x16 {
        // SAFETY: `self` proves AVX2. "Not less than" is true for NaN.
        unsafe {
            F32x16(
                _mm256_and_ps(_mm256_cmp_ps::<_CMP_NLT_UQ>(x.0, bound.0), y.0),
                _mm256_and_ps(_mm256_cmp_ps::<_CMP_NLT_UQ>(x.1, bound.1), y.1),
            )
        }
    }

    #[inline(always)]
    fn low_bytes(self, v: F32x16) -> [u8; LANES] {
        // SAFETY: `self` proves AVX2; both have 128 bits, and all of them hold values.
        unsafe {
            let (first, second) = (_mm256_castps_si256(v.0), _mm256_castps_si256(v.1));
            // Four bytes in the first lane of each 128 bits, and then of both registers.
            let low = _mm256_set1_epi32(0x0c08_0400);
            let (first, second) =
                (_mm256_shuffle_epi8(first, low), _mm256_shuffle_epi8(second, low));
            let both = _mm256_unpacklo_epi32(first, second);
            let in_order = _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5);
            let bytes = _mm256_permutevar8x32_epi32(both, in_order);
            std::mem::transmute(_mm256_castsi256_si128(bytes))
        }
    }

    #[inline(always)]
    fn low_words(self, v: F32x16) -> [[u8; 2]; LANES] {
        // SAFETY: `self` proves AVX2; both have 256 bits, and all of them hold values.
        unsafe {
            let (first, second) = (_mm256_castps_si256(v.0), _mm256_castps_si256(v.1));
            // Four words in the first half of each 128 bits, and then of both registers.
            let low = _mm256_set1_epi64x(0x0d0c_0908_0504_0100);
            let (first, second) =
                (_mm256_shuffle_epi8(first, low), _mm256_shuffle_epi8(second, low));
            let both = _mm256_unpacklo_epi64(first, second);
            std::mem::transmute(_mm256_permute4x64_epi64::<0b11_01_10_00>(both))
        }
    }

    #[inline(always)]
    fn exp2_of_shifted(self, shifted: F32x16) -> F32x16 {
        // SAFETY: `self` proves AVX2.
        unsafe {
            let one = _mm256_set1_epi32(1.0f32.to_bits() as i32);
            let raise = |v| {
                _mm256_castsi256_ps(_mm256_add_epi32(
                    _mm256_slli_epi32::<23>(_mm256_castps_si256(v)),
                    one,
                ))
            };
            F32x16(raise(shifted.0), raise(shifted.1))
        }
    }

    #[inline(always)]
    fn transpose<const N: usize>(self, rows: [&[u8; N]; LANES], out: &mut [[u8; N]; LANES]) {
        // SAFETY: `self` proves AVX2.
        unsafe { transpose(rows, out) }
    }

    #[inline(always)]
    fn prefetch<T>(self, data: &[T], index: usize) {
        let address = data.as_ptr().wrapping_add(index);
        // SAFETY: a prefetch may name any address; it reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
}

/// Thirty-two bytes, for outputs 0..8 and 8..16.
#[derive(Debug, Clone, Copy)]
pub(super) struct Int8x64(__m256i, __m256i);

/// Sixteen numbers of 16 bits, for outputs 0..8 and 8..16.
#[derive(Debug, Clone, Copy)]
pub(super) struct Int16x32(__m256i, __m256i);

/// Eight numbers of 32 bits, for outputs 0..8 and 8..16.
#[derive(Debug, Clone, Copy)]
pub(super) struct Int32x16(__m256i, __m256i);

#[inline(always)]
fn load(_proof: Avx2, bytes: &[u8; 64]) -> (__m256i, __m256i) {
    let p: *const __m256i = bytes.as_ptr().cast();
    // SAFETY: the token proves AVX2; there are 64 bytes.
    unsafe { (_mm256_loadu_si256(p), _mm256_loadu_si256(p.add(1))) }
}

#[inline(always)]
fn store(_proof: Avx2, a: __m256i, b: __m256i, out: &mut [u8; 64]) {
    let p: *mut __m256i = out.as_mut_ptr().cast();
    // SAFETY: the token proves AVX2; there are 64 bytes.
    unsafe {
        _mm256_storeu_si256(p, a);
        _mm256_storeu_si256(p.add(1), b);
    }
}

/// Makes a pair of registers by running the same intrinsics on both halves.
macro_rules! halves {
    ($of:ident, |$($arg:ident),+| $body:expr) => {{
        // SAFETY: methods of the token, which proves AVX2.
        unsafe {
            let half = |$($arg: __m256i),+| $body;
            $of(half($($arg.0),+), half($($arg.1),+))
        }
    }};
}

impl Integers for Avx2 {
    type Bytes = Int8x64;
    type Words = Int16x32;
    /// Two for each output: the sums of the even and of the odd pair of each step.
    type ByteSums = Int16x32;
    /// Each twice: for the even and the odd pair.
    type ByteScales = Int16x32;
    type WordSums = Int32x16;

    #[inline(always)]
    fn load_bytes(self, bytes: &[u8; 64]) -> Int8x64 {
        let (a, b) = load(self, bytes);
        Int8x64(a, b)
    }

    #[inline(always)]
    fn store_bytes(self, codes: Int8x64, out: &mut [u8; 64]) {
        store(self, codes.0, codes.1, out);
    }

    #[inline(always)]
    fn field<const SHIFT: i32, const MASK: u8>(self, codes: Int8x64) -> Int8x64 {
        // There is no shift of bytes: the mask drops what a shift of pairs brings over.
        halves!(Int8x64, |codes| _mm256_and_si256(
            _mm256_srli_epi16::<SHIFT>(codes),
            _mm256_set1_epi8(MASK as i8)
        ))
    }

    #[inline(always)]
    fn join_fields<const SHIFT: i32>(self, low: Int8x64, high: Int8x64) -> Int8x64 {
        halves!(Int8x64, |low, high| _mm256_or_si256(low, _mm256_slli_epi16::<SHIFT>(high)))
    }

    #[inline(always)]
    fn spread_bytes(self, bytes: &[u8; LANES]) -> Int8x64 {
        // SAFETY: `self` proves AVX2; there are sixteen bytes.
        unsafe {
            let bytes = _mm_loadu_si128(bytes.as_ptr().cast());
            let lowest = _mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12);
            let spread = |eight| {
                let lowest = _mm256_broadcastsi128_si256(lowest);
                _mm256_shuffle_epi8(_mm256_cvtepu8_epi32(eight), lowest)
            };
            Int8x64(spread(bytes), spread(_mm_srli_si128::<8>(bytes)))
        }
    }

    #[inline(always)]
    fn scale_bytes(self, codes: Int8x64, factors: Int8x64, addends: Int8x64) -> Int8x64 {
        // There is no product of bytes: a pair of them times one factor carries nothing over.
        halves!(Int8x64, |codes, factors, addends| {
            let factors = _mm256_and_si256(factors, _mm256_set1_epi16(0xff));
            _mm256_add_epi8(_mm256_mullo_epi16(codes, factors), addends)
        })
    }

    #[inline(always)]
    fn load_words(self, words: &[u8; 64]) -> Int16x32 {
        let (a, b) = load(self, words);
        Int16x32(a, b)
    }

    #[inline(always)]
    fn store_words(self, codes: Int16x32, out: &mut [u8; 64]) {
        store(self, codes.0, codes.1, out);
    }

    #[inline(always)]
    fn widen_signed(self, bytes: &[u8; 32]) -> Int16x32 {
        let p: *const __m128i = bytes.as_ptr().cast();
        // SAFETY: `self` proves AVX2; there are 32 bytes.
        unsafe {
            Int16x32(
                _mm256_cvtepi8_epi16(_mm_loadu_si128(p)),
                _mm256_cvtepi8_epi16(_mm_loadu_si128(p.add(1))),
            )
        }
    }

    #[inline(always)]
    fn even_bytes(self, codes: Int8x64) -> Int16x32 {
        halves!(Int16x32, |codes| _mm256_and_si256(codes, _mm256_set1_epi16(0xff)))
    }

    #[inline(always)]
    fn odd_bytes(self, codes: Int8x64) -> Int16x32 {
        halves!(Int16x32, |codes| _mm256_srli_epi16::<8>(codes))
    }

    #[inline(always)]
    fn start_bytes(self, even: i16, odd: i16) -> Int16x32 {
        let pair = i32::from(even) & 0xffff | i32::from(odd) << 16;
        // SAFETY: `self` proves AVX2.
        let v = unsafe { _mm256_set1_epi32(pair) };
        Int16x32(v, v)
    }

    #[inline(always)]
    fn dot_bytes(self, sums: Int16x32, codes: Int8x64, x: [u8; 4]) -> Int16x32 {
        // SAFETY: `self` proves AVX2.
        let x = unsafe { _mm256_set1_epi32(i32::from_le_bytes(x)) };
        // 8 steps of 2 * 15 * 127 are below 2^15, and a sum on the way may wrap.
        halves!(Int16x32, |sums, codes| _mm256_add_epi16(sums, _mm256_maddubs_epi16(codes, x)))
    }

    #[inline(always)]
    fn total_bytes(self, sums: Int16x32) -> F32x16 {
        halves!(F32x16, |sums| _mm256_cvtepi32_ps(_mm256_madd_epi16(sums, _mm256_set1_epi16(1))))
    }

    #[inline(always)]
    fn load_byte_scales(self, bytes: &[u8; LANES]) -> Int16x32 {
        // SAFETY: `self` proves AVX2; there are sixteen bytes.
        unsafe {
            let bytes = _mm256_broadcastsi128_si256(_mm_loadu_si128(bytes.as_ptr().cast()));
            // Each byte as two words; 0x80 gives their upper bytes, zero.
            let first = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let words = |outputs| {
                let twice = _mm256_or_si256(outputs, _mm256_slli_epi32::<16>(outputs));
                let zeros = _mm256_set1_epi16(i16::MIN);
                _mm256_shuffle_epi8(bytes, _mm256_or_si256(twice, zeros))
            };
            Int16x32(words(first), words(_mm256_add_epi32(first, _mm256_set1_epi32(8))))
        }
    }

    #[inline(always)]
    fn add_scaled_bytes(self, totals: F32x16, sums: Int16x32, scales: Int16x32) -> F32x16 {
        // The sums of both pairs are multiplied where they are added.
        let products =
            halves!(F32x16, |sums, scales| _mm256_cvtepi32_ps(_mm256_madd_epi16(sums, scales)));
        self.add(totals, products)
    }

    #[inline(always)]
    fn start_words(self, start: i32) -> Int32x16 {
        // SAFETY: `self` proves AVX2.
        let v = unsafe { _mm256_set1_epi32(start) };
        Int32x16(v, v)
    }

    #[inline(always)]
    fn dot_words(self, sums: Int32x16, codes: Int16x32, x: [u8; 4]) -> Int32x16 {
        // SAFETY: `self` proves AVX2.
        let x = unsafe { _mm256_set1_epi32(i32::from_le_bytes(x)) };
        halves!(Int32x16, |sums, codes| _mm256_add_epi32(sums, _mm256_madd_epi16(codes, x)))
    }

    #[inline(always)]
    fn total_words(self, sums: Int32x16) -> F32x16 {
        halves!(F32x16, |sums| _mm256_cvtepi32_ps(sums))
    }

    #[inline(always)]
    fn round_words(self, x: F32x16, out: &mut [[u8; 2]; LANES]) {
        // SAFETY: `self` proves AVX2; `out` has 32 bytes.
        unsafe {
            // Packed are the lower halves of both, then the upper ones.
            let words = _mm256_packs_epi32(_mm256_cvtps_epi32(x.0), _mm256_cvtps_epi32(x.1));
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            _mm256_storeu_si256(out.as_mut_ptr().cast(), words);
        }
    }
}
