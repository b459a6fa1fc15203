//! Six bits of scale and six of minimum for each of eight groups, in twelve bytes.

use super::block;
use super::kernel::{STEP, Scales, load_scales};
use crate::simd::{Integers, LANES};

/// Groups in a block of `q4_k` and `q5_k`.
pub(crate) const GROUPS: usize = 8;

/// Weights in a group.
pub(crate) const GROUP: usize = 32;

/// The scales and minima of the groups, 0..=63 each.
///
/// ```text
/// bits    7 6  5 4 3 2 1 0
/// byte j  S    scale of j          j in 0..4; S, M, s, m belong to group 4 + j:
///    4+j  M    minimum of j        its scale is S s, its minimum M m
///    8+j  m m m m  s s s s
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct SubScales {
    pub(crate) scales: [u8; GROUPS],
    pub(crate) minima: [u8; GROUPS],
}

impl SubScales {
    #[inline(always)]
    pub(crate) fn from_packed(bytes: &[u8; 12]) -> Self {
        let mut sub = Self::default();
        for j in 0..4 {
            let (a, b, c) = (bytes[j], bytes[4 + j], bytes[8 + j]);
            sub.scales[j] = a & 63;
            sub.minima[j] = b & 63;
            sub.scales[4 + j] = (a >> 6) << 4 | c & 15;
            sub.minima[4 + j] = (b >> 6) << 4 | c >> 4;
        }
        sub
    }

    #[inline(always)]
    pub(crate) fn packed(&self) -> [u8; 12] {
        let mut bytes = [0; 12];
        for j in 0..4 {
            let (s, m) = (self.scales[4 + j], self.minima[4 + j]);
            bytes[j] = self.scales[j] & 63 | (s >> 4) << 6;
            bytes[4 + j] = self.minima[j] & 63 | (m >> 4) << 6;
            bytes[8 + j] = s & 15 | (m & 15) << 4;
        }
        bytes
    }

    /// `scale * scales[g] * code - minimum * minima[g]`, each product and the difference rounded
    /// to f32.
    #[inline(always)]
    pub(crate) fn dequantise(
        &self,
        scale: [u8; 2],
        minimum: [u8; 2],
        codes: &[u8; GROUPS * GROUP],
        out: &mut [f32],
    ) {
        let (scale, minimum) = (block::half(scale), block::half(minimum));
        let groups = out.chunks_mut(GROUP).zip(codes.chunks_exact(GROUP)).enumerate();
        for (g, (out, codes)) in groups.take(GROUPS) {
            let step = scale * f32::from(self.scales[g]);
            let minimum = minimum * f32::from(self.minima[g]);
            for (out, code) in out.iter_mut().zip(codes) {
                *out = step * f32::from(*code) - minimum;
            }
        }
    }
}

/// Bytes that the scales and minima of sixteen rows take in a tile.
///
/// ```text
/// byte 0   group 0: o0 .. o15, bits 0..4 of the scale | of the minimum << 4
///      16  group 1 ..                                               8 groups
///      128 groups 0, 4: o0 .. o15, bits 4..6 of scale 0 | minimum 0 << 2 | scale 4 << 4 | ..
///      144 groups 1, 5 ..
///      192 scales of the scales: o0 .. o15, f16
///      224 scales of the minima
/// ```
pub(super) const TILE_BYTES: usize = 256;

const HIGH: usize = 128;
const SCALE: usize = 192;
const MINIMUM: usize = 224;

/// Groups whose lower bits fill one step.
const QUARTET: usize = STEP / LANES;

/// Writes those of row `lane` into zeroed bytes.
pub(super) fn pack_tile(
    lane: usize,
    sub: &SubScales,
    scale: [u8; 2],
    minimum: [u8; 2],
    out: &mut [u8],
) {
    for g in 0..GROUPS {
        let (s, m) = (sub.scales[g], sub.minima[g]);
        out[g * LANES + lane] = s & 15 | m << 4;
        out[HIGH + g % QUARTET * LANES + lane] |= (s >> 4 | m >> 4 << 2) << (g / QUARTET * 4);
    }
    out[SCALE + 2 * lane..][..2].copy_from_slice(&scale);
    out[MINIMUM + 2 * lane..][..2].copy_from_slice(&minimum);
}

/// Those of row `lane`, the scale of the scales, and that of the minima.
pub(super) fn unpack_tile(lane: usize, bytes: &[u8]) -> (SubScales, [u8; 2], [u8; 2]) {
    let low = |g: usize| bytes[g * LANES + lane];
    let high = |g: usize| bytes[HIGH + g % QUARTET * LANES + lane] >> (g / QUARTET * 4);
    let sub = SubScales {
        scales: std::array::from_fn(|g| low(g) & 15 | (high(g) & 3) << 4),
        minima: std::array::from_fn(|g| low(g) >> 4 | (high(g) >> 2 & 3) << 4),
    };
    let pair = |at: usize| [bytes[at + 2 * lane], bytes[at + 2 * lane + 1]];
    (sub, pair(SCALE), pair(MINIMUM))
}

/// Unpacks the scales and minima of sixteen rows.
#[inline(always)]
pub(super) fn tile_scales<S: Integers>(simd: S, bytes: &[u8], to: &mut Scales<S>) {
    to.scale = load_scales(simd, &bytes[SCALE..]);
    to.minimum = simd.sub(simd.splat(0.0), load_scales(simd, &bytes[MINIMUM..]));
    let step = |at: usize| simd.load_bytes(bytes[at..].first_chunk().unwrap_or(&[0; STEP]));
    let (first, second, high) = (step(0), step(STEP), step(HIGH));
    let mut put = |quartet: usize, scales, minima| {
        for (bytes, to) in [(scales, &mut to.scales), (minima, &mut to.minima)] {
            if let Some(to) = to.as_flattened_mut()[quartet * STEP..].first_chunk_mut() {
                simd.store_bytes(bytes, to);
            }
        }
    };
    put(0, join::<S, 0, 0>(simd, first, high), join::<S, 4, 2>(simd, first, high));
    put(1, join::<S, 0, 4>(simd, second, high), join::<S, 4, 6>(simd, second, high));
}

/// The lower four bits, which are those from `LOW` on in `low`, and two upper ones.
#[inline(always)]
fn join<S: Integers, const LOW: i32, const HIGH: i32>(
    simd: S,
    low: S::Bytes,
    high: S::Bytes,
) -> S::Bytes {
    simd.join_fields::<4>(simd.field::<LOW, 15>(low), simd.field::<HIGH, 3>(high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_has_its_own_place() {
        let mut seen = [0; 12];
        for bit in 0..96 {
            let value = 1 << (bit % 6);
            let mut sub = SubScales::default();
            match bit / 6 {
                j @ 0..8 => sub.scales[j] = value,
                j => sub.minima[j - 8] = value,
            }
            let bytes = sub.packed();
            assert_eq!(SubScales::from_packed(&bytes), sub);
            for (seen, byte) in seen.iter_mut().zip(bytes) {
                assert_eq!(*seen & byte, 0);
                *seen |= byte;
            }
        }
        assert_eq!(seen, [255; 12]);
    }
}
