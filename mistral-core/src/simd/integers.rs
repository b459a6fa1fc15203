//! Integer products for block-quantised weights: the second half of a level's vocabulary.

use super::{LANES, Simd};

/// Integer operations of one SIMD level on sixteen outputs at a time.
///
/// Weights come as *codes*: small integers, of which one step holds those of sixteen outputs for
/// a few inputs. [`Bytes`](Self::Bytes) has four inputs a step and [`Words`](Self::Words) two:
///
/// ```text
/// Bytes   o0: k0 k1 k2 k3 | o1: k0 k1 k2 k3 | ..  64 unsigned bytes
/// Words   o0: k0 k1       | o1: k0 k1       | ..  32 signed numbers of 16 bits
/// ```
///
/// A step multiplies them with the same inputs of one row and adds into sixteen sums. Integer sums
/// are exact, so a level is free to add in any order: the result is the same everywhere.
pub trait Integers: Simd {
    /// 64 unsigned bytes: four for each of sixteen outputs.
    type Bytes: Copy;
    /// 32 signed numbers of 16 bits: two for each of sixteen outputs.
    type Words: Copy;
    /// Sixteen sums over [`Bytes`](Self::Bytes), exact for 32 inputs.
    type ByteSums: Copy;
    /// Sixteen factors of [`ByteSums`](Self::ByteSums).
    type ByteScales: Copy;
    /// Sixteen sums over [`Words`](Self::Words) of 32 bits.
    type WordSums: Copy;

    /// Loads 64 bytes.
    fn load_bytes(self, bytes: &[u8; 64]) -> Self::Bytes;

    /// Stores 64 bytes.
    fn store_bytes(self, codes: Self::Bytes, out: &mut [u8; 64]);

    /// `(byte >> SHIFT) & MASK` of each byte.
    fn field<const SHIFT: i32, const MASK: u8>(self, codes: Self::Bytes) -> Self::Bytes;

    /// `low | high << SHIFT` of each byte, of which no bit may be lost.
    fn join_fields<const SHIFT: i32>(self, low: Self::Bytes, high: Self::Bytes) -> Self::Bytes;

    /// Each of sixteen bytes four times, one after the other.
    fn spread_bytes(self, bytes: &[u8; LANES]) -> Self::Bytes;

    /// `codes * factors + addends` of each byte, modulo 256; products must be below 256.
    fn scale_bytes(
        self,
        codes: Self::Bytes,
        factors: Self::Bytes,
        addends: Self::Bytes,
    ) -> Self::Bytes;

    /// Loads 32 little-endian numbers of 16 bits.
    fn load_words(self, words: &[u8; 64]) -> Self::Words;

    /// Stores 32 little-endian numbers of 16 bits.
    fn store_words(self, codes: Self::Words, out: &mut [u8; 64]);

    /// Loads and widens 32 signed bytes.
    fn widen_signed(self, bytes: &[u8; 32]) -> Self::Words;

    /// Bytes 0 and 2 of each four.
    fn even_bytes(self, codes: Self::Bytes) -> Self::Words;

    /// Bytes 1 and 3 of each four.
    fn odd_bytes(self, codes: Self::Bytes) -> Self::Words;

    /// Sums that start with `even + odd`. A level may keep the products of the inputs k0, k1 of all
    /// steps apart from those of k2, k3: then these start with `even` and with `odd`.
    fn start_bytes(self, even: i16, odd: i16) -> Self::ByteSums;

    /// `sums[o] + Σ codes[o][k] * x[k]` for four signed bytes `x`.
    ///
    /// Exact while codes are at most 15, inputs at least -127, and 32 inputs are added at most.
    fn dot_bytes(self, sums: Self::ByteSums, codes: Self::Bytes, x: [u8; 4]) -> Self::ByteSums;

    /// The sums as `f32`, exactly.
    fn total_bytes(self, sums: Self::ByteSums) -> Self::F32x16;

    /// Loads sixteen factors, of which none is above 127.
    fn load_byte_scales(self, bytes: &[u8; LANES]) -> Self::ByteScales;

    /// `totals[o] + sums[o] * scales[o]`, rounded once; products must be below `2^24`.
    fn add_scaled_bytes(
        self,
        totals: Self::F32x16,
        sums: Self::ByteSums,
        scales: Self::ByteScales,
    ) -> Self::F32x16;

    /// Sums that start with `start`.
    fn start_words(self, start: i32) -> Self::WordSums;

    /// `sums[o] + Σ codes[o][k] * x[k]` for two signed little-endian numbers of 16 bits `x`, modulo
    /// `2^32`. Codes and inputs must not all be -32768.
    fn dot_words(self, sums: Self::WordSums, codes: Self::Words, x: [u8; 4]) -> Self::WordSums;

    /// `sums[o] + Σ codes[o][k] * x[k]` for four signed bytes `x`, modulo `2^32`.
    #[inline(always)]
    fn dot_octets(self, sums: Self::WordSums, codes: Self::Bytes, x: [u8; 4]) -> Self::WordSums {
        dot_octets_as_words(self, sums, codes, x)
    }

    /// The sums as `f32`, rounded to nearest even.
    fn total_words(self, sums: Self::WordSums) -> Self::F32x16;

    /// Rounds to nearest even, into little-endian numbers of 16 bits. What is not between -32768 and
    /// 32767 gives any number.
    #[inline(always)]
    fn round_words(self, x: Self::F32x16, out: &mut [[u8; 2]; LANES]) {
        let mut lanes = [0.0; LANES];
        self.store(x, &mut lanes);
        for (word, x) in out.iter_mut().zip(lanes) {
            *word = (x.round_ties_even() as i16).to_le_bytes();
        }
    }
}

/// [`Integers::dot_octets`], two products at a time.
#[inline(always)]
pub(super) fn dot_octets_as_words<S: Integers>(
    simd: S,
    sums: S::WordSums,
    codes: S::Bytes,
    x: [u8; 4],
) -> S::WordSums {
    let word = |k: usize| i16::from(x[k] as i8).to_le_bytes();
    let words = |[a, b]: [u8; 2], [c, d]: [u8; 2]| [a, b, c, d];
    let sums = simd.dot_words(sums, simd.even_bytes(codes), words(word(0), word(2)));
    simd.dot_words(sums, simd.odd_bytes(codes), words(word(1), word(3)))
}
