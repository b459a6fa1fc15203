//! Every level equals the scalar one, by bits, on ordinary and on extreme numbers.

use super::*;

mod integers;
mod levels;
mod pairs;

/// Applies one operation to three vectors and returns the bits.
struct Apply<F>(F);

/// The operations under test, by name.
#[derive(Clone, Copy, Debug)]
enum Op {
    Add,
    Sub,
    Mul,
    Div,
    MulAdd,
    Max,
    Min,
    ZeroBelow,
    Exp,
    SumLanes,
    MaxLanes,
}

const OPS: [Op; 11] = [
    Op::Add,
    Op::Sub,
    Op::Mul,
    Op::Div,
    Op::MulAdd,
    Op::Max,
    Op::Min,
    Op::ZeroBelow,
    Op::Exp,
    Op::SumLanes,
    Op::MaxLanes,
];

impl Kernel for Apply<(Op, [[f32; LANES]; 3])> {
    type Output = [u32; LANES];

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> [u32; LANES] {
        let (op, [a, b, c]) = self.0;
        let [a, b, c] = [&a, &b, &c].map(|x| simd.load(x));
        let v = match op {
            Op::Add => simd.add(a, b),
            Op::Sub => simd.sub(a, b),
            Op::Mul => simd.mul(a, b),
            Op::Div => simd.div(a, b),
            Op::MulAdd => simd.mul_add(a, b, c),
            Op::Max => simd.max(a, b),
            Op::Min => simd.min(a, b),
            Op::ZeroBelow => simd.zero_below(a, b, c),
            Op::Exp => exp(simd, a),
            Op::SumLanes => simd.splat(sum_lanes(simd, a)),
            Op::MaxLanes => simd.splat(max_lanes(simd, a)),
        };
        let mut out = [0.0; LANES];
        simd.store(v, &mut out);
        // Which of two NaN payloads survives is left open by IEEE 754: one NaN stands for all.
        out.map(|x| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() })
    }
}

/// A small generator, so that the test needs no crate and repeats exactly.
fn numbers(seed: u32) -> impl FnMut() -> f32 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let extremes = [
            0.0,
            -0.0,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            f32::MIN_POSITIVE,
            1e-42,
            f32::MAX,
            -87.34,
            -87.33,
            88.37,
            1e9,
        ];
        let pick = (state >> 8) as usize % 40;
        match extremes.get(pick) {
            Some(&x) => x,
            None => ((state >> 8) as f32 / (1 << 24) as f32 - 0.5) * 40.0,
        }
    }
}

#[test]
fn every_operation_equals_the_scalar_one() {
    let mut next = numbers(7);
    for _ in 0..2000 {
        let input: [[f32; LANES]; 3] = std::array::from_fn(|_| std::array::from_fn(|_| next()));
        for op in OPS {
            let want = Level::SCALAR.dispatch(Apply((op, input)));
            for level in Level::available() {
                let got = level.dispatch(Apply((op, input)));
                assert_eq!(got, want, "{op:?} at {level} of {input:?}");
            }
        }
    }
}

struct Widen<'a>(&'a [u16; LANES], bool);

impl Kernel for Widen<'_> {
    type Output = [u32; LANES];

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> [u32; LANES] {
        let v = if self.1 {
            simd.load_f16(&self.0.map(f16::from_bits))
        } else {
            simd.load_bf16(&self.0.map(bf16::from_bits))
        };
        let mut out = [0.0; LANES];
        simd.store(v, &mut out);
        out.map(|x| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() })
    }
}

#[test]
fn every_half_precision_number_widens_exactly() {
    for first in (0..=u16::MAX).step_by(LANES) {
        let bits: [u16; LANES] = std::array::from_fn(|i| first + i as u16);
        for is_f16 in [true, false] {
            let want = bits.map(|b| {
                let x =
                    if is_f16 { f16::from_bits(b).to_f32() } else { bf16::from_bits(b).to_f32() };
                if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }
            });
            for level in Level::available() {
                assert_eq!(level.dispatch(Widen(&bits, is_f16)), want, "{level} from {first:#x}");
            }
        }
    }
}

#[test]
fn exp_is_within_two_units_in_the_last_place() {
    let mut worst = (0.0f64, 0.0f32);
    let mut x = -87.3f32;
    while x < 88.3 {
        let lanes = std::array::from_fn(|i| x + i as f32 * 1e-3);
        let got = Level::detect().dispatch(Apply((Op::Exp, [lanes; 3]))).map(f32::from_bits);
        for (&x, got) in lanes.iter().zip(got) {
            let want = f64::from(x).exp();
            let error = (f64::from(got) / want - 1.0).abs();
            if error > worst.0 {
                worst = (error, x);
            }
        }
        x += 16e-3;
    }
    assert!(worst.0 < 2.4e-7, "relative error {} at {}", worst.0, worst.1);
}

#[test]
fn exp_has_the_right_limits() {
    let mut x = [0.0; LANES];
    x[..6].copy_from_slice(&[f32::NEG_INFINITY, -200.0, 0.0, -0.0, 200.0, f32::NAN]);
    let y = Level::detect().dispatch(Apply((Op::Exp, [x; 3]))).map(f32::from_bits);
    assert_eq!(y[..4], [0.0, 0.0, 1.0, 1.0]);
    assert!(y[4] > 2e38 && y[4].is_finite());
    assert!(y[5].is_nan());
}

struct LowBits(u32);

impl Kernel for LowBits {
    type Output = ([u8; LANES], [[u8; 2]; LANES]);

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Self::Output {
        let lanes = std::array::from_fn(|i| f32::from_bits(self.0.wrapping_mul(i as u32 * 2 + 1)));
        let v = simd.load(&lanes);
        (simd.low_bytes(v), simd.low_words(v))
    }
}

#[test]
fn the_low_bits_of_a_lane_stand_where_the_lane_stood() {
    for seed in [1, 0x8765_4321, 0xfedc_ba98, u32::MAX] {
        let bits = |i: usize| seed.wrapping_mul(i as u32 * 2 + 1);
        let bytes = std::array::from_fn(|i| bits(i) as u8);
        let words = std::array::from_fn(|i| (bits(i) as u16).to_le_bytes());
        for level in Level::available() {
            assert_eq!(level.dispatch(LowBits(seed)), (bytes, words), "{level} of {seed:#x}");
        }
    }
}

struct Transpose<'a, const N: usize>(&'a [[u8; N]; LANES]);

impl<const N: usize> Kernel for Transpose<'_, N> {
    type Output = [[u8; N]; LANES];

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Self::Output {
        let mut out = [[0; N]; LANES];
        simd.transpose(self.0.each_ref(), &mut out);
        out
    }
}

/// Rows of elements whose bytes tell where they come from.
fn turned<const N: usize>() {
    let size = N / LANES;
    let element = |row: usize, column: usize, byte: usize| {
        if byte == 0 { (16 * row + column) as u8 } else { byte as u8 }
    };
    let rows = std::array::from_fn(|i| std::array::from_fn(|b| element(i, b / size, b % size)));
    let want = std::array::from_fn(|i| std::array::from_fn(|b| element(b / size, i, b % size)));
    for level in Level::available() {
        assert_eq!(level.dispatch(Transpose::<N>(&rows)), want, "{level}");
    }
}

#[test]
fn rows_become_columns_at_every_level() {
    turned::<32>();
    turned::<64>();
}
