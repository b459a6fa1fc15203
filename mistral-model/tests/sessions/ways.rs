//! Whatever a session has been through, its text has the bits that it has in a fresh one.

use mistral_model::{KvFormat, ModelError, Session, SessionOptions};
use proptest::prelude::*;

use crate::tiny::{bits, fresh, models, options};

/// One thing that is done to a session.
#[derive(Debug, Clone)]
enum Step {
    Prefill(Vec<u32>),
    /// Every position's logits, as who verifies guesses wants them.
    All(Vec<u32>),
    Rewind(usize),
    /// Goes on with a fork, while the origin is written to.
    Fork,
    SaveAndRestore,
    /// Goes over to a text with so many tokens in common.
    SetTokens(usize, Vec<u32>),
    Refresh,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let some = |n| prop::collection::vec(0..96u32, n);
    let step = prop_oneof![
        2 => some(1..2).prop_map(Step::Prefill),
        2 => some(1..25).prop_map(Step::Prefill),
        1 => some(1..9).prop_map(Step::All),
        3 => (0..12usize).prop_map(Step::Rewind),
        1 => Just(Step::Fork),
        1 => Just(Step::SaveAndRestore),
        1 => (0..60usize, some(1..12)).prop_map(|(common, more)| Step::SetTokens(common, more)),
        1 => Just(Step::Refresh),
    ];
    prop::collection::vec(step, 1..14)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_way_to_a_text_gives_its_bits(
        steps in steps(),
        slack in 0..9usize,
        sinks in 0..3usize,
        format in prop::sample::select(KvFormat::ALL.to_vec()),
        model in models(),
    ) {
        let model = model();
        let options = SessionOptions { rewind_slack: slack, sinks, ..options(format) };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("session.kv");
        let mut session = Session::new(&model, options).unwrap();
        let mut text: Vec<u32> = Vec::new();
        // How long it ever was: steps back count together.
        let mut longest = 0;
        for step in steps {
            match step {
                Step::Prefill(tokens) => {
                    session.prefill(&tokens).unwrap();
                    text.extend(tokens);
                }
                Step::All(tokens) => {
                    session.logits_of_all(&tokens, |_, _| Ok::<_, ModelError>(())).unwrap();
                    text.extend(tokens);
                }
                Step::Rewind(n) => match session.rewind(n) {
                    Ok(()) => text.truncate(text.len() - n),
                    // What the slack promises is never refused.
                    Err(_) => prop_assert!(n > text.len() || text.len() - n + slack + 1 < longest),
                },
                Step::Fork => {
                    let fork = session.fork().unwrap();
                    session.prefill(&[1, 2, 3]).unwrap();
                    session = fork;
                }
                Step::SaveAndRestore => {
                    session.save_file(&path).unwrap();
                    session = Session::restore_file(&model, options, &path).unwrap();
                }
                Step::SetTokens(common, more) => {
                    text.truncate(common);
                    text.extend(more);
                    if session.set_tokens(&text).unwrap() == 0 {
                        longest = 0;
                    }
                }
                // After a rewind by more than the slack there is nothing to compute them from.
                Step::Refresh => drop(session.refresh_logits().map(|_| ())),
            }
            longest = if text.is_empty() { 0 } else { longest.max(text.len()) };
            prop_assert_eq!(session.tokens(), &text);
            prop_assert_eq!(session.position(), text.len());
            if !session.logits().is_empty() {
                prop_assert_eq!(bits(session.logits()), fresh(&model, &text, options));
            }
        }
        text.push(7);
        let last = bits(session.decode(7).unwrap());
        prop_assert_eq!(last, fresh(&model, &text, options));
    }
}
