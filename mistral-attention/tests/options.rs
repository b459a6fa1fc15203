//! What a call offers beside its output, against the formula in f64: sinks, soft-cap, log-sum-exp,
//! parts, sums over keys, pages of every format, batches, cancelling.

#![allow(clippy::unwrap_used)] // a test may panic

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mistral_attention::half::{bf16, f16};
use mistral_attention::ndarray::{Array2, Array3, Axis, s};
use mistral_attention::{
    Attention, AttentionConfig, AttentionError, BatchItem, Element, Int8, KvElement, KvPage,
    KvSegment, KvView, Level, Scratch, Window, merge, reference,
};
use proptest::prelude::*;

/// Slots of a page.
const PAGE: usize = 128;

/// Numbers in -1..1 that repeat for a seed.
fn array(shape: (usize, usize, usize), seed: u64) -> Array3<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    Array3::from_shape_simple_fn(shape, || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    })
}

/// Pages with position `start + i` in slot `shift + i`.
fn pages<E: KvElement>(k: &Array3<f32>, v: &Array3<f32>, shift: usize) -> Vec<Arc<KvPage<E>>> {
    let (len, heads, dim) = k.dim();
    let n = (shift + len).div_ceil(PAGE);
    let mut pages: Vec<_> = (0..n).map(|_| KvPage::new(heads, PAGE, dim).unwrap()).collect();
    for i in 0..len {
        let slot = shift + i;
        let (key, value) = (k.index_axis(Axis(0), i), v.index_axis(Axis(0), i));
        pages[slot / PAGE].write(slot % PAGE, key, value).unwrap();
    }
    pages.into_iter().map(Arc::new).collect()
}

#[derive(Debug, Clone, Copy)]
struct Shape {
    kv_heads: usize,
    group: usize,
    dim: usize,
    len: usize,
    queries: usize,
    window: usize,
    sinks: usize,
    cap: Option<f32>,
    seed: u64,
}

fn shapes() -> impl Strategy<Value = Shape> {
    let heads = (1usize..4, 1usize..7, prop_oneof![Just(16usize), Just(40), Just(64), Just(80)]);
    let lengths = (1usize..300, 1usize..40, 0usize..150, 0usize..6);
    (heads, lengths, proptest::option::of(2f32..30.0), any::<u64>()).prop_map(
        |((kv_heads, group, dim), (len, queries, window, sinks), cap, seed)| {
            let queries = queries.min(len);
            Shape { kv_heads, group, dim, len, queries, window, sinks, cap, seed }
        },
    )
}

impl Shape {
    fn config(&self) -> AttentionConfig {
        let window = Window::last(self.window).unwrap_or(Window::Full);
        let config = AttentionConfig::new(self.kv_heads * self.group, self.kv_heads, self.dim)
            .with_window(window)
            .with_sinks(self.sinks);
        self.cap.map_or(config, |cap| config.with_soft_cap(cap))
    }

    /// Queries, queries for sinks, keys, values.
    fn arrays(&self) -> [Array3<f32>; 4] {
        let q = (self.queries, self.kv_heads * self.group, self.dim);
        let kv = (self.len, self.kv_heads, self.dim);
        [
            array(q, self.seed) * 3.0,
            array(q, self.seed ^ 7) * 3.0,
            array(kv, self.seed ^ 1) * 3.0,
            array(kv, self.seed ^ 2),
        ]
    }
}

fn bits<'a>(x: impl IntoIterator<Item = &'a f32>) -> Vec<u32> {
    x.into_iter().map(|x| x.to_bits()).collect()
}

/// Everything that a call gives.
fn call<E: KvElement>(
    attention: &Attention,
    q: &Array3<f32>,
    sink_queries: &Array3<f32>,
    kv: &KvView<'_, E>,
) -> (Array3<f32>, Array2<f32>, Array2<f32>) {
    let mut out = Array3::from_elem(q.dim(), f32::NAN);
    let mut lse = Array2::from_elem((q.dim().0, q.dim().1), f32::NAN);
    let mut sums = Array2::zeros((attention.config().n_kv_heads(), kv.positions().len()));
    attention
        .call(q.view(), kv)
        .sink_queries(sink_queries.view())
        .lse(lse.view_mut())
        .key_sums(sums.view_mut())
        .run(out.view_mut())
        .unwrap();
    (out, lse, sums)
}

/// Against f64, and the same bits at every level, without the other outputs and query by query.
fn check<E: KvElement>(shape: Shape, shift: usize, tolerance: f64) -> Result<(), TestCaseError> {
    let [q, sink_queries, k, v] = shape.arrays();
    let pages = pages::<E>(&k, &v, shift);
    let segment = KvSegment::from_pages(0, &pages, shift..shift + shape.len).unwrap();
    let kv = KvView::new([segment]).unwrap();
    let config = shape.config();
    let attention = Attention::new(config).unwrap();
    let (out, lse, sums) = call(&attention, &q, &sink_queries, &kv);
    let exact = reference::exact(&config, q.view(), sink_queries.view(), &kv).unwrap();
    for (index, want) in exact.out.indexed_iter() {
        let error = (f64::from(out[index]) - want).abs();
        prop_assert!(error <= tolerance, "out {index:?}: {} for {want}", out[index]);
    }
    for (index, want) in exact.lse.indexed_iter() {
        let error = (f64::from(lse[index]) - want).abs();
        prop_assert!(error <= 20.0 * tolerance, "lse {index:?}: {} for {want}", lse[index]);
    }
    for (index, want) in exact.key_sums.indexed_iter() {
        let error = (f64::from(sums[index]) - want).abs();
        let size = (shape.queries * shape.group) as f64;
        prop_assert!(error <= tolerance * size, "sum {index:?}: {} for {want}", sums[index]);
    }
    for level in Level::available() {
        let same = call(&attention.at_level(level), &q, &sink_queries, &kv);
        prop_assert_eq!(bits(&same.0), bits(&out), "{}", level);
        prop_assert_eq!((bits(&same.1), bits(&same.2)), (bits(&lse), bits(&sums)), "{}", level);
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let threaded = pool.install(|| call(&attention, &q, &sink_queries, &kv));
    prop_assert_eq!((bits(&threaded.0), bits(&threaded.2)), (bits(&out), bits(&sums)));
    let mut alone = Array3::zeros(q.dim());
    let plain = attention.call(q.view(), &kv).sink_queries(sink_queries.view());
    plain.run(alone.view_mut()).unwrap();
    prop_assert_eq!(bits(&alone), bits(&out));
    for i in 0..shape.queries {
        let end = shape.len - shape.queries + i + 1;
        let segment = KvSegment::from_pages(0, &pages, shift..shift + end).unwrap();
        let kv = KvView::new([segment]).unwrap();
        let row = |x: &Array3<f32>| x.slice(s![i..=i, .., ..]).to_owned();
        let mut alone = row(&q);
        let sink_queries = row(&sink_queries);
        let one = row(&q);
        let one = attention.call(one.view(), &kv).sink_queries(sink_queries.view());
        one.run(alone.view_mut()).unwrap();
        prop_assert_eq!(bits(&alone), bits(&row(&out)), "query {}", i);
    }
    Ok(())
}

/// Pages in a format give the bits of arrays in it, however the pages are aligned.
fn pages_equal_arrays<E: Element>(shape: Shape, shift: usize) -> Result<(), TestCaseError> {
    let [q, sink_queries, k, v] = shape.arrays();
    let (pages, arrays) =
        (pages::<E>(&k, &v, shift), [k, v].map(|x| x.mapv(<E as Element>::from_f32)));
    let attention = Attention::new(shape.config()).unwrap();
    let paged = KvSegment::from_pages(0, &pages, shift..shift + shape.len).unwrap();
    let paged = call(&attention, &q, &sink_queries, &KvView::new([paged]).unwrap());
    let kv = KvView::from_arrays(arrays[0].view(), arrays[1].view()).unwrap();
    let plain = call(&attention, &q, &sink_queries, &kv);
    prop_assert_eq!(bits(&paged.0), bits(&plain.0));
    prop_assert_eq!((bits(&paged.1), bits(&paged.2)), (bits(&plain.1), bits(&plain.2)));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn every_option_equals_the_formula_in_floats(shape in shapes(), shift in 0usize..40) {
        check::<f32>(shape, shift, 2e-5)?;
        check::<f16>(shape, shift, 2e-5)?;
    }

    #[test]
    fn every_option_equals_the_formula_in_8_bits(shape in shapes(), shift in 0usize..40) {
        // Queries and weights are rounded to 16 bits for the integers: the reference is not.
        check::<Int8>(shape, shift, 2e-3)?;
    }

    #[test]
    fn pages_give_the_bits_of_arrays(shape in shapes(), shift in 0usize..40) {
        pages_equal_arrays::<f32>(shape, shift)?;
        pages_equal_arrays::<f16>(shape, shift)?;
        pages_equal_arrays::<bf16>(shape, shift)?;
    }

    #[test]
    fn parts_merge_to_the_whole(shape in shapes(), cut in 0usize..300) {
        let [q, _, k, v] = shape.arrays();
        let shape = Shape { sinks: 0, ..shape };
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

    #[test]
    fn a_ragged_batch_gives_each_sequence_what_it_has_alone(
        lengths in proptest::collection::vec((1usize..200, 1usize..30), 0..6), seed: u64,
    ) {
        let config = AttentionConfig::new(4, 2, 16).with_window(Window::last(50).unwrap());
        let attention = Attention::new(config).unwrap();
        let data: Vec<_> = lengths.iter().zip(seed..).map(|(&(len, queries), seed)| {
            let kv = (len, 2, 16);
            (array((queries.min(len), 4, 16), seed), array(kv, seed ^ 1), array(kv, seed ^ 2))
        }).collect();
        let mut outs: Vec<_> = data.iter().map(|(q, ..)| Array3::zeros(q.dim())).collect();
        let mut items: Vec<_> = data.iter().zip(&mut outs).map(|((q, k, v), out)| BatchItem {
            q: q.view(),
            kv: KvView::from_arrays(k.view(), v.view()).unwrap(),
            out: out.view_mut(),
            sink_queries: None,
        }).collect();
        attention.forward_batch(&mut items, &Scratch::default(), None).unwrap();
        for ((q, k, v), out) in data.iter().zip(&outs) {
            let mut alone = Array3::zeros(q.dim());
            let kv = KvView::from_arrays(k.view(), v.view()).unwrap();
            attention.forward(q.view(), &kv, alone.view_mut()).unwrap();
            prop_assert_eq!(bits(&alone), bits(out));
        }
    }
}

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
    let mut out = vec![0.0; q.len()];
    let [q, k, v] = [&q, &k, &v].map(|x| x.as_slice().unwrap());
    attention.forward_slices(q, k, v, &mut out).unwrap();
    assert_eq!(bits(&out), bits(&expected));
    let error = attention.forward_slices(q, &k[1..], v, &mut out).unwrap_err();
    assert_eq!(error, AttentionError::SliceLength { array: "keys", found: 959, row: 32 });
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
    for cap in [0.0, -1.0, f32::NAN, f32::INFINITY] {
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
