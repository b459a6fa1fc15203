//! Log-probabilities of prompts and outputs.
#![allow(clippy::unwrap_used)] // a test that cannot set up has failed

use mistral_model::generate::{SamplerError, TokenLogProbs};
use mistral_model::{
    Config, DType, ModelError, Sampler, SamplerOptions, Session, SessionOptions, Transformer,
    Window,
};
use proptest::prelude::*;

fn model() -> Transformer {
    let config = Config {
        dim: 64,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 16,
        hidden_dim: 96,
        vocab_size: 100,
        window: Window::last(9).unwrap(),
        ..Config::mistral_7b_v01()
    };
    Transformer::random(&config, DType::F32, 7).unwrap()
}

fn session(model: &Transformer, max_chunk: usize) -> Session<&Transformer> {
    Session::new(model, SessionOptions { max_chunk, ..Default::default() }).unwrap()
}

#[test]
fn log_probabilities_of_generation_are_those_of_scoring_bit_for_bit() {
    let model = model();
    let prompt = [1, 42, 7];
    let options =
        SamplerOptions { presence_penalty: 1.0, temperature: 1.5, ..SamplerOptions::default() };
    let mut writing = session(&model, 512);
    let generator = writing.generate(&prompt, Sampler::new(options).unwrap()).unwrap();
    let written: Vec<TokenLogProbs> =
        generator.ignore_eos().log_probs(4).take(30).map(Result::unwrap).collect();

    let mut text = prompt.to_vec();
    text.extend(written.iter().map(|token| token.token));
    for chunk in [1, 5, 512] {
        let scored = session(&model, chunk).log_probs_of(&text, 4).unwrap();
        assert_eq!(scored[0], None, "nothing comes before the first token");
        assert_eq!(scored.len(), text.len());
        let behind: Vec<_> = scored.into_iter().skip(prompt.len()).map(Option::unwrap).collect();
        assert_eq!(behind, written, "chunks of {chunk}");
    }
}

#[test]
fn after_a_rewind_the_first_token_is_scored_as_if_nothing_had_been_there() {
    let model = model();
    let text = [1, 42, 7, 99];
    let whole = session(&model, 512).log_probs_of(&text, 2).unwrap();
    let mut back = session(&model, 512);
    back.prefill(&[1, 42, 5]).unwrap();
    back.rewind(1).unwrap();
    assert!(back.logits().is_empty());
    assert_eq!(back.log_probs_of(&text[2..], 2).unwrap(), whole[2..]);
}

#[test]
fn a_session_under_way_scores_the_first_token_too() {
    let model = model();
    let text = [1, 42, 7, 99, 3, 8];
    let whole = session(&model, 512).log_probs_of(&text, 2).unwrap();
    let mut parts = session(&model, 2);
    let mut joined = parts.log_probs_of(&text[..3], 2).unwrap();
    joined.extend(parts.log_probs_of(&text[3..], 2).unwrap());
    assert_eq!(joined, whole);
    let mut prefilled = session(&model, 512);
    assert_eq!(parts.logits(), prefilled.prefill(&text).unwrap());
}

#[test]
fn asking_for_them_changes_no_token() {
    let model = model();
    let sampler = || Sampler::new(SamplerOptions { seed: 3, ..Default::default() }).unwrap();
    let mut plain = session(&model, 512);
    let plain: Vec<u32> = plain
        .generate(&[1, 5], sampler())
        .unwrap()
        .ignore_eos()
        .take(12)
        .map(Result::unwrap)
        .collect();
    let mut told = session(&model, 512);
    let told: Vec<u32> = told
        .generate(&[1, 5], sampler())
        .unwrap()
        .ignore_eos()
        .log_probs(0)
        .take(12)
        .map(|token| token.unwrap().token)
        .collect();
    assert_eq!(told, plain);
}

#[test]
fn tokens_that_the_model_lacks_are_refused_before_any_work() {
    let model = model();
    let mut session = session(&model, 2);
    let error = session.log_probs_of(&[1, 2, 3, 100], 1).unwrap_err();
    assert!(matches!(error, ModelError::UnknownToken { token: 100, index: 3, .. }), "{error}");
    assert_eq!(session.position(), 0);
    assert!(matches!(session.log_probs_of(&[], 1), Err(ModelError::EmptyPrompt)));

    let unknown = SamplerError::UnknownToken { token: 2, vocab_size: 2 };
    assert_eq!(TokenLogProbs::new(&[0.0, 1.0], 2, 1), Err(unknown));
    assert_eq!(TokenLogProbs::new(&[], 0, 1), Err(SamplerError::NoLogits));
    let nan = TokenLogProbs::new(&[0.0, f32::NAN], 0, 1).unwrap_err();
    assert!(matches!(nan, SamplerError::NotFinite { token: 1, .. }));
}

#[test]
fn far_apart_logits_neither_overflow_nor_vanish() {
    let found = TokenLogProbs::new(&[f32::MAX, f32::MIN, 0.0], 1, 9).unwrap();
    assert_eq!(found.log_probability, 2.0 * f64::from(f32::MIN));
    assert_eq!(found.top[0], (0, 0.0));
    assert_eq!(found.top.len(), 3);
    // Two of three equal ones, by the lower id; -0 is 0.
    let equal = TokenLogProbs::new(&[-0.0, 0.0, -0.0], 2, 2).unwrap();
    assert_eq!(equal.top, [(0, -(3f64.ln())), (1, -(3f64.ln()))]);
    assert_eq!(equal.log_probability, -(3f64.ln()));
}

proptest! {
    #[test]
    fn they_are_the_logarithms_of_a_distribution_with_the_likeliest_first(
        logits in prop::collection::vec(-30.0f32..30.0, 1..200),
        pick in any::<prop::sample::Index>(),
        top in 0..250usize,
    ) {
        let token = pick.index(logits.len()) as u32;
        let found = TokenLogProbs::new(&logits, token, logits.len()).unwrap();
        let sum: f64 = found.top.iter().map(|(_, log)| log.exp()).sum();
        prop_assert!((sum - 1.0).abs() < 1e-12, "{}", sum);
        prop_assert!(found.top.is_sorted_by(|a, b| a.1 > b.1 || (a.1 == b.1 && a.0 < b.0)));
        prop_assert!(found.top.contains(&(token, found.log_probability)));
        for (id, log) in &found.top {
            let difference = f64::from(logits[*id as usize]) - f64::from(logits[token as usize]);
            prop_assert!((log - found.log_probability - difference).abs() < 1e-9);
        }
        let fewer = TokenLogProbs::new(&logits, token, top).unwrap();
        prop_assert_eq!(&fewer.top[..], &found.top[..top.min(logits.len())]);
    }
}
