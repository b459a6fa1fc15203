//! A session's bits are its own: in any company, for any chunk size, and with nothing to add.

use std::sync::Arc;

use mistral_model::generate::{Drafter, SpeculationOptions, SpeculativeGenerator};
use mistral_model::scheduler::Progress;
use mistral_model::{
    Adapter, AdapterError, Batch, Config, DType, ModelError, Request, Sampler, SamplerOptions,
    Scheduler, SchedulerOptions, Session, SessionOptions, Transformer, WeightFormat, Window,
};
use serde_json::json;

use super::files::{Peft, bits, logits};

const W: usize = 5;

fn config() -> Config {
    Config {
        dim: 256,
        n_layers: 2,
        n_heads: 8,
        n_kv_heads: 2,
        head_dim: 32,
        hidden_dim: 512,
        vocab_size: 96,
        window: Window::last(W).unwrap(),
        ..Config::mistral_7b_v01()
    }
}

fn tokens(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (i * i * 7 + i * 13 + 1) % 96).collect()
}

const ALL: [usize; 7] = [0, 1, 2, 3, 4, 5, 6];

#[test]
fn sessions_with_different_adapters_and_none_are_decoded_together_as_alone() {
    let config = config();
    let open =
        |modules: &[usize], rank, seed| Peft::random(&config, modules, rank, seed).open(&config);
    let (a, b, c) = (open(&ALL, 4, 1), open(&ALL, 17, 2), open(&[0, 5], 1, 3));
    let companies: [Vec<&Arc<Adapter>>; 8] =
        [vec![&a], vec![], vec![&a], vec![&a], vec![&b], vec![&a, &b], vec![&c], vec![]];
    let formats = [WeightFormat::F32, WeightFormat::BF16, WeightFormat::Q8_0, WeightFormat::Q4K];
    for format in formats {
        let model = Transformer::random(&config, format, 11).unwrap();
        let start = |i: usize| {
            let mut session = Session::new(&model, SessionOptions::default()).unwrap();
            for adapter in &companies[i] {
                session = session.with_adapter(Arc::clone(adapter)).unwrap();
            }
            session.prefill(&tokens(2 * i + 1)).unwrap();
            session
        };
        let mut alone: Vec<_> = (0..companies.len()).map(start).collect();
        let mut together: Vec<_> = (0..companies.len()).map(start).collect();
        let mut batch = Batch::new(&model, companies.len()).unwrap();
        for step in 0..2 * W as u32 {
            let next: Vec<u32> = (0..8).map(|i| (11 * step + 5 * i) % 96).collect();
            let mut sessions: Vec<_> = together.iter_mut().collect();
            batch.decode(&mut sessions, &next).unwrap();
            for (i, (alone, together)) in alone.iter_mut().zip(&together).enumerate() {
                let want = alone.decode(next[i]).unwrap().iter().map(|x| x.to_bits());
                let found = together.logits().iter().map(|x| x.to_bits());
                assert!(found.eq(want), "{format}, session {i}, step {step}");
            }
        }
    }
}

#[test]
fn requests_with_different_adapters_share_passes_and_only_their_own_prefixes() {
    let config = config();
    let open = |seed| Peft::random(&config, &ALL, 4, seed).open(&config);
    let (a, b) = (open(1), open(2));
    let model = Transformer::random(&config, WeightFormat::Q8_0, 11).unwrap();
    let mut scheduler = Scheduler::new(&model, SchedulerOptions::default()).unwrap();
    let prompt = tokens(30);
    let (mut expected, mut ids) = (Vec::new(), Vec::new());
    for adapters in [vec![&a], vec![], vec![&b], vec![&a], vec![&b, &a], vec![]] {
        let mut session = Session::new(&model, SessionOptions::default()).unwrap();
        let mut request = Request::new(prompt.clone(), Sampler::greedy()).max_tokens(8);
        for adapter in adapters {
            session = session.with_adapter(Arc::clone(adapter)).unwrap();
            request = request.with_adapter(Arc::clone(adapter));
        }
        let text = session.generate(&prompt, Sampler::greedy()).unwrap().ignore_eos();
        expected.push(text.take(8).map(Result::unwrap).collect::<Vec<u32>>());
        ids.push(scheduler.submit(request.ignore_eos()).unwrap());
    }
    assert_ne!(expected[0], expected[1]);
    let mut written = vec![Vec::new(); ids.len()];
    while !scheduler.is_idle() {
        for event in scheduler.step().unwrap() {
            let which = ids.iter().position(|id| *id == event.request).unwrap();
            if let Progress::Token(token) = event.progress {
                written[which].push(token);
            }
        }
    }
    assert_eq!(written, expected);
    // Four prompts are read, two of them for two requests; seven tokens of each are appended.
    assert_eq!(scheduler.tokens_computed(), 4 * 30 + 2 + 6 * 7);

    let other = Config { hidden_dim: 256, ..config.clone() };
    let foreign = Peft::random(&other, &ALL, 4, 1).open(&other);
    let request = Request::new(prompt, Sampler::greedy()).with_adapter(foreign);
    assert!(matches!(scheduler.submit(request), Err(ModelError::Adapter { .. })));
}

/// Guesses the text that it was given, every fourth token wrong.
struct Guess(Vec<u32>, usize);

impl Drafter for Guess {
    fn observe(&mut self, tokens: &[u32]) {
        self.1 += tokens.len();
    }

    fn confidence(&mut self) -> Option<usize> {
        Some(0)
    }

    fn draft(&mut self, most: usize, _: &Sampler, drafts: &mut Vec<u32>) {
        let places = (self.1..self.0.len()).take(most);
        drafts.extend(places.map(|i| if i % 4 == 3 { self.0[i] ^ 1 } else { self.0[i] }));
    }
}

#[test]
fn guesses_leave_the_text_and_the_session_of_an_adapter_as_they_are() {
    let config = config();
    let open = |seed| Peft::random(&config, &ALL, 4, seed).open(&config);
    let adapters = [open(1), open(2)];
    let options = SessionOptions { rewind_slack: 6, ..SessionOptions::default() };
    let free = SpeculationOptions { max_drafts: 6, draft_cost: Some(0.0), max_loss: 1.0 };
    let draws = SamplerOptions { repetition_penalty: 1.2, seed: 9, ..SamplerOptions::default() };
    let prompt = tokens(7);
    for format in [WeightFormat::F32, WeightFormat::Q4K] {
        let model = Transformer::random(&config, format, 11).unwrap();
        let mut texts = Vec::new();
        for n in 0..=adapters.len() {
            let start = || {
                let session = Session::new(&model, options).unwrap();
                let adapters = adapters[..n].iter().cloned();
                adapters.fold(session, |session, a| session.with_adapter(a).unwrap())
            };
            let mut sampler = Sampler::new(draws).unwrap();
            let (mut alone, mut session) = (start(), start());
            let text = alone.generate(&prompt, sampler.clone()).unwrap().ignore_eos();
            let expected: Vec<u32> = text.take(40).map(Result::unwrap).collect();
            session.prefill(&prompt).unwrap();
            sampler.observe(&prompt);
            let guess = Guess([&prompt[..], &expected].concat(), 0);
            let guessed = SpeculativeGenerator::new(&mut session, sampler, guess, free).unwrap();
            let mut guessed = guessed.ignore_eos();
            let found: Vec<u32> = guessed.by_ref().take(40).map(Result::unwrap).collect();
            let stats = guessed.stats();
            assert!(0 < stats.accepted && stats.accepted < stats.drafted, "{stats:?}");
            drop(guessed);
            assert_eq!(found, expected, "{format}, {n} adapters");
            assert_eq!(session.tokens(), alone.tokens());
            assert!(session.logits() == alone.logits(), "{format}, {n} adapters");
            texts.push(found);
        }
        assert!(texts[0] != texts[1] && texts[1] != texts[2]);
    }
}

#[test]
fn any_chunking_and_number_of_threads_give_the_same_bits() {
    let config = config();
    let model = Transformer::random(&config, DType::BF16, 11).unwrap();
    let adapter = Peft::random(&config, &ALL, 6, 4).open(&config);
    // Both sides of the 128 rows that pass through an addend together.
    let tokens = tokens(2 * 128 + 3);
    let whole = bits(&logits(&model, &[&adapter], &tokens, tokens.len()));
    for chunk in [1, W, 127, 128, 129] {
        assert!(bits(&logits(&model, &[&adapter], &tokens, chunk)) == whole, "chunks of {chunk}");
    }
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let found = pool.install(|| bits(&logits(&model, &[&adapter], &tokens, 129)));
        assert!(found == whole, "{threads} threads");
    }
    assert!(bits(&logits(&model, &[], &tokens, 129)) != whole);
}

#[test]
fn an_adapter_that_adds_nothing_changes_no_bit() {
    let config = config();
    let model = Transformer::random(&config, DType::F32, 11).unwrap();
    let plain = bits(&logits(&model, &[], &tokens(20), 7));
    let peft = Peft::random(&config, &ALL, 4, 4);
    let mut untrained = peft.clone();
    for (name, array) in &mut untrained.tensors.0 {
        if name.contains("lora_B") {
            array.fill(0.0);
        }
    }
    let silent = peft.clone().with("lora_alpha", json!(0));
    let muted = Arc::new(peft.try_open(&config).unwrap().scaled(0.0).unwrap());
    for adapter in [untrained.open(&config), silent.open(&config), muted] {
        assert_eq!((adapter.projections(), adapter.bytes()), (0, 0));
        assert!(bits(&logits(&model, &[&adapter], &tokens(20), 7)) == plain);
    }
    assert!(bits(&logits(&model, &[&peft.open(&config)], &tokens(20), 7)) != plain);
}

#[test]
fn an_adapter_is_refused_where_it_does_not_belong() {
    let config = config();
    let adapter = Peft::random(&config, &ALL, 4, 4).open(&config);
    let other = Config { n_layers: 3, hidden_dim: 768, ..config.clone() };
    let model = Transformer::random(&other, DType::F32, 1).unwrap();
    let session = Session::new(&model, SessionOptions::default()).unwrap();
    let Err(ModelError::Adapter { source }) = session.with_adapter(Arc::clone(&adapter)) else {
        panic!("another model's adapter was taken");
    };
    assert_eq!(
        source.to_string(),
        "the adapter was opened for another model:\n  - n_layers is 3, expected 2\
         \n  - hidden_dim is 768, expected 512"
    );
    let model = Transformer::random(&config, DType::F32, 1).unwrap();
    let mut session = Session::new(&model, SessionOptions::default()).unwrap();
    session.prefill(&[1, 2]).unwrap();
    let refused = session.with_adapter(Arc::clone(&adapter)).map(drop).unwrap_err();
    let late = ModelError::Adapter { source: AdapterError::NotEmpty { position: 2 } };
    assert_eq!(refused.to_string(), late.to_string());
    assert!(matches!(
        refused,
        ModelError::Adapter { source: AdapterError::NotEmpty { position: 2 } }
    ));
    let copy = Adapter::clone(&adapter);
    assert!(matches!(copy.scaled(f32::NAN), Err(AdapterError::Strength { .. })));
}
