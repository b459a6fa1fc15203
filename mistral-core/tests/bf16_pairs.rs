//! bf16 weights that meet bf16 inputs: the definition, and the same bits with and without an
//! instruction for pairs.
#![allow(clippy::unwrap_used)] // a test may panic

use mistral_core::half::bf16;
use mistral_core::ndarray::{Array2, s};
use mistral_core::ops::K_BLOCK;
use mistral_core::simd::Level;
use mistral_core::{Matrix, MatrixError, WeightFormat};
use proptest::prelude::*;

use self::products::product;
use self::seeded::{array, bits};

mod products;
mod seeded;

const FORMAT: WeightFormat = WeightFormat::BF16xBF16;

fn stored(weights: &Array2<f32>) -> Matrix {
    products::stored(weights, FORMAT)
}

/// The definition: both rounded to bf16, chains of fused multiply-adds in which the second of two
/// inputs comes first, block sums in order.
fn one_output(x: &[f32], w: &[f32]) -> f32 {
    let rounded = |x: f32| bf16::from_f32(x).to_f32();
    x.chunks(K_BLOCK).zip(w.chunks(K_BLOCK)).fold(0.0, |total, (x, w)| {
        let pairs = x.chunks(2).zip(w.chunks(2));
        total
            + pairs.fold(0.0f32, |sum, (x, w)| {
                let sum = rounded(x[1]).mul_add(rounded(w[1]), sum);
                rounded(x[0]).mul_add(rounded(w[0]), sum)
            })
    })
}

/// Numbers of every size that a format has, zeros and subnormal ones among them.
fn of_any_size(rows: usize, cols: usize, seed: u64, sizes: std::ops::Range<i32>) -> Array2<f32> {
    let span = (sizes.end - sizes.start) as f32 / 2.0;
    let exponents =
        array(rows, cols, seed ^ 0xff).mapv(|x| ((x + 1.0) * span) as i32 + sizes.start);
    let mut numbers = array(rows, cols, seed);
    numbers.zip_mut_with(&exponents, |x, e| {
        *x = (f64::from(*x) * 2f64.powi(*e)) as f32;
    });
    numbers
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    #[test]
    fn a_product_has_the_bits_of_its_definition_at_every_level(
        rows in 1usize..40, pairs in prop_oneof![1usize..45, 250usize..520],
        outputs in 1usize..70, seed: u64, power in -60i32..60,
    ) {
        let x = array(rows, 2 * pairs, seed).mapv(|x| x * 2f32.powi(power));
        let w = array(outputs, 2 * pairs, seed ^ 1);
        let matrix = stored(&w);
        for level in Level::available() {
            let out = product(level, &x, &matrix);
            for ((t, o), found) in out.indexed_iter() {
                let want = one_output(x.row(t).to_slice().unwrap(), w.row(o).to_slice().unwrap());
                prop_assert_eq!(found.to_bits(), want.to_bits(), "[{}, {}] {}", t, o, level);
            }
        }
    }

    #[test]
    fn numbers_of_any_size_give_the_same_bits_at_every_level(
        rows in prop_oneof![1usize..30, Just(150)], pairs in 1usize..300, outputs in 1usize..40,
        seed: u64,
    ) {
        let x = of_any_size(rows, 2 * pairs, seed, -149..128);
        let matrix = stored(&of_any_size(outputs, 2 * pairs, seed ^ 1, -149..58));
        let want = bits(&product(Level::SCALAR, &x, &matrix));
        for level in Level::available() {
            prop_assert_eq!(&bits(&product(level, &x, &matrix)), &want, "{}", level);
        }
    }

    #[test]
    fn a_row_alone_has_the_bits_it_has_in_a_batch_on_any_number_of_threads(
        rows in prop_oneof![2usize..60, Just(193), Just(390)], pairs in 200usize..600,
        outputs in 1usize..200, seed: u64,
    ) {
        let x = array(rows, 2 * pairs, seed);
        let matrix = stored(&array(outputs, 2 * pairs, seed ^ 1));
        for level in [Level::detect(), Level::available().nth(1).unwrap_or(Level::SCALAR)] {
            let together = product(level, &x, &matrix);
            for t in [0, 1, rows / 2, rows - 1] {
                let alone = product(level, &x.slice(s![t..=t, ..]).to_owned(), &matrix);
                prop_assert_eq!(bits(&alone), bits(&together.slice(s![t..=t, ..]).to_owned()));
            }
            let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
            prop_assert_eq!(bits(&pool.install(|| product(level, &x, &matrix))), bits(&together));
        }
    }
}

#[test]
fn subnormal_weights_count_as_zero_at_every_level() {
    // Every other weight is subnormal, which no scaling of inputs makes up for.
    let tiny = Matrix::from_rows(20, 64, FORMAT, |_, row| {
        row.iter_mut().step_by(2).for_each(|weight| *weight = 1.0);
        row.iter_mut().skip(1).step_by(2).for_each(|weight| *weight = 1e-39);
        Ok::<(), MatrixError>(())
    })
    .unwrap();
    let zeros = Matrix::from_rows(20, 64, FORMAT, |_, row| {
        row.iter_mut().step_by(2).for_each(|weight| *weight = 1.0);
        Ok::<(), MatrixError>(())
    })
    .unwrap();
    let x = array(30, 64, 3);
    for level in Level::available() {
        assert_eq!(bits(&product(level, &x, &tiny)), bits(&product(level, &x, &zeros)), "{level}");
    }
}

#[test]
fn an_input_that_is_no_number_is_seen_in_every_output_of_its_row_alone() {
    let matrix = stored(&array(20, 256, 3));
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for rows in [3, 30] {
            let mut x = array(rows, 256, 4);
            let clean = product(Level::detect(), &x, &matrix);
            x[[1, 77]] = bad;
            for level in Level::available() {
                let out = product(level, &x, &matrix);
                assert!(out.row(1).iter().all(|y| y.is_nan()), "{bad} {level}");
                assert_eq!((out.row(0), out.row(2)), (clean.row(0), clean.row(2)));
            }
        }
    }
}

#[test]
fn rows_of_an_odd_number_of_weights_are_refused() {
    let fill = |_: usize, _: &mut [f32]| Ok::<(), MatrixError>(());
    let error = Matrix::from_rows(4, 101, FORMAT, fill).unwrap_err();
    assert_eq!(error, MatrixError::Columns { cols: 101, format: FORMAT, block: 2 });
}
