//! What users of the operations rely on: the same bits whatever runs beside a row, and an error
//! against f64 no larger than that of the plain formula.
#![allow(clippy::unwrap_used)] // a test may panic

use mistral_core::half::{bf16, f16};
use mistral_core::ndarray::{Array1, Array2, Array3, Axis, s};
use mistral_core::ops::{self, K_BLOCK, Rope, RopeLayout};
use mistral_core::simd::Level;
use mistral_core::{DType, Element, Matrix, MatrixError, OpError};
use proptest::prelude::*;

/// Numbers in -1..1 that repeat for a seed.
fn numbers(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

fn array(rows: usize, cols: usize, seed: u64) -> Array2<f32> {
    let mut next = numbers(seed);
    Array2::from_shape_simple_fn((rows, cols), &mut next)
}

fn stored(weights: &Array2<f32>, dtype: DType) -> Matrix {
    let fill = |r: usize, row: &mut [f32]| {
        row.copy_from_slice(weights.row(r).as_slice().unwrap());
        Ok::<(), MatrixError>(())
    };
    Matrix::from_rows(weights.nrows(), weights.ncols(), dtype, fill).unwrap()
}

fn bits(x: &Array2<f32>) -> Vec<u32> {
    x.iter().map(|v| v.to_bits()).collect()
}

fn product(level: Level, x: &Array2<f32>, w: &Matrix) -> Array2<f32> {
    let mut out = Array2::from_elem((x.nrows(), w.rows()), f32::NAN);
    ops::matmul_at(level, x.view(), w, out.view_mut()).unwrap();
    out
}

/// The definition, one output at a time: chains of fused multiply-adds, block sums in order.
fn one_output(x: &[f32], w: &[f32]) -> f32 {
    x.chunks(K_BLOCK).zip(w.chunks(K_BLOCK)).fold(0.0, |total, (x, w)| {
        total + x.iter().zip(w).fold(0.0f32, |sum, (x, w)| x.mul_add(*w, sum))
    })
}

fn dtypes() -> impl Strategy<Value = DType> {
    prop_oneof![Just(DType::F32), Just(DType::F16), Just(DType::BF16)]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    #[test]
    fn a_product_has_the_bits_of_its_definition_at_every_level(
        rows in 1usize..40, inputs in 1usize..90, outputs in 1usize..70,
        dtype in dtypes(), seed: u64,
    ) {
        let (x, w) = (array(rows, inputs, seed), array(outputs, inputs, seed ^ 1));
        let matrix = stored(&w, dtype);
        let mut weight = vec![0.0; inputs];
        for level in Level::available() {
            let out = product(level, &x, &matrix);
            for o in 0..outputs {
                matrix.row(o, &mut weight).unwrap();
                for t in 0..rows {
                    let want = one_output(x.row(t).to_slice().unwrap(), &weight);
                    prop_assert_eq!(out[[t, o]].to_bits(), want.to_bits(), "[{}, {}] {}", t, o, level);
                }
            }
        }
    }

    #[test]
    fn a_row_alone_has_the_bits_it_has_in_a_batch(
        rows in 2usize..60, inputs in 500usize..1100, outputs in 1usize..200,
        dtype in dtypes(), seed: u64,
    ) {
        let x = array(rows, inputs, seed);
        let matrix = stored(&array(outputs, inputs, seed ^ 1), dtype);
        let together = product(Level::detect(), &x, &matrix);
        for t in 0..rows {
            let alone = product(Level::detect(), &x.slice(s![t..=t, ..]).to_owned(), &matrix);
            prop_assert_eq!(bits(&alone), bits(&together.slice(s![t..=t, ..]).to_owned()));
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit(
        rows in prop_oneof![Just(1usize), Just(2), Just(7), Just(30)],
        outputs in 1usize..300, dtype in dtypes(), seed: u64,
    ) {
        let x = array(rows, 130, seed);
        let matrix = stored(&array(outputs, 130, seed ^ 1), dtype);
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| product(Level::detect(), &x, &matrix))
        };
        let one = bits(&on(1));
        for threads in [2, 3, 8] {
            prop_assert_eq!(bits(&on(threads)), one.clone(), "{} threads", threads);
        }
    }

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
        prop_assert_eq!(bits(&norm(Level::detect())), bits(&scalar));
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
        prop_assert_eq!(&apply(Level::detect()), &y);
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
        prop_assert_eq!(bits(&apply(Level::detect())), bits(&out));
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
fn more_inputs_than_a_block_still_follow_the_definition() {
    for inputs in [K_BLOCK - 1, K_BLOCK, K_BLOCK + 1, 3 * K_BLOCK + 7] {
        let (x, w) = (array(25, inputs, 3), array(33, inputs, 4));
        let matrix = stored(&w, DType::F32);
        let out = product(Level::detect(), &x, &matrix);
        for (t, o) in [(0, 0), (7, 31), (24, 32)] {
            let (x, w) = (x.row(t), w.row(o));
            let want = one_output(x.as_slice().unwrap(), w.as_slice().unwrap());
            assert_eq!(out[[t, o]].to_bits(), want.to_bits(), "{inputs} inputs, [{t}, {o}]");
        }
    }
}

#[test]
fn half_precision_weights_give_the_product_of_the_rounded_weights() {
    let (x, w) = (array(3, 64, 5), array(20, 64, 6));
    let f16s = stored(&w.mapv(|v| f16::from_f32(v).to_f32()), DType::F32);
    let bf16s = stored(&w.mapv(|v| bf16::from_f32(v).to_f32()), DType::F32);
    let level = Level::detect();
    assert_eq!(
        bits(&product(level, &x, &stored(&w, DType::F16))),
        bits(&product(level, &x, &f16s))
    );
    assert_eq!(
        bits(&product(level, &x, &stored(&w, DType::BF16))),
        bits(&product(level, &x, &bf16s))
    );
    assert_ne!(bits(&product(level, &x, &f16s)), bits(&product(level, &x, &bf16s)));
    assert_eq!(<bf16 as Element>::DTYPE, DType::BF16);
}

#[test]
fn arrays_that_do_not_fit_are_named() {
    let w = stored(&array(6, 4, 1), DType::F32);
    let mut out = Array2::zeros((2, 6));
    let wide = array(2, 5, 2);
    assert_eq!(
        ops::matmul(wide.view(), &w, out.view_mut()).unwrap_err(),
        OpError::Shape { op: "matmul", what: "inputs of x", found: 5, expected: 4 }
    );
    let x = array(4, 2, 2);
    assert_eq!(
        ops::matmul(x.t(), &w, out.view_mut()).unwrap_err(),
        OpError::NotContiguous { op: "matmul", what: "x" }
    );
    let x = array(3, 4, 2);
    assert_eq!(
        ops::matmul(x.view(), &w, out.view_mut()).unwrap_err(),
        OpError::Shape { op: "matmul", what: "tokens of out", found: 2, expected: 3 }
    );
    let none = Array2::zeros((0, 4));
    ops::matmul(none.view(), &w, Array2::zeros((0, 6)).view_mut()).unwrap();
    let weight = Array1::<f32>::zeros(3);
    let error =
        ops::rms_norm(x.view(), weight.as_slice().unwrap(), 1e-5, Array2::zeros((3, 4)).view_mut())
            .unwrap_err();
    assert!(error.to_string().contains("features of x is 4, expected 3"), "{error}");
}
