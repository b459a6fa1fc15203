//! What each layer sees.

use mistral_model::{Config, KvFormat, ModelError, Session, SessionOptions, Window};

use crate::reference::{Keeping, Reference, worst};
use crate::tiny::{W, all_logits, config, full, mixed, options, tokens, windowed};

#[test]
fn a_session_sees_the_window_and_nothing_else() {
    let text = tokens(6 * W, 0);
    for (window, size) in [(Window::last(W).unwrap(), W), (Window::Full, text.len())] {
        let config = config(window);
        let reference = Reference::random(&config, 5);
        let model = reference.transformer(&config.to_hf_json());
        for max_chunk in [1, W + 1, 6 * W] {
            let options = SessionOptions { max_chunk, ..options(KvFormat::F32) };
            let found = all_logits(&model, &text, options);
            let of = |size| {
                let expected = reference.logits(&text, 6 * W, &Keeping::Windows(vec![size; 3]));
                worst(&found, &expected)
            };
            assert!(of(size).0 < 1e-3, "{window}: {:?}", of(size));
            assert!(of(size - 1).0 > 0.1);
        }
    }
}

#[test]
fn an_endless_text_sees_its_sinks_at_their_places_in_the_cache() {
    const SINKS: usize = 3;
    // Many times what the cache holds.
    let text = tokens(20 * W, 4);
    for sizes in [[W; 3], [W, 20 * W, 9]] {
        let layer_windows = sizes.map(|size| Window::from_hf(Some(size).filter(|s| *s < 20 * W)));
        let layer_windows = layer_windows.map(Result::unwrap).to_vec();
        let config = Config { layer_windows, ..config(Window::Full) };
        let reference = Reference::random(&config, 5);
        let model = reference.transformer(&config.to_hf_json());
        for max_chunk in [1, W + 1, 20 * W] {
            let options = SessionOptions { max_chunk, sinks: SINKS, ..options(KvFormat::F32) };
            let found = all_logits(&model, &text, options);
            let of = |sinks, windows: [usize; 3]| {
                let keeping = Keeping::Sinks { sinks, windows: windows.to_vec() };
                worst(&found, &reference.logits(&text, 20 * W, &keeping))
            };
            assert!(of(SINKS, sizes).0 < 1e-3, "chunks of {max_chunk}: {:?}", of(SINKS, sizes));
            let [first, rest @ ..] = sizes;
            assert!(of(SINKS, [first - 1, rest[0], rest[1]]).0 > 0.1);
            assert!(of(SINKS - 1, sizes).0 > 0.1);
            assert!(of(SINKS + 1, sizes).0 > 0.1);
        }
    }
}

#[test]
fn each_layer_sees_its_own_window_and_no_other_layers() {
    let text = tokens(40, 1);
    let sizes = [4, 40, 9];
    let layer_windows = sizes.map(|size| Window::from_hf(Some(size).filter(|s| *s < 40)).unwrap());
    let config = Config { layer_windows: layer_windows.to_vec(), ..config(Window::Full) };
    let reference = Reference::random(&config, 8);
    let model = reference.transformer(&config.to_hf_json());
    assert_eq!(model.config().layer_windows, layer_windows);
    for max_chunk in [1, 6, 40] {
        let options = SessionOptions { max_chunk, ..options(KvFormat::F32) };
        let found = all_logits(&model, &text, options);
        let of = |sizes: Vec<usize>| {
            worst(&found, &reference.logits(&text, 40, &Keeping::Windows(sizes)))
        };
        assert!(of(sizes.to_vec()).0 < 1e-3, "{:?}", of(sizes.to_vec()));
        // One off in one layer (ten where no window is, for the last token alone would see one
        // off), or two layers with each other's.
        for layer in 0..3 {
            let mut wrong = sizes.to_vec();
            wrong[layer] -= if layer == 1 { 10 } else { 1 };
            assert!(of(wrong).0 > 0.05, "layer {layer}");
            let mut swapped = sizes.to_vec();
            swapped.swap(layer, (layer + 1) % 3);
            assert!(of(swapped).0 > 0.05, "layers {layer} and {}", (layer + 1) % 3);
        }
    }
}

#[test]
fn a_text_ends_at_the_context_if_one_layer_has_no_window() {
    let model = mixed();
    let mut session = Session::new(&model, options(KvFormat::F16)).unwrap();
    assert_eq!(session.remaining(), Some(400));
    session.prefill(&tokens(390, 0)).unwrap();
    assert_eq!(session.remaining(), Some(10));
    // Slots of each layer, and of the chunk; heads, elements, keys and values, bytes.
    let slots = 16 + 400 + 16 + 32;
    assert_eq!(session.cache_bytes(), slots * 2 * 16 * 2 * 2);
}

#[test]
fn the_bytes_of_a_cache_are_foretold() {
    for model in [full(), windowed(), mixed()] {
        for kv_dtype in KvFormat::ALL {
            let options = SessionOptions { sinks: 3, rewind_slack: 20, ..options(kv_dtype) };
            let mut session = Session::new(&model, options).unwrap();
            for n in [1, 128, 129, 390] {
                session.prefill(&tokens(n - session.position(), 0)).unwrap();
                let foretold = options.cache_bytes(model.config(), n).unwrap();
                assert_eq!((session.position(), session.cache_bytes()), (n, foretold));
            }
        }
    }
    let zero = SessionOptions { max_chunk: 0, ..Default::default() };
    assert!(matches!(zero.cache_bytes(full().config(), 1), Err(ModelError::ZeroChunk)));
    let long = SessionOptions::default().cache_bytes(full().config(), 401);
    assert!(matches!(long, Err(ModelError::Cache { .. })));
}
