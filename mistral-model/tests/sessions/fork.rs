//! Sessions that begin as another one, and go their own way.

use mistral_kvcache::CacheError;
use mistral_model::{HeavyHitters, KvFormat, ModelError, Session, SessionOptions};
use proptest::prelude::*;

use crate::tiny::{W, bits, fresh, full, models, options, tokens, windowed};

#[test]
fn a_fork_and_its_origin_do_not_hear_each_other() {
    for model in [windowed(), full()] {
        for format in KvFormat::ALL {
            let options = options(format);
            let text = tokens(140, 0);
            let mut first = Session::new(&model, options).unwrap();
            let logits = bits(first.prefill(&text).unwrap());
            let mut second = first.fork().unwrap();
            assert_eq!((bits(second.logits()), second.tokens()), (logits, text.as_slice()));
            // Word by word in turns, and chunks: whoever writes first.
            let (one, other) = (tokens(20, 1), tokens(20, 2));
            for (a, b) in one.iter().zip(&other) {
                first.decode(*a).unwrap();
                second.decode(*b).unwrap();
            }
            let mut third = second.fork().unwrap();
            second.prefill(&one).unwrap();
            third.prefill(&other).unwrap();
            for (session, parts) in [
                (&first, vec![&text, &one]),
                (&second, vec![&text, &other, &one]),
                (&third, vec![&text, &other, &other]),
            ] {
                let whole: Vec<u32> = parts.into_iter().flatten().copied().collect();
                assert_eq!(session.tokens(), whole);
                assert_eq!(bits(session.logits()), fresh(&model, &whole, options), "{format}");
            }
        }
    }
}

#[test]
fn a_fork_may_begin_where_a_rewind_could_go() {
    let model = windowed();
    let options = SessionOptions { rewind_slack: 3, ..options(KvFormat::F16) };
    let text = tokens(50, 3);
    let mut session = Session::new(&model, options).unwrap();
    session.prefill(&text).unwrap();
    for position in [0, 46, 49, 50] {
        let mut fork = session.fork_at(position).unwrap();
        assert_eq!(fork.tokens(), &text[..position]);
        assert_eq!(fork.logits().is_empty(), position < 50);
        let after = bits(fork.prefill(&[5, 6]).unwrap());
        assert_eq!(after, fresh(&model, &[&text[..position], &[5, 6]].concat(), options));
    }
    let error = session.fork_at(45).unwrap_err();
    assert!(matches!(error, ModelError::RewindTooFar { tokens: 5, position: 50, most: 4 }));
    let ahead = CacheError::PositionAhead { found: 51, position: 50 };
    let error = session.fork_at(51).unwrap_err();
    assert!(matches!(error, ModelError::Cache { source } if source == ahead));
    assert_eq!(bits(session.logits()), fresh(&model, &text, options));
}

#[test]
fn sessions_with_heavy_hitters_fork_where_they_are() {
    let model = windowed();
    let heavy_hitters = Some(HeavyHitters { recent: 3, heavy: 4 });
    let options = SessionOptions { heavy_hitters, ..options(KvFormat::F16) };
    let mut first = Session::new(&model, options).unwrap();
    first.prefill(&tokens(30, 1)).unwrap();
    let mut second = first.fork().unwrap();
    let expected = bits(first.prefill(&tokens(9, 2)).unwrap());
    second.fork().unwrap().prefill(&tokens(9, 3)).unwrap();
    assert_eq!(bits(second.prefill(&tokens(9, 2)).unwrap()), expected);
    assert!(matches!(first.fork_at(30), Err(ModelError::HeavyHitters { what: "a rewind" })));
}

#[test]
fn the_fork_of_a_fork_outlives_both() {
    let model = full();
    let mut session = Session::new(&model, options(KvFormat::BF16)).unwrap();
    for (i, token) in tokens(3 * W, 4).into_iter().enumerate() {
        session = session.fork_at(i).unwrap();
        session.decode(token).unwrap();
    }
    let expected = fresh(&model, &tokens(3 * W, 4), options(KvFormat::BF16));
    assert_eq!(bits(session.logits()), expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_tree_of_forks_gives_every_branch_its_bits(
        steps in prop::collection::vec(
            (any::<prop::sample::Index>(), 0..6usize, prop::collection::vec(0..96u32, 1..20)),
            1..10,
        ),
        slack in 0..6usize,
        sinks in 0..3usize,
        format in prop::sample::select(KvFormat::ALL.to_vec()),
        model in models(),
    ) {
        let model = model();
        let options = SessionOptions { rewind_slack: slack, sinks, ..options(format) };
        let mut branches = vec![(Session::new(&model, options).unwrap(), Vec::new())];
        for (chosen, back, tokens) in steps {
            let (session, text): &(_, Vec<u32>) = chosen.get(&branches);
            let position = text.len().saturating_sub(back);
            // What cannot be gone back to is another test's matter.
            let Ok(mut fork) = session.fork_at(position) else { continue };
            fork.prefill(&tokens).unwrap();
            let text = [&text[..position], &tokens].concat();
            branches.push((fork, text));
        }
        for (mut session, mut text) in branches {
            prop_assert_eq!(session.tokens(), &text);
            text.push(3);
            prop_assert_eq!(bits(session.decode(3).unwrap()), fresh(&model, &text, options));
        }
    }
}
