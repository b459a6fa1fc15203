//! What users of attention rely on: the right keys, an error no larger than that of the plain
//! formula, and the same bits however the work is cut.

#![allow(clippy::unwrap_used)] // a test may panic

use std::num::NonZeroUsize;

use mistral_attention::half::{bf16, f16};
use mistral_attention::ndarray::{Array3, ArrayView3, Axis};
use mistral_attention::{
    Attention, AttentionConfig, Element, KvSegment, KvView, Level, Window, reference,
};
use proptest::prelude::*;

/// Numbers in -1..1 that repeat for a seed.
fn numbers(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// A configuration with queries for every position and the keys and values behind them.
struct Case<E> {
    config: AttentionConfig,
    q: Array3<f32>,
    k: Array3<E>,
    v: Array3<E>,
    /// Position of the first row.
    start: usize,
}

/// What varies between cases.
#[derive(Debug, Clone, Copy)]
struct Shape {
    n_kv_heads: usize,
    group_size: usize,
    head_dim: usize,
    window: usize,
    len: usize,
    seed: u64,
}

/// A window of 0 stands for none.
fn window(size: usize) -> Window {
    Window::last(size).unwrap_or(Window::Full)
}

impl<E: Element> Case<E> {
    fn new(shape: Shape) -> Self {
        let n_heads = shape.n_kv_heads * shape.group_size;
        let array = |heads, salt, gain: f32| {
            let mut next = numbers(shape.seed.wrapping_mul(4).wrapping_add(salt));
            Array3::from_shape_simple_fn((shape.len, heads, shape.head_dim), move || gain * next())
        };
        let stored = |x: Array3<f32>| x.mapv(E::from_f32);
        Self {
            config: AttentionConfig::new(n_heads, shape.n_kv_heads, shape.head_dim)
                .with_window(window(shape.window)),
            q: array(n_heads, 1, 3.0),
            k: stored(array(shape.n_kv_heads, 2, 3.0)),
            v: stored(array(shape.n_kv_heads, 3, 1.0)),
            start: 0,
        }
    }

    fn len(&self) -> usize {
        self.q.len_of(Axis(0))
    }

    /// Output rows of the queries `from..to` (counted as rows), given the keys up to `to`, cut into
    /// segments at the given rows.
    fn rows(&self, attention: &Attention, from: usize, to: usize, cuts: &[usize]) -> Array3<f32> {
        let mut borders = vec![0];
        borders.extend(cuts.iter().map(|cut| cut % (to + 1)));
        borders.push(to);
        borders.sort_unstable();
        let segments = borders.windows(2).map(|b| {
            KvSegment::new(
                self.start + b[0],
                between(self.k.view(), b[0], b[1]),
                between(self.v.view(), b[0], b[1]),
            )
            .unwrap()
        });
        let kv = KvView::new(segments).unwrap();
        let q = between(self.q.view(), from, to);
        let mut out = Array3::from_elem(q.dim(), f32::NAN);
        attention.forward(q, &kv, out.view_mut()).unwrap();
        out
    }

    fn one_shot(&self) -> Array3<f32> {
        let attention = Attention::new(self.config).unwrap();
        self.rows(&attention, 0, self.len(), &[])
    }
}

fn between<T>(array: ArrayView3<'_, T>, from: usize, to: usize) -> ArrayView3<'_, T> {
    let (_, right) = array.split_at(Axis(0), from);
    right.split_at(Axis(0), to - from).0
}

fn bits(x: ArrayView3<'_, f32>) -> Vec<u32> {
    x.iter().map(|v| v.to_bits()).collect()
}

/// What a query sees, from the positions alone; a window of 0 stands for none. The tests don't ask
/// the crate, whose kernels have it from the same place.
fn sees(window: usize, query: usize, key: usize) -> bool {
    key <= query && (window == 0 || query - key < window)
}

/// The plain formula in f32, as one would write it down.
fn plain<E: Element>(case: &Case<E>) -> Array3<f32> {
    let mut out = Array3::zeros(case.q.dim());
    let config = case.config;
    let window = config.window().size().map_or(0, NonZeroUsize::get);
    for ((i, h, c), out) in out.indexed_iter_mut() {
        let kv_head = h / config.group_size();
        let seen: Vec<usize> = (0..case.len()).filter(|&j| sees(window, i, j)).collect();
        let mut weights = Vec::new();
        for &j in &seen {
            let mut dot = 0.0;
            for d in 0..config.head_dim() {
                dot += case.q[[i, h, d]] * case.k[[j, kv_head, d]].to_f32();
            }
            weights.push(dot * config.scale());
        }
        let max = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        for weight in &mut weights {
            *weight = (*weight - max).exp();
            sum += *weight;
        }
        for (weight, &j) in weights.iter().zip(&seen) {
            *out += weight / sum * case.v[[j, kv_head, c]].to_f32();
        }
    }
    out
}

/// Largest error against f64, with its place and both values.
fn error(found: &Array3<f32>, exact: &Array3<f64>) -> (f64, String) {
    let mut worst = (-1.0, String::new());
    for (index, &exact) in exact.indexed_iter() {
        let error = (f64::from(found[index]) - exact).abs();
        if error.is_nan() || error > worst.0 {
            worst = (error, format!("{} at {index:?}, expected {exact}", found[index]));
        }
    }
    worst
}

/// At most twice the error of the plain formula; where that happens to be nearly exact, eight
/// roundings of the largest value.
fn is_as_exact_as_the_plain_formula<E: Element>(shape: Shape) -> Result<(), TestCaseError> {
    let case = Case::<E>::new(shape);
    let kv = KvView::from_arrays(case.k.view(), case.v.view()).unwrap();
    let exact = reference::forward(&case.config, case.q.view(), &kv).unwrap();
    let (found, place) = error(&case.one_shot(), &exact);
    let (allowed, _) = error(&plain(&case), &exact);
    let floor = 8.0 * f64::from(f32::EPSILON);
    prop_assert!(
        found <= 2.0 * allowed + floor,
        "{shape:?}: {place}: error {found:e}, plain formula {allowed:e}"
    );
    Ok(())
}

fn shapes() -> impl Strategy<Value = Shape> {
    let head_dim = prop_oneof![Just(1usize), Just(7), Just(16), Just(64), Just(80), Just(128)];
    (1usize..=3, 1usize..=8, head_dim, 0usize..=9, any::<u64>()).prop_flat_map(
        |(n_kv_heads, group_size, head_dim, window, seed)| {
            let lengths = 1..=(6 * window).max(40);
            lengths.prop_map(move |len| Shape {
                n_kv_heads,
                group_size,
                head_dim,
                window,
                len,
                seed,
            })
        },
    )
}

/// Lengths and windows around the borders of key blocks.
fn long_shapes() -> impl Strategy<Value = Shape> {
    let len = prop_oneof![Just(127usize), Just(128), Just(129), Just(255), Just(257), Just(300)];
    let window =
        prop_oneof![Just(0usize), Just(1), Just(15), Just(127), Just(128), Just(129), Just(200)];
    let head_dim = prop_oneof![Just(7usize), Just(16), Just(40)];
    (1usize..=2, 1usize..=5, head_dim, window, len, any::<u64>()).prop_map(
        |(n_kv_heads, group_size, head_dim, window, len, seed)| Shape {
            n_kv_heads,
            group_size,
            head_dim,
            window,
            len,
            seed,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn error_is_at_most_twice_that_of_the_plain_formula(shape in shapes()) {
        is_as_exact_as_the_plain_formula::<f32>(shape)?;
        is_as_exact_as_the_plain_formula::<f16>(shape)?;
        is_as_exact_as_the_plain_formula::<bf16>(shape)?;
    }

    #[test]
    fn any_chunking_equals_one_shot(shape in shapes(), chunk in 1usize..20) {
        let case = Case::<f16>::new(shape);
        let attention = Attention::new(case.config).unwrap();
        let whole = case.one_shot();
        for from in (0..case.len()).step_by(chunk) {
            let to = case.len().min(from + chunk);
            let rows = case.rows(&attention, from, to, &[]);
            prop_assert_eq!(bits(rows.view()), bits(between(whole.view(), from, to)));
        }
    }

    #[test]
    fn any_cut_into_segments_equals_one_segment(
        shape in prop_oneof![shapes(), long_shapes()],
        cuts in prop::collection::vec(any::<usize>(), 0..=2),
        start in prop_oneof![Just(0usize), Just(1), Just(100), Just(5000)],
    ) {
        // History that starts later than 0 needs queries that don't see further back.
        let mut case = Case::<f32>::new(shape);
        case.start = start;
        let attention = Attention::new(case.config).unwrap();
        let seen_from = (0..case.len())
            .find(|&row| start == 0 || !sees(shape.window, start + row, start - 1));
        if let Some(from) = seen_from {
            let one = case.rows(&attention, from, case.len(), &[]);
            let cut = case.rows(&attention, from, case.len(), &cuts);
            prop_assert_eq!(bits(one.view()), bits(cut.view()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn error_is_bounded_on_both_sides_of_block_borders(shape in long_shapes()) {
        is_as_exact_as_the_plain_formula::<f16>(shape)?;
    }

    #[test]
    fn decode_equals_prefill_row_by_row(shape in long_shapes()) {
        let case = Case::<bf16>::new(shape);
        let attention = Attention::new(case.config).unwrap();
        let whole = case.one_shot();
        for i in 0..case.len() {
            let row = case.rows(&attention, i, i + 1, &[]);
            prop_assert_eq!(bits(row.view()), bits(between(whole.view(), i, i + 1)), "row {}", i);
        }
    }

    #[test]
    fn every_level_gives_the_same_bits(shape in prop_oneof![shapes(), long_shapes()]) {
        let case = Case::<f16>::new(shape);
        let whole = case.one_shot();
        for level in Level::available() {
            let attention = Attention::new(case.config).unwrap().at_level(level);
            let rows = case.rows(&attention, 0, case.len(), &[]);
            prop_assert_eq!(bits(rows.view()), bits(whole.view()), "at {}", level);
        }
    }
}

#[test]
fn one_two_and_five_threads_give_the_same_bits() {
    // One key/value head: decode is cut at blocks. Three: at heads. Many queries: at tiles.
    for (n_kv_heads, group_size, window) in [(1, 4, 0), (1, 16, 700), (3, 2, 0), (3, 1, 129)] {
        let case = Case::<f16>::new(Shape {
            n_kv_heads,
            group_size,
            head_dim: 64,
            window,
            len: 1111,
            seed: 5,
        });
        let attention = Attention::new(case.config).unwrap();
        let results = [1, 2, 5].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build().unwrap().install(|| {
                let whole = case.rows(&attention, 0, 1111, &[]);
                let decode = case.rows(&attention, 1110, 1111, &[]);
                assert_eq!(
                    bits(decode.view()),
                    bits(between(whole.view(), 1110, 1111)),
                    "{threads} threads, {n_kv_heads} kv heads"
                );
                bits(whole.view())
            })
        });
        assert!(results.iter().all(|bits| bits == &results[0]));
    }
}

#[test]
fn keys_and_values_out_of_sight_change_no_bit_even_if_they_are_nan() {
    for (len, size) in [(40, 3), (140, 9), (300, 130)] {
        let shape =
            Shape { n_kv_heads: 1, group_size: 4, head_dim: 16, window: size, len, seed: 7 };
        let clean = Case::<f32>::new(shape).one_shot();
        for poison in [f32::NAN, f32::INFINITY] {
            let mut poisoned = Case::<f32>::new(shape);
            let row = len / 2;
            poisoned.k.index_axis_mut(Axis(0), row).fill(poison);
            poisoned.v.index_axis_mut(Axis(0), row).fill(poison);
            let out = poisoned.one_shot();
            for i in 0..len {
                let (out, clean) = (between(out.view(), i, i + 1), between(clean.view(), i, i + 1));
                if sees(size, i, row) {
                    assert!(out.iter().all(|x| x.is_nan()), "query {i} sees the poison");
                } else {
                    assert_eq!(bits(out), bits(clean), "query {i} does not see row {row}");
                }
            }
        }
    }
}

#[test]
fn values_one_hot_by_position_show_exactly_the_window() {
    // head_dim = positions, value j = unit vector j: the output is the row of softmax weights.
    let len = 54;
    for size in 1..=9 {
        let mut case = Case::<f32>::new(Shape {
            n_kv_heads: 1,
            group_size: 1,
            head_dim: len,
            window: size,
            len,
            seed: 3,
        });
        case.v = Array3::from_shape_fn((len, 1, len), |(i, _, d)| f32::from(i == d));
        for ((i, _, j), weight) in case.one_shot().indexed_iter() {
            assert_eq!(*weight > 0.0, sees(size, i, j), "W = {size}: query {i}, key {j}");
        }
    }
}

#[test]
fn huge_scores_stay_finite_and_pick_the_largest() {
    let mut case = Case::<f32>::new(Shape {
        n_kv_heads: 1,
        group_size: 2,
        head_dim: 16,
        window: 0,
        len: 300,
        seed: 11,
    });
    case.q.mapv_inplace(|x| x * 1e4);
    case.k.mapv_inplace(|x| x * 1e4);
    let kv = KvView::from_arrays(case.k.view(), case.v.view()).unwrap();
    let exact = reference::forward(&case.config, case.q.view(), &kv).unwrap();
    let (found, place) = error(&case.one_shot(), &exact);
    assert!(found < 1e-4, "{place}");
}

#[test]
fn strided_queries_and_outputs_are_taken_as_they_are() {
    let case = Case::<f16>::new(Shape {
        n_kv_heads: 2,
        group_size: 3,
        head_dim: 20,
        window: 5,
        len: 30,
        seed: 2,
    });
    let attention = Attention::new(case.config).unwrap();
    let kv = KvView::from_arrays(case.k.view(), case.v.view()).unwrap();
    // The same numbers with the axes stored in the opposite order.
    let reversed = case.q.view().reversed_axes();
    let stored = reversed.as_standard_layout().into_owned();
    let mut out = Array3::zeros(stored.dim());
    attention.forward(stored.view().reversed_axes(), &kv, out.view_mut().reversed_axes()).unwrap();
    assert_eq!(bits(out.view().reversed_axes()), bits(case.one_shot().view()));
}
