//! What company and guesses bring: rows in a pass, sequences in a batch, speculation.
//!
//! Every line compares two ways of doing the same, taken in turns, and prints the median of the
//! ratios of such pairs: what else the machine does hits both. `cargo bench -p benches --bench serving --
//! speculation` leaves out the rest.
#![allow(clippy::unwrap_used)] // a bench may panic

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use mistral_model::generate::{
    DraftModel, Drafter, PromptLookup, SpeculationOptions, SpeculationStats, SpeculativeGenerator,
};
use mistral_model::{
    Batch, Config, LogitsOf, Sampler, SamplerOptions, Session, SessionOptions, Tokenizer,
    Transformer, Turn, WeightFormat,
};

/// Pairs of measurements.
const ROUNDS: usize = 9;
/// Tokens that are written before it is the other's turn.
const TURN: usize = 16;
/// Layers of the 7B shape: far more than any cache holds.
const LAYERS: usize = 4;

fn main() {
    // `cargo test --benches` runs it as well, and wants to know only whether it compiles.
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    if !std::env::args().any(|arg| arg == "speculation") {
        batches();
    }
    guesses();
}

fn batches() {
    for format in [WeightFormat::BF16, WeightFormat::Q8_0, WeightFormat::Q4K] {
        let config = Config { n_layers: LAYERS, ..Config::mistral_7b_v01() };
        let model = Transformer::random(&config, format, 1).unwrap();
        rows(&model, &format.to_string());
        sequences(&model, &format.to_string());
    }
    let model = Transformer::open(demo().join("model")).unwrap();
    rows(&model, "demo");
    sequences(&model, "demo");
}

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../mistral-cli/demo")
}

fn guesses() {
    let demo = demo();
    let model = Transformer::open(demo.join("model")).unwrap();
    let tokenizer = Tokenizer::open(demo.join("model")).unwrap();
    let corpus = fs::read_to_string(demo.join("corpus/valid.txt")).unwrap();
    let tale = corpus.get(..600).unwrap();
    let said_twice = format!("{tale}\n\n{tale}\n\n{}", &tale[..120]);
    for (name, text) in [("ordinary", tale), ("repetitive", said_twice.as_str())] {
        let prompt = tokenizer.encode(text).unwrap();
        for temperature in [0.0, 0.8] {
            let options = SpeculationOptions::default();
            let request =
                Request { model: &model, prompt: &prompt, tokens: 256, temperature, options };
            let name = format!("{name} temperature={temperature}");
            speculation(&request, &format!("lookup {name}"), PromptLookup::new);
            // As slow as the model: it can only lose, and should hardly be asked.
            let draft = || DraftModel::new(&model, session_options()).unwrap();
            speculation(&request, &format!("itself {name}"), draft);
        }
    }
    // The same weights in fewer bits, where reading them is what takes time.
    let config = Config { n_layers: 2, ..Config::mistral_7b_v01() };
    let model = Transformer::random(&config, WeightFormat::BF16, 1).unwrap();
    let small = Transformer::random(&config, WeightFormat::Q4K, 1).unwrap();
    let options = SpeculationOptions { max_loss: 1.0, ..SpeculationOptions::default() };
    let (prompt, tokens, temperature) = (&[1; 16], 48, 0.0);
    let request = Request { model: &model, prompt, tokens, temperature, options };
    let draft = || DraftModel::new(&small, session_options()).unwrap();
    speculation(&request, "bf16 with a draft of q4_k", draft);
}

/// A text to be written.
struct Request<'a> {
    model: &'a Transformer,
    prompt: &'a [u32],
    tokens: usize,
    temperature: f32,
    options: SpeculationOptions,
}

fn session_options() -> SessionOptions {
    let rewind_slack = SpeculationOptions::default().max_drafts;
    SessionOptions { rewind_slack, ..SessionOptions::default() }
}

/// Seconds that something takes.
fn seconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What more rows in a pass cost: tokens of one sequence, with the logits of all.
fn rows(model: &Transformer, name: &str) {
    let mut session = Session::new(model, session_options()).unwrap();
    let mut batch = Batch::new(model, 16).unwrap();
    let mut pass = |rows: usize| {
        session.reset().unwrap();
        session.prefill(&[1; 64]).unwrap();
        let session = &mut session;
        let turn = Turn { session, tokens: &[5; 16][..rows], logits: LogitsOf::All };
        seconds(|| {
            batch
                .forward(&mut [turn])
                .unwrap()
                .into_iter()
                .for_each(|logits| assert!(logits.is_ok()))
        })
    };
    for rows in [2, 4, 8, 9, 16] {
        let ratios = (0..ROUNDS).map(|_| {
            let one = pass(1);
            pass(rows) / one
        });
        let cost = median(ratios.collect());
        let each = (cost - 1.0) / (rows - 1) as f64;
        println!("rows/{name}/{rows}: {cost:.2} passes of one row, {each:.2} for each more");
    }
}

/// What a batch brings: tokens a second of eight sequences beside those of one.
fn sequences(model: &Transformer, name: &str) {
    let start = |seed| {
        let mut session = Session::new(model, session_options()).unwrap();
        session.prefill(&[1, seed, 2]).unwrap();
        session
    };
    let mut sessions: Vec<_> = (0..8).map(start).collect();
    let mut alone = start(9);
    let mut batch = Batch::new(model, 8).unwrap();
    let mut tokens = Vec::new();
    let ratios = (0..ROUNDS).map(|_| {
        let one = seconds(|| assert!(alone.decode(5).is_ok()));
        let eight = seconds(|| {
            let mut members: Vec<_> = sessions.iter_mut().collect();
            batch.decode(&mut members, &[5; 8]).unwrap();
        });
        tokens.push(8.0 / eight);
        8.0 * one / eight
    });
    let ratio = median(ratios.collect());
    println!("sequences/{name}/8: {:.1} tokens a second, {ratio:.2} times one", median(tokens));
}

/// What guesses bring: the time of a request without them by the time with them, that of reading the
/// prompt included. Both are written side by side, some tokens in turn, so that what else the machine
/// does hits both.
fn speculation<D: Drafter>(request: &Request<'_>, name: &str, drafter: impl Fn() -> D) {
    let &Request { model, prompt, tokens: wanted, temperature, options } = request;
    let [mut alone, mut guessing] =
        [(); 2].map(|()| Session::new(model, session_options()).unwrap());
    let sampler =
        Sampler::new(SamplerOptions { temperature, seed: 1, ..Default::default() }).unwrap();
    let (mut stats, mut ratios) = (SpeculationStats::default(), Vec::new());
    for _ in 0..ROUNDS {
        alone.reset().unwrap();
        guessing.reset().unwrap();
        // Made beforehand and dropped afterwards, as the sessions are.
        let drafter = drafter();
        let mut plain = seconds(|| assert!(alone.prefill(prompt).is_ok()));
        let mut guessed = seconds(|| assert!(guessing.prefill(prompt).is_ok()));
        let mut tokens = alone.generate_more(sampler.clone()).unwrap().ignore_eos();
        let guesses =
            SpeculativeGenerator::new(&mut guessing, sampler.clone(), drafter, options).unwrap();
        let mut guesses = guesses.ignore_eos();
        for turn in 0..wanted / TURN {
            // Whoever comes second finds warmer caches, or colder ones.
            for second in [false, true] {
                if (turn % 2 == 0) == second {
                    plain += seconds(|| assert_eq!(tokens.by_ref().take(TURN).count(), TURN));
                } else {
                    guessed += seconds(|| assert_eq!(guesses.by_ref().take(TURN).count(), TURN));
                }
            }
        }
        stats = guesses.stats();
        ratios.push(plain / guessed);
    }
    ratios.sort_by(f64::total_cmp);
    let SpeculationStats { passes, drafted, accepted, .. } = stats;
    println!(
        "speculation/{name}: {:.2} times as fast ({:.2} to {:.2}); {wanted} tokens in {passes} \
         passes, {accepted} of {drafted} guesses right",
        ratios[ROUNDS / 2],
        ratios[0],
        ratios[ROUNDS - 1]
    );
}
