//! Tokens taken back are as if they had never been there.

use mistral_model::{KvFormat, ModelError, Sampler, Session, SessionOptions};

use crate::tiny::{W, bits, fresh, full, options, tokens, windowed};

#[test]
fn all_of_the_slack_and_one_more_can_be_taken_back_and_not_two() {
    let model = windowed();
    for slack in [0, 1, 3, W, 20] {
        let options = SessionOptions { rewind_slack: slack, ..options(KvFormat::F16) };
        let text = tokens(60, 0);
        for taken in [slack, slack + 1] {
            let mut session = Session::new(&model, options).unwrap();
            session.prefill(&text).unwrap();
            session.rewind(taken).unwrap();
            assert_eq!(session.position(), 60 - taken);
            assert_eq!(session.tokens(), &text[..60 - taken]);
            let other = tokens(9, 5);
            let after = bits(session.prefill(&other).unwrap());
            let whole = [&text[..60 - taken], &other].concat();
            assert!(after == fresh(&model, &whole, options), "slack {slack}, {taken} taken back");
        }
        let mut session = Session::new(&model, options).unwrap();
        let before = bits(session.prefill(&text).unwrap());
        let error = session.rewind(slack + 2).unwrap_err();
        let (tokens, position, most) = (slack + 2, 60, slack + 1);
        assert!(
            matches!(error, ModelError::RewindTooFar { tokens: t, position: p, most: m }
                if (t, p, m) == (tokens, position, most)),
            "{error:?}"
        );
        assert!(error.to_string().contains("rewind_slack"), "{error}");
        assert_eq!((session.position(), bits(session.logits())), (60, before));
    }
}

#[test]
fn memory_for_the_slack_is_that_of_so_many_positions() {
    let model = windowed();
    let bytes = |rewind_slack| {
        let options = SessionOptions { rewind_slack, max_chunk: 1, ..Default::default() };
        Session::new(&model, options).unwrap().cache_bytes()
    };
    // Slots come in sixteens: a window of 5 has room for 11 more.
    assert_eq!(bytes(0), bytes(11));
    // Layers, heads, elements, keys and values, bytes.
    assert_eq!(bytes(12) - bytes(11), 16 * 3 * 2 * 16 * 2 * 2);
}

#[test]
fn everything_can_be_taken_back_from_any_text() {
    for model in [windowed(), full()] {
        let mut session = Session::new(&model, options(KvFormat::Int8)).unwrap();
        session.prefill(&tokens(50, 1)).unwrap();
        session.rewind(50).unwrap();
        assert_eq!((session.position(), session.tokens()), (0, [].as_slice()));
        let text = tokens(20, 2);
        let after = bits(session.prefill(&text).unwrap());
        assert_eq!(after, fresh(&model, &text, options(KvFormat::Int8)));
        let error = session.rewind(21).unwrap_err();
        assert!(matches!(error, ModelError::RewindTooFar { tokens: 21, position: 20, .. }));
    }
}

#[test]
fn after_a_rewind_there_are_no_logits_until_they_are_asked_for() {
    let model = windowed();
    let options = SessionOptions { rewind_slack: 4, ..options(KvFormat::BF16) };
    let mut session = Session::new(&model, options).unwrap();
    assert!(session.logits().is_empty());
    assert!(matches!(session.refresh_logits(), Err(ModelError::EmptyPrompt)));
    let text = tokens(40, 3);
    session.prefill(&text).unwrap();
    session.rewind(0).unwrap();
    assert_eq!(bits(session.logits()), fresh(&model, &text, options));
    session.rewind(4).unwrap();
    assert!(session.logits().is_empty());
    let expected = fresh(&model, &text[..36], options);
    assert_eq!(bits(session.refresh_logits().unwrap()), expected);
    assert_eq!((bits(session.logits()), session.position()), (expected, 36));
    // One more than the slack leaves nothing to compute them from.
    session.prefill(&text[36..]).unwrap();
    session.rewind(5).unwrap();
    assert!(matches!(session.refresh_logits(), Err(ModelError::RewindTooFar { most: 0, .. })));
}

#[test]
fn a_text_goes_on_from_where_it_was_taken_back_to() {
    let model = windowed();
    let options = SessionOptions { rewind_slack: 8, ..options(KvFormat::F32) };
    let write = |session: &mut Session<_>| {
        let generator = session.generate_more(Sampler::greedy()).unwrap().ignore_eos();
        generator.take(12).collect::<Result<Vec<u32>, _>>().unwrap()
    };
    let text = tokens(30, 4);
    let mut plain = Session::new(&model, options).unwrap();
    plain.prefill(&text[..23]).unwrap();
    let expected = write(&mut plain);
    let mut session = Session::new(&model, options).unwrap();
    session.prefill(&text).unwrap();
    session.rewind(7).unwrap();
    assert_eq!(write(&mut session), expected);
}
