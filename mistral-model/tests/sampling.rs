//! What a user may rely on when tokens are drawn.
#![allow(clippy::unwrap_used)] // a test that cannot set up has failed

use mistral_model::generate::{Sampler, SamplerError, SamplerOptions};

fn sampler(options: SamplerOptions) -> Sampler {
    Sampler::new(options).unwrap()
}

/// Seeded logits, far enough apart that no rounding can reorder them.
fn logits(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919) % 1009) as f32 / 126.0 - 4.0).collect()
}

#[test]
fn a_seed_gives_the_same_tokens_on_every_platform() {
    let options = SamplerOptions {
        temperature: 0.8,
        top_k: Some(40),
        top_p: 0.95,
        min_p: 0.02,
        seed: 20_231_010,
        ..SamplerOptions::default()
    };
    let draw = |options| -> Vec<u32> {
        let mut sampler = sampler(options);
        (0..12).map(|_| sampler.sample(&logits(500)).unwrap()).collect()
    };
    assert_eq!(draw(options), KNOWN_FILTERED);
    let plain = SamplerOptions { seed: 1, ..SamplerOptions::default() };
    assert_eq!(draw(plain), KNOWN_PLAIN);
}

/// From a script in Python that follows the definitions with 64-bit floats.
const KNOWN_FILTERED: [u32; 12] = [277, 66, 86, 284, 462, 429, 383, 409, 33, 231, 264, 284];
const KNOWN_PLAIN: [u32; 12] = [397, 370, 48, 365, 86, 294, 495, 264, 47, 66, 456, 165];

#[test]
fn greedy_takes_the_largest_and_of_equals_the_lowest_id() {
    assert_eq!(Sampler::greedy().sample(&[-1.0, 2.0, 2.0, 0.5]).unwrap(), 1);
    assert_eq!(Sampler::greedy().sample(&[-0.0, 0.0]).unwrap(), 0);
    let zero = SamplerOptions { temperature: 0.0, seed: 9, ..SamplerOptions::default() };
    assert_eq!(sampler(zero).sample(&[f32::MIN, f32::MAX]).unwrap(), 1);
}

#[test]
fn of_equal_logits_filters_keep_the_lowest_ids() {
    let options = SamplerOptions { top_k: Some(3), ..SamplerOptions::default() };
    let mut top_k = sampler(options);
    let mut seen = [0; 6];
    for _ in 0..300 {
        seen[top_k.sample(&[1.0, 0.0, 1.0, 1.0, 1.0, 1.0]).unwrap() as usize] += 1;
    }
    assert!(seen[0] > 60 && seen[2] > 60 && seen[3] > 60, "{seen:?}");
    assert_eq!(seen[1] + seen[4] + seen[5], 0, "{seen:?}");
}

#[test]
fn a_nucleus_reaches_over_more_tokens_than_are_sorted_first() {
    // 1000 equal tokens: a share of 0.5 is the first 500 of them.
    let options = SamplerOptions { top_p: 0.5, seed: 3, ..SamplerOptions::default() };
    let mut half = sampler(options);
    let drawn: Vec<u32> = (0..2000).map(|_| half.sample(&[0.25; 1000]).unwrap()).collect();
    let most = *drawn.iter().max().unwrap();
    assert!((490..=500).contains(&most), "{most}");
}

#[test]
fn frequencies_follow_the_softmax() {
    let mut plain =
        Sampler::new(SamplerOptions { temperature: 2.0, seed: 11, ..SamplerOptions::default() })
            .unwrap();
    let logits = [0.0f32, 2.0, 4.0, -2.0];
    let weights = logits.map(|l| f64::from(l / 2.0).exp());
    let total: f64 = weights.iter().sum();
    let n = 20_000;
    let mut seen = [0u32; 4];
    for _ in 0..n {
        seen[plain.sample(&logits).unwrap() as usize] += 1;
    }
    for (count, weight) in seen.iter().zip(weights) {
        let expected = weight / total;
        let found = f64::from(*count) / f64::from(n);
        // Four standard deviations.
        let spread = 4.0 * (expected * (1.0 - expected) / f64::from(n)).sqrt();
        assert!((found - expected).abs() < spread, "{found} instead of {expected}");
    }
}

#[test]
fn extreme_logits_and_temperatures_still_give_a_token() {
    for temperature in [1e-45, 1e-30, 1.0, f32::MAX] {
        let mut any = sampler(SamplerOptions { temperature, ..SamplerOptions::default() });
        let token = any.sample(&[f32::MIN, f32::MAX, 1.0]).unwrap();
        assert!(token < 3);
        if temperature <= 1.0 {
            assert_eq!(token, 1, "temperature {temperature}");
        }
        assert_eq!(any.sample(&[-7.0]).unwrap(), 0);
    }
}

#[test]
fn logits_that_are_none_give_an_error_and_use_no_random_number() {
    let mut with_errors = sampler(SamplerOptions::default());
    let mut without = with_errors.clone();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let error = with_errors.sample(&[0.0, bad, f32::NAN]).unwrap_err();
        assert!(matches!(error, SamplerError::NotFinite { token: 1, .. }), "{error}");
        assert!(Sampler::greedy().sample(&[bad]).is_err());
    }
    assert_eq!(with_errors.sample(&[]), Err(SamplerError::NoLogits));
    let many = logits(100);
    assert_eq!(with_errors.sample(&many), without.sample(&many));
}

#[test]
fn options_out_of_range_are_refused_by_name() {
    let refused = |options: SamplerOptions| Sampler::new(options).unwrap_err();
    let d = SamplerOptions::default();
    for temperature in [-0.1, f32::NAN, f32::INFINITY] {
        let error = refused(SamplerOptions { temperature, ..d });
        assert!(matches!(error, SamplerError::Temperature { .. }), "{temperature}");
    }
    for top_p in [0.0, -0.5, 1.01, f32::NAN] {
        let error = refused(SamplerOptions { top_p, ..d });
        assert!(matches!(error, SamplerError::TopP { .. }), "{top_p}");
    }
    for min_p in [-0.1, 1.01, f32::NAN] {
        let error = refused(SamplerOptions { min_p, ..d });
        assert!(matches!(error, SamplerError::MinP { .. }), "{min_p}");
    }
    let error = refused(SamplerOptions { top_k: Some(0), ..d });
    assert_eq!(error, SamplerError::TopK);
    for fine in
        [SamplerOptions { min_p: 1.0, ..d }, SamplerOptions { top_k: Some(usize::MAX), ..d }]
    {
        assert!(Sampler::new(fine).is_ok());
    }
}
