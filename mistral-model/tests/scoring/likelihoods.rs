//! Log-likelihoods: the same bits in any company, and every refusal with its reason.

use mistral_model::score::{LogLikelihood, RequestError, ScoreError, Scorer, TokenPair};
use mistral_model::{KvFormat, ModelError, Session, SessionOptions, Transformer, Window};
use proptest::prelude::*;

use super::tiny::{self, VOCAB};

const W: usize = 5;

fn model(window: Window) -> Transformer {
    tiny::model(window, 30)
}

fn windowed() -> Transformer {
    model(Window::last(W).unwrap())
}

fn options(max_chunk: usize) -> SessionOptions {
    SessionOptions { max_chunk, ..Default::default() }
}

fn scorer(model: &Transformer, max_chunk: usize) -> Scorer<&Transformer> {
    Scorer::new(Session::new(model, options(max_chunk)).unwrap()).unwrap()
}

fn pair(context: &[u32], continuation: &[u32]) -> TokenPair {
    TokenPair { context: context.to_vec(), continuation: continuation.to_vec() }
}

/// What a fresh session says of a request, by another formula: `ln(exp(own) / sum(exp))`.
fn alone(model: &Transformer, request: &TokenPair) -> LogLikelihood {
    let mut session = Session::new(model, options(7)).unwrap();
    let (last, before) = request.continuation.split_last().unwrap();
    let inputs = [request.context.as_slice(), before].concat();
    let targets = before.iter().chain([last]);
    let mut rows = Vec::new();
    session
        .logits_of_all(&inputs, |_, logits| {
            rows.extend(logits.outer_iter().map(|row| row.to_vec()));
            Ok::<(), ModelError>(())
        })
        .unwrap();
    let rows = &rows[request.context.len() - 1..];
    let mut found = LogLikelihood::default();
    for (row, &target) in rows.iter().zip(targets) {
        let sum: f64 = row.iter().rev().map(|&logit| f64::from(logit).exp()).sum();
        let own = (f64::from(row[target as usize]).exp() / sum).ln();
        found.per_token.push(own);
        found.sum += own;
        let likeliest = row.iter().enumerate().rev().max_by(|a, b| a.1.total_cmp(b.1)).unwrap();
        found.greedy &= likeliest.0 == target as usize;
    }
    found
}

#[track_caller]
fn assert_close(found: &LogLikelihood, want: &LogLikelihood) {
    assert_eq!(found.tokens(), want.tokens());
    assert_eq!(found.greedy, want.greedy);
    for (found, want) in found.per_token.iter().zip(&want.per_token) {
        assert!((found - want).abs() <= 1e-12 * want.abs().max(1.0), "{found} and {want}");
    }
    assert!((found.sum - want.sum).abs() <= 1e-12 * want.sum.abs().max(1.0));
    assert_eq!(found.sum, found.per_token.iter().sum::<f64>());
}

/// The bits of some likelihoods.
fn bits(found: &[LogLikelihood]) -> Vec<Vec<u64>> {
    let one = |found: &LogLikelihood| found.per_token.iter().map(|x| x.to_bits()).collect();
    found.iter().map(one).collect()
}

/// Requests over so few tokens that they share beginnings, and are often alike.
fn requests() -> impl Strategy<Value = Vec<TokenPair>> {
    let tokens = |longest| prop::collection::vec(0..3u32, 1..=longest);
    let request = (tokens(4 * W), tokens(7));
    let request = request.prop_map(|(context, continuation)| TokenPair { context, continuation });
    prop::collection::vec(request, 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn each_request_has_the_likelihood_that_it_has_alone(
        requests in requests(),
        at_once in 1..6usize,
        max_chunk in 1..9usize,
        full in any::<bool>(),
    ) {
        let model = if full { model(Window::Full) } else { windowed() };
        let together = scorer(&model, max_chunk).at_once(at_once).log_likelihoods(&requests);
        let together = together.unwrap();
        prop_assert_eq!(together.len(), requests.len());
        for (request, found) in requests.iter().zip(&together) {
            assert_close(found, &alone(&model, request));
            let other = scorer(&model, 100).log_likelihoods(std::slice::from_ref(request)).unwrap();
            prop_assert_eq!(bits(&other), bits(std::slice::from_ref(found)));
        }
    }
}

#[test]
fn neither_threads_nor_the_format_of_the_cache_make_company_audible() {
    let model = windowed();
    let requests: Vec<_> = (0..20u32)
        .map(|i| pair(&[1, i % 3, i % 2, 7, 7, 7, 7, i % 5], &[i % 4, 9, i % 7]))
        .collect();
    for kv_dtype in KvFormat::ALL {
        let on = |threads, at_once| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let options = SessionOptions { kv_dtype, ..options(11) };
                let session = Session::new(&model, options).unwrap();
                let mut scorer = Scorer::new(session).unwrap().at_once(at_once);
                bits(&scorer.log_likelihoods(&requests).unwrap())
            })
        };
        let one = on(1, 1);
        for (threads, at_once) in [(1, 20), (2, 3), (5, 16)] {
            assert!(on(threads, at_once) == one, "{kv_dtype}, {threads} threads");
        }
    }
}

#[test]
fn what_greedy_decoding_writes_is_greedy_and_nothing_else_is() {
    let model = windowed();
    let mut session = Session::new(&model, options(8)).unwrap();
    let context = [1, 7, 2];
    let generator = session.generate(&context, mistral_model::Sampler::greedy()).unwrap();
    let written: Vec<u32> = generator.ignore_eos().take(12).collect::<Result<_, _>>().unwrap();
    let mut scorer = scorer(&model, 8);
    let whole = scorer.log_likelihoods(&[pair(&context, &written)]).unwrap();
    assert!(whole[0].greedy);
    for i in 0..written.len() {
        let mut other = written.clone();
        other[i] = (other[i] + 1) % VOCAB;
        let found = &scorer.log_likelihoods(&[pair(&context, &other)]).unwrap()[0];
        assert!(!found.greedy, "token {i}");
        assert_eq!(found.per_token[..i], whole[0].per_token[..i]);
        assert!(found.per_token[i] < whole[0].per_token[i]);
    }
}

#[test]
fn continuations_of_one_token_make_up_the_whole_distribution() {
    let model = windowed();
    let requests: Vec<_> = (0..VOCAB).map(|token| pair(&[1, 5, 9], &[token])).collect();
    let found = scorer(&model, 4).log_likelihoods(&requests).unwrap();
    let sum: f64 = found.iter().map(|found| found.sum.exp()).sum();
    assert!((sum - 1.0).abs() < 1e-12, "{sum}");
    assert_eq!(found.iter().filter(|found| found.greedy).count(), 1);
}

#[test]
fn a_scorer_forgets_what_its_session_had_read() {
    let model = windowed();
    let request = pair(&[1, 2], &[3, 4]);
    let fresh = scorer(&model, 8).log_likelihoods(std::slice::from_ref(&request)).unwrap();
    let mut session = Session::new(&model, options(8)).unwrap();
    session.prefill(&[9, 8, 7]).unwrap();
    let mut scorer = Scorer::new(session).unwrap();
    for _ in 0..2 {
        assert_eq!(scorer.log_likelihoods(std::slice::from_ref(&request)).unwrap(), fresh);
    }
    assert_eq!(scorer.log_likelihoods(&[]).unwrap(), []);
}

#[test]
fn a_request_that_cannot_be_scored_is_named() {
    let full = model(Window::Full);
    let good = pair(&[1], &[2]);
    let mut scorer = scorer(&full, 4);
    let mut refusal = |bad: TokenPair| match scorer.log_likelihoods(&[good.clone(), bad]) {
        Err(ScoreError::Request { index: 1, source }) => source,
        other => panic!("{other:?}"),
    };
    assert!(matches!(refusal(pair(&[], &[2])), RequestError::EmptyContext));
    assert!(matches!(refusal(pair(&[1], &[])), RequestError::EmptyContinuation));
    for bad in [pair(&[1, VOCAB], &[2]), pair(&[1], &[2, VOCAB])] {
        let source = ModelError::UnknownToken { token: VOCAB, index: 1, vocab_size: 40 };
        assert_eq!(refusal(bad).to_string(), source.to_string());
    }
    // 30 tokens are read, and one more is scored.
    let long = |context: usize| pair(&vec![1; context], &[2, 3]);
    let error = refusal(long(30));
    assert!(matches!(error, RequestError::TooLong { tokens: 32, longest: 31 }), "{error}");
    assert_eq!(scorer.log_likelihoods(&[long(29)]).unwrap()[0].tokens(), 2);
    assert_eq!(scorer.longest(), Some(31));

    let endless = windowed();
    let mut scorer = Scorer::new(Session::new(&endless, options(4)).unwrap()).unwrap();
    assert_eq!(scorer.longest(), None);
    assert_eq!(scorer.log_likelihoods(&[long(100)]).unwrap()[0].tokens(), 2);
}

#[test]
fn a_long_context_loses_its_first_tokens_and_never_the_continuation() {
    let of = |longest| {
        let mut request = pair(&[1, 2, 3, 4], &[5, 6]);
        request.keep_last(longest);
        request
    };
    assert_eq!(of(6), pair(&[1, 2, 3, 4], &[5, 6]));
    assert_eq!(of(5), pair(&[2, 3, 4], &[5, 6]));
    assert_eq!(of(3), pair(&[4], &[5, 6]));
    assert_eq!(of(0), pair(&[4], &[5, 6]));
}
