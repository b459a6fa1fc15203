//! The formats in which weights are stored.

use std::fmt;
use std::str::FromStr;

use crate::element::{DType, Element};
use crate::quant::kernel::Tile;
use crate::quant::width::Octets;
use crate::quant::{
    Block, OctetBlock, Q4_0Tile, Q4KTile, Q5_0Tile, Q5KTile, Q6KTile, Q8_0Tile, W4A8, W8A8,
};

/// How the weights of a matrix are stored: as floats, or in blocks of integers with scales.
///
/// | format | bits a weight | a block of a row |
/// |---|---|---|
/// | `f32`, `f16`, `bf16` | 32, 16, 16 | one weight |
/// | `bf16xbf16` | 16 | two weights |
/// | `q8_0` | 8.5 | 32 weights of 8 bits, a scale |
/// | `w8a8` | 8.125 | 256 weights of 8 bits, a scale |
/// | `q6_k` | 6.5625 | 256 weights of 6 bits, 16 scales of 8 bits, a scale of those |
/// | `q5_k` | 5.5 | 256 weights of 5 bits, 8 scales and minima of 6 bits, scales of those |
/// | `q5_0` | 5.5 | 32 weights of 5 bits, a scale |
/// | `q4_k` | 4.5 | 256 weights of 4 bits, 8 scales and minima of 6 bits, scales of those |
/// | `q4_0` | 4.5 | 32 weights of 4 bits, a scale |
/// | `w4a8` | 4.4375 | 256 weights of 4 bits, 8 steps of 4 bits and bases of 8, a scale |
///
/// `bf16xbf16` are the weights of `bf16`, but inputs are rounded to bf16 as well (relative error up to
/// 0.4 %), as most engines do beside such weights. Where the CPU multiplies pairs of them (AVX-512
/// with BF16) many rows are computed nearly twice as fast; elsewhere they take as long as with
/// `bf16`, and the bits are the same.
///
/// `w8a8` rounds inputs to 8 bits with a scale for each 256 (relative error about 0.7 %), where
/// `q8_0` rounds them to 16 bits with one for each 32. With VNNI many rows are computed twice as fast
/// as with `q8_0`; elsewhere they take as long.
///
/// `w4a8` has nearly the error and the size of `q4_k`, but becomes 8-bit integers that `w8a8`'s kernel
/// multiplies: with VNNI many rows are computed about 1.15 times as fast as with `q4_k`. Elsewhere
/// they take longer (1.6 times with AVX2); `q4_k` is the better choice there.
///
/// ```
/// use mistral_core::WeightFormat;
///
/// let format: WeightFormat = "q4_k".parse()?;
/// assert_eq!(format, WeightFormat::Q4K);
/// assert_eq!(format.row_bytes(4096), Some(4096 / 256 * 144));
/// assert_eq!(format.row_bytes(100), None, "no whole number of blocks");
/// # Ok::<(), mistral_core::UnknownFormat>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum WeightFormat {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of single precision.
    BF16,
    /// The upper half of single precision, which meets inputs rounded to the same.
    BF16xBF16,
    /// 8 bits in blocks of 32.
    Q8_0,
    /// 8 bits in blocks of 256, which meet inputs rounded to the same.
    W8A8,
    /// 4 bits in blocks of 256, which meet inputs of 8 bits as 8 bits.
    W4A8,
    /// 4 bits in blocks of 32.
    Q4_0,
    /// 5 bits in blocks of 32.
    Q5_0,
    /// 4 bits in blocks of 256, with minima.
    Q4K,
    /// 5 bits in blocks of 256, with minima.
    Q5K,
    /// 6 bits in blocks of 256.
    Q6K,
}

/// A name that no format has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no weight format is called {found:?}, expected {}", expected())]
pub struct UnknownFormat {
    /// The name.
    pub found: String,
}

fn expected() -> String {
    WeightFormat::ALL.map(WeightFormat::name).join(", ")
}

/// Something done with a format, generic over its types.
pub(crate) trait FormatVisitor {
    type Output;

    /// The weights are floats `E`.
    fn dense<E: Element>(self) -> Self::Output;

    /// The weights are bf16 in pairs.
    fn pairs(self) -> Self::Output;

    /// The weights are blocks, laid out in tiles `T`.
    fn quantised<T: Tile>(self) -> Self::Output;

    /// The weights are blocks whose codes have 8 bits when they meet inputs of 8 bits.
    fn octets<B: OctetBlock>(self) -> Self::Output
    where
        Self: Sized,
    {
        self.quantised::<B::Tile<Octets>>()
    }
}

impl WeightFormat {
    /// Every format.
    pub const ALL: [Self; 12] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::BF16xBF16,
        Self::Q8_0,
        Self::W8A8,
        Self::Q6K,
        Self::Q5K,
        Self::Q5_0,
        Self::Q4K,
        Self::Q4_0,
        Self::W4A8,
    ];

    /// The name in lower case: `bf16`, `q4_k`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::BF16xBF16 => "bf16xbf16",
            Self::Q8_0 => "q8_0",
            Self::W8A8 => "w8a8",
            Self::W4A8 => "w4a8",
            Self::Q4_0 => "q4_0",
            Self::Q5_0 => "q5_0",
            Self::Q4K => "q4_k",
            Self::Q5K => "q5_k",
            Self::Q6K => "q6_k",
        }
    }

    /// Weights of a row that are stored together: rows have a multiple of it.
    pub fn block(self) -> usize {
        self.visit(BlockOf).0
    }

    /// Bytes of a row of `cols` weights; `None` if they are no whole blocks, or beyond `usize`.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        let (weights, bytes) = self.visit(BlockOf);
        cols.is_multiple_of(weights).then_some(cols / weights)?.checked_mul(bytes)
    }

    /// Rounds weights of a row to the bytes that files hold, as far as both reach in whole blocks.
    pub fn encode(self, weights: &[f32], out: &mut [u8]) {
        self.visit(EncodeRow { weights, out });
    }

    /// Widens the bytes of a row, as far as both reach in whole blocks.
    ///
    /// ```
    /// use mistral_core::WeightFormat;
    ///
    /// let mut bytes = [0; 34];
    /// WeightFormat::Q8_0.encode(&[0.5; 32], &mut bytes);
    /// let mut weights = [0.0; 32];
    /// WeightFormat::Q8_0.decode(&bytes, &mut weights);
    /// assert!(weights.iter().all(|w| (w - 0.5).abs() < 0.5 / 1024.0));
    /// ```
    pub fn decode(self, bytes: &[u8], out: &mut [f32]) {
        self.visit(DecodeRow { bytes, out });
    }

    /// Hands the format's types to `visitor`.
    pub(crate) fn visit<V: FormatVisitor>(self, visitor: V) -> V::Output {
        match self {
            Self::F32 => visitor.dense::<f32>(),
            Self::F16 => visitor.dense::<half::f16>(),
            Self::BF16 => visitor.dense::<half::bf16>(),
            Self::BF16xBF16 => visitor.pairs(),
            Self::Q8_0 => visitor.quantised::<Q8_0Tile>(),
            Self::W8A8 => visitor.octets::<W8A8>(),
            Self::W4A8 => visitor.octets::<W4A8>(),
            Self::Q4_0 => visitor.quantised::<Q4_0Tile>(),
            Self::Q5_0 => visitor.quantised::<Q5_0Tile>(),
            Self::Q4K => visitor.quantised::<Q4KTile>(),
            Self::Q5K => visitor.quantised::<Q5KTile>(),
            Self::Q6K => visitor.quantised::<Q6KTile>(),
        }
    }
}

/// `(weights, bytes)` of a block.
struct BlockOf;

impl FormatVisitor for BlockOf {
    type Output = (usize, usize);

    fn dense<E: Element>(self) -> (usize, usize) {
        (1, E::DTYPE.bytes())
    }

    fn pairs(self) -> (usize, usize) {
        (2, 2 * DType::BF16.bytes())
    }

    fn quantised<T: Tile>(self) -> (usize, usize) {
        (T::Block::WEIGHTS, T::Block::BYTES)
    }
}

struct EncodeRow<'a> {
    weights: &'a [f32],
    out: &'a mut [u8],
}

impl FormatVisitor for EncodeRow<'_> {
    type Output = ();

    fn dense<E: Element>(self) {
        for (bytes, weight) in self.out.chunks_exact_mut(E::DTYPE.bytes()).zip(self.weights) {
            E::from_f32(*weight).write_le_bytes(bytes);
        }
    }

    fn pairs(self) {
        self.dense::<half::bf16>();
    }

    fn quantised<T: Tile>(self) {
        let blocks = self.weights.chunks_exact(T::Block::WEIGHTS);
        for (bytes, weights) in self.out.chunks_exact_mut(T::Block::BYTES).zip(blocks) {
            T::Block::quantise(weights).write(bytes);
        }
    }
}

struct DecodeRow<'a> {
    bytes: &'a [u8],
    out: &'a mut [f32],
}

impl FormatVisitor for DecodeRow<'_> {
    type Output = ();

    fn dense<E: Element>(self) {
        for (weight, bytes) in self.out.iter_mut().zip(self.bytes.chunks_exact(E::DTYPE.bytes())) {
            *weight = E::from_le_bytes(bytes).to_f32();
        }
    }

    fn pairs(self) {
        self.dense::<half::bf16>();
    }

    fn quantised<T: Tile>(self) {
        let blocks = self.bytes.chunks_exact(T::Block::BYTES);
        for (weights, bytes) in self.out.chunks_exact_mut(T::Block::WEIGHTS).zip(blocks) {
            T::Block::from_bytes(bytes).dequantise(weights);
        }
    }
}

impl From<DType> for WeightFormat {
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::F32 => Self::F32,
            DType::F16 => Self::F16,
            DType::BF16 => Self::BF16,
        }
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for WeightFormat {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        Self::ALL
            .into_iter()
            .find(|format| format.name().eq_ignore_ascii_case(name))
            .ok_or_else(|| UnknownFormat { found: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_formats() {
        for format in WeightFormat::ALL {
            assert_eq!(format.name().parse(), Ok(format));
            assert_eq!(format.to_string().to_uppercase().parse(), Ok(format));
        }
        let error = "q3_k".parse::<WeightFormat>().unwrap_err();
        assert!(error.to_string().contains("\"q3_k\""), "{error}");
        assert!(error.to_string().contains("f32, f16, bf16, bf16xbf16, q8_0"), "{error}");
    }
}
