//! Everything that a call gives against the formula in f64, over arrays and pages of every format.

use mistral_attention::half::{bf16, f16};
use mistral_attention::ndarray::{Array3, s};
use mistral_attention::{Attention, Element, Int8, KvElement, KvSegment, KvView, Level, reference};
use proptest::prelude::*;

use super::shapes::{Shape, bits, call, pages, shapes};

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
}
