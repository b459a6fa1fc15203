//! The oracle: what each operation means, one lane after the other.

use half::{bf16, f16};

use super::level::Token;
use super::{Integers, Kernel, LANES, Simd};

/// The token of the scalar level: every CPU has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scalar;

impl Token for Scalar {
    const NAME: &'static str = "scalar";

    type Floats = Self;
    type Integers = Self;
    type Pairs = Self;

    const PAIRS: bool = true;

    const OCTETS: bool = true;

    fn is_present() -> bool {
        true
    }

    #[inline]
    unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
        kernel.run(Self)
    }
}

#[inline(always)]
fn zip(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Scalar {
    type F32x16 = [f32; LANES];

    const SUMS: usize = 1;

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; LANES] {
        [x; LANES]
    }

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> [f32; LANES] {
        *x
    }

    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> [f32; LANES] {
        x.map(f16::to_f32)
    }

    #[inline(always)]
    fn load_bf16(self, x: &[bf16; LANES]) -> [f32; LANES] {
        x.map(|e| f32::from_bits(u32::from(e.to_bits()) << 16))
    }

    #[inline(always)]
    fn store(self, v: [f32; LANES], out: &mut [f32; LANES]) {
        *out = v;
    }

    #[inline(always)]
    fn add(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        zip(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn mul_add(self, a: [f32; LANES], b: [f32; LANES], c: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    #[inline(always)]
    fn max(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        zip(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn zero_below(self, x: [f32; LANES], bound: [f32; LANES], y: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| if x[i] < bound[i] { 0.0 } else { y[i] })
    }

    #[inline(always)]
    fn exp2_of_shifted(self, shifted: [f32; LANES]) -> [f32; LANES] {
        // The low bits of the fraction hold n in two's complement: moved up, they are an exponent.
        shifted.map(|s| f32::from_bits((s.to_bits() << 23).wrapping_add(1.0f32.to_bits())))
    }
}

impl Integers for Scalar {
    type Bytes = [u8; 64];
    type Words = [i16; 32];
    type ByteSums = [i32; LANES];
    type ByteScales = [i32; LANES];
    type WordSums = [i32; LANES];

    #[inline(always)]
    fn load_bytes(self, bytes: &[u8; 64]) -> [u8; 64] {
        *bytes
    }

    #[inline(always)]
    fn store_bytes(self, codes: [u8; 64], out: &mut [u8; 64]) {
        *out = codes;
    }

    #[inline(always)]
    fn field<const SHIFT: i32, const MASK: u8>(self, codes: [u8; 64]) -> [u8; 64] {
        codes.map(|byte| (byte >> SHIFT) & MASK)
    }

    #[inline(always)]
    fn join_fields<const SHIFT: i32>(self, low: [u8; 64], high: [u8; 64]) -> [u8; 64] {
        std::array::from_fn(|i| low[i] | (high[i] << SHIFT))
    }

    #[inline(always)]
    fn spread_bytes(self, bytes: &[u8; LANES]) -> [u8; 64] {
        std::array::from_fn(|i| bytes[i / 4])
    }

    #[inline(always)]
    fn scale_bytes(self, codes: [u8; 64], factors: [u8; 64], addends: [u8; 64]) -> [u8; 64] {
        std::array::from_fn(|i| codes[i].wrapping_mul(factors[i]).wrapping_add(addends[i]))
    }

    #[inline(always)]
    fn load_words(self, words: &[u8; 64]) -> [i16; 32] {
        std::array::from_fn(|i| i16::from_le_bytes([words[2 * i], words[2 * i + 1]]))
    }

    #[inline(always)]
    fn store_words(self, codes: [i16; 32], out: &mut [u8; 64]) {
        for (bytes, code) in out.as_chunks_mut().0.iter_mut().zip(codes) {
            *bytes = code.to_le_bytes();
        }
    }

    #[inline(always)]
    fn widen_signed(self, bytes: &[u8; 32]) -> [i16; 32] {
        bytes.map(|byte| i16::from(byte as i8))
    }

    #[inline(always)]
    fn even_bytes(self, codes: [u8; 64]) -> [i16; 32] {
        std::array::from_fn(|i| i16::from(codes[2 * i]))
    }

    #[inline(always)]
    fn odd_bytes(self, codes: [u8; 64]) -> [i16; 32] {
        std::array::from_fn(|i| i16::from(codes[2 * i + 1]))
    }

    #[inline(always)]
    fn start_bytes(self, even: i16, odd: i16) -> [i32; LANES] {
        [i32::from(even) + i32::from(odd); LANES]
    }

    #[inline(always)]
    fn dot_bytes(self, mut sums: [i32; LANES], codes: [u8; 64], x: [u8; 4]) -> [i32; LANES] {
        for (sum, codes) in sums.iter_mut().zip(codes.as_chunks::<4>().0) {
            for (code, x) in codes.iter().zip(x) {
                *sum += i32::from(*code) * i32::from(x as i8);
            }
        }
        sums
    }

    #[inline(always)]
    fn total_bytes(self, sums: [i32; LANES]) -> [f32; LANES] {
        sums.map(|sum| sum as f32)
    }

    #[inline(always)]
    fn load_byte_scales(self, bytes: &[u8; LANES]) -> [i32; LANES] {
        bytes.map(i32::from)
    }

    #[inline(always)]
    fn add_scaled_bytes(
        self,
        totals: [f32; LANES],
        sums: [i32; LANES],
        scales: [i32; LANES],
    ) -> [f32; LANES] {
        std::array::from_fn(|o| totals[o] + (sums[o] * scales[o]) as f32)
    }

    #[inline(always)]
    fn start_words(self, start: i32) -> [i32; LANES] {
        [start; LANES]
    }

    #[inline(always)]
    fn dot_words(self, mut sums: [i32; LANES], codes: [i16; 32], x: [u8; 4]) -> [i32; LANES] {
        let [a, b, c, d] = x;
        let x = [i16::from_le_bytes([a, b]), i16::from_le_bytes([c, d])];
        for (sum, codes) in sums.iter_mut().zip(codes.as_chunks::<2>().0) {
            for (code, x) in codes.iter().zip(x) {
                *sum = sum.wrapping_add(i32::from(*code) * i32::from(x));
            }
        }
        sums
    }

    #[inline(always)]
    fn total_words(self, sums: [i32; LANES]) -> [f32; LANES] {
        sums.map(|sum| sum as f32)
    }
}
