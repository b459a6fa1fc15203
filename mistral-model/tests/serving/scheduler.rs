//! What users of a scheduler rely on: any company, the text that a request has alone; memory as
//! planned; nobody waits long.

use std::collections::BTreeMap;

use mistral_model::scheduler::{Engine, Finish, Progress, RequestId};
use mistral_model::{
    Config, KvFormat, ModelError, Request, Sampler, SamplerOptions, Scheduler, SchedulerOptions,
    Session, SessionOptions, Transformer, WeightFormat, Window,
};
use proptest::prelude::*;

use super::tiny::{self, VOCAB};

const W: usize = 24;

fn config(window: Window) -> Config {
    Config { context_len: 128, ..tiny::config(window) }
}

fn model(window: Window) -> Transformer {
    Transformer::random(&config(window), WeightFormat::Q8_0, 5).unwrap()
}

fn windowed() -> Transformer {
    model(Window::last(W).unwrap())
}

fn options(max_chunk: usize, max_running: usize) -> SchedulerOptions {
    let session = SessionOptions { max_chunk, ..SessionOptions::default() };
    SchedulerOptions { session, max_running, max_cache_bytes: None }
}

fn scheduler(model: &Transformer, max_chunk: usize, max_running: usize) -> Scheduler<&Transformer> {
    Scheduler::new(model, options(max_chunk, max_running)).unwrap()
}

fn sampler(seed: u64) -> Sampler {
    // What was said counts, so that a history of others would show.
    let options = SamplerOptions { seed, repetition_penalty: 1.2, ..Default::default() };
    Sampler::new(options).unwrap()
}

fn tokens(n: usize, seed: u32) -> Vec<u32> {
    (0..n as u32).map(|i| (i * i * 7 + i * (13 + seed) + seed) % VOCAB).collect()
}

/// What happened to each request.
#[derive(Debug, Default)]
struct Story {
    tokens: Vec<u32>,
    finish: Option<Finish>,
    error: Option<ModelError>,
}

type Stories = BTreeMap<RequestId, Story>;

/// One step, written down.
fn step(scheduler: &mut Scheduler<&Transformer>, stories: &mut Stories) {
    for event in scheduler.step().unwrap() {
        let story = stories.entry(event.request).or_default();
        assert!(story.finish.is_none() && story.error.is_none(), "something after the end");
        match event.progress {
            Progress::Token(token) => story.tokens.push(token),
            Progress::Finished(finish) => story.finish = Some(finish),
            Progress::Failed(error) => story.error = Some(error),
        }
    }
}

fn run(scheduler: &mut Scheduler<&Transformer>) -> Stories {
    let mut stories = Stories::new();
    for _ in 0..10_000 {
        if scheduler.is_idle() {
            return stories;
        }
        step(scheduler, &mut stories);
    }
    panic!("it never ends");
}

/// The text of a request that is alone, and the logits that each of its tokens was drawn from.
fn alone(model: &Transformer, request: &Request) -> (Vec<u32>, Vec<Vec<f32>>) {
    let mut session = Session::new(model, SessionOptions::default()).unwrap();
    let (mut written, mut logits) = (Vec::new(), Vec::new());
    let mut sampler = request.sampler.clone();
    sampler.observe(&request.prompt);
    let mut last = session.prefill(&request.prompt).unwrap().to_vec();
    while written.len() < request.max_tokens {
        let token = sampler.sample(&last).unwrap();
        logits.push(last);
        written.push(token);
        last = session.decode(token).unwrap().to_vec();
    }
    (written, logits)
}

#[derive(Debug, Clone)]
enum Act {
    Submit { prefix: u32, common: usize, own: usize, max_tokens: usize },
    Cancel(usize),
    Step(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    // Two prefixes, so that many prompts begin alike.
    let submit = (0u32..2, 0usize..60, 1usize..20, 1usize..12).prop_map(
        |(prefix, common, own, max_tokens)| Act::Submit { prefix, common, own, max_tokens },
    );
    let act = prop_oneof![
        3 => submit,
        1 => any::<usize>().prop_map(Act::Cancel),
        2 => (1usize..6).prop_map(Act::Step),
    ];
    prop::collection::vec(act, 1..24)
}

/// Requests with the text and the logits that each has alone.
type Submitted = BTreeMap<RequestId, (Request, Vec<u32>, Vec<Vec<f32>>)>;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    #[test]
    fn any_schedule_gives_each_request_the_text_and_logits_it_has_alone(
        acts in acts(),
        chunk in 1usize..40,
        places in 1usize..6,
        in_window: bool,
    ) {
        let model = if in_window { windowed() } else { model(Window::Full) };
        let mut scheduler = scheduler(&model, chunk, places);
        let mut requests = BTreeMap::new();
        let mut cancelled = Vec::new();
        let mut stories = Stories::new();
        let mut check = |scheduler: &mut Scheduler<&Transformer>, requests: &Submitted| {
            step(scheduler, &mut stories);
            for (id, story) in &stories {
                let (_, _, logits) = &requests[id];
                if let Some(found) = scheduler.logits(*id) {
                    assert!(found == logits[story.tokens.len() - 1], "logits of {id}");
                }
            }
        };
        for (seed, act) in acts.into_iter().enumerate() {
            match act {
                Act::Submit { prefix, common, own, max_tokens } => {
                    let prompt = [tokens(common, prefix), tokens(own, seed as u32 + 2)].concat();
                    let request = Request::new(prompt, sampler(seed as u64));
                    let request = request.ignore_eos().max_tokens(max_tokens);
                    let (text, logits) = alone(&model, &request);
                    let id = scheduler.submit(request.clone()).unwrap();
                    requests.insert(id, (request, text, logits));
                }
                Act::Cancel(which) => {
                    if let Some(id) = requests.keys().nth(which % requests.len().max(1)).copied() {
                        scheduler.cancel(id);
                        cancelled.push(id);
                    }
                }
                Act::Step(n) => (0..n).for_each(|_| check(&mut scheduler, &requests)),
            }
        }
        while !scheduler.is_idle() {
            check(&mut scheduler, &requests);
        }
        prop_assert_eq!((scheduler.cache_bytes(), scheduler.reserved_bytes()), (0, 0));
        for (id, (_, text, _)) in requests {
            let story = stories.remove(&id).unwrap_or_default();
            if cancelled.contains(&id) {
                prop_assert!(text.starts_with(&story.tokens));
            } else {
                prop_assert_eq!(story.tokens, text);
                prop_assert_eq!(story.finish, Some(Finish::MaxTokens));
            }
        }
    }
}

#[test]
fn common_prefixes_are_computed_once_and_their_memory_shared() {
    for model in [windowed(), model(Window::Full)] {
        let mut scheduler = scheduler(&model, 32, 8);
        let prefix = tokens(20, 1);
        let request = |own: u32| {
            let prompt = [prefix.clone(), vec![own; 2]].concat();
            Request::new(prompt, sampler(own.into())).ignore_eos().max_tokens(3)
        };
        let expected: Vec<_> = (0..4).map(|own| alone(&model, &request(own)).0).collect();
        let ids: Vec<_> = (0..4).map(|own| scheduler.submit(request(own)).unwrap()).collect();
        let stories = run(&mut scheduler);
        for (id, expected) in ids.iter().zip(expected) {
            assert_eq!(stories[id].tokens, expected);
        }
        // The prefix, two tokens of each prompt, and two of three written.
        assert_eq!(scheduler.tokens_computed(), 20 + 4 * (2 + 2));
    }
}

#[test]
fn a_prefix_that_is_held_serves_requests_that_come_later() {
    let model = windowed();
    let mut scheduler = scheduler(&model, 8, 2);
    let prefix = tokens(20, 1);
    let held = scheduler.hold(prefix.clone()).unwrap();
    let stories = run(&mut scheduler);
    assert_eq!((stories[&held].finish, scheduler.tokens_computed()), (Some(Finish::Held), 20));
    for own in 0..3 {
        let prompt = [prefix.as_slice(), &[own]].concat();
        let request = Request::new(prompt, sampler(3)).ignore_eos().max_tokens(2);
        let expected = alone(&model, &request).0;
        let id = scheduler.submit(request).unwrap();
        assert_eq!(run(&mut scheduler)[&id].tokens, expected);
    }
    assert_eq!(scheduler.tokens_computed(), 20 + 3 * 2);
    assert!(scheduler.cache_bytes() > 0);
    assert!(scheduler.cancel(held));
    assert_eq!(scheduler.cache_bytes(), 0);
}

#[test]
fn cancelling_frees_memory_at_once_and_disturbs_nobody() {
    let model = windowed();
    let mut scheduler = scheduler(&model, 64, 8);
    let request =
        |seed: u32| Request::new(tokens(10, seed), sampler(seed.into())).ignore_eos().max_tokens(9);
    let ids: Vec<_> = (0..3).map(|seed| scheduler.submit(request(seed)).unwrap()).collect();
    let mut stories = Stories::new();
    step(&mut scheduler, &mut stories);
    let one = Session::new(&model, options(64, 1).session).unwrap().cache_bytes();
    assert_eq!((scheduler.cache_bytes(), scheduler.reserved_bytes()), (3 * one, 3 * one));
    assert!(scheduler.cancel(ids[1]));
    assert!(!scheduler.cancel(ids[1]));
    assert_eq!((scheduler.cache_bytes(), scheduler.reserved_bytes()), (2 * one, 2 * one));
    while !scheduler.is_idle() {
        step(&mut scheduler, &mut stories);
    }
    assert_eq!(stories[&ids[1]].tokens.len(), 1);
    for (seed, id) in [(0, ids[0]), (2, ids[2])] {
        assert_eq!(stories[&id].tokens, alone(&model, &request(seed)).0);
    }
}

#[test]
fn requests_wait_until_their_cache_fits_and_nobody_overtakes() {
    let config = Config { context_len: 1024, ..config(Window::Full) };
    let model = Transformer::random(&config, WeightFormat::Q8_0, 5).unwrap();
    let one = {
        let mut session = Session::new(&model, options(8, 1).session).unwrap();
        session.prefill(&tokens(15, 0)).unwrap();
        session.cache_bytes()
    };
    let options = SchedulerOptions { max_cache_bytes: Some(2 * one), ..options(8, 8) };
    let mut scheduler = Scheduler::new(&model, options).unwrap();
    // Ten of the prompt, and the first five that are written.
    let request =
        |seed| Request::new(tokens(10, seed), Sampler::greedy()).ignore_eos().max_tokens(6);
    let ids: Vec<_> = (0..5).map(|seed| scheduler.submit(request(seed)).unwrap()).collect();
    let mut stories = Stories::new();
    let mut begun: Vec<RequestId> = Vec::new();
    while !scheduler.is_idle() {
        step(&mut scheduler, &mut stories);
        assert!(scheduler.running() <= 2);
        assert!(scheduler.cache_bytes() <= scheduler.reserved_bytes());
        assert!(scheduler.reserved_bytes() <= 2 * one);
        for id in stories.keys() {
            if !begun.contains(id) {
                begun.push(*id);
            }
        }
    }
    assert_eq!(begun, ids);
    assert!(stories.values().all(|story| story.tokens.len() == 6));

    let long = request(0).max_tokens(500);
    match scheduler.submit(long) {
        Err(ModelError::CacheBudget { needed, budget }) => {
            assert!(needed > budget && budget == 2 * one);
        }
        other => panic!("{other:?}"),
    }
    // Room that a prefix takes up does not come back by waiting.
    scheduler.hold(tokens(10, 0)).unwrap();
    scheduler.hold(tokens(10, 1)).unwrap();
    let refused = scheduler.submit(request(2)).unwrap();
    let error = run(&mut scheduler).remove(&refused).unwrap().error;
    assert!(matches!(error, Some(ModelError::CacheBudget { budget: 0, .. })), "{error:?}");
}

#[test]
fn whoever_writes_gets_a_token_in_every_step_while_others_read() {
    let model = model(Window::Full);
    let mut scheduler = scheduler(&model, 4, 4);
    let request = |n, seed| Request::new(tokens(n, seed), Sampler::greedy()).ignore_eos();
    let writer = scheduler.submit(request(3, 0).max_tokens(40)).unwrap();
    let mut stories = Stories::new();
    step(&mut scheduler, &mut stories);
    let long = scheduler.submit(request(80, 1).max_tokens(1)).unwrap();
    let short = scheduler.submit(request(4, 2).max_tokens(1)).unwrap();
    for n in 2..=22 {
        let before = scheduler.tokens_computed();
        step(&mut scheduler, &mut stories);
        assert_eq!(stories[&writer].tokens.len(), n);
        assert!(scheduler.tokens_computed() - before <= 4 + 4, "one of each, and four to read");
        // Half of the budget until it is done.
        assert_eq!(stories.contains_key(&short), n >= 3);
        assert_eq!(stories.contains_key(&long), n >= 22);
    }
}

#[test]
fn a_text_ends_for_the_reason_it_would_have_alone() {
    let free = {
        let model = model(Window::Full);
        let mut session = Session::new(&model, SessionOptions::default()).unwrap();
        let generator = session.generate(&tokens(5, 1), Sampler::greedy()).unwrap().ignore_eos();
        generator.take(10).collect::<Result<Vec<u32>, _>>().unwrap()
    };
    let config = Config { eos_tokens: vec![free[6]], ..config(Window::Full) };
    let model = Transformer::random(&config, WeightFormat::Q8_0, 5).unwrap();
    let mut scheduler = scheduler(&model, 128, 8);
    let request = || Request::new(tokens(5, 1), Sampler::greedy()).max_tokens(10);
    let first = |token| free.iter().position(|t| *t == token).unwrap();
    let mut submit = |request| scheduler.submit(request).unwrap();
    let expected = [
        (submit(request()), first(free[6]), Finish::EndOfSequence),
        (submit(request().stop_at([free[3]])), first(free[3]), Finish::StopToken(free[3])),
        (submit(request().ignore_eos()), 10, Finish::MaxTokens),
        (submit(request().max_tokens(0)), 0, Finish::MaxTokens),
        // The last token needs no place.
        (
            submit(Request::new(tokens(120, 1), sampler(1)).max_tokens(99).ignore_eos()),
            9,
            Finish::ContextFull,
        ),
    ];
    let stories = run(&mut scheduler);
    for (id, n, finish) in expected {
        let story = &stories[&id];
        assert_eq!((story.tokens.len(), story.finish), (n, Some(finish)));
    }
}

#[test]
fn iterators_over_one_engine_write_what_they_write_alone_and_dropping_one_frees_its_memory() {
    let model = windowed();
    let engine = Engine::new(&model, options(16, 4)).unwrap();
    let request = |seed| Request::new(tokens(12, seed), sampler(7)).ignore_eos().max_tokens(11);
    let mut streams: Vec<_> = (0..3).map(|seed| engine.generate(request(seed)).unwrap()).collect();
    // The budget is shared: it takes three steps to read.
    let first = streams[2].next().unwrap().unwrap();
    let one = Session::new(&model, options(16, 4).session).unwrap().cache_bytes();
    assert_eq!(engine.cache_bytes(), Some(3 * one));
    drop(streams.remove(1));
    assert_eq!(engine.cache_bytes(), Some(2 * one));
    let mut last = streams.pop().unwrap();
    let mut written = vec![first];
    written.extend(last.by_ref().map(Result::unwrap));
    assert_eq!((written, last.finish()), (alone(&model, &request(2)).0, Some(Finish::MaxTokens)));
    // It went along with the other and is complete: its tokens wait.
    assert_eq!(engine.cache_bytes(), Some(0));
    let waiting = streams.pop().unwrap();
    let written: Vec<u32> = waiting.map(Result::unwrap).collect();
    assert_eq!(written, alone(&model, &request(0)).0);
    assert!(engine.generate(Request::new([], sampler(1))).is_err());
}

#[test]
fn what_is_wrong_with_a_request_is_said_at_once() {
    let model = model(Window::Full);
    let mut scheduler = scheduler(&model, 8, 2);
    let mut refusal =
        |prompt: Vec<u32>| scheduler.submit(Request::new(prompt, Sampler::greedy())).unwrap_err();
    assert!(matches!(refusal(vec![]), ModelError::EmptyPrompt));
    assert!(matches!(refusal(vec![1, VOCAB]), ModelError::UnknownToken { index: 1, .. }));
    assert!(matches!(refusal(tokens(129, 0)), ModelError::ContextFull { tokens: 129, .. }));
    assert!(scheduler.is_idle() && scheduler.step().unwrap().is_empty());
    let errors = [options(0, 1), options(1, 0)].map(|o| Scheduler::new(&model, o).unwrap_err());
    let mut names = errors.iter().map(|error| error.to_string());
    assert!(names.any(|name| name.starts_with("max_running is 0")), "{errors:?}");
    assert!(errors.iter().any(|error| matches!(error, ModelError::ZeroChunk)), "{errors:?}");
    // Memory that cannot be had is no reason to abort.
    let all = SchedulerOptions { max_running: usize::MAX, ..SchedulerOptions::default() };
    assert!(matches!(Scheduler::new(&model, all), Err(ModelError::OutOfMemory { .. })));
    let kv_dtype = KvFormat::Int8;
    let session = SessionOptions { kv_dtype, ..SessionOptions::default() };
    let options = SchedulerOptions { session, max_cache_bytes: Some(10), ..Default::default() };
    let mut tight = Scheduler::new(&model, options).unwrap();
    let error = tight.submit(Request::new([1], Sampler::greedy())).unwrap_err();
    assert!(matches!(error, ModelError::CacheBudget { budget: 10, .. }), "{error}");
}
