//! What holds for any weights and any bytes.

use mistral_core::quant::{Block, Q4_0, Q4K, Q5_0, Q5K, Q6K, Q8_0, W4A8, W8A8};
use proptest::prelude::*;

use crate::{for_each_format, restored, squared_error};

/// Weights of any size, groups of 16 of which differ in size.
fn weights() -> impl Strategy<Value = Vec<f32>> {
    let group = (prop::collection::vec(-1.0f32..1.0, 16), -3..3, -1.0f32..1.0);
    (prop::collection::vec(group, 16), -9..9).prop_map(|(groups, exponent)| {
        let scaled = groups.into_iter().flat_map(|(weights, more, shift)| {
            let scale = 2.0f32.powi(exponent + more);
            weights.into_iter().map(move |w| scale * (w + shift))
        });
        scaled.collect()
    })
}

/// The largest error that a plain format may make: `long` and `short` are its codes on the side of
/// the largest magnitude and on the other.
fn bounded_by_step<B: Block>(weights: &[f32], long: f32, short: f32) {
    let restored = restored::<B>(weights);
    for (weights, restored) in weights.chunks(B::WEIGHTS).zip(restored.chunks(B::WEIGHTS)) {
        let step = weights.iter().fold(0.0f32, |m, w| m.max(w.abs())) / long;
        // An f16 has 11 bits, and the smallest is 2^-24.
        let scale_error = long * (step / 2048.0).max(2.0f32.powi(-25));
        for (w, r) in weights.iter().zip(restored) {
            let bound = (0.5 * step).max(w.abs() - short * step) * 1.0001 + scale_error;
            assert!((w - r).abs() <= bound, "{w} {r} {step}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn plain_formats_are_off_by_half_a_step_at_most(weights in weights()) {
        bounded_by_step::<Q8_0>(&weights, 127.0, 127.0);
        bounded_by_step::<W8A8>(&weights, 127.0, 127.0);
        bounded_by_step::<Q5_0>(&weights, 16.0, 15.0);
        bounded_by_step::<Q4_0>(&weights, 8.0, 7.0);
    }

    #[test]
    fn searches_are_off_by_half_the_widest_step_at_most(weights in weights()) {
        let end = |sign: f32| weights.iter().fold(0.0f32, |m, w| m.max(sign * w));
        let rms = |restored: &[f32]| (squared_error(&weights, restored) / 256.0).sqrt() as f32;
        let (range, largest) = (end(1.0) + end(-1.0), end(1.0).max(end(-1.0)));
        let bounds = [
            (rms(&restored::<W4A8>(&weights)), range / 15.0),
            (rms(&restored::<Q4K>(&weights)), range / 15.0),
            (rms(&restored::<Q5K>(&weights)), range / 31.0),
            (rms(&restored::<Q6K>(&weights)), largest / 31.0),
        ];
        for (rms, step) in bounds {
            prop_assert!(rms <= 0.5 * step, "{rms} {step}");
        }
    }

    #[test]
    fn any_bytes_are_a_block_and_come_back(bytes in prop::collection::vec(any::<u8>(), 260)) {
        for_each_format!(Format => {
            let mut back = vec![0; Format::BYTES];
            Format::from_bytes(&bytes).write(&mut back);
            prop_assert_eq!(&back, &bytes[..Format::BYTES]);
        });
    }

    #[test]
    fn finite_weights_stay_finite(bits in prop::collection::vec(any::<u32>(), 256)) {
        // Any bits at all: sizes from 1e-45 to 1e38 in one block.
        let finite = |bits| Some(f32::from_bits(bits)).filter(|w| w.is_finite()).unwrap_or(1.0);
        let weights: Vec<f32> = bits.into_iter().map(finite).collect();
        for_each_format!(Format => {
            prop_assert!(restored::<Format>(&weights).iter().all(|w| w.is_finite()));
        });
    }
}
