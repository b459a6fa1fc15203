//! Histories in parts: those that a caller merges, and those that threads share out.

use mistral_attention::ndarray::{Array2, Array3, s};
use mistral_attention::{
    Attention, AttentionConfig, AttentionError, KvSegment, KvView, Window, merge, reference,
};
use proptest::prelude::*;

use super::shapes::{array, bits, call, shapes};

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn parts_merge_to_the_whole(shape in shapes(), cut in 0usize..300) {
        let [q, _, k, v] = shape.arrays();
        let attention = Attention::new(shape.config()).unwrap();
        let first = shape.len - shape.queries;
        let cut = cut % shape.len;
        let mut parts = Vec::new();
        for range in [0..cut, cut..shape.len] {
            let (mut out, mut lse) = (Array3::zeros(q.dim()), Array2::zeros((q.dim().0, q.dim().1)));
            lse.fill(f32::NEG_INFINITY);
            if !range.is_empty() {
                let (k, v) = (k.slice(s![range.clone(), .., ..]), v.slice(s![range.clone(), .., ..]));
                let kv = KvView::new([KvSegment::new(range.start, k, v).unwrap()]).unwrap();
                let call = attention.call(q.view(), &kv).part_from(first).lse(lse.view_mut());
                call.run(out.view_mut()).unwrap();
            }
            parts.push((out, lse));
        }
        let (mut merged, mut lse) = parts.remove(0);
        let (other, other_lse) = parts.remove(0);
        merge((merged.view_mut(), lse.view_mut()), (other.view(), other_lse.view())).unwrap();
        let kv = KvView::from_arrays(k.view(), v.view()).unwrap();
        let exact = reference::exact(&shape.config(), q.view(), q.view(), &kv).unwrap();
        for (index, want) in exact.out.indexed_iter() {
            prop_assert!((f64::from(merged[index]) - want).abs() <= 3e-5, "{:?}", index);
        }
        for (index, want) in exact.lse.indexed_iter() {
            prop_assert!((f64::from(lse[index]) - want).abs() <= 1e-4, "{:?}", index);
        }
    }
}

#[test]
fn a_prefix_shorter_than_the_sinks_is_a_part_as_any_other() {
    let config = AttentionConfig::new(2, 1, 8).with_window(Window::last(1).unwrap()).with_sinks(4);
    let attention = Attention::new(config).unwrap();
    let (q, k, v) = (array((1, 2, 8), 1), array((12, 1, 8), 2), array((12, 1, 8), 3));
    let mut whole = Array3::zeros(q.dim());
    let kv = KvView::from_arrays(k.view(), v.view()).unwrap();
    attention.forward(q.view(), &kv, whole.view_mut()).unwrap();
    for cut in 1..12 {
        let mut parts = [0..cut, cut..12].map(|range| {
            let rows = |x: &Array3<f32>| x.slice(s![range.clone(), .., ..]).to_owned();
            let (k, v) = (rows(&k), rows(&v));
            let segment = KvSegment::new(range.start, k.view(), v.view()).unwrap();
            let (mut out, mut lse) = (Array3::zeros(q.dim()), Array2::zeros((1, 2)));
            let kv = KvView::new([segment]).unwrap();
            let call = attention.call(q.view(), &kv).part_from(11).lse(lse.view_mut());
            call.run(out.view_mut()).unwrap();
            (out, lse)
        });
        let [(out, lse), (other, other_lse)] = &mut parts;
        merge((out.view_mut(), lse.view_mut()), (other.view(), other_lse.view())).unwrap();
        assert!((&whole - &*out).iter().all(|x| x.abs() < 1e-6), "cut at {cut}");
    }
}

#[test]
fn parts_of_two_ranges_or_beyond_the_last_position_are_refused() {
    let attention = Attention::new(AttentionConfig::new(2, 1, 8).with_sinks(2)).unwrap();
    let (q, k) = (array((2, 2, 8), 1), array((6, 1, 8), 2));
    let rows = |from: usize, to: usize| {
        let rows = k.slice(s![from..to, .., ..]);
        KvSegment::new(from, rows, rows).unwrap()
    };
    let late = KvView::new([rows(4, 6)]).unwrap();
    let run = |kv: &KvView<'_, f32>, first: usize| {
        let mut out = Array3::zeros(q.dim());
        attention.call(q.view(), kv).part_from(first).run(out.view_mut())
    };
    let gap = late.with_sinks(rows(0, 2)).unwrap();
    assert_eq!(run(&gap, 4), Err(AttentionError::PartWithGap { sinks: 2, view_starts_at: 4 }));
    let beyond = AttentionError::PositionOverflow { first: usize::MAX, queries: 2 };
    assert_eq!(run(&late, usize::MAX), Err(beyond));
    assert_eq!(run(&late, usize::MAX - 2), Ok(()));
    // Rows that join the view are part of it, also where the window covers them.
    let joined = late.with_sinks(rows(0, 4)).unwrap();
    let (mut out, mut expected) = (Array3::zeros(q.dim()), Array3::zeros(q.dim()));
    attention.forward(q.view(), &joined, out.view_mut()).unwrap();
    let kv = KvView::from_arrays(k.view(), k.view()).unwrap();
    attention.forward(q.view(), &kv, expected.view_mut()).unwrap();
    assert_eq!(bits(&out), bits(&expected));
    assert_eq!(run(&joined, 4), Ok(()));
}

#[test]
fn a_long_history_on_many_threads_is_that_on_one() {
    // One head and three threads: its blocks are shared out.
    for (kv_heads, group) in [(1, 1), (1, 12), (1, 32), (2, 5)] {
        let config = AttentionConfig::new(kv_heads * group, kv_heads, 64)
            .with_window(Window::last(1500).unwrap())
            .with_sinks(4);
        let attention = Attention::new(config).unwrap();
        let q = array((1, kv_heads * group, 64), 1) * 3.0;
        let turned = array(q.dim(), 9) * 3.0;
        let (k, v) = (array((2600, kv_heads, 64), 2), array((2600, kv_heads, 64), 3));
        let kv = KvView::from_arrays(k.view(), v.view()).unwrap();
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut out = Array3::from_elem(q.dim(), f32::NAN);
            let mut lse = Array2::from_elem((1, kv_heads * group), f32::NAN);
            let call = attention.call(q.view(), &kv).sink_queries(turned.view());
            pool.install(|| call.lse(lse.view_mut()).run(out.view_mut())).unwrap();
            (out, lse)
        };
        let (out, lse) = on(1);
        for threads in [2, 3, 5] {
            let (other, other_lse) = on(threads);
            assert_eq!((bits(&other), bits(&other_lse)), (bits(&out), bits(&lse)), "{threads}");
        }
        let exact = reference::exact(&config, q.view(), turned.view(), &kv).unwrap();
        for (index, want) in exact.out.indexed_iter() {
            assert!((f64::from(out[index]) - want).abs() < 2e-5, "{index:?}");
        }
        for (index, want) in exact.lse.indexed_iter() {
            assert!((f64::from(lse[index]) - want).abs() < 1e-4, "{index:?}");
        }
        // With sums over keys it takes the other way through the kernels.
        assert_eq!(bits(&call(&attention, &q, &turned, &kv).0), bits(&out));
    }
}
