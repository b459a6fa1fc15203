//! Single calls with something special: sinks, flags, slices, wrong shapes, late positions.

use std::sync::atomic::{AtomicBool, Ordering};

use super::shapes::{PAGE, array, bits, call};
use mistral_attention::ndarray::{Array2, Array3, s};
use mistral_attention::{
    Attention, AttentionConfig, AttentionError, KvSegment, KvView, Scratch, Window, reference,
};

#[test]
fn sinks_before_a_gap_are_those_of_the_whole_sequence() {
    let config = AttentionConfig::new(4, 2, 16).with_window(Window::last(20).unwrap());
    let config = config.with_sinks(3);
    let attention = Attention::new(config).unwrap();
    let (q, k, v) = (array((5, 4, 16), 1), array((90, 2, 16), 2), array((90, 2, 16), 3));
    let whole = KvView::from_arrays(k.view(), v.view()).unwrap();
    let segment = |range: std::ops::Range<usize>| {
        let rows = s![range.clone(), .., ..];
        KvSegment::new(range.start, k.slice(rows), v.slice(rows)).unwrap()
    };
    let late = KvView::new([segment(66..90)]).unwrap();
    let mut expected = Array3::zeros(q.dim());
    attention.forward(q.view(), &whole, expected.view_mut()).unwrap();
    let mut out = Array3::zeros(q.dim());
    let error = attention.forward(q.view(), &late, out.view_mut()).unwrap_err();
    assert_eq!(error, AttentionError::MissingSinks { needed: 3, found: 0 });
    let pinned = late.with_sinks(segment(0..3)).unwrap();
    attention.forward(q.view(), &pinned, out.view_mut()).unwrap();
    assert_eq!(bits(&out), bits(&expected));
}

#[test]
fn a_call_that_is_cancelled_says_so() {
    let attention = Attention::new(AttentionConfig::new(4, 2, 16)).unwrap();
    let (q, k) = (array((300, 4, 16), 1), array((300, 2, 16), 2));
    let kv = KvView::from_arrays(k.view(), k.view()).unwrap();
    let mut out = Array3::zeros(q.dim());
    let cancel = AtomicBool::new(true);
    let error = attention.call(q.view(), &kv).cancel(&cancel).run(out.view_mut()).unwrap_err();
    assert_eq!(error, AttentionError::Cancelled);
    let cancel = AtomicBool::new(false);
    attention.call(q.view(), &kv).cancel(&cancel).run(out.view_mut()).unwrap();
}

#[test]
fn a_flag_that_is_taken_back_leaves_no_unfinished_result() {
    let attention = Attention::new(AttentionConfig::new(4, 2, 16)).unwrap();
    let (q, k) = (array((600, 4, 16), 1), array((600, 2, 16), 2));
    let kv = KvView::from_arrays(k.view(), k.view()).unwrap();
    let mut expected = Array3::zeros(q.dim());
    attention.forward(q.view(), &kv, expected.view_mut()).unwrap();
    let (cancel, done) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                cancel.fetch_xor(true, Ordering::Relaxed);
            }
        });
        for _ in 0..50 {
            let mut out = Array3::zeros(q.dim());
            let call = attention.call(q.view(), &kv).cancel(&cancel);
            if call.run(out.view_mut()).is_ok() {
                assert_eq!(bits(&out), bits(&expected));
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn sums_count_sinks_that_lie_in_a_view_of_late_positions() {
    let config = AttentionConfig::new(2, 1, 8).with_window(Window::last(3).unwrap()).with_sinks(8);
    let attention = Attention::new(config).unwrap();
    let (q, k, v) = (array((2, 2, 8), 1), array((12, 1, 8), 2), array((12, 1, 8), 3));
    let part = |r: std::ops::Range<usize>| {
        KvSegment::new(r.start, k.slice(s![r.clone(), .., ..]), v.slice(s![r, .., ..])).unwrap()
    };
    let kv = KvView::new([part(4..12)]).unwrap().with_sinks(part(0..4)).unwrap();
    let (_, _, sums) = call(&attention, &q, &q, &kv);
    let exact = reference::exact(&config, q.view(), q.view(), &kv).unwrap();
    assert_eq!(sums.dim(), exact.key_sums.dim());
    for (index, want) in exact.key_sums.indexed_iter() {
        assert!((f64::from(sums[index]) - want).abs() < 1e-5, "{index:?}: {} {want}", sums[index]);
    }
    assert!(sums[(0, 0)] > 0.0, "position 4 is a sink, though no query has it in its window");
}

#[test]
fn scores_that_overflow_give_no_number_instead_of_a_wrong_one() {
    let attention = Attention::new(AttentionConfig::new(1, 1, 16)).unwrap();
    let (q, k) = (Array3::from_elem((1, 1, 16), 3e38), Array3::<f32>::from_elem((3, 1, 16), -3e38));
    let kv = KvView::from_arrays(k.view(), k.view()).unwrap();
    let mut out = Array3::zeros(q.dim());
    attention.forward(q.view(), &kv, out.view_mut()).unwrap();
    assert!(out.iter().all(|x| x.is_nan()), "{out}");
}

#[test]
fn slices_are_arrays_without_their_shape() {
    let attention = Attention::new(AttentionConfig::new(4, 2, 16)).unwrap();
    let (q, k, v) = (array((7, 4, 16), 1), array((30, 2, 16), 2), array((30, 2, 16), 3));
    let kv = KvView::from_arrays(k.view(), v.view()).unwrap();
    let mut expected = Array3::zeros(q.dim());
    attention.forward(q.view(), &kv, expected.view_mut()).unwrap();
    let (mut out, mut lse) = (vec![0.0; q.len()], vec![0.0; 7 * 4]);
    let (array_lse, scratch) = (call(&attention, &q, &q, &kv).1, Scratch::default());
    let [q, k, v] = [&q, &k, &v].map(|x| x.as_slice().unwrap());
    attention.forward_slices(q, k, v, &mut out).unwrap();
    assert_eq!(bits(&out), bits(&expected));
    out.fill(f32::NAN);
    let call = attention.call_slices(q, k, v).lse(&mut lse).scratch(&scratch);
    call.run(&mut out).unwrap();
    assert_eq!((bits(&out), bits(&lse)), (bits(&expected), bits(&array_lse)));
    let error = attention.forward_slices(q, &k[1..], v, &mut out).unwrap_err();
    assert_eq!(error, AttentionError::SliceLength { array: "keys", found: 959, row: 32 });
    let call = attention.call_slices(q, k, v).lse(&mut lse[1..]);
    let error = call.run(&mut out).unwrap_err();
    assert_eq!(error.to_string(), "lse has shape [27], expected [28]");
    let cancel = AtomicBool::new(true);
    let error = attention.call_slices(q, k, v).cancel(&cancel).run(&mut out).unwrap_err();
    assert_eq!(error, AttentionError::Cancelled);
}

#[test]
fn arrays_beside_the_output_that_do_not_fit_are_named() {
    let attention = Attention::new(AttentionConfig::new(4, 2, 16)).unwrap();
    let (q, k) = (array((3, 4, 16), 1), array((30, 2, 16), 2));
    let kv = KvView::from_arrays(k.view(), k.view()).unwrap();
    let mut out = Array3::zeros(q.dim());
    let (mut lse, mut sums) = (Array2::zeros((3, 5)), Array2::zeros((2, 29)));
    let error = attention.call(q.view(), &kv).lse(lse.view_mut()).run(out.view_mut()).unwrap_err();
    assert!(error.to_string().contains("lse has shape [3, 5], expected [3, 4]"), "{error}");
    let call = attention.call(q.view(), &kv).key_sums(sums.view_mut());
    let error = call.run(out.view_mut()).unwrap_err();
    assert!(error.to_string().contains("key_sums has shape [2, 29], expected [2, 30]"), "{error}");
    for cap in [0.0, -1.0, 1e-39, f32::NAN, f32::INFINITY] {
        let config = AttentionConfig::new(4, 2, 16).with_soft_cap(cap);
        assert!(matches!(Attention::new(config), Err(AttentionError::BadSoftCap { .. })));
    }
}

#[test]
fn no_query_is_no_work() {
    let attention = Attention::new(AttentionConfig::new(2, 1, 4)).unwrap();
    let k = Array3::<f32>::ones((3, 1, 4));
    let kv = KvView::from_arrays(k.view(), k.view()).unwrap();
    let q = Array3::zeros((0, 2, 4));
    let mut out = Array3::zeros((0, 2, 4));
    attention.forward(q.view(), &kv, out.view_mut()).unwrap();
}

#[test]
fn the_last_positions_of_all_are_as_good_as_others() {
    let attention =
        Attention::new(AttentionConfig::new(4, 2, 8).with_window(Window::last(3).unwrap()));
    let attention = attention.unwrap();
    let (q, k) = (array((2, 4, 8), 1), array((5, 2, 8), 2));
    let at = |start: usize| {
        let kv = KvView::new([KvSegment::new(start, k.view(), k.view()).unwrap()]).unwrap();
        let (mut out, mut sums) = (Array3::zeros(q.dim()), Array2::zeros((2, 5)));
        attention.call(q.view(), &kv).key_sums(sums.view_mut()).run(out.view_mut()).unwrap();
        (out, sums)
    };
    // In the same place of a block.
    assert_eq!(at(usize::MAX - 5), at(PAGE * 9 - 6));
}

#[test]
fn a_soft_cap_of_any_size_follows_the_formula() {
    let (q, k, v) =
        (array((3, 2, 16), 1) * 3.0, array((40, 1, 16), 2) * 3.0, array((40, 1, 16), 3));
    let kv = KvView::from_arrays(k.view(), v.view()).unwrap();
    for cap in [1e-3, 0.1, 1.0, 9.0, 1e2, 1e4, 1e6, 1e9, 1e30] {
        let config = AttentionConfig::new(2, 1, 16).with_soft_cap(cap);
        let exact = reference::forward(&config, q.view(), &kv).unwrap();
        let mut out = Array3::zeros(q.dim());
        Attention::new(config).unwrap().forward(q.view(), &kv, out.view_mut()).unwrap();
        for (index, want) in exact.indexed_iter() {
            let found = f64::from(out[index]);
            assert!((found - want).abs() < 2e-6, "{cap:e} {index:?}: {found} for {want}");
        }
    }
}

#[test]
fn a_cancelled_call_leaves_the_rest_alone() {
    let attention = Attention::new(AttentionConfig::new(8, 2, 64)).unwrap();
    let (q, k) = (array((4000, 8, 64), 1), array((4000, 2, 64), 2));
    let kv = KvView::from_arrays(k.view(), k.view()).unwrap();
    let mut out = Array3::from_elem(q.dim(), f32::NAN);
    let cancel = AtomicBool::new(true);
    let error = attention.call(q.view(), &kv).cancel(&cancel).run(out.view_mut()).unwrap_err();
    assert_eq!(error, AttentionError::Cancelled);
    assert!(out.iter().all(|x| x.is_nan()), "something was computed for nobody");
    cancel.store(false, Ordering::Relaxed);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    std::thread::scope(|scope| {
        // Called again and again until one call is cut short, however late the flag comes.
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(5));
            cancel.store(true, Ordering::Relaxed);
        });
        let error = loop {
            out.fill(f32::NAN);
            let call = attention.call(q.view(), &kv).cancel(&cancel);
            if let Err(error) = pool.install(|| call.run(out.view_mut())) {
                break error;
            }
            assert!(out.iter().all(|x| x.is_finite()), "a call that went well left something out");
        };
        assert_eq!(error, AttentionError::Cancelled);
    });
    for head in out.rows() {
        let left = head.iter().filter(|x| x.is_nan()).count();
        assert!(left == 0 || left == head.len(), "a head was left half way");
    }
}
