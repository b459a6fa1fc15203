//! Formats whose codes have 8 bits when they meet inputs of 8 bits: `w8a8` and `w4a8`.

use super::Block;
use super::kernel::{CodeSink, STEP, Tile};
use super::width::{Octets, QUAD, Wide, Width};
use crate::simd::{Integers, LANES};

/// Weights in a block: so many that with VNNI nearly all the time goes into products of integers.
pub(super) const WEIGHTS: usize = 256;

/// What is added to a weight so that it has no sign.
pub(super) const OFFSET: u8 = 128;

/// A block whose tiles differ by how levels multiply.
pub(crate) trait OctetBlock: Block {
    /// The layout of sixteen of them.
    type Tile<W: OctetWidth>: Tile;
}

/// How levels multiply bytes with bytes.
pub(crate) trait OctetWidth: Width {
    /// Whether codes are multiplied as they are loaded.
    const READY: bool;

    /// Hands on the codes of four inputs for sixteen rows, in the order of [`QUAD`].
    fn hand<S: Integers>(
        simd: S,
        quad: usize,
        codes: S::Bytes,
        sink: &mut impl CodeSink<Self::Codes<S>>,
    );
}

/// At once, by levels with an instruction for it.
impl OctetWidth for Octets {
    const READY: bool = true;

    #[inline(always)]
    fn hand<S: Integers>(_: S, quad: usize, codes: S::Bytes, sink: &mut impl CodeSink<S::Bytes>) {
        sink.take(quad, codes);
    }
}

/// Two inputs at a time: elsewhere, where bytes by bytes take as long as words by words.
impl OctetWidth for Wide {
    const READY: bool = false;

    #[inline(always)]
    fn hand<S: Integers>(
        simd: S,
        quad: usize,
        codes: S::Bytes,
        sink: &mut impl CodeSink<S::Words>,
    ) {
        sink.take(2 * quad, simd.even_bytes(codes));
        sink.take(2 * quad + 1, simd.odd_bytes(codes));
    }
}

/// Where the code of input `k` of row `lane` stands among those of sixteen rows, a byte each.
pub(super) const fn position(lane: usize, k: usize) -> usize {
    k / 4 * STEP + lane * 4 + QUAD[k % 4]
}

/// Where what a row has one byte of for each group of a block stands.
pub(super) const fn group_position(lane: usize, group: usize) -> usize {
    group * LANES + lane
}
