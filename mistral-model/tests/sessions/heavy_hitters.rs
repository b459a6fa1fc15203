//! Sessions that keep what is attended to.

use mistral_model::session::HeavyHitters;
use mistral_model::{Batch, Config, KvFormat, ModelError, Session, SessionOptions, Window};

use crate::reference::{Keeping, Reference, worst};
use crate::tiny::{W, all_logits, bits, config, full, options, tokens, windowed};

fn keeping(recent: usize, heavy: usize, kv_dtype: KvFormat) -> SessionOptions {
    let heavy_hitters = Some(HeavyHitters { recent, heavy });
    SessionOptions { heavy_hitters, ..options(kv_dtype) }
}

#[test]
fn what_is_kept_and_seen_is_what_the_paper_says() {
    for window in [Window::Full, Window::last(W).unwrap()] {
        let config = Config { rope_theta: 1e4, ..config(window) };
        let reference = Reference::random(&config, 3);
        let model = reference.transformer(&config.to_hf_json());
        let text = tokens(48, 0);
        for (recent, heavy) in [(4, 4), (1, 9), (6, 0), (0, 5), (40, 40)] {
            for chunk in [1, 5, 48] {
                let max_chunk = chunk;
                let options = SessionOptions { max_chunk, ..keeping(recent, heavy, KvFormat::F32) };
                let policy = Keeping::HeavyHitters { recent, heavy };
                let expected = reference.logits(&text, chunk, &policy);
                let worst = worst(&all_logits(&model, &text, options), &expected);
                assert!(worst.0 < 1e-3, "{recent} + {heavy}, chunks of {chunk}: {worst:?}");
            }
        }
    }
}

#[test]
fn as_long_as_nothing_is_evicted_the_bits_are_those_of_full_attention() {
    let text = tokens(40, 1);
    for format in KvFormat::ALL {
        let expected = all_logits(&full(), &text, options(format));
        // The model's window gives way to what is kept.
        for model in [full(), windowed()] {
            for (recent, heavy) in [(40, 0), (0, 40), (25, 15)] {
                let found = all_logits(&model, &text, keeping(recent, heavy, format));
                assert!(bits(&found) == bits(&expected), "{format}, {recent} + {heavy}");
            }
        }
        let evicting = all_logits(&full(), &text, keeping(20, 10, format));
        assert_ne!(evicting, expected);
    }
}

#[test]
fn memory_is_constant_and_as_planned() {
    for (format, element) in [(KvFormat::F32, 4), (KvFormat::F16, 2), (KvFormat::BF16, 2)] {
        let options = SessionOptions { max_chunk: 1, ..keeping(20, 12, format) };
        let model = full();
        let mut session = Session::new(&model, options).unwrap();
        let bytes = session.cache_bytes();
        // Layers, heads, slots; elements of key and value; position and weight of a slot; the
        // chunk in a panel of its own; indices of candidates.
        let slots = 3 * 2 * 32 * (2 * 16 * element + 16);
        let chunk = 2 * 16 * 2 * 16 * element;
        assert_eq!(bytes, slots + chunk + (32 + 1) * size_of::<usize>());
        assert_eq!(options.cache_bytes(model.config(), 300).unwrap(), bytes);
        for salt in 0..3 {
            session.prefill(&tokens(100, salt)).unwrap();
            assert_eq!(session.cache_bytes(), bytes);
        }
        assert_eq!((session.position(), session.remaining()), (300, Some(100)));
        assert!(matches!(session.prefill(&[1; 101]), Err(ModelError::ContextFull { .. })));
    }
    let model = windowed();
    let mut session = Session::new(&model, keeping(3, 3, KvFormat::Int8)).unwrap();
    session.prefill(&tokens(1000, 0)).unwrap();
    assert_eq!((session.position(), session.remaining()), (1000, None));
}

#[test]
fn a_reset_session_begins_anew() {
    let model = windowed();
    let options = keeping(3, 4, KvFormat::F16);
    let text = tokens(30, 2);
    let mut session = Session::new(&model, options).unwrap();
    let first = bits(session.prefill(&text).unwrap());
    session.reset().unwrap();
    assert!(session.tokens().is_empty() && session.logits().is_empty());
    assert_eq!(bits(session.prefill(&text).unwrap()), first);
}

#[test]
fn a_batch_gives_them_the_bits_that_they_have_alone() {
    let model = windowed();
    let start = |options, salt| {
        let mut session = Session::new(&model, options).unwrap();
        session.prefill(&tokens(20, salt)).unwrap();
        session
    };
    let kinds =
        [keeping(3, 4, KvFormat::F16), options(KvFormat::F32), keeping(2, 9, KvFormat::Int8)];
    let mut alone = [0, 1, 2].map(|i| start(kinds[i], i as u32));
    let mut together = [0, 1, 2].map(|i| start(kinds[i], i as u32));
    let mut batch = Batch::new(&model, 3).unwrap();
    for step in 0..9 {
        let next = [step, 2 * step + 1, 90 - step];
        let mut members: Vec<_> = together.iter_mut().collect();
        batch.decode(&mut members, &next).unwrap();
        for ((session, member), token) in alone.iter_mut().zip(&together).zip(next) {
            assert_eq!(bits(session.decode(token).unwrap()), bits(member.logits()));
            assert_eq!(session.tokens(), member.tokens());
        }
    }
}

#[test]
fn what_needs_evicted_keys_is_refused_by_name() {
    let model = windowed();
    let refused = |options, what: &str| {
        let error = Session::new(&model, options).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, ModelError::HeavyHitters { .. }) && text.contains(what), "{text}");
    };
    let kept = keeping(4, 4, KvFormat::F16);
    refused(SessionOptions { sinks: 1, ..kept }, "sinks");
    refused(SessionOptions { rewind_slack: 1, ..kept }, "a rewind slack");
    let mut session = Session::new(&model, kept).unwrap();
    let before = bits(session.prefill(&tokens(9, 0)).unwrap());
    let error = session.rewind(1).unwrap_err();
    assert!(matches!(error, ModelError::HeavyHitters { what: "a rewind" }), "{error}");
    assert_eq!(bits(session.logits()), before);
    for heavy_hitters in [(0, 0), (usize::MAX, 1)] {
        let (recent, heavy) = heavy_hitters;
        let error = Session::new(&model, keeping(recent, heavy, KvFormat::F16)).unwrap_err();
        assert!(matches!(error, ModelError::Cache { .. }), "{error:?}");
    }
}
