//! What users of batches rely on: each session has the bits that it has alone, and what goes wrong
//! in one is that one's matter.

use mistral_model::ndarray::Axis;
use mistral_model::scheduler::Progress;
use mistral_model::{
    Batch, Config, DType, KvFormat, LogitsOf, ModelError, Request, Sampler, Scheduler,
    SchedulerOptions, Session, SessionOptions, Transformer, Turn, WeightFormat, Window,
};
use proptest::prelude::*;

use super::tiny::{self, VOCAB};

const W: usize = 5;

fn config(window: Window) -> Config {
    Config { n_layers: 3, context_len: 64, ..tiny::config(window) }
}

fn model(window: Window, format: WeightFormat) -> Transformer {
    Transformer::random(&config(window), format, 5).unwrap()
}

fn windowed() -> Transformer {
    model(Window::last(W).unwrap(), WeightFormat::BF16)
}

fn session(model: &Transformer, kv_dtype: KvFormat, sinks: usize) -> Session<&Transformer> {
    let options = SessionOptions { kv_dtype, max_chunk: 8, sinks, ..Default::default() };
    Session::new(model, options).unwrap()
}

/// Sessions that have little in common.
fn sessions(model: &Transformer) -> Vec<Session<&Transformer>> {
    let kinds = [(KvFormat::F32, 0), (KvFormat::F16, 3), (KvFormat::Int8, 0), (KvFormat::BF16, 0)];
    kinds.into_iter().map(|(kind, sinks)| session(model, kind, sinks)).collect()
}

/// Whose turn it is in a pass, with which tokens, and whose logits are wanted.
type Plan = Vec<(usize, Vec<u32>, LogitsOf)>;

fn plans() -> impl Strategy<Value = Vec<Plan>> {
    let wanted = prop_oneof![Just(LogitsOf::Nothing), Just(LogitsOf::Last), Just(LogitsOf::All)];
    let turn = (prop::collection::vec(0..VOCAB, 1..8), wanted);
    let pass = prop::collection::vec(prop::option::of(turn), 4).prop_map(|turns| {
        let turns = turns.into_iter().enumerate();
        turns.filter_map(|(who, turn)| turn.map(|(tokens, wanted)| (who, tokens, wanted))).collect()
    });
    prop::collection::vec(pass, 1..7)
}

/// Runs passes over a batch, and each session's tokens alone; both must have the same bits.
fn compare(model: &Transformer, passes: &[Plan]) -> Result<(), TestCaseError> {
    let (mut together, mut alone) = (sessions(model), sessions(model));
    let mut batch = Batch::new(model, 4 * 8).unwrap();
    for pass in passes {
        let mut turns = Vec::new();
        for (who, session) in together.iter_mut().enumerate() {
            if let Some((_, tokens, logits)) = pass.iter().find(|(other, ..)| *other == who) {
                turns.push(Turn { session, tokens, logits: *logits });
            }
        }
        let outcomes = batch.forward(&mut turns).unwrap();
        for ((who, tokens, wanted), outcome) in pass.iter().zip(outcomes) {
            let mut all = Vec::new();
            let single = &mut alone[*who];
            single
                .logits_of_all(tokens, |_, logits| {
                    all.extend(logits.iter().copied());
                    Ok::<(), ModelError>(())
                })
                .unwrap();
            let first = match wanted {
                LogitsOf::Nothing => tokens.len(),
                LogitsOf::Last => tokens.len() - 1,
                LogitsOf::All => 0,
            };
            let found: Vec<f32> = outcome.unwrap().iter().copied().collect();
            prop_assert!(found == all[first * VOCAB as usize..], "session {who}, {wanted:?}");
        }
        for (who, _, wanted) in pass {
            prop_assert_eq!(together[*who].position(), alone[*who].position());
            if *wanted != LogitsOf::Nothing {
                prop_assert_eq!(together[*who].logits(), alone[*who].logits());
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn any_passes_give_each_session_the_bits_it_has_alone(passes in plans(), threads in 1usize..4) {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        for format in [WeightFormat::BF16, WeightFormat::Q8_0, WeightFormat::Q4_0] {
            let model = model(Window::last(W).unwrap(), format);
            pool.install(|| compare(&model, &passes))?;
        }
        pool.install(|| compare(&model(Window::Full, WeightFormat::F32), &passes))?;
    }
}

#[test]
fn decoding_together_is_decoding_alone() {
    let model = windowed();
    let (mut together, mut alone) = (sessions(&model), sessions(&model));
    let mut batch = Batch::new(&model, 4).unwrap();
    for step in 0..3 * W as u32 {
        let tokens: Vec<u32> = (0..4).map(|who| (step * 5 + who) % VOCAB).collect();
        let mut members: Vec<_> = together.iter_mut().collect();
        batch.decode(&mut members, &tokens).unwrap();
        for ((together, alone), token) in together.iter().zip(&mut alone).zip(tokens) {
            assert_eq!(together.logits(), alone.decode(token).unwrap());
        }
    }
}

#[test]
fn what_does_not_belong_together_is_refused_and_nothing_appended() {
    let (model, stranger) = (windowed(), windowed());
    let (mut first, mut second) =
        (session(&model, KvFormat::F16, 0), session(&model, KvFormat::F16, 0));
    let mut other = session(&stranger, KvFormat::F16, 0);
    let mut batch = Batch::new(&model, 2).unwrap();
    let unequal = batch.decode(&mut [&mut first, &mut second], &[1]);
    assert!(matches!(unequal, Err(ModelError::Batch { sessions: 2, tokens: 1 })));
    let foreign = batch.decode(&mut [&mut first, &mut other], &[1, 2]);
    assert!(matches!(foreign, Err(ModelError::ForeignSession)));
    let unknown = batch.decode(&mut [&mut first, &mut second], &[1, 100_000]);
    assert!(matches!(unknown, Err(ModelError::UnknownToken { .. })));
    let mut turns = [
        Turn { session: &mut first, tokens: &[1, 2], logits: LogitsOf::Last },
        Turn { session: &mut second, tokens: &[3], logits: LogitsOf::Last },
    ];
    let full = batch.forward(&mut turns);
    assert!(matches!(full, Err(ModelError::BatchFull { tokens: 3, capacity: 2 })));
    assert_eq!((first.position(), second.position(), other.position()), (0, 0, 0));
    batch.decode::<&Transformer>(&mut [], &[]).unwrap();
}

#[test]
fn each_session_is_told_what_is_wrong_with_it_and_the_others_go_on() {
    let (model, stranger) = (model(Window::Full, WeightFormat::BF16), windowed());
    let mut whole = session(&model, KvFormat::F16, 0);
    let mut full = session(&model, KvFormat::F16, 0);
    for _ in 0..8 {
        full.prefill(&[1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
    }
    let mut foreign = session(&stranger, KvFormat::F16, 0);
    let (mut empty, mut long) =
        (session(&model, KvFormat::F16, 0), session(&model, KvFormat::F16, 0));
    let mut unknown = session(&model, KvFormat::F16, 0);
    let mut batch = Batch::new(&model, 32).unwrap();
    let logits = LogitsOf::Last;
    let outcomes = batch
        .forward(&mut [
            Turn { session: &mut full, tokens: &[1], logits },
            Turn { session: &mut foreign, tokens: &[1], logits },
            Turn { session: &mut empty, tokens: &[], logits },
            Turn { session: &mut whole, tokens: &[1, 2], logits },
            Turn { session: &mut long, tokens: &[1; 9], logits },
            Turn { session: &mut unknown, tokens: &[1, VOCAB], logits },
        ])
        .unwrap();
    assert!(matches!(outcomes[0], Err(ModelError::ContextFull { tokens: 1, position: 64, .. })));
    assert!(matches!(outcomes[1], Err(ModelError::ForeignSession)));
    assert!(matches!(outcomes[2], Err(ModelError::EmptyPrompt)));
    assert!(matches!(outcomes[4], Err(ModelError::Cache { .. })));
    assert!(matches!(outcomes[5], Err(ModelError::UnknownToken { token: VOCAB, index: 1, .. })));
    let mut alone = session(&model, KvFormat::F16, 0);
    let expected = alone.prefill(&[1, 2]).unwrap();
    let found = outcomes[3].as_ref().unwrap().index_axis(Axis(0), 0);
    assert_eq!(found.as_slice().unwrap(), expected);
    assert_eq!([full.position(), whole.position(), long.position()], [64, 2, 0]);
}

#[test]
fn numbers_that_are_none_stay_in_their_session() {
    let model = tiny::with_a_bad_token(7);
    let start = || {
        let mut session = session(&model, DType::F16.into(), 0);
        session.prefill(&[1, 2, 3]).unwrap();
        session
    };
    let (mut first, mut bad, mut last) = (start(), start(), start());
    let mut batch = Batch::new(&model, 8).unwrap();
    let outcomes = batch
        .forward(&mut [
            Turn { session: &mut first, tokens: &[4], logits: LogitsOf::Last },
            Turn { session: &mut bad, tokens: &[5, 7, 9], logits: LogitsOf::All },
            Turn { session: &mut last, tokens: &[4, 5], logits: LogitsOf::All },
        ])
        .unwrap();
    assert!(matches!(outcomes[1], Err(ModelError::NotFinite { layer: 0, position: 4 })));
    let mut alone = start();
    assert_eq!(outcomes[0].as_ref().unwrap().as_slice().unwrap(), alone.decode(4).unwrap());
    let after_two = outcomes[2].as_ref().unwrap().index_axis(Axis(0), 1);
    assert_eq!(after_two.as_slice().unwrap(), alone.decode(5).unwrap());
    assert_eq!([first.position(), bad.position(), last.position()], [4, 3, 5]);

    // The tokens were taken back: the session goes on as if they had never come.
    assert!(matches!(bad.decode(7), Err(ModelError::NotFinite { layer: 0, position: 3 })));
    assert_eq!(bad.decode(4).unwrap(), first.logits());
    let together = batch.decode(&mut [&mut bad, &mut first], &[7, 5]);
    assert!(matches!(together, Err(ModelError::NotFinite { layer: 0, position: 4 })));
    assert_eq!(first.logits(), last.logits());
}

#[test]
fn a_request_that_fails_is_told_so_and_the_others_write_on() {
    let model = tiny::with_a_bad_token(7);
    let mut scheduler = Scheduler::new(&model, SchedulerOptions::default()).unwrap();
    let request = |prompt: &[u32]| Request::new(prompt, Sampler::greedy()).ignore_eos();
    let bad = scheduler.submit(request(&[1, 2, 7])).unwrap();
    let good = scheduler.submit(request(&[1, 2, 3]).max_tokens(5)).unwrap();
    let (mut written, mut errors) = (Vec::new(), Vec::new());
    while !scheduler.is_idle() {
        for event in scheduler.step().unwrap() {
            match event.progress {
                Progress::Token(token) => written.push((event.request, token)),
                Progress::Failed(error) => errors.push((event.request, error)),
                Progress::Finished(_) => assert_eq!(event.request, good),
            }
        }
        assert_eq!(scheduler.position(bad), None);
    }
    let [(failed, ModelError::NotFinite { layer: 0, position: 2 })] = errors.as_slice() else {
        panic!("{errors:?}");
    };
    assert_eq!(*failed, bad);
    let mut alone = session(&model, KvFormat::F16, 0);
    let text = alone.generate(&[1, 2, 3], Sampler::greedy()).unwrap().ignore_eos();
    let text: Vec<_> = text.take(5).map(|token| (good, token.unwrap())).collect();
    assert_eq!(written, text);
}
