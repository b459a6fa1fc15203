//! Texts that begin as another one did: the beginning is not computed again, and no bit differs.

use mistral_model::{
    HeavyHitters, KvFormat, ModelError, PrefixCache, Session, SessionOptions, Transformer,
};
use proptest::prelude::*;

use crate::tiny::{W, bits, fresh, full, models, options, tokens, windowed};

/// What a session says is there already, and in which steps it came to the rest.
fn set(session: &mut Session<&Transformer>, tokens: &[u32]) -> (usize, Vec<usize>) {
    let mut steps = Vec::new();
    let there = session.set_tokens_with(tokens, |done| steps.push(done)).unwrap();
    (there, steps)
}

#[test]
fn a_conversation_costs_what_each_turn_adds() {
    for model in [full(), windowed()] {
        let options = options(KvFormat::F16); // chunks of 7
        let mut session = Session::new(&model, options).unwrap();
        let mut text = tokens(20, 0);
        assert_eq!(set(&mut session, &text), (0, vec![7, 14, 20]));
        for turn in 1..5 {
            // An answer, and the next question.
            session.prefill(&tokens(4, turn)).unwrap();
            text.extend(tokens(4, turn));
            let there = text.len();
            text.extend(tokens(9, turn + 50));
            assert_eq!(set(&mut session, &text), (there, vec![there + 7, there + 9]));
            assert_eq!(bits(session.logits()), fresh(&model, &text, options));
        }
        // The same again costs nothing.
        assert_eq!(set(&mut session, &text), (text.len(), vec![]));
    }
}

#[test]
fn a_beginning_is_taken_over_as_far_as_the_slack_reaches_and_no_further() {
    let text = tokens(60, 0);
    let other = |common: usize| [&text[..common], &[95, 94, 93]].concat();
    for (model, slack) in [(windowed(), 0), (windowed(), 6), (full(), 0)] {
        let is_full = model.config().window.size().is_none();
        let options = SessionOptions { rewind_slack: slack, ..options(KvFormat::F32) };
        for common in [0, 1, 40, 60 - slack - 2, 60 - slack - 1, 60 - slack, 60] {
            let mut session = Session::new(&model, options).unwrap();
            session.prefill(&text).unwrap();
            let expected = if is_full || common + slack + 1 >= 60 { common } else { 0 };
            assert_eq!(set(&mut session, &other(common)).0, expected, "slack {slack}");
            assert_eq!(bits(session.logits()), fresh(&model, &other(common), options));
            assert_eq!(session.tokens(), other(common));
        }
    }
}

#[test]
fn a_shorter_text_has_its_last_token_computed_again() {
    let model = full();
    let text = tokens(30, 0);
    let mut session = Session::new(&model, options(KvFormat::BF16)).unwrap();
    session.prefill(&text).unwrap();
    assert_eq!(set(&mut session, &text[..12]), (11, vec![12]));
    assert_eq!(bits(session.logits()), fresh(&model, &text[..12], options(KvFormat::BF16)));
    // All tokens are there, and the logits are not.
    session.prefill(&text[12..]).unwrap();
    session.rewind(1).unwrap();
    assert_eq!(set(&mut session, &text[..29]), (28, vec![29]));
}

#[test]
fn bad_texts_change_nothing() {
    let model = full();
    let mut session = Session::new(&model, options(KvFormat::F16)).unwrap();
    let before = bits(session.prefill(&tokens(50, 0)).unwrap());
    assert!(matches!(session.set_tokens(&[]), Err(ModelError::EmptyPrompt)));
    assert!(matches!(session.set_tokens(&[1, 96]), Err(ModelError::UnknownToken { .. })));
    let error = session.set_tokens(&[1; 401]).unwrap_err();
    let (tokens, position, context_len) = (401, 0, 400);
    assert!(
        matches!(error, ModelError::ContextFull { tokens: t, position: p, context_len: c }
            if (t, p, c) == (tokens, position, context_len)),
        "{error:?}"
    );
    assert_eq!((bits(session.logits()), session.position()), (before, 50));
    assert_eq!(session.set_tokens(&[1; 400]).unwrap(), 1);
}

#[test]
fn heavy_hitters_go_on_and_never_back() {
    let model = windowed();
    let heavy_hitters = Some(HeavyHitters { recent: 4, heavy: 4 });
    let options = SessionOptions { heavy_hitters, ..options(KvFormat::F16) };
    let mut session = Session::new(&model, options).unwrap();
    let text = tokens(30, 0);
    assert_eq!(set(&mut session, &text[..20]).0, 0);
    assert_eq!(set(&mut session, &text).0, 20);
    let mut other = Session::new(&model, options).unwrap();
    other.prefill(&text[..20]).unwrap();
    assert_eq!(bits(session.logits()), bits(other.prefill(&text[20..]).unwrap()));
    assert_eq!(set(&mut session, &text[..29]).0, 0);
    assert_eq!(bits(session.logits()), fresh(&model, &text[..29], options));
}

#[test]
fn kept_sessions_lend_their_beginnings_to_others() {
    let model = windowed();
    let options = options(KvFormat::F16);
    let mut prefixes = PrefixCache::new(&model, options, 2).unwrap();
    let system = tokens(20, 0);
    let (session, there) = prefixes.start(&system).unwrap();
    assert_eq!((there, session.tokens()), (0, system.as_slice()));
    prefixes.keep(&session).unwrap();
    let mut last = session;
    for salt in 1..4 {
        let text = [system.clone(), tokens(30, salt)].concat();
        let (session, there) = prefixes.start(&text).unwrap();
        assert_eq!(there, 20);
        assert_eq!(bits(session.logits()), fresh(&model, &text, options));
        last = session;
    }
    // The longer one cannot go back to the shorter one's end, so both stay.
    prefixes.keep(&last).unwrap();
    assert_eq!(prefixes.len(), 2);
    assert_eq!(prefixes.start(&[system.clone(), vec![1]].concat()).unwrap().1, 20);
    // The system prompt was used last: the conversation gives way.
    prefixes.keep(&prefixes_of(&model, options, 7)).unwrap();
    assert_eq!(prefixes.len(), 2);
    assert_eq!(prefixes.start(&[last.tokens(), &[1]].concat()).unwrap().1, 20);
    // What goes on from a kept one by a token takes its place.
    last.rewind(0).unwrap();
    prefixes.keep(&last).unwrap();
    last.decode(9).unwrap();
    prefixes.keep(&last).unwrap();
    assert_eq!(prefixes.len(), 2);
    prefixes.clear();
    assert!(prefixes.is_empty());
    assert_eq!(prefixes.start(&system).unwrap().1, 0);
}

fn prefixes_of(model: &Transformer, options: SessionOptions, salt: u32) -> Session<&Transformer> {
    let mut session = Session::new(model, options).unwrap();
    session.prefill(&tokens(20, salt)).unwrap();
    session
}

#[test]
fn sessions_of_another_kind_are_not_kept() {
    let (model, stranger) = (windowed(), windowed());
    let mut prefixes = PrefixCache::new(&model, options(KvFormat::F16), 3).unwrap();
    let foreign = prefixes_of(&stranger, options(KvFormat::F16), 0);
    assert!(matches!(prefixes.keep(&foreign), Err(ModelError::ForeignSession)));
    let other = prefixes_of(&model, options(KvFormat::Int8), 0);
    let error = prefixes.keep(&other).unwrap_err();
    assert!(matches!(error, ModelError::OtherOptions { .. }) && error.to_string().contains("Int8"));
    assert!(matches!(prefixes.start(&[]), Err(ModelError::EmptyPrompt)));
    assert!(prefixes.is_empty());
}

/// A text that begins as another one, and goes on otherwise.
fn texts() -> impl Strategy<Value = Vec<Vec<u32>>> {
    let text = (any::<prop::sample::Index>(), prop::collection::vec(0..4u32, 1..20), 0..40usize);
    prop::collection::vec(text, 1..8).prop_map(|changes| {
        let mut texts = vec![vec![1]];
        for (whose, more, common) in changes {
            let old: &Vec<u32> = whose.get(&texts);
            let text = [&old[..common.min(old.len())], &more].concat();
            texts.push(text);
        }
        texts
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_text_after_any_other_has_the_bits_of_a_fresh_session(
        texts in texts(),
        slack in 0..2 * W,
        sinks in 0..3usize,
        format in prop::sample::select(KvFormat::ALL.to_vec()),
        model in models(),
    ) {
        let model = model();
        let options = SessionOptions { rewind_slack: slack, sinks, ..options(format) };
        let mut session = Session::new(&model, options).unwrap();
        let mut prefixes = PrefixCache::new(&model, options, 3).unwrap();
        for text in texts {
            let expected = fresh(&model, &text, options);
            session.set_tokens(&text).unwrap();
            prop_assert_eq!(session.tokens(), &text);
            prop_assert_eq!(bits(session.logits()), expected.clone());
            let (other, _) = prefixes.start(&text).unwrap();
            prop_assert_eq!(other.tokens(), &text);
            prop_assert_eq!(bits(other.logits()), expected);
            prefixes.keep(&other).unwrap();
        }
    }
}
