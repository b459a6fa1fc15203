//! A prompt that is given up half way leaves a session that can be used.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use mistral_model::{KvFormat, ModelError, Session};

use crate::tiny::{bits, fresh, full, mixed, options, tokens, windowed};

#[test]
fn chunks_before_the_flag_stay_and_the_rest_may_follow() {
    for model in [full(), windowed(), mixed()] {
        let options = options(KvFormat::F16); // chunks of 7
        let stop = Arc::new(AtomicBool::new(false));
        let session = Session::new(&model, options).unwrap();
        let mut session = session.with_cancel(Arc::clone(&stop));
        let text = tokens(40, 0);
        let end = session.prefill_with(&text, |done| stop.store(done >= 14, Ordering::Relaxed));
        assert!(matches!(end, Err(ModelError::Cancelled)), "{end:?}");
        assert_eq!(session.tokens(), &text[..14]);
        assert!(matches!(session.decode(1), Err(ModelError::Cancelled)), "the flag still stands");
        stop.store(false, Ordering::Relaxed);
        let after = bits(session.prefill(&text[14..]).unwrap());
        assert_eq!(after, fresh(&model, &text, options));
    }
}

#[test]
fn a_flag_at_any_moment_costs_the_rest_of_the_text_and_no_bit() {
    let text = tokens(300, 0);
    for model in [full(), windowed()] {
        let options = options(KvFormat::F32);
        let expected = fresh(&model, &text, options);
        for moment in 0..40 {
            let stop = Arc::new(AtomicBool::new(false));
            let session = Session::new(&model, options).unwrap();
            let mut session = session.with_cancel(Arc::clone(&stop));
            thread::scope(|scope| {
                scope.spawn(|| {
                    thread::sleep(Duration::from_micros(50 * moment));
                    stop.store(true, Ordering::Relaxed);
                });
                match session.prefill(&text) {
                    Ok(logits) => assert_eq!(bits(logits), expected),
                    Err(ModelError::Cancelled) => {}
                    Err(error) => panic!("{error}"),
                }
            });
            stop.store(false, Ordering::Relaxed);
            // What is there is kept, or the text begins anew.
            session.set_tokens(&text).unwrap();
            assert_eq!(bits(session.logits()), expected, "{moment}");
        }
    }
}
