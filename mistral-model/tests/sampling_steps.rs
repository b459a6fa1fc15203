//! Penalties, biases, filters and typical sampling: what a user may rely on.
#![allow(clippy::unwrap_used, clippy::panic)] // a test may panic

use std::num::NonZeroUsize;

use mistral_model::generate::{
    HistorySpan, LogitBias, LogitFilter, Sampler, SamplerError, SamplerOptions,
};

fn sampler(options: SamplerOptions) -> Sampler {
    Sampler::new(options).unwrap()
}

fn greedy() -> SamplerOptions {
    SamplerOptions { temperature: 0.0, ..SamplerOptions::default() }
}

fn last(n: usize) -> HistorySpan {
    HistorySpan::Last(NonZeroUsize::new(n).unwrap())
}

/// Seeded logits, far enough apart that no rounding can reorder them.
fn logits(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919) % 1009) as f32 / 126.0 - 4.0).collect()
}

/// So many tokens behind a prompt, always from the same logits.
fn draw(mut sampler: Sampler, prompt: &[u32], logits: &[f32], n: usize) -> Vec<u32> {
    sampler.observe(prompt);
    (0..n).map(|_| sampler.sample(logits).unwrap()).collect()
}

/// From a script in Python that follows the definitions with 64-bit floats.
const KNOWN_TYPICAL: [u32; 12] = [278, 21, 350, 41, 292, 93, 350, 186, 119, 166, 199, 21];
const KNOWN_ALL_STEPS: [u32; 16] =
    [489, 80, 87, 172, 20, 403, 409, 33, 390, 218, 370, 185, 119, 429, 132, 344];
const KNOWN_LAST_THREE: [u32; 16] = [40, 21, 27, 20, 41, 33, 14, 40, 27, 7, 28, 33, 20, 14, 33, 40];

#[test]
fn a_seed_gives_the_same_tokens_through_every_step() {
    let options =
        SamplerOptions { temperature: 1.3, typical_p: 0.6, seed: 7, ..SamplerOptions::default() };
    assert_eq!(draw(sampler(options), &[], &logits(500), 12), KNOWN_TYPICAL);

    let options = SamplerOptions {
        repetition_penalty: 1.3,
        presence_penalty: 0.5,
        frequency_penalty: 0.25,
        history: HistorySpan::PromptAndOutput,
        temperature: 0.9,
        top_k: Some(200),
        typical_p: 0.9,
        top_p: 0.95,
        min_p: 0.01,
        seed: 11,
    };
    let bias = LogitBias::new([(66, 1.5), (86, -3.0)]).unwrap();
    let all = draw(sampler(options).with_filter(bias), &[277, 66, 66, 3], &logits(500), 16);
    assert_eq!(all, KNOWN_ALL_STEPS);

    let options = SamplerOptions {
        presence_penalty: 1.0,
        frequency_penalty: 0.5,
        history: last(3),
        temperature: 0.7,
        top_p: 0.9,
        seed: 12,
        ..SamplerOptions::default()
    };
    assert_eq!(draw(sampler(options), &[5, 7], &logits(60), 16), KNOWN_LAST_THREE);
}

#[test]
fn each_penalty_does_what_its_name_says() {
    let logits = [2.0, 1.9, -1.0, 1.0];
    // Token 0 falls to 1, below token 1, which then falls to 0.95.
    let repetition = SamplerOptions { repetition_penalty: 2.0, ..greedy() };
    assert_eq!(draw(sampler(repetition), &[], &logits, 4), [0, 1, 0, 0]);
    // Once each, however often: 1.5, 1.4.
    let presence = SamplerOptions { presence_penalty: 0.5, ..greedy() };
    assert_eq!(draw(sampler(presence), &[], &logits, 4), [0, 1, 0, 0]);
    // More each time: 1.5 and 1.4, then 1.0 and 0.9 beside token 3 with 1.0.
    let frequency = SamplerOptions { frequency_penalty: 0.5, ..greedy() };
    assert_eq!(draw(sampler(frequency), &[], &logits, 6), [0, 1, 0, 1, 0, 3]);
    // Below 0 a penalty is a reward.
    let reward = SamplerOptions { presence_penalty: -2.0, ..greedy() };
    assert_eq!(draw(sampler(reward), &[3], &logits, 2), [3, 3]);
}

#[test]
fn a_negative_logit_is_penalised_too() {
    let repetition = SamplerOptions { repetition_penalty: 1.5, ..greedy() };
    assert_eq!(draw(sampler(repetition), &[0], &[-1.0, -1.2], 1), [1]);
}

#[test]
fn the_history_is_what_the_span_says() {
    let logits = [2.0, 1.5, 1.0];
    let options = SamplerOptions { presence_penalty: 2.0, ..greedy() };
    let with = |history| sampler(SamplerOptions { history, ..options });
    assert_eq!(draw(with(HistorySpan::PromptAndOutput), &[0, 1], &logits, 2), [2, 0]);
    assert_eq!(draw(with(HistorySpan::Output), &[0, 1], &logits, 4), [0, 1, 2, 0]);
    assert_eq!(draw(with(last(1)), &[1, 0], &logits, 3), [1, 0, 1]);
    assert_eq!(draw(with(last(2)), &[0, 1], &logits, 4), [2, 0, 1, 2]);
}

#[test]
fn a_token_of_the_prompt_that_the_model_lacks_does_no_harm() {
    let options = SamplerOptions { presence_penalty: 1.0, ..greedy() };
    assert_eq!(draw(sampler(options), &[u32::MAX, 7], &[0.0, 1.0], 1), [1]);
}

#[test]
fn a_bias_changes_the_odds_by_its_exponential() {
    let options = SamplerOptions { seed: 5, ..SamplerOptions::default() };
    let bias = LogitBias::new([(2, 9f32.ln()), (0, f32::NEG_INFINITY)]).unwrap();
    let drawn = draw(sampler(options).with_filter(bias), &[], &[3.0, 0.0, 0.0], 5000);
    let count = |token| drawn.iter().filter(|t| **t == token).count();
    assert_eq!(count(0), 0);
    // Four standard deviations around 0.9.
    assert!((4415..=4585).contains(&count(2)), "{}", count(2));
}

#[test]
fn biases_that_are_no_numbers_or_no_tokens_are_refused() {
    for bad in [f32::NAN, f32::INFINITY] {
        let error = LogitBias::new([(1, 0.5), (7, bad)]).unwrap_err();
        assert!(matches!(error, SamplerError::Bias { token: 7, .. }), "{error}");
    }
    let mut biased = Sampler::greedy().with_filter(LogitBias::new([(3, 1.0)]).unwrap());
    let unknown = SamplerError::UnknownToken { token: 3, vocab_size: 3 };
    assert_eq!(biased.sample(&[0.0; 3]), Err(unknown));
    assert_eq!(biased.sample(&[0.0; 4]), Ok(3));
}

/// Forbids what is below a bar, doubles the rest, and has enough of it after three tokens.
#[derive(Debug, Clone, Default)]
struct Notes {
    bar: f32,
    accepted: Vec<u32>,
}

impl LogitFilter for Notes {
    fn filter(&mut self, history: &[u32], logits: &mut [f32]) -> Result<(), SamplerError> {
        assert!(history.ends_with(&self.accepted), "{history:?}");
        if self.accepted.len() > 2 {
            return Err(SamplerError::filter("three are enough"));
        }
        for logit in logits {
            *logit = if *logit < self.bar { f32::NEG_INFINITY } else { 2.0 * *logit };
        }
        Ok(())
    }

    fn accept(&mut self, token: u32) -> Result<(), SamplerError> {
        self.accepted.push(token);
        Ok(())
    }
}

#[test]
fn filters_run_in_their_order_behind_penalties_and_see_the_history() {
    let options = SamplerOptions { presence_penalty: 1.0, ..greedy() };
    let bias = || LogitBias::new([(1, 1.5)]).unwrap();
    let bar = |bar| Notes { bar, ..Notes::default() };
    // Token 1 is below the bar until the bias lifts it; behind the filter it comes too late.
    let logits = [3.0, 2.0];
    let before = sampler(options).with_filter(bias()).with_filter(bar(2.5));
    assert_eq!(draw(before, &[0], &logits, 1), [1]);
    let behind = sampler(options).with_filter(bar(2.0)).with_filter(bias());
    assert_eq!(draw(behind, &[1], &logits, 1), [0]);
}

#[test]
fn a_filters_own_error_is_passed_on() {
    let mut noted = Sampler::greedy().with_filter(Notes::default());
    noted.observe(&[9]);
    for _ in 0..3 {
        assert_eq!(noted.sample(&[0.0, 1.0]), Ok(1));
    }
    match noted.sample(&[0.0, 1.0]).unwrap_err() {
        SamplerError::Filter { source } => {
            assert_eq!(source.as_dyn().to_string(), "three are enough");
        }
        other => panic!("{other}"),
    }
}

#[test]
fn when_everything_is_forbidden_there_is_no_token_and_no_random_number_is_used() {
    let options = SamplerOptions { seed: 3, ..SamplerOptions::default() };
    let bar = |bar| Notes { bar, ..Notes::default() };
    let mut with_errors = sampler(options).with_filter(bar(1.0));
    let mut without = with_errors.clone();
    assert_eq!(with_errors.sample(&[0.0; 9]), Err(SamplerError::AllForbidden));
    let error = with_errors.sample(&[f32::MAX; 9]).unwrap_err();
    assert_eq!(error, SamplerError::Overflow { token: 0, found: f32::INFINITY });
    let model = with_errors.sample(&[1.0, f32::NEG_INFINITY]).unwrap_err();
    assert!(matches!(model, SamplerError::NotFinite { token: 1, .. }), "{model}");
    let fine = [1.0, 1.1, 0.5, 1.2, 1.3];
    assert_eq!(with_errors.sample(&fine), without.sample(&fine));
}

#[test]
fn penalties_that_overflow_are_an_error() {
    let options = SamplerOptions { repetition_penalty: 1e-30, ..greedy() };
    let mut tiny = sampler(options);
    tiny.observe(&[1]);
    let error = tiny.sample(&[0.0, 1e30]).unwrap_err();
    assert_eq!(error, SamplerError::Overflow { token: 1, found: f32::INFINITY });
}

/// Logits after a text: a model in one line.
fn logits_after(text: &[u32]) -> Vec<f32> {
    let state = text.iter().fold(17u32, |state, token| state.wrapping_mul(31).wrapping_add(*token));
    (0..12).map(|token: u32| (state.wrapping_mul(token * 2 + 1) >> 24) as f32 / 64.0).collect()
}

#[test]
fn a_checked_draft_gives_the_text_of_decoding_one_by_one() {
    let options = SamplerOptions {
        repetition_penalty: 1.2,
        frequency_penalty: 0.3,
        history: last(5),
        typical_p: 0.9,
        seed: 8,
        ..SamplerOptions::default()
    };
    for options in [options, SamplerOptions { temperature: 0.0, ..options }] {
        let prompt = [3, 1, 4];
        let mut plain = sampler(options);
        plain.observe(&prompt);
        let mut text = prompt.to_vec();
        for _ in 0..60 {
            text.push(plain.sample(&logits_after(&text)).unwrap());
        }
        // Drafts that are right for a while, of any length.
        for (length, wrong_every) in [(1, 2), (4, 3), (7, 5), (3, 1000)] {
            let mut checking = sampler(options);
            checking.observe(&prompt);
            let mut written = prompt.to_vec();
            while written.len() < text.len() {
                let mut draft: Vec<u32> =
                    text[written.len()..].iter().copied().take(length).collect();
                for (index, token) in draft.iter_mut().enumerate() {
                    *token += u32::from((written.len() + index) % wrong_every == 0);
                }
                // The model is asked once, for the logits before and after each token of the draft.
                let verified: Vec<_> = (0..=draft.len())
                    .map(|n| logits_after(&[&written[..], &draft[..n]].concat()))
                    .collect();
                for (logits, drafted) in
                    verified.into_iter().zip(draft.iter().map(Some).chain([None]))
                {
                    let token = checking.sample(&logits).unwrap();
                    written.push(token);
                    if drafted != Some(&token) {
                        break;
                    }
                }
            }
            assert_eq!(written[..text.len()], text, "drafts of {length}");
        }
    }
}

#[test]
fn a_clone_goes_its_own_way() {
    let options = SamplerOptions { presence_penalty: 1.0, ..greedy() };
    let mut first = sampler(options).with_filter(LogitBias::new([(0, 1.0)]).unwrap());
    first.observe(&[0]);
    let mut second = first.clone();
    second.observe(&[1]);
    let logits = [1.0, 1.5, 1.2];
    assert_eq!((first.sample(&logits), second.sample(&logits)), (Ok(1), Ok(2)));
}

#[test]
fn penalties_out_of_range_are_refused_by_name() {
    let refused = |options: SamplerOptions| Sampler::new(options).unwrap_err();
    let d = SamplerOptions::default();
    for bad in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let error = refused(SamplerOptions { repetition_penalty: bad, ..d });
        assert!(matches!(error, SamplerError::RepetitionPenalty { .. }), "{bad}");
    }
    for bad in [-2.01, 2.01, f32::NAN, f32::INFINITY] {
        let error = refused(SamplerOptions { presence_penalty: bad, ..d });
        assert!(matches!(error, SamplerError::Penalty { name: "presence", .. }), "{bad}");
        let error = refused(SamplerOptions { frequency_penalty: bad, ..d });
        assert!(matches!(error, SamplerError::Penalty { name: "frequency", .. }), "{bad}");
    }
    for bad in [0.0, -0.5, 1.01, f32::NAN] {
        let error = refused(SamplerOptions { typical_p: bad, ..d });
        assert!(matches!(error, SamplerError::TypicalP { .. }), "{bad}");
    }
    let most = SamplerOptions { presence_penalty: 2.0, frequency_penalty: -2.0, ..d };
    assert!(Sampler::new(most).is_ok());
}
