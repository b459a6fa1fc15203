//! Perplexity: each token scored once, from the context that is promised, in any portions.

use mistral_model::score::{Perplexity, Reading, ScoreError, TextScore};
use mistral_model::{ModelError, Session, SessionOptions, Transformer, Window};
use proptest::prelude::*;

use super::tiny::{self, VOCAB};

const CONTEXT_LEN: usize = 20;

fn model(window: Window) -> Transformer {
    tiny::model(window, CONTEXT_LEN)
}

fn windowed() -> Transformer {
    model(Window::last(5).unwrap())
}

fn text(tokens: usize) -> Vec<u32> {
    (0..tokens as u32).map(|i| (i * i * 7 + i * 13 + 1) % VOCAB).collect()
}

fn session(model: &Transformer, max_chunk: usize) -> Session<&Transformer> {
    Session::new(model, SessionOptions { max_chunk, ..Default::default() }).unwrap()
}

fn perplexity(model: &Transformer, reading: Reading) -> Perplexity<&Transformer> {
    Perplexity::new(session(model, 4), reading).unwrap()
}

/// The text in pieces of some lengths, over and over.
fn score(mut perplexity: Perplexity<&Transformer>, text: &[u32], pieces: &[usize]) -> TextScore {
    let (mut rest, mut lengths) = (text, pieces.iter().cycle());
    while !rest.is_empty() {
        let (piece, later) = rest.split_at((*lengths.next().unwrap()).min(rest.len()));
        perplexity.push(piece).unwrap();
        rest = later;
    }
    perplexity.finish().unwrap()
}

/// `-ln p` of the tokens `scored` of a sequence of its own, by the plain formula.
fn plain(model: &Transformer, tokens: &[u32], scored: std::ops::Range<usize>) -> Vec<f64> {
    let mut rows = Vec::new();
    session(model, 100)
        .logits_of_all(&tokens[..tokens.len() - 1], |_, logits| {
            rows.extend(logits.outer_iter().map(|row| row.mapv(f64::from)));
            Ok::<(), ModelError>(())
        })
        .unwrap();
    let nll = |i: usize| rows[i - 1].mapv(f64::exp).sum().ln() - rows[i - 1][tokens[i] as usize];
    scored.map(nll).collect()
}

/// The loop of Hugging Face's guide: windows begin at multiples of the stride, and score what no
/// window before them has scored.
fn guide(model: &Transformer, text: &[u32], context: usize, stride: usize) -> Vec<f64> {
    let (mut nll, mut previous_end) = (Vec::new(), 1);
    for begin in (0..text.len()).step_by(stride) {
        let end = (begin + context).min(text.len());
        nll.extend(plain(model, &text[begin..end], previous_end - begin..end - begin));
        previous_end = end;
        if end == text.len() {
            break;
        }
    }
    nll
}

#[track_caller]
fn assert_close(found: TextScore, want: &[f64]) {
    assert_eq!(found.tokens, want.len() as u64);
    let sum: f64 = want.iter().sum();
    assert!((found.nll - sum).abs() < 1e-11 * sum, "{} and {sum}", found.nll);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn windows_score_each_token_once_as_the_guide_does(
        tokens in 2..50usize,
        context in 2..16usize,
        stride in 1..15usize,
        pieces in prop::collection::vec(1..20usize, 1..4),
        max_chunk in 1..20usize,
        full in any::<bool>(),
    ) {
        prop_assume!(stride < context);
        let model = if full { model(Window::Full) } else { windowed() };
        let text = text(tokens);
        let reading = Reading::Windows { context, stride };
        let whole = score(perplexity(&model, reading), &text, &[tokens]);
        assert_close(whole, &guide(&model, &text, context, stride));
        let other = Perplexity::new(session(&model, max_chunk), reading).unwrap();
        prop_assert_eq!(score(other, &text, &pieces).nll.to_bits(), whole.nll.to_bits());
    }

    #[test]
    fn a_stream_is_one_sequence_in_whatever_pieces_it_comes(
        tokens in 2..60usize,
        pieces in prop::collection::vec(1..20usize, 1..4),
        max_chunk in 1..20usize,
    ) {
        let (model, text) = (windowed(), text(tokens));
        let whole = score(perplexity(&model, Reading::Stream), &text, &[tokens]);
        assert_close(whole, &plain(&model, &text, 1..tokens));
        let other = Perplexity::new(session(&model, max_chunk), Reading::Stream).unwrap();
        prop_assert_eq!(score(other, &text, &pieces).nll.to_bits(), whole.nll.to_bits());
    }
}

#[test]
fn a_text_of_one_window_is_a_stream() {
    let (model, text) = (model(Window::Full), text(12));
    let stream = score(perplexity(&model, Reading::Stream), &text, &[5]);
    for context in [12, 13, CONTEXT_LEN + 1] {
        let windows = Reading::Windows { context, stride: 1 };
        assert_eq!(score(perplexity(&model, windows), &text, &[5]), stream);
    }
    let shorter = Reading::Windows { context: 11, stride: 1 };
    assert_ne!(score(perplexity(&model, shorter), &text, &[5]).nll, stream.nll);
}

#[test]
fn the_three_figures_are_one() {
    let score = TextScore { nll: 6.0 * 2f64.ln(), tokens: 3 };
    assert_eq!(score.bits_per_token(), 2.0);
    assert!((score.perplexity() - 4.0).abs() < 1e-12);
    assert_eq!(score.bits_per_byte(12), 0.5);
}

#[test]
fn the_score_so_far_grows_while_the_text_comes() {
    let model = windowed();
    let mut perplexity = Perplexity::new(session(&model, 8), Reading::Stream).unwrap();
    perplexity.push(&text(8)).unwrap();
    assert_eq!(perplexity.so_far().tokens, 0);
    perplexity.push(&text(9)[8..]).unwrap();
    assert_eq!(perplexity.so_far().tokens, 8);
    assert_eq!(perplexity.finish().unwrap().tokens, 8);
}

#[test]
fn windows_that_do_not_move_or_leave_out_tokens_or_do_not_fit_are_refused() {
    let model = model(Window::Full);
    let new =
        |context, stride| Perplexity::new(session(&model, 4), Reading::Windows { context, stride });
    for (context, stride) in [(8, 0), (8, 8), (8, 9), (0, 0), (1, 0), (1, 1)] {
        let error = new(context, stride).unwrap_err();
        assert!(matches!(error, ScoreError::Stride { .. }), "{context} {stride}: {error}");
    }
    new(8, 7).unwrap();
    new(CONTEXT_LEN + 1, 1).unwrap();
    let error = new(CONTEXT_LEN + 2, 1).unwrap_err();
    assert!(matches!(error, ScoreError::WindowTooLong { context: 22, longest: 21 }), "{error}");
    let windows = Reading::Windows { context: usize::MAX, stride: 1 };
    Perplexity::new(session(&windowed(), 4), windows).unwrap();
}

#[test]
fn a_stream_ends_where_the_context_of_a_windowless_model_does() {
    let model = model(Window::Full);
    let fits = score(perplexity(&model, Reading::Stream), &text(CONTEXT_LEN + 1), &[1]);
    assert_eq!(fits.tokens, CONTEXT_LEN as u64);
    let mut stream = perplexity(&model, Reading::Stream);
    stream.push(&text(CONTEXT_LEN + 1)).unwrap();
    stream.push(&[1]).unwrap();
    let error = stream.finish().unwrap_err();
    assert!(matches!(error, ScoreError::StreamTooLong { longest: 21 }), "{error}");
    let mut stream = perplexity(&model, Reading::Stream);
    let error = stream.push(&text(100)).unwrap_err();
    assert!(matches!(error, ScoreError::StreamTooLong { .. }), "{error}");
    assert!(matches!(stream.push(&[1]), Err(ScoreError::Broken)));
    assert!(matches!(stream.finish(), Err(ScoreError::Broken)));
}

#[test]
fn a_text_needs_two_tokens_and_all_of_them_known() {
    let model = windowed();
    for tokens in [0, 1] {
        let mut stream = perplexity(&model, Reading::Stream);
        stream.push(&text(tokens)).unwrap();
        let error = stream.finish().unwrap_err();
        assert!(matches!(error, ScoreError::TextTooShort { tokens: n } if n == tokens), "{error}");
    }
    let mut stream = perplexity(&model, Reading::Stream);
    let error = stream.push(&[1, 2, VOCAB]).unwrap_err();
    assert!(matches!(error, ScoreError::Model(ModelError::UnknownToken { index: 2, .. })));
    // Nothing of it was taken.
    stream.push(&[1, 2]).unwrap();
    assert_eq!(stream.finish().unwrap().tokens, 1);
}
