//! Sampling and text, against their plain definitions.
#![allow(clippy::unwrap_used)] // a test that cannot set up has failed

use mistral_model::generate::{Sampler, SamplerOptions, StopStrings};
use proptest::prelude::*;

/// The definition: the stop string that is complete first, of several the longest; the text before.
fn cut<'a>(text: &'a str, stops: &[String]) -> (&'a str, Option<String>) {
    for (end, _) in text.char_indices().skip(1).chain([(text.len(), ' ')]) {
        let complete = stops.iter().filter(|stop| text[..end].ends_with(*stop));
        if let Some(stop) = complete.max_by_key(|stop| stop.len()) {
            return (&text[..end - stop.len()], Some(stop.clone()));
        }
    }
    (text, None)
}

/// Length of the longest end of `text` that a stop string could begin with.
fn begun(text: &str, stops: &[String]) -> usize {
    text.char_indices()
        .map(|(start, _)| &text[start..])
        .find(|end| stops.iter().any(|stop| stop.starts_with(end)))
        .map_or(0, str::len)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn text_before_a_stop_string_is_the_same_however_it_is_cut(
        pieces in prop::collection::vec("[abé😀]{0,4}", 0..12),
        stops in prop::collection::vec("[abé😀]{1,5}", 0..4),
    ) {
        let text = pieces.concat();
        let (expected, stop) = cut(&text, &stops);
        let mut watch = StopStrings::new(stops.clone()).unwrap();
        let (mut shown, mut fed) = (String::new(), String::new());
        for piece in &pieces {
            fed.push_str(piece);
            shown.push_str(watch.push(piece));
            prop_assert!(expected.starts_with(&shown), "{:?} shown", shown);
            if watch.stopped().is_none() {
                // Nothing is held back that could not become a stop string.
                prop_assert_eq!(shown.len() + begun(&fed, &stops), fed.len());
            }
        }
        shown.push_str(watch.finish());
        prop_assert_eq!(shown, expected);
        prop_assert_eq!(watch.stopped().map(str::to_owned), stop);
    }

    #[test]
    fn a_drawn_token_has_passed_every_filter(
        order in Just((0..600u32).collect::<Vec<_>>()).prop_shuffle(),
        n in 1..600usize,
        temperature in 0.2f32..3.0,
        top_k in prop::option::of(1..700usize),
        top_p in 0.01f32..1.0,
        min_p in 0.0f32..0.3,
        seed in any::<u64>(),
    ) {
        let logits: Vec<f32> = order[..n].iter().map(|place| *place as f32 / 60.0).collect();
        let allowed = allowed(&logits, temperature, top_k, top_p, min_p);
        let options =
            SamplerOptions { temperature, top_k, top_p, min_p, seed, ..SamplerOptions::default() };
        let mut sampler = Sampler::new(options).unwrap();
        for _ in 0..20 {
            let token = sampler.sample(&logits).unwrap();
            prop_assert!(allowed.contains(&token), "{} is not in {:?}", token, allowed);
        }
    }

    #[test]
    fn a_typical_token_is_among_the_nearest_to_the_entropy(
        logits in prop::collection::vec(-6.0f32..6.0, 1..300),
        typical_p in 0.01f32..1.0,
        seed in any::<u64>(),
    ) {
        let options = SamplerOptions { typical_p, seed, ..SamplerOptions::default() };
        let mut sampler = Sampler::new(options).unwrap();
        let allowed = typical(&logits, typical_p);
        for _ in 0..20 {
            let token = sampler.sample(&logits).unwrap();
            prop_assert!(allowed.contains(&token), "{} is not in {:?}", token, allowed);
        }
    }

    #[test]
    fn top_k_of_one_is_greedy(
        logits in prop::collection::vec(-9.0f32..9.0, 1..300),
        seed in any::<u64>(),
    ) {
        let options = SamplerOptions { top_k: Some(1), seed, ..SamplerOptions::default() };
        let token = Sampler::new(options).unwrap().sample(&logits);
        prop_assert_eq!(token, Sampler::greedy().sample(&logits));
    }
}

/// The definition in f64, a hair too wide for rounding's sake.
fn typical(logits: &[f32], share: f32) -> Vec<u32> {
    const HAIR: f64 = 1e-5;
    let weights: Vec<f64> = logits.iter().map(|l| f64::from(*l).exp()).collect();
    let total: f64 = weights.iter().sum();
    let information = |w: &f64| -(w / total).ln();
    let entropy: f64 = weights.iter().map(|w| w / total * information(w)).sum();
    let mut sorted: Vec<(f64, f64, u32)> =
        weights.iter().zip(0..).map(|(w, id)| ((information(w) - entropy).abs(), *w, id)).collect();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let goal = f64::from(share) * total * (1.0 + HAIR);
    let mut before = 0.0;
    let reached = sorted.iter().take_while(|(_, w, _)| {
        let missing = before < goal;
        before += w;
        missing
    });
    let farthest = reached.last().map_or(0.0, |(distance, ..)| *distance) + HAIR;
    sorted.iter().filter(|(distance, ..)| *distance <= farthest).map(|(.., id)| *id).collect()
}

/// The filters one after the other on a sorted list, in f64, a hair too wide for rounding's sake.
fn allowed(
    logits: &[f32],
    temperature: f32,
    top_k: Option<usize>,
    top_p: f32,
    min_p: f32,
) -> Vec<u32> {
    const HAIR: f64 = 1e-5;
    let weight = |l: &f32| (f64::from(*l) / f64::from(temperature)).exp();
    let mut sorted: Vec<(f64, u32)> = logits.iter().map(weight).zip(0..).collect();
    sorted.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    sorted.truncate(top_k.unwrap_or(usize::MAX));
    let goal = f64::from(top_p) * sorted.iter().map(|(w, _)| w).sum::<f64>() * (1.0 + HAIR);
    let bar = f64::from(min_p) * sorted[0].0 * (1.0 - HAIR);
    let mut before = 0.0;
    sorted
        .into_iter()
        .take_while(|(w, _)| {
            let missing = before < goal;
            before += w;
            missing && *w >= bar
        })
        .map(|(_, id)| id)
        .collect()
}
