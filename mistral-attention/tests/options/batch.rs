//! Many sequences in one call.

use std::sync::atomic::AtomicBool;

use mistral_attention::ndarray::{Array3, s};
use mistral_attention::{
    Attention, AttentionConfig, AttentionError, BatchItem, KvSegment, KvView, Scratch, Window,
};
use proptest::prelude::*;

use super::shapes::{array, bits};

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

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

/// Items over the same keys, with so many queries each.
fn run(
    attention: &Attention,
    queries: &[usize],
    cancel: Option<&AtomicBool>,
) -> (Result<(), AttentionError>, Vec<Array3<f32>>) {
    let (k, v) = (array((60, 2, 16), 1), array((60, 2, 16), 2));
    let q: Vec<_> = queries.iter().zip(3..).map(|(&n, seed)| array((n, 4, 16), seed)).collect();
    let mut outs: Vec<_> = q.iter().map(|q| Array3::zeros(q.dim())).collect();
    let mut items: Vec<_> = q
        .iter()
        .zip(&mut outs)
        .map(|(q, out)| BatchItem {
            q: q.view(),
            kv: KvView::from_arrays(k.view(), v.view()).unwrap(),
            out: out.view_mut(),
            sink_queries: None,
        })
        .collect();
    let done = attention.forward_batch(&mut items, &Scratch::default(), cancel);
    drop(items);
    (done, outs)
}

#[test]
fn members_without_queries_cost_nothing() {
    let attention = Attention::new(AttentionConfig::new(4, 2, 16)).unwrap();
    let mut queries = vec![0; 20_000];
    queries[777] = 5;
    let (done, outs) = run(&attention, &queries, None);
    done.unwrap();
    assert!(outs[777].iter().all(|x| *x != 0.0));
}

#[test]
fn sinks_of_a_member_meet_their_own_queries() {
    let config = AttentionConfig::new(4, 2, 16).with_window(Window::last(9).unwrap()).with_sinks(3);
    let attention = Attention::new(config).unwrap();
    let (k, v) = (array((60, 2, 16), 1), array((60, 2, 16), 2));
    let (q, turned) = (array((4, 4, 16), 3), array((4, 4, 16), 4));
    let kv = KvView::from_arrays(k.view(), v.view()).unwrap();
    let (mut out, mut alone) = (Array3::zeros(q.dim()), Array3::zeros(q.dim()));
    let item =
        BatchItem { q: q.view(), kv, out: out.view_mut(), sink_queries: Some(turned.view()) };
    attention.forward_batch(&mut [item], &Scratch::default(), None).unwrap();
    attention.call(q.view(), &kv).sink_queries(turned.view()).run(alone.view_mut()).unwrap();
    assert_eq!(bits(&out), bits(&alone));
}

#[test]
fn a_member_that_does_not_fit_is_named_before_anything_is_computed() {
    let attention = Attention::new(AttentionConfig::new(4, 2, 16)).unwrap();
    let (k, q, short) = (array((60, 2, 16), 1), array((4, 4, 16), 3), array((3, 4, 16), 3));
    let rows = k.slice(s![5.., .., ..]);
    let whole = KvView::from_arrays(k.view(), k.view()).unwrap();
    let late = KvView::new([KvSegment::new(5, rows, rows).unwrap()]).unwrap();
    let refusal = |kv, sinks: Option<&Array3<f32>>, tokens: usize| {
        let (mut first, mut second) = (Array3::zeros(q.dim()), Array3::zeros((tokens, 4, 16)));
        let sink_queries = sinks.map(|q| q.view());
        let mut items = [
            BatchItem { q: q.view(), kv: whole, out: first.view_mut(), sink_queries: None },
            BatchItem { q: q.view(), kv, out: second.view_mut(), sink_queries },
        ];
        let error = attention.forward_batch(&mut items, &Scratch::default(), None).unwrap_err();
        assert!(first.iter().all(|x| *x == 0.0), "the first was computed");
        error
    };
    let missing = AttentionError::MissingHistory { needed_from: 0, view_starts_at: 5 };
    assert_eq!(refusal(late, None, 4), missing);
    assert!(matches!(refusal(whole, None, 3), AttentionError::OutShape { .. }));
    assert!(matches!(refusal(whole, Some(&short), 4), AttentionError::Shape { .. }));
}

#[test]
fn a_batch_that_is_cancelled_says_so() {
    let attention = Attention::new(AttentionConfig::new(4, 2, 16)).unwrap();
    let (done, outs) = run(&attention, &[3, 2], Some(&AtomicBool::new(true)));
    assert_eq!(done, Err(AttentionError::Cancelled));
    assert!(outs.iter().flatten().all(|x| *x == 0.0));
}
