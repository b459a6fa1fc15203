//! Blocks that rules stumble over.

use mistral_core::quant::{Block, Q4_0, Q4K, Q5_0, Q5K, Q6K, Q8_0, W4A8, W8A8};

use crate::{drawn, for_each_format, restored, squared_error};

#[test]
fn zeros_stay_zeros() {
    for_each_format!(Format => {
        assert!(restored::<Format>(&[0.0; 256]).iter().all(|w| *w == 0.0));
    });
}

#[test]
fn constants_stay_within_the_rounding_of_their_scale() {
    for c in [1.0f32, -1.0, 0.3, -0.3, 4.7e-3, -4.7e-3, 777.0, -777.0] {
        for_each_format!(Format => {
            // An f16 has 11 bits; below 6e-5, as scales of small weights are, it has fewer.
            let bound = c.abs() * if c.abs() < 0.1 { 1.0 / 100.0 } else { 1.0 / 2048.0 };
            for w in restored::<Format>(&[c; 256]) {
                assert!((w - c).abs() <= bound, "{w} {c}");
            }
        });
    }
}

#[test]
fn an_outlier_survives_and_spoils_no_other_group() {
    let mut weights = drawn::gaussian(256);
    weights[77] = 3.0;
    for_each_format!(Format => {
        let restored = restored::<Format>(&weights);
        // At most half a step of 3/7, the widest grid there is.
        assert!((restored[77] - 3.0).abs() <= 1.5 / 7.0, "{}", restored[77]);
        // Weights 96.. have scales of their own, multiples of the outlier's, or steps of 3/127.
        let error = squared_error(&weights[96..], &restored[96..]);
        let all = squared_error(&weights[96..], &[0.0; 160]);
        assert!(error <= 0.6 * all, "{error} {all}");
    });
}

#[test]
fn weights_too_small_for_a_scale_become_nearly_zero() {
    for c in [f32::MIN_POSITIVE, 1e-42, -1e-45, 1e-20, 3e-8] {
        let weights: Vec<f32> = (0..256).map(|k| c * (k % 17) as f32 / 16.0).collect();
        for_each_format!(Format => {
            for (w, r) in weights.iter().zip(restored::<Format>(&weights)) {
                // Half the smallest f16 for each of up to 31 steps of the search.
                assert!((w - r).abs() <= 1e-6, "{w} {r}");
            }
        });
    }
}

#[test]
fn weights_too_large_for_a_scale_keep_their_sign_and_stay_finite() {
    let weights: Vec<f32> =
        (0..256).map(|k| if k % 3 == 0 { f32::MAX } else { f32::MIN }).collect();
    for_each_format!(Format => {
        for (w, r) in weights.iter().zip(restored::<Format>(&weights)) {
            assert!(r.is_finite() && r.signum() == w.signum() && r.abs() > 4e5, "{r}");
        }
    });
}

#[test]
fn nothing_makes_a_block_of_nan() {
    let weights: Vec<f32> =
        (0..256).map(|k| [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1.0][k % 4]).collect();
    for_each_format!(Format => {
        assert!(restored::<Format>(&weights).iter().all(|w| w.is_finite()));
        assert!(restored::<Format>(&[f32::NAN; 256]).iter().all(|w| *w == 0.0));
    });
}

#[test]
fn slices_of_other_lengths_are_no_error() {
    for_each_format!(Format => other_lengths::<Format>());
}

fn other_lengths<B: Block>() {
    let block = B::quantise(&[1.0, -0.5]);
    let mut padded = [0.0; 256];
    padded[..2].copy_from_slice(&[1.0, -0.5]);
    assert_eq!(block, B::quantise(&padded[..B::WEIGHTS]));
    let (mut few, mut all) = ([9.0; 3], [9.0; 256]);
    block.dequantise(&mut few);
    block.dequantise(&mut all);
    assert_eq!(few, all[..3]);
    assert!(all[B::WEIGHTS..].iter().all(|w| *w == 9.0));
    let mut bytes = [7; 5];
    block.write(&mut bytes);
    let mut padded = vec![0; B::BYTES];
    padded[..5].copy_from_slice(&bytes);
    assert_eq!(B::from_bytes(&bytes), B::from_bytes(&padded));
}
