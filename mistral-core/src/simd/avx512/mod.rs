//! AVX-512: a vector is one register. With VNNI, a step of integer products is one instruction; with
//! BF16, the products of a pair are.

use std::arch::is_x86_feature_detected as has;
use std::arch::x86_64::*;

use half::{bf16, f16};

use super::avx_transpose::transpose;
use super::level::Token;
use super::scalar::Scalar;
use super::{Kernel, LANES, Simd, dot_each_pair, join_each_pair};

mod integers;

/// The token of this level. Only the `enter` functions make one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx512<const VNNI: bool, const BF16: bool>(());

impl Token for Avx512<false, false> {
    const NAME: &'static str = "avx512";

    type Floats = Self;
    type Integers = Self;
    type Pairs = Scalar;

    fn is_present() -> bool {
        has!("avx512f")
            && has!("avx512bw")
            && has!("avx512dq")
            && has!("avx512vl")
            && has!("avx2")
            && has!("fma")
            && has!("f16c")
    }

    #[inline]
    unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: the caller has seen the features on this CPU.
        unsafe { enter(kernel) }
    }
}

impl Token for Avx512<true, false> {
    const NAME: &'static str = "avx512vnni";

    type Floats = Avx512<false, false>;
    type Integers = Self;
    type Pairs = Scalar;

    const OCTETS: bool = true;

    fn is_present() -> bool {
        Avx512::<false, false>::is_present() && has!("avx512vnni")
    }

    #[inline]
    unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: the caller has seen the features on this CPU.
        unsafe { enter_vnni(kernel) }
    }
}

impl Token for Avx512<false, true> {
    const NAME: &'static str = "avx512bf16";

    type Floats = Avx512<false, false>;
    type Integers = Avx512<true, false>;
    type Pairs = Self;

    const PAIRS: bool = true;

    const OCTETS: bool = true;

    fn is_present() -> bool {
        Avx512::<true, false>::is_present() && has!("avx512bf16")
    }

    #[inline]
    unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: the caller has seen the features on this CPU.
        unsafe { enter_bf16(kernel) }
    }
}

/// Runs a kernel with the level's instructions enabled.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn enter<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512::<false, false>(()))
}

/// As [`enter`], with VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn enter_vnni<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512::<true, false>(()))
}

/// As [`enter`], with BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
fn enter_bf16<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512::<false, true>(()))
}

macro_rules! lanewise {
    ($($name:ident => $intrinsic:ident),* $(,)?) => {$(
        #[inline(always)]
        fn $name(self, a: __m512, b: __m512) -> __m512 {
            // SAFETY: `self` proves AVX-512.
            unsafe { $intrinsic(a, b) }
        }
    )*};
}

impl<const VNNI: bool, const BF16: bool> Simd for Avx512<VNNI, BF16> {
    type F32x16 = __m512;

    const SUMS: usize = 24;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> __m512 {
        // SAFETY: `self` proves AVX-512; `x` has sixteen elements.
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }

    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> __m512 {
        // SAFETY: `self` proves AVX-512; `x` has sixteen elements of two bytes (`f16` is
        // `repr(transparent)` over `u16`): one register of 256 bits.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())) }
    }

    #[inline(always)]
    fn load_bf16(self, x: &[bf16; LANES]) -> __m512 {
        // SAFETY: `self` proves AVX-512; `x` has sixteen elements of two bytes (`bf16` is
        // `repr(transparent)` over `u16`): one register of 256 bits.
        unsafe {
            let halves = _mm256_loadu_si256(x.as_ptr().cast());
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
        }
    }

    #[inline(always)]
    fn store(self, v: __m512, out: &mut [f32; LANES]) {
        // SAFETY: `self` proves AVX-512; `out` has sixteen elements.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v) }
    }

    lanewise! {
        add => _mm512_add_ps,
        sub => _mm512_sub_ps,
        mul => _mm512_mul_ps,
        div => _mm512_div_ps,
        max => _mm512_max_ps,
        min => _mm512_min_ps,
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn zero_below(self, x: __m512, bound: __m512, y: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512. "Not less than" is true for NaN.
        unsafe { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, bound), y) }
    }

    #[inline(always)]
    fn exp2_of_shifted(self, shifted: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe {
            let one = _mm512_set1_epi32(1.0f32.to_bits() as i32);
            let n = _mm512_slli_epi32::<23>(_mm512_castps_si512(shifted));
            _mm512_castsi512_ps(_mm512_add_epi32(n, one))
        }
    }

    #[inline(always)]
    fn low_bytes(self, v: __m512) -> [u8; LANES] {
        // SAFETY: `self` proves AVX-512; both have 128 bits, and all of them hold values.
        unsafe { std::mem::transmute(_mm512_cvtepi32_epi8(_mm512_castps_si512(v))) }
    }

    #[inline(always)]
    fn low_words(self, v: __m512) -> [[u8; 2]; LANES] {
        // SAFETY: `self` proves AVX-512; both have 256 bits, and all of them hold values.
        unsafe { std::mem::transmute(_mm512_cvtepi32_epi16(_mm512_castps_si512(v))) }
    }

    #[inline(always)]
    fn load_pairs(self, pairs: &[[bf16; 2]; LANES]) -> __m512 {
        if !BF16 {
            return join_each_pair(self, pairs);
        }
        // SAFETY: `self` proves AVX-512; `pairs` has 64 bytes.
        unsafe {
            let halves = _mm512_loadu_si512(pairs.as_ptr().cast());
            // A lane's lower half is word 16 + i, its upper half word i.
            let words = _mm512_add_epi32(
                _mm512_set1_epi32(16),
                _mm512_mullo_epi32(
                    _mm512_set1_epi32(0x0001_0001),
                    _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                ),
            );
            _mm512_castsi512_ps(_mm512_permutexvar_epi16(words, halves))
        }
    }

    #[inline(always)]
    fn dot_pairs(self, x: __m512, w: __m512, sums: __m512) -> __m512 {
        if !BF16 {
            return dot_each_pair(self, x, w, sums);
        }
        // SAFETY: `self` proves AVX-512 with BF16; all registers of 512 bits hold the same bits.
        unsafe {
            let bits = |v: __m512| std::mem::transmute::<__m512, __m512bh>(v);
            _mm512_dpbf16_ps(sums, bits(w), bits(x))
        }
    }

    #[inline(always)]
    fn transpose<const N: usize>(self, rows: [&[u8; N]; LANES], out: &mut [[u8; N]; LANES]) {
        // SAFETY: `self` proves AVX-512, and with it AVX2.
        unsafe { transpose(rows, out) }
    }

    #[inline(always)]
    fn prefetch<T>(self, data: &[T], index: usize) {
        let address = data.as_ptr().wrapping_add(index);
        // SAFETY: a prefetch may name any address; it reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
}
