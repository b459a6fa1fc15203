//! The instruction for pairs does what its definition says, bit by bit.

use super::*;

/// A dot product of pairs, as bits; one NaN stands for all.
struct Dot<'a> {
    x: &'a [[bf16; 2]; LANES],
    w: &'a [[bf16; 2]; LANES],
    sums: &'a [f32; LANES],
}

impl Kernel for Dot<'_> {
    type Output = [u32; LANES];

    const PAIRS: bool = true;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> [u32; LANES] {
        let (x, w) = (simd.load_pairs(self.x), simd.load_pairs(self.w));
        let sums = simd.dot_pairs(x, w, simd.load(self.sums));
        let mut out = [0.0; LANES];
        simd.store(sums, &mut out);
        out.map(|x| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() })
    }
}

#[test]
fn every_level_multiplies_pairs_as_the_scalar_one_does() {
    let mut next = numbers(11);
    // Numbers of all sizes, so that sums cancel, vanish and overflow.
    let mut any = || {
        let (x, size) = (next(), next());
        x * 2f32.powi((size * 6.0) as i32)
    };
    for _ in 0..20_000 {
        let mut pairs = || std::array::from_fn(|_| std::array::from_fn(|_| bf16::from_f32(any())));
        let (x, w) = (pairs(), pairs());
        let sums = std::array::from_fn(|_| any());
        let want = Level::SCALAR.dispatch(Dot { x: &x, w: &w, sums: &sums });
        for level in Level::available() {
            let got = level.dispatch(Dot { x: &x, w: &w, sums: &sums });
            assert_eq!(got, want, "{level}: {x:?} {w:?} {sums:?}");
        }
    }
}

#[test]
fn the_upper_half_is_multiplied_first_and_subnormal_numbers_are_zero() {
    let one_lane = |x: [f32; 2], w: [f32; 2], sum: f32| {
        // A lane's upper half lies in the first sixteen, its lower one behind them.
        let pairs = |[upper, lower]: [f32; 2]| {
            let half = |x: f32| [bf16::from_f32(x); 2];
            std::array::from_fn(|i| half(if i < LANES / 2 { upper } else { lower }))
        };
        let (x, w) = (pairs(x), pairs(w));
        Level::available().map(move |level| {
            let out = level.dispatch(Dot { x: &x, w: &w, sums: &[sum; LANES] });
            f32::from_bits(out[0])
        })
    };
    let tiny = f32::MIN_POSITIVE;
    // 1 + 2^24 loses the 1; 1 - 2^24 would keep it.
    assert!(one_lane([1.0, 1.0], [16_777_216.0, -16_777_216.0], 1.0).all(|sum| sum == 0.0));
    assert!(one_lane([1.0, 0.0], [tiny / 2.0, 0.0], 1e-30).all(|sum| sum == 1e-30));
    assert!(one_lane([0.5, 0.0], [tiny, 0.0], 0.0).all(|sum| sum == 0.0));
    assert!(one_lane([0.0, 0.0], [0.0, 0.0], tiny / 2.0).all(|sum| sum == 0.0));
}
