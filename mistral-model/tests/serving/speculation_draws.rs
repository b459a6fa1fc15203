//! Guesses beside whatever shapes a draw: penalties, biases, constraints.

use std::num::NonZero;

use mistral_model::generate::{DraftModel, HistorySpan, LogitBias, PromptLookup};
use mistral_model::{Config, Sampler, SamplerOptions, Transformer, WeightFormat, Window};
use proptest::prelude::*;

use super::speculation::{Oracle, config, options, plain, speculative};
use super::tiny::VOCAB;

fn windowed(config: Config) -> Transformer {
    let config = Config { window: Window::last(9).unwrap(), ..config };
    Transformer::random(&config, WeightFormat::Q8_0, 5).unwrap()
}

/// Every drafter leaves the text, the session and its logits as they are without it.
#[track_caller]
fn same_as_alone(model: &Transformer, prompt: &[u32], sampler: &Sampler, n: usize) {
    let (expected, alone) = plain(model, prompt, sampler.clone(), n);
    let text = [prompt, &expected].concat();
    let oracle = |wrong: &[bool]| Oracle { text: text.clone(), wrong: wrong.to_vec(), seen: 0 };
    for wrong in [&[][..], &[true], &[false, false, true], &[true, false]] {
        let (found, session, stats) = speculative(model, prompt, sampler.clone(), n, oracle(wrong));
        assert_eq!(found, expected, "{wrong:?}");
        assert_eq!(session.tokens(), alone.tokens(), "{wrong:?}");
        assert_eq!(session.logits(), alone.logits(), "{wrong:?}");
        if n > 20 {
            assert_eq!(stats.accepted > 0, wrong != [true], "{wrong:?}: {stats:?}");
        }
    }
    let draft = DraftModel::new(model, options()).unwrap();
    let (found, session, stats) = speculative(model, prompt, sampler.clone(), n, draft);
    assert_eq!((found.as_slice(), session.logits()), (expected.as_slice(), alone.logits()));
    // It draws as the model does, filters included; the last guesses are not counted yet.
    assert!(stats.drafted - stats.accepted <= options().rewind_slack, "{stats:?}");
    let (found, ..) = speculative(model, prompt, sampler.clone(), n, PromptLookup::new());
    assert_eq!(found, expected);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(32) })]

    #[test]
    fn penalties_and_biases_see_no_guess(
        prompt in prop::collection::vec(0..VOCAB, 1..12),
        n in 3usize..40,
        (temperature, seed) in (prop_oneof![Just(0.0f32), 0.3f32..1.5], any::<u64>()),
        (repetition, presence, frequency) in (0.7f32..1.8, -2.0f32..2.0, -2.0f32..2.0),
        (last, bias) in (prop::option::of(any::<NonZero<u8>>()), (0..VOCAB, -3.0f32..6.0)),
    ) {
        let options = SamplerOptions {
            temperature,
            seed,
            repetition_penalty: repetition,
            presence_penalty: presence,
            frequency_penalty: frequency,
            history: last.map_or(HistorySpan::Output, |n| HistorySpan::Last(n.into())),
            top_k: Some(40),
            typical_p: 0.95,
            top_p: 0.9,
            min_p: 0.01,
        };
        let bias = LogitBias::new([bias, (7, f32::NEG_INFINITY)]).unwrap();
        let sampler = Sampler::new(options).unwrap().with_filter(bias);
        same_as_alone(&windowed(config(Window::Full)), &prompt, &sampler, n);
    }
}

#[cfg(feature = "constrain")]
mod constrained {
    use std::path::Path;

    use mistral_model::generate::{Constraint, Constraints, SpeculativeGenerator};
    use mistral_model::{Session, Tokenizer};

    use super::super::speculation::FREE;
    use super::*;

    const EOS: u32 = 2;

    fn tokenizer() -> Tokenizer {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../mistral-cli/demo/model");
        Tokenizer::open(folder).unwrap()
    }

    /// Rules that end, and rules that go on for long.
    fn constraints(tokenizer: &Tokenizer) -> Vec<Constraint> {
        let of = Constraints::new(tokenizer, &[EOS]).unwrap();
        let schema = r#"{"type": "object", "properties": {
            "age": {"type": "integer", "minimum": 0, "maximum": 130},
            "role": {"enum": ["king", "fox", "goose girl"]},
            "friends": {"type": "array", "minItems": 3, "maxItems": 5, "items": {"enum": ["a", "b"]}}},
            "required": ["age", "role", "friends"], "additionalProperties": false}"#;
        vec![
            of.json_schema(schema).unwrap(),
            of.grammar("start: \"(\" start \")\" | \"[\" start \"]\" | \"x\"").unwrap(),
            of.clone().allow_leading_space().regex("([a-z]{3} ){4,}").unwrap(),
        ]
    }

    fn model(tokenizer: &Tokenizer) -> Transformer {
        let vocab_size = tokenizer.vocab_size();
        windowed(Config { vocab_size, eos_tokens: vec![EOS], ..config(Window::Full) })
    }

    #[test]
    fn a_constraint_follows_the_text_and_no_guess() {
        let tokenizer = tokenizer();
        let model = model(&tokenizer);
        for constraint in constraints(&tokenizer) {
            for seed in 0..4 {
                let temperature = if seed == 0 { 0.0 } else { 1.0 };
                let options = SamplerOptions {
                    temperature,
                    seed,
                    frequency_penalty: 0.3,
                    ..SamplerOptions::default()
                };
                let sampler = Sampler::new(options).unwrap().with_filter(constraint.clone());
                same_as_alone(&model, &[1, 9], &sampler, 40);
            }
        }
    }

    #[test]
    fn a_constrained_text_ends_where_it_ends_without_guesses() {
        let tokenizer = tokenizer();
        let model = model(&tokenizer);
        for (which, constraint) in constraints(&tokenizer).into_iter().enumerate().take(2) {
            let options = SamplerOptions { seed: 6, ..SamplerOptions::default() };
            let sampler = Sampler::new(options).unwrap().with_filter(constraint);
            let mut alone = Session::new(&model, super::options()).unwrap();
            let text = alone.generate(&[1, 9], sampler.clone()).unwrap();
            let expected: Vec<u32> = text.map(Result::unwrap).collect();
            let mut session = Session::new(&model, super::options()).unwrap();
            session.prefill(&[1, 9]).unwrap();
            let text = [vec![1, 9], expected.clone(), vec![EOS; 9]].concat();
            let oracle = Oracle { text, wrong: vec![], seen: 0 };
            let guessed = SpeculativeGenerator::new(&mut session, sampler, oracle, FREE).unwrap();
            assert_eq!(guessed.map(Result::unwrap).collect::<Vec<u32>>(), expected, "{which}");
            assert_eq!(session.tokens(), alone.tokens());
            assert_eq!(session.logits(), alone.logits());
        }
    }
}
