//! NEON: a vector is four registers of four lanes.

use std::arch::aarch64::*;
use std::arch::asm;

use half::{bf16, f16};

use super::level::Token;
use super::scalar::Scalar;
use super::{Kernel, LANES, Simd};

mod integers;

/// The token of this level. Only [`enter`] makes one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Neon(());

/// Lanes 0..4, 4..8, 8..12 and 12..16.
#[derive(Debug, Clone, Copy)]
pub(super) struct F32x16(float32x4_t, float32x4_t, float32x4_t, float32x4_t);

impl Token for Neon {
    const NAME: &'static str = "neon";

    type Floats = Self;
    type Integers = Self;
    type Pairs = Scalar;

    fn is_present() -> bool {
        std::arch::is_aarch64_feature_detected!("neon")
    }

    #[inline]
    unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: the caller has seen the feature on this CPU.
        unsafe { enter(kernel) }
    }
}

/// Runs a kernel with the level's instructions enabled.
#[target_feature(enable = "neon")]
fn enter<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Neon(()))
}

/// Makes sixteen lanes by running the same intrinsics on all quarters.
macro_rules! quarters {
    (|$($arg:ident),+| $body:expr) => {{
        // SAFETY: methods of the token, which proves NEON.
        unsafe {
            let quarter = |$($arg: float32x4_t),+| $body;
            F32x16(
                quarter($($arg.0),+),
                quarter($($arg.1),+),
                quarter($($arg.2),+),
                quarter($($arg.3),+),
            )
        }
    }};
}

macro_rules! lanewise {
    ($($name:ident => $intrinsic:ident),* $(,)?) => {$(
        #[inline(always)]
        fn $name(self, a: F32x16, b: F32x16) -> F32x16 {
            quarters!(|a, b| $intrinsic(a, b))
        }
    )*};
}

impl Simd for Neon {
    type F32x16 = F32x16;

    #[inline(always)]
    fn splat(self, x: f32) -> F32x16 {
        // SAFETY: `self` proves NEON.
        let v = unsafe { vdupq_n_f32(x) };
        F32x16(v, v, v, v)
    }

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> F32x16 {
        let p = x.as_ptr();
        // SAFETY: `self` proves NEON; `x` has sixteen elements.
        unsafe {
            F32x16(vld1q_f32(p), vld1q_f32(p.add(4)), vld1q_f32(p.add(8)), vld1q_f32(p.add(12)))
        }
    }

    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> F32x16 {
        let p: *const u16 = x.as_ptr().cast();
        // SAFETY: `self` proves NEON; `x` has sixteen elements of two bytes (`f16` is
        // `repr(transparent)` over `u16`).
        unsafe {
            F32x16(
                widen_f16(self, vld1_u16(p)),
                widen_f16(self, vld1_u16(p.add(4))),
                widen_f16(self, vld1_u16(p.add(8))),
                widen_f16(self, vld1_u16(p.add(12))),
            )
        }
    }

    #[inline(always)]
    fn load_bf16(self, x: &[bf16; LANES]) -> F32x16 {
        let p: *const u16 = x.as_ptr().cast();
        // SAFETY: `self` proves NEON; `x` has sixteen elements of two bytes (`bf16` is
        // `repr(transparent)` over `u16`).
        unsafe {
            let widen = |p| vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(p)));
            F32x16(widen(p), widen(p.add(4)), widen(p.add(8)), widen(p.add(12)))
        }
    }

    #[inline(always)]
    fn store(self, v: F32x16, out: &mut [f32; LANES]) {
        let p = out.as_mut_ptr();
        // SAFETY: `self` proves NEON; `out` has sixteen elements.
        unsafe {
            vst1q_f32(p, v.0);
            vst1q_f32(p.add(4), v.1);
            vst1q_f32(p.add(8), v.2);
            vst1q_f32(p.add(12), v.3);
        }
    }

    lanewise! {
        add => vaddq_f32,
        sub => vsubq_f32,
        mul => vmulq_f32,
        div => vdivq_f32,
    }

    #[inline(always)]
    fn mul_add(self, a: F32x16, b: F32x16, c: F32x16) -> F32x16 {
        quarters!(|a, b, c| vfmaq_f32(c, a, b))
    }

    // `fmax` and `fmin` return NaN where either side is NaN: these must return `b`.

    #[inline(always)]
    fn max(self, a: F32x16, b: F32x16) -> F32x16 {
        quarters!(|a, b| vbslq_f32(vcgtq_f32(a, b), a, b))
    }

    #[inline(always)]
    fn min(self, a: F32x16, b: F32x16) -> F32x16 {
        quarters!(|a, b| vbslq_f32(vcltq_f32(a, b), a, b))
    }

    #[inline(always)]
    fn zero_below(self, x: F32x16, bound: F32x16, y: F32x16) -> F32x16 {
        quarters!(|x, bound, y| vreinterpretq_f32_u32(vbicq_u32(
            vreinterpretq_u32_f32(y),
            vcltq_f32(x, bound)
        )))
    }

    #[inline(always)]
    fn exp2_of_shifted(self, shifted: F32x16) -> F32x16 {
        quarters!(|shifted| vreinterpretq_f32_u32(vaddq_u32(
            vshlq_n_u32::<23>(vreinterpretq_u32_f32(shifted)),
            vdupq_n_u32(1.0f32.to_bits())
        )))
    }

    #[inline(always)]
    fn prefetch<T>(self, data: &[T], index: usize) {
        let address = data.as_ptr().wrapping_add(index);
        // SAFETY: a prefetch may name any address; it changes nothing that a program can see.
        unsafe {
            asm!("prfm pldl1keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
        }
    }
}

/// Widens four numbers. The intrinsic is not stable, the instruction is in every AArch64 CPU.
#[inline(always)]
fn widen_f16(_proof: Neon, x: uint16x4_t) -> float32x4_t {
    let wide: float32x4_t;
    // SAFETY: the token proves NEON; only registers are touched.
    unsafe {
        asm!(
            "fcvtl {:v}.4s, {:v}.4h", out(vreg) wide, in(vreg) x,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    wide
}
