//! What each layer sees.

use mistral_model::{KvFormat, SessionOptions, Window};

use crate::reference::{Keeping, Reference, worst};
use crate::tiny::{W, all_logits, config, options, tokens};

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
