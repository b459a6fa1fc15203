//! AVX2 with FMA and F16C: a vector is two registers of eight lanes.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Kernel, LANES, Lanes, Simd};

/// The token of this level. Only [`enter`] makes one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx2(());

/// Lanes 0..8 and 8..16.
#[derive(Debug, Clone, Copy)]
pub(super) struct F32x16(__m256, __m256);

/// Runs a kernel with the level's instructions enabled.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn enter<K: Kernel>(kernel: K) -> K::Output {
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
    fn transpose(self, square: &mut [Lanes<f32>; LANES]) {
        // Four squares of eight; the two off the diagonal change places.
        let mut quarters = [[[zero(self); 8]; 2]; 2];
        for (r, row) in square.iter().enumerate() {
            let F32x16(left, right) = self.load(&row.0);
            quarters[r / 8][0][r % 8] = left;
            quarters[r / 8][1][r % 8] = right;
        }
        let [[a, b], [c, d]] = quarters;
        let (a, b, c, d) =
            (transpose8(self, a), transpose8(self, b), transpose8(self, c), transpose8(self, d));
        for r in 0..8 {
            self.store(F32x16(a[r], c[r]), &mut square[r].0);
            self.store(F32x16(b[r], d[r]), &mut square[8 + r].0);
        }
    }

    #[inline(always)]
    fn prefetch<T>(self, data: &[T], index: usize) {
        let address = data.as_ptr().wrapping_add(index);
        // SAFETY: a prefetch may name any address; it reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
}

#[inline(always)]
fn zero(_proof: Avx2) -> __m256 {
    // SAFETY: the token proves AVX2.
    unsafe { _mm256_setzero_ps() }
}

/// Transposes eight registers of eight lanes.
#[inline(always)]
fn transpose8(_proof: Avx2, r: [__m256; 8]) -> [__m256; 8] {
    // SAFETY: the token proves AVX2.
    unsafe {
        // Pairs of rows interleaved: t[0] = r0[0] r1[0] r0[1] r1[1] | r0[4] r1[4] r0[5] r1[5].
        let mut t = r;
        for i in 0..4 {
            t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
            t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
        }
        // Fours of rows: u[0] = column 0 of rows 0..4 | column 4 of rows 0..4.
        let mut u = t;
        for half in 0..2 {
            let b = 4 * half;
            u[b] = _mm256_shuffle_ps::<0b01_00_01_00>(t[b], t[b + 2]);
            u[b + 1] = _mm256_shuffle_ps::<0b11_10_11_10>(t[b], t[b + 2]);
            u[b + 2] = _mm256_shuffle_ps::<0b01_00_01_00>(t[b + 1], t[b + 3]);
            u[b + 3] = _mm256_shuffle_ps::<0b11_10_11_10>(t[b + 1], t[b + 3]);
        }
        let mut out = u;
        for i in 0..4 {
            out[i] = _mm256_permute2f128_ps::<0x20>(u[i], u[i + 4]);
            out[i + 4] = _mm256_permute2f128_ps::<0x31>(u[i], u[i + 4]);
        }
        out
    }
}
