//! What does not fit is an error that names it, and nothing is written.

#![allow(clippy::unwrap_used)] // a test may panic

use mistral_attention::ndarray::Array3;
use mistral_attention::{Attention, AttentionConfig, AttentionError, KvSegment, KvView, Window};

#[test]
fn configurations_that_make_no_sense_are_named() {
    let error = |config| Attention::new(config).unwrap_err();
    for (config, name) in [
        (AttentionConfig::new(0, 1, 8), "n_heads"),
        (AttentionConfig::new(2, 0, 8), "n_kv_heads"),
        (AttentionConfig::new(2, 1, 0), "head_dim"),
    ] {
        assert_eq!(error(config), AttentionError::ZeroSize { name });
    }
    assert_eq!(
        error(AttentionConfig::new(6, 4, 8)),
        AttentionError::UngroupedHeads { n_heads: 6, n_kv_heads: 4 }
    );
    let scale = AttentionConfig::new(2, 1, 8).with_scale(f32::INFINITY);
    assert_eq!(error(scale), AttentionError::BadScale { found: f32::INFINITY });
    assert_eq!(Window::last(0), Err(AttentionError::ZeroWindow));
}

/// The error of a call with 4 heads on 2, 8 elements a head and a window of 3; `out` must stay as
/// it was.
fn refused(q: (usize, usize, usize), kv: (usize, usize, usize), start: usize) -> AttentionError {
    let config = AttentionConfig::new(4, 2, 8).with_window(Window::last(3).unwrap());
    let k = Array3::<f32>::ones(kv);
    let segment = KvSegment::new(start, k.view(), k.view()).unwrap();
    let kv = KvView::new([segment]).unwrap();
    let mut out = Array3::from_elem(q, 7.0);
    let q = Array3::ones(q);
    let error = Attention::new(config).unwrap().forward(q.view(), &kv, out.view_mut()).unwrap_err();
    assert!(out.iter().all(|&x| x == 7.0));
    error
}

#[test]
fn history_that_a_query_sees_but_the_view_lacks_is_an_error() {
    // The query at position 12 sees 10, 11 and 12.
    assert_eq!(
        refused((1, 4, 8), (2, 2, 8), 11),
        AttentionError::MissingHistory { needed_from: 10, view_starts_at: 11 }
    );
    // Two queries at 11 and 12: the first one sees 9.
    assert_eq!(
        refused((2, 4, 8), (3, 2, 8), 10),
        AttentionError::MissingHistory { needed_from: 9, view_starts_at: 10 }
    );
}

#[test]
fn arrays_that_do_not_fit_are_named() {
    assert_eq!(
        refused((1, 2, 8), (3, 2, 8), 0),
        AttentionError::QueryShape { found: (2, 8), expected: (4, 8) }
    );
    assert_eq!(
        refused((1, 4, 8), (3, 4, 8), 0),
        AttentionError::KvShape { found: (4, 8), expected: (2, 8) }
    );
    assert_eq!(
        refused((4, 4, 8), (3, 2, 8), 0),
        AttentionError::TooManyQueries { queries: 4, positions: 3 }
    );
    let k = Array3::<f32>::ones((3, 2, 8));
    let kv = KvView::from_arrays(k.view(), k.view()).unwrap();
    let attention = Attention::new(AttentionConfig::new(4, 2, 8)).unwrap();
    let q = Array3::ones((2, 4, 8));
    let mut out = Array3::zeros((1, 4, 8));
    assert_eq!(
        attention.forward(q.view(), &kv, out.view_mut()),
        Err(AttentionError::OutShape { found: (1, 4, 8), expected: (2, 4, 8) })
    );
}
