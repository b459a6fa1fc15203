//! What users of matrices rely on: the same bits whatever runs beside a row, at every level and on
//! any number of threads, and those of the definition.
#![allow(clippy::unwrap_used)] // a test may panic

use std::sync::Arc;

use mistral_core::half::{bf16, f16};
use mistral_core::ndarray::{Array2, s};
use mistral_core::ops::{self, Activations, K_BLOCK};
use mistral_core::simd::Level;
use mistral_core::{DType, Element, Matrix, MatrixError, OpError, SharedBytes, WeightFormat};
use proptest::prelude::*;

use self::products::{product, stored};
use self::seeded::{array, bits};

mod products;
mod seeded;

/// The definition, one output at a time: chains of fused multiply-adds, block sums in order.
fn one_output(x: &[f32], w: &[f32]) -> f32 {
    x.chunks(K_BLOCK).zip(w.chunks(K_BLOCK)).fold(0.0, |total, (x, w)| {
        total + x.iter().zip(w).fold(0.0f32, |sum, (x, w)| x.mul_add(*w, sum))
    })
}

fn dtypes() -> impl Strategy<Value = DType> {
    prop_oneof![Just(DType::F32), Just(DType::F16), Just(DType::BF16)]
}

fn block_formats() -> impl Strategy<Value = WeightFormat> {
    proptest::sample::select(&WeightFormat::ALL[4..])
}

/// The definition for weights in blocks, one output at a time: inputs rounded `together` with a
/// scale, sums over groups.
/// Here in f64 and from the values of the weights, so equal but for the roundings of f32.
fn one_quantised_output(x: &[f32], w: &[f32], together: usize, largest: f32) -> f64 {
    x.chunks(together).zip(w.chunks(together)).fold(0.0, |total, (x, w)| {
        let scale = x.iter().fold(0.0f32, |m, x| m.max(x.abs())) / largest;
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        // In f64, where the product is exact: near a tie, rounding it to f32 first gives another integer.
        let rounded = x.iter().map(|x| (f64::from(*x) * f64::from(inverse)).round_ties_even());
        total + f64::from(scale) * rounded.zip(w).map(|(x, w)| x * f64::from(*w)).sum::<f64>()
    })
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
    fn a_product_with_blocks_is_that_of_rounded_inputs(
        rows in 1usize..18, blocks in 1usize..4, outputs in 1usize..40,
        format in block_formats(), seed: u64,
    ) {
        let inputs = blocks * format.block();
        let (x, w) = (array(rows, inputs, seed), array(outputs, inputs, seed ^ 1));
        let matrix = stored(&w, format);
        let out = product(Level::detect(), &x, &matrix);
        let largest = match format {
            WeightFormat::W8A8 | WeightFormat::W4A8 | WeightFormat::Q4_0 | WeightFormat::Q4K => 127.0,
            _ => 32767.0,
        };
        let mut weight = vec![0.0; inputs];
        for o in 0..outputs {
            matrix.row(o, &mut weight).unwrap();
            for t in 0..rows {
                let x = x.row(t).to_slice().unwrap();
                let want = one_quantised_output(x, &weight, format.block(), largest);
                // Roundings of sums, of which none is larger than this.
                let size: f32 = x.iter().zip(&weight).map(|(x, w)| (x * w).abs()).sum();
                let error = (f64::from(out[[t, o]]) - want).abs();
                prop_assert!(error <= 4e-6 * f64::from(size + 1.0), "[{}, {}] {} {}", t, o, error, size);
            }
        }
    }

    #[test]
    fn blocks_give_the_same_bits_alone_in_a_batch_at_every_level_and_on_threads(
        rows in prop_oneof![1usize..30, Just(97usize), Just(200)],
        // The longer ones are met in parts, between which totals are put aside.
        least in prop_oneof![1usize..800, Just(2048), Just(4200)],
        outputs in 1usize..150, format in block_formats(), seed: u64,
    ) {
        let inputs = least.next_multiple_of(format.block());
        let x = array(rows, inputs, seed);
        let matrix = stored(&array(outputs, inputs, seed ^ 1), format);
        let together = product(Level::detect(), &x, &matrix);
        for level in Level::available() {
            let same = product(level, &x, &matrix);
            prop_assert_eq!(bits(&same), bits(&together), "{}", level);
        }
        for t in [0, rows / 2, rows - 1] {
            let alone = product(Level::detect(), &x.slice(s![t..=t, ..]).to_owned(), &matrix);
            prop_assert_eq!(bits(&alone), bits(&together.slice(s![t..=t, ..]).to_owned()));
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let threaded = pool.install(|| product(Level::detect(), &x, &matrix));
        prop_assert_eq!(bits(&threaded), bits(&together));
    }

    #[test]
    fn matrices_with_the_same_inputs_give_what_each_gives_alone(
        rows in 1usize..30, outputs in 1usize..60, seed: u64,
        first in 0usize..WeightFormat::ALL.len(), second in 0usize..WeightFormat::ALL.len(),
    ) {
        let x = array(rows, 256, seed);
        let formats = [first, second, second].map(|index| WeightFormat::ALL[index]);
        let [a, b, c] = formats.map(|format| stored(&array(outputs, 256, seed ^ 1), format));
        let mut outs = [a.rows(), b.rows(), c.rows()].map(|n| Array2::from_elem((rows, n), f32::NAN));
        let [out_a, out_b, out_c] = &mut outs;
        let products =
            [(&a, out_a.view_mut()), (&b, out_b.view_mut()), (&c, out_c.view_mut())];
        ops::matmul_each(&mut Activations::default(), x.view(), products).unwrap();
        for (matrix, out) in [a, b, c].iter().zip(&outs) {
            prop_assert_eq!(bits(out), bits(&product(Level::detect(), &x, matrix)));
        }
    }

    #[test]
    fn panels_written_and_read_again_are_the_same_matrix(
        rows in 1usize..40, blocks in 1usize..4, index in 0usize..WeightFormat::ALL.len(), seed: u64,
    ) {
        let format = WeightFormat::ALL[index];
        let cols = blocks * format.block();
        let matrix = stored(&array(rows, cols, seed), format);
        prop_assert_eq!(Some(matrix.bytes()), Matrix::bytes_for(rows, cols, format));
        let mut bytes = matrix.panels();
        let read = Matrix::read_panels(rows, cols, format, |part| {
            let (now, later) = bytes.split_at(part.len());
            part.copy_from_slice(now);
            bytes = later;
            Ok::<(), MatrixError>(())
        }).unwrap();
        prop_assert!(bytes.is_empty() && read.panels() == matrix.panels());
        // Row by row as files hold it, and back: nothing is lost on the way through a tile.
        let row_bytes = format.row_bytes(cols).unwrap();
        let source = array(rows, cols, seed);
        let mut file = vec![0; rows * row_bytes];
        for (row, bytes) in source.outer_iter().zip(file.chunks_exact_mut(row_bytes)) {
            format.encode(row.to_slice().unwrap(), bytes);
        }
        let mut left = file.as_slice();
        let from_file = Matrix::read(rows, cols, format, |part| {
            let (now, later) = left.split_at(part.len());
            part.copy_from_slice(now);
            left = later;
            Ok::<(), MatrixError>(())
        }).unwrap();
        prop_assert!(from_file.panels() == matrix.panels());
        let (mut decoded, mut row) = (vec![0.0; cols], vec![0.0; cols]);
        for (r, bytes) in file.chunks_exact(row_bytes).enumerate() {
            format.decode(bytes, &mut decoded);
            from_file.row(r, &mut row).unwrap();
            prop_assert_eq!(&decoded, &row, "row {}", r);
        }
    }

    #[test]
    fn a_row_alone_has_the_bits_it_has_in_a_batch_at_every_level(
        rows in prop_oneof![2usize..60, Just(193), Just(390)], inputs in 500usize..1100,
        outputs in 1usize..200,
        dtype in dtypes(), seed: u64,
    ) {
        let x = array(rows, inputs, seed);
        let matrix = stored(&array(outputs, inputs, seed ^ 1), dtype);
        let together = product(Level::detect(), &x, &matrix);
        for level in Level::available() {
            let same = product(level, &x, &matrix);
            prop_assert_eq!(bits(&same), bits(&together), "{}", level);
        }
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
}

#[test]
fn more_inputs_than_a_block_still_follow_the_definition() {
    for inputs in [K_BLOCK - 1, K_BLOCK, K_BLOCK + 1, 3 * K_BLOCK + 7] {
        let (x, w) = (array(25, inputs, 3), array(33, inputs, 4));
        let matrix = stored(&w, DType::F32);
        for level in Level::available() {
            let out = product(level, &x, &matrix);
            for (t, o) in [(0, 0), (7, 31), (24, 32)] {
                let (x, w) = (x.row(t), w.row(o));
                let want = one_output(x.as_slice().unwrap(), w.as_slice().unwrap()).to_bits();
                assert_eq!(out[[t, o]].to_bits(), want, "{level}, {inputs} inputs, [{t}, {o}]");
            }
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
}

#[test]
fn an_input_that_is_no_number_is_seen_in_every_output_of_its_row_alone() {
    for format in [WeightFormat::Q8_0, WeightFormat::Q4K] {
        let matrix = stored(&array(20, 256, 3), format);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = array(3, 256, 4);
            let clean = product(Level::detect(), &x, &matrix);
            x[[1, 77]] = bad;
            for level in Level::available() {
                let out = product(level, &x, &matrix);
                assert!(out.row(1).iter().all(|y| !y.is_finite()), "{format} {bad} {level}");
                assert_eq!((out.row(0), out.row(2)), (clean.row(0), clean.row(2)));
            }
        }
    }
}

#[test]
fn tiny_and_huge_inputs_neither_vanish_nor_overflow() {
    let matrix = stored(&array(20, 256, 3), WeightFormat::Q8_0);
    let x = array(1, 256, 4);
    let want = product(Level::detect(), &x, &matrix);
    for scale in [1e-30f32, 1e30] {
        let scaled = product(Level::detect(), &x.mapv(|x| x * scale), &matrix);
        for (scaled, want) in scaled.iter().zip(&want) {
            assert!((scaled / scale - want).abs() < 1e-3, "{scaled} and {want} times {scale}");
        }
    }
}

#[test]
fn matrices_that_a_format_cannot_hold_are_refused() {
    let fill = |_: usize, row: &mut [f32]| {
        row.fill(1.0);
        Ok::<(), MatrixError>(())
    };
    let error = Matrix::from_rows(4, 100, WeightFormat::Q8_0, fill).unwrap_err();
    assert_eq!(error, MatrixError::Columns { cols: 100, format: WeightFormat::Q8_0, block: 32 });
    assert!(error.to_string().contains("a multiple of 32"), "{error}");
    assert_eq!(Matrix::bytes_for(4, 100, WeightFormat::Q8_0), None);
    let error = Matrix::from_rows(4, 64, WeightFormat::Q4_0, |r, row| {
        row.fill(if r == 2 { f32::NAN } else { 1.0 });
        Ok::<(), MatrixError>(())
    });
    let not_finite = MatrixError::NotFinite { row: 2, col: 0, format: WeightFormat::Q4_0 };
    assert_eq!(error.unwrap_err(), not_finite);
    // A float holds what is no number: it is found where it shows in a result.
    let nan = |_: usize, row: &mut [f32]| {
        row.fill(f32::NAN);
        Ok::<(), MatrixError>(())
    };
    assert!(Matrix::from_rows(4, 64, DType::F16, nan).is_ok());
}

#[test]
fn a_finite_weight_never_becomes_infinite() {
    let largest = f32::from_bits(0x7f7f_7fff);
    for (dtype, held, too_large) in
        [(DType::F16, 65519.0, 65520.0), (DType::BF16, largest, f32::from_bits(0x7f7f_8000))]
    {
        let rounded = |weight: f32| {
            Matrix::from_rows(20, 3, dtype, |r, row| {
                row.fill(1.0);
                if r == 17 {
                    row[2] = weight;
                }
                Ok::<(), MatrixError>(())
            })
        };
        for sign in [1.0, -1.0] {
            let mut row = [0.0; 3];
            rounded(sign * held).unwrap().row(17, &mut row).unwrap();
            assert!(row[2].is_finite() && row[2] * sign > 0.99 * held, "{dtype}: {}", row[2]);
            for weight in [too_large, f32::MAX] {
                let format = dtype.into();
                let error = MatrixError::TooLarge { row: 17, col: 2, format };
                assert_eq!(rounded(sign * weight).unwrap_err(), error, "{weight}");
            }
            // What is infinite already stays so.
            rounded(sign * f32::INFINITY).unwrap().row(17, &mut row).unwrap();
            assert_eq!(row[2], sign * f32::INFINITY);
        }
    }
}

#[test]
fn shared_panels_must_be_those_of_the_matrix_and_aligned() {
    let matrix = stored(&array(20, 64, 3), WeightFormat::Q8_0);
    let mut bytes = vec![0; matrix.bytes() + 64];
    let start = bytes.as_ptr().align_offset(32);
    bytes[start..][..matrix.bytes()].copy_from_slice(matrix.panels());
    let owner: SharedBytes = Arc::new(bytes);
    let range = start..start + matrix.bytes();
    let open = |range| Matrix::from_panels(20, 64, WeightFormat::Q8_0, owner.clone(), range);
    let shared = open(range.clone()).unwrap();
    let x = array(2, 64, 5);
    assert_eq!(product(Level::detect(), &x, &shared), product(Level::detect(), &x, &matrix));
    assert_eq!(open(start + 1..range.end + 1).unwrap_err(), MatrixError::Alignment);
    assert!(matches!(open(start..range.end - 1), Err(MatrixError::Panels { .. })));
    assert!(matches!(open(range.start + 640..range.end + 640), Err(MatrixError::Panels { .. })));
}
