//! Integer products and codes, on every level as on the scalar one.

use super::*;

/// A generator of bytes that repeats exactly.
fn bytes(seed: u32) -> impl FnMut() -> u8 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    }
}

/// Everything that changes the form of codes, by name.
struct Reshape<'a>(&'a [u8; 64], &'a [u8; 64]);

impl Kernel for Reshape<'_> {
    type Output = Vec<(&'static str, [u8; 64])>;

    #[inline(always)]
    fn run<S: Integers>(self, simd: S) -> Self::Output {
        let (a, b) = (simd.load_bytes(self.0), simd.load_bytes(self.1));
        let low = simd.field::<0, 15>(a);
        // Up to 16: products are below 256.
        let factors = self.1.first_chunk().unwrap().map(|byte: u8| byte % 17);
        let factors = simd.spread_bytes(&factors);
        let signed: &[u8; 32] = self.0.first_chunk().unwrap();
        let of_bytes = |codes| {
            let mut out = [0; 64];
            simd.store_bytes(codes, &mut out);
            out
        };
        let of_words = |codes| {
            let mut out = [0; 64];
            simd.store_words(codes, &mut out);
            out
        };
        vec![
            ("load_bytes", of_bytes(a)),
            ("bits 0..4", of_bytes(low)),
            ("bits 4..8", of_bytes(simd.field::<4, 15>(a))),
            ("bits 0..2", of_bytes(simd.field::<0, 3>(a))),
            ("bits 2..4", of_bytes(simd.field::<2, 3>(a))),
            ("bits 4..6", of_bytes(simd.field::<4, 3>(a))),
            ("bits 6..8", of_bytes(simd.field::<6, 3>(a))),
            ("bit 0", of_bytes(simd.field::<0, 1>(a))),
            ("bit 3", of_bytes(simd.field::<3, 1>(a))),
            ("bit 7", of_bytes(simd.field::<7, 1>(a))),
            ("join 4 and 4", of_bytes(simd.join_fields::<4>(low, simd.field::<0, 15>(b)))),
            ("join 4 and 2", of_bytes(simd.join_fields::<4>(low, simd.field::<6, 3>(b)))),
            ("join 4 and the top bit", of_bytes(simd.join_fields::<7>(low, simd.field::<7, 1>(b)))),
            ("spread_bytes", of_bytes(simd.spread_bytes(self.1.first_chunk().unwrap()))),
            ("scale_bytes", of_bytes(simd.scale_bytes(low, factors, b))),
            ("load_words", of_words(simd.load_words(self.0))),
            ("widen_signed", of_words(simd.widen_signed(signed))),
            ("even_bytes", of_words(simd.even_bytes(a))),
            ("odd_bytes", of_words(simd.odd_bytes(a))),
        ]
    }
}

#[test]
fn codes_change_form_as_on_the_scalar_level() {
    let mut next = bytes(11);
    for _ in 0..500 {
        let [a, b]: [[u8; 64]; 2] = std::array::from_fn(|_| std::array::from_fn(|_| next()));
        let want = Level::SCALAR.dispatch(Reshape(&a, &b));
        for level in Level::available() {
            assert_eq!(level.dispatch(Reshape(&a, &b)), want, "{level} of {a:?} and {b:?}");
        }
    }
}

/// Some steps of products, of which `WORDS` tells the width.
struct Dot<'a, const WORDS: bool> {
    start: (i16, i16),
    steps: &'a [([u8; 64], [u8; 4])],
}

impl<const WORDS: bool> Kernel for Dot<'_, WORDS> {
    type Output = [f32; LANES];

    #[inline(always)]
    fn run<S: Integers>(self, simd: S) -> [f32; LANES] {
        let (even, odd) = self.start;
        let mut out = [0.0; LANES];
        if WORDS {
            let mut sums = simd.start_words(i32::from(even) << 16 | i32::from(odd));
            for (codes, x) in self.steps {
                sums = simd.dot_words(sums, simd.load_words(codes), *x);
            }
            simd.store(simd.total_words(sums), &mut out);
        } else {
            let mut sums = simd.start_bytes(even, odd);
            for (codes, x) in self.steps {
                sums = simd.dot_bytes(sums, simd.load_bytes(codes), *x);
            }
            simd.store(simd.total_bytes(sums), &mut out);
        }
        out
    }
}

/// Steps of products of bytes by bytes.
struct DotOctets<'a>(i32, &'a [([u8; 64], [u8; 4])]);

impl Kernel for DotOctets<'_> {
    type Output = [f32; LANES];
    #[inline(always)]
    fn run<S: Integers>(self, simd: S) -> [f32; LANES] {
        let mut sums = simd.start_words(self.0);
        for (codes, x) in self.1 {
            sums = simd.dot_octets(sums, simd.load_bytes(codes), *x);
        }
        let mut out = [0.0; LANES];
        simd.store(simd.total_words(sums), &mut out);
        out
    }
}

/// Each sum times its factor, added to a total.
struct AddScaledDot<'a>([u8; LANES], &'a [([u8; 64], [u8; 4])]);

/// So large that many sums are rounded.
const TOTAL: f32 = 8_388_607.5;

impl Kernel for AddScaledDot<'_> {
    type Output = [f32; LANES];
    #[inline(always)]
    fn run<S: Integers>(self, simd: S) -> [f32; LANES] {
        let mut sums = simd.start_bytes(0, 0);
        for (codes, x) in self.1 {
            sums = simd.dot_bytes(sums, simd.load_bytes(codes), *x);
        }
        let mut out = [0.0; LANES];
        let totals = simd.splat(TOTAL);
        simd.store(simd.add_scaled_bytes(totals, sums, simd.load_byte_scales(&self.0)), &mut out);
        out
    }
}

struct RoundWords([f32; LANES]);
impl Kernel for RoundWords {
    type Output = [i16; LANES];
    #[inline(always)]
    fn run<S: Integers>(self, simd: S) -> [i16; LANES] {
        let mut words = [[0; 2]; LANES];
        simd.round_words(simd.load(&self.0), &mut words);
        words.map(i16::from_le_bytes)
    }
}

#[test]
fn words_are_rounded_to_nearest_even() {
    let x = std::array::from_fn(|i| [-32768.0, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 32767.0][i % 8]);
    let want = std::array::from_fn(|i| [-32768, -2, -2, 0, 0, 2, 2, 32767][i % 8]);
    for level in Level::available() {
        assert_eq!(level.dispatch(RoundWords(x)), want, "{level}");
    }
}

#[test]
fn products_of_bytes_are_exact_over_eight_steps() {
    let mut next = bytes(13);
    for case in 0..1000 {
        // Now and then all codes or all inputs are as large as they may be.
        let (largest_codes, largest_inputs) = (case % 3 == 0, case % 4 == 0);
        let steps: [_; 8] = std::array::from_fn(|_| {
            let code = |byte: u8| if largest_codes { 15 } else { byte % 16 };
            let x = |byte: u8| match largest_inputs {
                true => [127, -127i8 as u8][usize::from(byte % 2 * u8::from(case % 8 == 0))],
                false => (byte as i8).max(-127) as u8,
            };
            (std::array::from_fn(|_| code(next())), std::array::from_fn(|_| x(next())))
        });
        // What formats with an offset of 8 start with.
        let sum = |k: usize| {
            steps.iter().map(|(_, x)| i16::from(x[k] as i8) + i16::from(x[k + 1] as i8)).sum()
        };
        let (even, odd): (i16, i16) = (sum(0), sum(2));
        for start in [(0, 0), (-8 * even, -8 * odd)] {
            let want: [f32; LANES] = std::array::from_fn(|o| {
                let product = |(codes, x): &([u8; 64], [u8; 4])| -> i32 {
                    (0..4).map(|k| i32::from(codes[4 * o + k]) * i32::from(x[k] as i8)).sum()
                };
                let total: i32 = steps.iter().map(product).sum();
                (i32::from(start.0) + i32::from(start.1) + total) as f32
            });
            for level in Level::available() {
                let dot = Dot::<false> { start, steps: &steps };
                assert_eq!(level.dispatch(dot), want, "case {case} at {level}");
            }
        }
        let scales =
            steps[0].0.first_chunk().unwrap().map(|code| code * 4 + u8::from(code == 15) * 3);
        let sums = Level::SCALAR.dispatch(Dot::<false> { start: (0, 0), steps: &steps });
        let want: [f32; LANES] = std::array::from_fn(|o| TOTAL + sums[o] * f32::from(scales[o]));
        for level in Level::available() {
            let got = level.dispatch(AddScaledDot(scales, &steps));
            assert_eq!(got, want, "case {case} at {level}");
        }
    }
}

#[test]
fn products_of_octets_do_not_saturate() {
    let mut next = bytes(19);
    for case in 0..500 {
        let steps: [_; 64] = std::array::from_fn(|_| {
            // The largest codes and inputs, of which two products are beyond 16 bits.
            let mut byte = |largest| if case % 3 == 0 { largest } else { next() };
            (std::array::from_fn(|_| byte(255)), std::array::from_fn(|k| byte([127, 128][k / 2])))
        });
        let start = -1000 * case;
        let want: [f32; LANES] = std::array::from_fn(|o| {
            let product = |(codes, x): &([u8; 64], [u8; 4])| -> i32 {
                (0..4).map(|k| i32::from(codes[4 * o + k]) * i32::from(x[k] as i8)).sum()
            };
            (start + steps.iter().map(product).sum::<i32>()) as f32
        });
        for level in Level::available() {
            assert_eq!(level.dispatch(DotOctets(start, &steps)), want, "case {case} at {level}");
        }
    }
}

#[test]
fn products_of_words_equal_the_scalar_ones_modulo_two_to_the_32() {
    let mut next = bytes(17);
    for case in 0..1000 {
        let mut word = |smallest: i16| {
            let any = i16::from_le_bytes([next(), next()]).max(smallest);
            let word =
                if any % 5 == 0 { [smallest, i16::MAX][usize::from(next() % 2)] } else { any };
            word.to_le_bytes()
        };
        let steps: [_; 8] = std::array::from_fn(|_| {
            let (mut codes, mut x) = ([0; 64], [0; 4]);
            codes.as_chunks_mut().0.fill_with(|| word(i16::MIN));
            x.as_chunks_mut().0.fill_with(|| word(-i16::MAX));
            (codes, x)
        });
        let start = (i16::from_le_bytes(word(i16::MIN)), 12_345);
        let want = Level::SCALAR.dispatch(Dot::<true> { start, steps: &steps });
        for level in Level::available() {
            let got = level.dispatch(Dot::<true> { start, steps: &steps });
            assert_eq!(got, want, "case {case} at {level}");
        }
    }
}
