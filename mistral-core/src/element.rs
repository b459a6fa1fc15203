//! The number formats that weights, keys and values are stored in.
//!
//! Arithmetic is always f32: an element is widened when a kernel loads it (exactly) and rounded
//! once, to nearest even, when something is stored.

use half::{bf16, f16};

use crate::simd::{Lanes, Simd};

/// A storage format, as a value: what a checkpoint's header or a command line names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// IEEE 754 single precision, 4 bytes.
    F32,
    /// IEEE 754 half precision, 2 bytes: 11 significant bits, largest value 65504.
    F16,
    /// The upper half of an `f32`, 2 bytes: 8 significant bits, the range of `f32`.
    BF16,
}

impl DType {
    /// Size of one element in bytes.
    pub const fn bytes(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
        }
    }

    /// The lower-case name: `f32`, `f16`, `bf16`.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that is no storage format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown element type {found:?}, expected f32, f16 or bf16")]
pub struct UnknownDType {
    /// The word as it was given.
    pub found: String,
}

impl std::str::FromStr for DType {
    type Err = UnknownDType;

    fn from_str(s: &str) -> Result<Self, UnknownDType> {
        [DType::F32, DType::F16, DType::BF16]
            .into_iter()
            .find(|dtype| dtype.name() == s)
            .ok_or_else(|| UnknownDType { found: s.to_owned() })
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
    impl Sealed for [half::bf16; 1] {}
    impl Sealed for [half::bf16; 2] {}
}

/// What stands in a lane of a panel, and how a [`tile`](crate::tile) multiplies it: every
/// [`Element`], and what [`WeightFormat::BF16xBF16`](crate::WeightFormat::BF16xBF16) is made of. Sealed.
pub trait Factor: sealed::Sealed + Copy + Default + Send + Sync + 'static {
    /// Inputs that a lane meets in one step.
    const INPUTS: usize = 1;

    /// Sixteen lanes as [`Factor::mul_add`] takes them.
    fn load<S: Simd>(simd: S, lanes: &Lanes<Self>) -> S::F32x16;

    /// `x * w + sums`, rounded once for each input.
    #[inline(always)]
    fn mul_add<S: Simd>(simd: S, x: S::F32x16, w: S::F32x16, sums: S::F32x16) -> S::F32x16 {
        simd.mul_add(x, w, sums)
    }
}

/// A storage format, as a type: `f32`, [`struct@f16`] or [`struct@bf16`]. Sealed.
///
/// ```
/// use mistral_core::{DType, Element};
/// use mistral_core::half::bf16;
///
/// assert_eq!(bf16::DTYPE, DType::BF16);
/// assert_eq!(bf16::from_f32(1.0 + 1.0 / 512.0).to_f32(), 1.0); // rounded to 8 significant bits
/// ```
pub trait Element: Factor + PartialEq + std::fmt::Debug {
    /// The same format as a value.
    const DTYPE: DType;

    /// The element as an `f32`, exactly.
    fn to_f32(self) -> f32;

    /// The nearest element, ties to even.
    fn from_f32(value: f32) -> Self;

    /// The element stored in the first `DTYPE.bytes()` bytes, little endian; zero if there are fewer.
    fn from_le_bytes(bytes: &[u8]) -> Self;

    /// Writes the element over the first `DTYPE.bytes()` bytes, little endian; as many as there are.
    fn write_le_bytes(self, out: &mut [u8]);

    /// Rounds a slice to this format.
    ///
    /// Stops at the shorter of the two slices.
    fn round_slice(source: &[f32], target: &mut [Self]) {
        for (t, &s) in target.iter_mut().zip(source) {
            *t = Self::from_f32(s);
        }
    }
}

impl Factor for f32 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, lanes: &Lanes<Self>) -> S::F32x16 {
        simd.load(&lanes.0)
    }
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }

    #[inline(always)]
    fn from_le_bytes(bytes: &[u8]) -> Self {
        bytes.first_chunk().map_or(0.0, |b| f32::from_le_bytes(*b))
    }

    #[inline(always)]
    fn write_le_bytes(self, out: &mut [u8]) {
        out.iter_mut().zip(self.to_le_bytes()).for_each(|(t, s)| *t = s);
    }
}

impl Factor for f16 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, lanes: &Lanes<Self>) -> S::F32x16 {
        simd.load_f16(&lanes.0)
    }
}

impl Element for f16 {
    const DTYPE: DType = DType::F16;

    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        f16::from_f32(value)
    }

    #[inline(always)]
    fn from_le_bytes(bytes: &[u8]) -> Self {
        bytes.first_chunk().map_or(f16::ZERO, |b| f16::from_le_bytes(*b))
    }

    #[inline(always)]
    fn write_le_bytes(self, out: &mut [u8]) {
        out.iter_mut().zip(self.to_le_bytes()).for_each(|(t, s)| *t = s);
    }
}

impl Factor for bf16 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, lanes: &Lanes<Self>) -> S::F32x16 {
        simd.load_bf16(&lanes.0)
    }
}

impl Element for bf16 {
    const DTYPE: DType = DType::BF16;

    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        bf16::from_f32(value)
    }

    #[inline(always)]
    fn from_le_bytes(bytes: &[u8]) -> Self {
        bytes.first_chunk().map_or(bf16::ZERO, |b| bf16::from_le_bytes(*b))
    }

    #[inline(always)]
    fn write_le_bytes(self, out: &mut [u8]) {
        out.iter_mut().zip(self.to_le_bytes()).for_each(|(t, s)| *t = s);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_goes_to_nearest_even() {
        // bf16 keeps 7 fraction bits: 1 + 2^-8 lies half way between 1 and 1 + 2^-7.
        assert_eq!(bf16::from_f32(1.0 + 2f32.powi(-8)).to_f32(), 1.0);
        assert_eq!(bf16::from_f32(1.0 + 3.0 * 2f32.powi(-8)).to_f32(), 1.0 + 2f32.powi(-6));
        // f16 keeps 10.
        assert_eq!(f16::from_f32(1.0 + 2f32.powi(-11)).to_f32(), 1.0);
    }

    #[test]
    fn names_round_trip_and_strangers_are_named() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            assert_eq!(dtype.name().parse(), Ok(dtype));
        }
        let error = "float32".parse::<DType>().unwrap_err();
        assert!(error.to_string().contains("float32"));
    }

    #[test]
    fn bytes_are_little_endian() {
        assert_eq!(<f32 as Element>::from_le_bytes(&1.5f32.to_le_bytes()), 1.5);
        assert_eq!(<bf16 as Element>::from_le_bytes(&[0xc0, 0x3f]).to_f32(), 1.5);
        assert_eq!(<f16 as Element>::from_le_bytes(&[0x00, 0x3e]).to_f32(), 1.5);
    }
}
