//! What users of speculation rely on: the text and the session of plain decoding, whoever guesses
//! whatever; a cost that stays small when nothing can be guessed.

use mistral_model::generate::{
    DraftModel, Drafter, PromptLookup, SpeculationOptions, SpeculationStats, SpeculativeGenerator,
};
use mistral_model::{
    Config, ModelError, Sampler, SamplerOptions, Session, SessionOptions, Transformer,
    WeightFormat, Window,
};
use proptest::prelude::*;

use super::tiny::{self, VOCAB};

const W: usize = 9;
const SLACK: usize = 5;

pub(crate) fn config(window: Window) -> Config {
    Config { context_len: 80, ..tiny::config(window) }
}

fn model(window: Window) -> Transformer {
    Transformer::random(&config(window), WeightFormat::Q8_0, 5).unwrap()
}

fn windowed() -> Transformer {
    model(Window::last(W).unwrap())
}

pub(crate) fn options() -> SessionOptions {
    SessionOptions { rewind_slack: SLACK, ..SessionOptions::default() }
}

fn session(model: &Transformer) -> Session<&Transformer> {
    Session::new(model, options()).unwrap()
}

fn sampler(temperature: f32, seed: u64) -> Sampler {
    let repetition_penalty = 1.2;
    let options = SamplerOptions { temperature, seed, repetition_penalty, ..Default::default() };
    Sampler::new(options).unwrap()
}

/// Guesses are free: as many as may be are made in every pass.
pub(crate) const FREE: SpeculationOptions =
    SpeculationOptions { max_drafts: SLACK, draft_cost: Some(0.0), max_loss: 1.0 };

/// Knows the text, and is wrong where it is told to be.
#[derive(Debug, Clone, Default)]
pub(crate) struct Oracle {
    pub(crate) text: Vec<u32>,
    pub(crate) wrong: Vec<bool>,
    pub(crate) seen: usize,
}

impl Drafter for Oracle {
    fn observe(&mut self, tokens: &[u32]) {
        self.seen += tokens.len();
    }

    fn confidence(&mut self) -> Option<usize> {
        Some(self.seen) // beyond the highest as well
    }

    fn draft(&mut self, most: usize, _sampler: &Sampler, drafts: &mut Vec<u32>) {
        // One more than was asked for.
        for place in self.seen..=self.seen + most {
            let token = self.text.get(place).copied().unwrap_or(u32::MAX);
            let wrong = self.wrong.get(place % self.wrong.len().max(1)) == Some(&true);
            drafts.push(if wrong { token.wrapping_add(1) % VOCAB } else { token });
        }
    }
}

/// Tokens of plain decoding, and the session when the iterator is dropped.
pub(crate) fn plain<'m>(
    model: &'m Transformer,
    prompt: &[u32],
    sampler: Sampler,
    n: usize,
) -> (Vec<u32>, Session<&'m Transformer>) {
    let mut session = session(model);
    let generator = session.generate(prompt, sampler).unwrap().ignore_eos();
    let tokens = generator.take(n).collect::<Result<Vec<u32>, _>>().unwrap();
    (tokens, session)
}

/// As [`plain`], with guesses.
pub(crate) fn speculative<'m>(
    model: &'m Transformer,
    prompt: &[u32],
    mut sampler: Sampler,
    n: usize,
    drafter: impl Drafter,
) -> (Vec<u32>, Session<&'m Transformer>, SpeculationStats) {
    let mut session = session(model);
    session.prefill(prompt).unwrap();
    sampler.observe(prompt);
    let mut generator =
        SpeculativeGenerator::new(&mut session, sampler, drafter, FREE).unwrap().ignore_eos();
    let tokens = generator.by_ref().take(n).collect::<Result<Vec<u32>, _>>().unwrap();
    let stats = generator.stats();
    drop(generator);
    (tokens, session, stats)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn any_guesses_give_the_text_and_the_session_of_plain_decoding(
        prompt in prop::collection::vec(0..VOCAB, 1..12),
        n in 0usize..40,
        wrong in prop::collection::vec(prop::bool::weighted(0.3), 0..14),
        (temperature, seed) in (prop_oneof![Just(0.0f32), 0.3f32..1.5], any::<u64>()),
        in_window: bool,
    ) {
        let model = if in_window { windowed() } else { model(Window::Full) };
        let sampler = sampler(temperature, seed);
        let (expected, mut alone) = plain(&model, &prompt, sampler.clone(), n);
        let text = [prompt.as_slice(), &expected].concat();
        let oracle = Oracle { text, wrong, seen: 0 };
        let (found, mut session, _) = speculative(&model, &prompt, sampler.clone(), n, oracle);
        prop_assert_eq!(&found, &expected);
        prop_assert_eq!(session.tokens(), alone.tokens());
        prop_assert_eq!(session.logits(), alone.logits());
        prop_assert_eq!(session.decode(7).unwrap(), alone.decode(7).unwrap());

        let (found, ..) = speculative(&model, &prompt, sampler.clone(), n, PromptLookup::new());
        prop_assert_eq!(&found, &expected);
        let small = Transformer::random(&Config { n_layers: 1, ..config(Window::Full) }, WeightFormat::Q4_0, 6);
        let draft = DraftModel::new(small.unwrap(), options()).unwrap();
        let (found, ..) = speculative(&model, &prompt, sampler, n, draft);
        prop_assert_eq!(&found, &expected);
    }
}

#[test]
fn a_draft_model_that_is_the_model_is_always_right_for_any_sampler() {
    let model = windowed();
    for temperature in [0.0, 1.0] {
        let draft = DraftModel::new(&model, options()).unwrap();
        let sampler = sampler(temperature, 3);
        let (tokens, _, stats) = speculative(&model, &[1, 2], sampler.clone(), 61, draft);
        assert_eq!(tokens, plain(&model, &[1, 2], sampler, 61).0);
        // The first token needs no pass, each pass gives five guesses and one more.
        assert_eq!((stats.passes, stats.drafted, stats.accepted), (10, 50, 50));
    }
}

#[test]
fn a_text_that_repeats_itself_takes_few_passes_and_one_that_does_not_costs_little() {
    let model = model(Window::Full);
    let mut session = Session::new(&model, SessionOptions { max_chunk: 9, ..options() }).unwrap();
    let mut run = |drafter: Oracle, draft_cost: f64| {
        session.reset().unwrap();
        session.prefill(&[1]).unwrap();
        let options = SpeculationOptions { draft_cost: Some(draft_cost), ..Default::default() };
        let sampler = Sampler::greedy();
        let mut tokens =
            SpeculativeGenerator::new(&mut session, sampler, drafter, options).unwrap();
        tokens = tokens.ignore_eos();
        assert_eq!(tokens.by_ref().take(70).count(), 70);
        tokens.stats()
    };
    let text = [vec![1], plain(&model, &[1], Sampler::greedy(), 70).0].concat();
    let right = Oracle { text, wrong: vec![], seen: 0 };
    let wrong = Oracle { wrong: vec![true], ..right.clone() };
    for cost in [0.1, 0.2, 0.5] {
        let stats = run(wrong.clone(), cost);
        assert_eq!((stats.passes, stats.accepted), (69, 0));
        assert!(stats.drafted as f64 * cost <= 0.03 * 70.0, "{stats:?} at {cost}");
        assert!(stats.drafted > 0 || cost > 0.4);
        let stats = run(right.clone(), cost);
        let spent = stats.passes as f64 + cost * stats.drafted as f64;
        assert!(spent < 50.0, "{stats:?} at {cost}");
    }
    assert_eq!(run(right.clone(), f64::NAN).drafted, 0);
    assert_eq!(run(right, 1e9).drafted, 0);
}

#[test]
fn the_end_of_a_text_and_of_a_context_come_where_they_come_without_guesses() {
    let (free, _) = plain(&model(Window::Full), &[1, 7], Sampler::greedy(), 30);
    let config = Config { eos_tokens: vec![free[9]], ..config(Window::Full) };
    let model = Transformer::random(&config, WeightFormat::Q8_0, 5).unwrap();
    let oracle = Oracle { text: [vec![1, 7], free].concat(), wrong: vec![], seen: 0 };
    let (mut alone, mut session) = (session(&model), session(&model));
    let expected: Vec<u32> =
        alone.generate(&[1, 7], Sampler::greedy()).unwrap().map(Result::unwrap).collect();
    let found = session.generate_speculative(&[1, 7], Sampler::greedy(), oracle.clone()).unwrap();
    assert_eq!(found.map(Result::unwrap).collect::<Vec<u32>>(), expected);
    assert_eq!(session.tokens(), alone.tokens());
    assert_eq!(session.logits(), alone.logits());

    let text = vec![9; 70];
    let whole = |results: &mut dyn Iterator<Item = Result<u32, ModelError>>| {
        results.map(|result| result.map_err(|error| error.to_string())).collect::<Vec<_>>()
    };
    alone.reset().unwrap();
    session.reset().unwrap();
    let mut plain = alone.generate(&text, Sampler::greedy()).unwrap().ignore_eos();
    let guessed = session.generate_speculative(&text, Sampler::greedy(), PromptLookup::new());
    let mut guessed = guessed.unwrap().ignore_eos();
    let (expected, found) = (whole(&mut plain), whole(&mut guessed));
    assert_eq!((expected.len(), expected.last().unwrap().is_err()), (12, true));
    assert_eq!(found, expected);
}

#[test]
fn a_guess_that_makes_no_numbers_of_the_logits_harms_nothing() {
    let model = tiny::with_a_bad_token(0);
    let prompt = [1, 5, 9];
    let (expected, _) = plain(&model, &prompt, sampler(1.0, 4), 40);
    assert!(!expected.contains(&0));
    let oracle = Oracle { text: vec![0; 100], wrong: vec![], seen: 0 };
    let (found, session, stats) = speculative(&model, &prompt, sampler(1.0, 4), 40, oracle);
    assert_eq!(found, expected);
    assert_eq!((session.position(), stats.accepted), (3 + 39, 0));
    assert_eq!(stats.drafted, 39 * SLACK);
}

#[test]
fn what_cannot_be_taken_back_or_does_not_fit_is_refused() {
    let model = windowed();
    let no_slack = Session::new(&model, SessionOptions::default());
    let refusal = |session: &mut Session<&Transformer>, prompt: &[u32]| {
        let lookup = PromptLookup::new();
        session.generate_speculative(prompt, Sampler::greedy(), lookup).unwrap_err()
    };
    let error = refusal(&mut no_slack.unwrap(), &[1]);
    assert!(matches!(error, ModelError::NoRewindSlack { wanted: 8 }), "{error}");
    assert!(matches!(refusal(&mut session(&model), &[]), ModelError::EmptyPrompt));
    let other = Config { vocab_size: 95, ..config(Window::Full) };
    let other = Transformer::random(&other, WeightFormat::Q8_0, 5).unwrap();
    let draft = DraftModel::new(&other, options()).unwrap();
    let mut session = session(&model);
    let error = session.generate_speculative(&[1], Sampler::greedy(), draft).unwrap_err();
    assert!(matches!(error, ModelError::DraftVocabulary { found: 95, expected: 96 }), "{error}");
}
