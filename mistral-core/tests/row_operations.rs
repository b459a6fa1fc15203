//! What users of the operations on rows rely on: the same bits at every level, on any number of
//! threads and whatever runs beside a row, and an error against f64 no larger than that of the plain
//! formula.
#![allow(clippy::unwrap_used)] // a test may panic

use mistral_core::ndarray::{Array1, Array2, Array3, Axis, s};
use mistral_core::ops::{self, Rope, RopeLayout};
use mistral_core::simd::Level;
use proptest::prelude::*;

use self::seeded::{array, bits, numbers};

mod seeded;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    #[test]
    fn a_norm_equals_the_formula_at_every_level_and_length(dim in 1usize..=130, seed: u64) {
        let (x, weight) = (array(2, dim, seed), array(1, dim, seed ^ 1));
        let norm = |level| {
            let mut out = Array2::zeros((2, dim));
            let weight = weight.as_slice().unwrap();
            ops::rms_norm_at(level, x.view(), weight, 1e-5, out.view_mut()).unwrap();
            out
        };
        let scalar = norm(Level::SCALAR);
        for level in Level::available() {
            prop_assert_eq!(bits(&norm(level)), bits(&scalar), "{}", level);
        }
        for (x, out) in x.outer_iter().zip(scalar.outer_iter()) {
            let mean = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / dim as f64;
            for ((x, w), out) in x.iter().zip(&weight).zip(out) {
                let want = f64::from(*w) * f64::from(*x) / (mean + 1e-5).sqrt();
                prop_assert!((f64::from(*out) - want).abs() <= 1e-6 * want.abs().max(1e-3));
            }
        }
    }

    #[test]
    fn softmax_sums_to_one_and_equals_the_formula(len in 1usize..=130, seed: u64) {
        let x: Vec<f32> = array(1, len, seed).iter().map(|v| v * 30.0).collect();
        let apply = |level| {
            let mut y = x.clone();
            ops::softmax_at(level, &mut y);
            y
        };
        let y = apply(Level::SCALAR);
        for level in Level::available() {
            prop_assert_eq!(&apply(level), &y, "{}", level);
        }
        let largest = x.iter().fold(f64::MIN, |m, v| m.max(f64::from(*v)));
        let total: f64 = x.iter().map(|v| (f64::from(*v) - largest).exp()).sum();
        for (x, y) in x.iter().zip(&y) {
            // x - max is rounded to f32, and e^x carries that error on.
            let distance = largest - f64::from(*x);
            let want = (-distance).exp() / total;
            let tolerance = (1e-6 + 6e-8 * distance) * want;
            prop_assert!((f64::from(*y) - want).abs() <= tolerance, "{} {}", y, want);
        }
    }

    #[test]
    fn a_gate_equals_the_formula_at_every_level(len in 1usize..=130, seed: u64) {
        let gate = array(2, len, seed) * 20.0;
        let up = array(2, len, seed ^ 1);
        let apply = |level| {
            let mut out = gate.clone();
            ops::swiglu_at(level, out.view_mut(), up.view()).unwrap();
            out
        };
        let out = apply(Level::SCALAR);
        for level in Level::available() {
            prop_assert_eq!(bits(&apply(level)), bits(&out), "{}", level);
        }
        for ((g, u), y) in gate.iter().zip(&up).zip(&out) {
            let g = f64::from(*g);
            let want = g / (1.0 + (-g).exp()) * f64::from(*u);
            prop_assert!((f64::from(*y) - want).abs() <= 1e-6 * want.abs() + 1e-30);
        }
    }

    #[test]
    fn a_rotation_keeps_lengths_and_depends_on_its_position_alone(
        start in 0usize..100_000, half in 1usize..40, seed: u64,
        layout in prop_oneof![Just(RopeLayout::HalfSplit), Just(RopeLayout::Interleaved)],
    ) {
        let mut next = numbers(seed);
        let x = Array3::from_shape_simple_fn((3, 2, 2 * half), &mut next);
        let rope = Rope::new(2 * half, 1e6, layout).unwrap();
        let mut together = x.clone();
        rope.apply(together.view_mut(), &rope.angles(start..start + 3)).unwrap();
        for t in 0..3 {
            let mut alone = x.slice(s![t..=t, .., ..]).to_owned();
            rope.apply(alone.view_mut(), &rope.angles(start + t..start + t + 1)).unwrap();
            prop_assert_eq!(alone.index_axis(Axis(0), 0), together.index_axis(Axis(0), t));
        }
        let length = |x: &Array3<f32>| x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
        prop_assert!((length(&x) / length(&together) - 1.0).abs() < 1e-6);
    }
}

#[test]
fn rows_shared_out_to_threads_have_the_bits_they_have_alone() {
    // Enough rows for many tasks.
    let (rows, dim) = (300, 512);
    let (x, y) = (array(rows, dim, 1), array(rows, dim, 2));
    let weight = array(1, dim, 3);
    let rope = Rope::new(32, 1e4, RopeLayout::HalfSplit).unwrap();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let run = |x: Array2<f32>, y: Array2<f32>, first: usize| {
        let rows = x.nrows();
        let mut normed = Array2::zeros((rows, dim));
        ops::rms_norm(x.view(), weight.as_slice().unwrap(), 1e-5, normed.view_mut()).unwrap();
        let mut gated = x.clone();
        ops::swiglu(gated.view_mut(), y.view()).unwrap();
        let mut sum = x.clone();
        ops::add(sum.view_mut(), y.view()).unwrap();
        let mut turned = x.into_shape_with_order((rows, dim / 32, 32)).unwrap();
        rope.apply(turned.view_mut(), &rope.angles(first..first + rows)).unwrap();
        [normed, gated, sum, turned.into_shape_with_order((rows, dim)).unwrap()]
    };
    let together = pool.install(|| run(x.clone(), y.clone(), 0));
    for r in [0, 1, 149, 150, 299] {
        let row = |x: &Array2<f32>| x.slice(s![r..=r, ..]).to_owned();
        let alone = run(row(&x), row(&y), r);
        for (together, alone) in together.iter().zip(&alone) {
            assert_eq!(bits(&row(together)), bits(alone), "row {r}");
        }
    }
    assert_eq!(together[2], &x + &y);
}

#[test]
fn rows_that_do_not_fit_are_named() {
    let x = array(3, 4, 2);
    let weight = Array1::<f32>::zeros(3);
    let out = &mut Array2::zeros((3, 4));
    let error =
        ops::rms_norm(x.view(), weight.as_slice().unwrap(), 1e-5, out.view_mut()).unwrap_err();
    assert!(error.to_string().contains("features of x is 4, expected 3"), "{error}");
    let error = ops::add(out.view_mut(), array(2, 4, 1).view()).unwrap_err();
    assert!(error.to_string().contains("tokens of y is 2, expected 3"), "{error}");
}
