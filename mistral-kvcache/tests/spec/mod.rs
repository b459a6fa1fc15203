//! The specification: a list of everything that was ever committed, and how it must look in a view.
#![allow(dead_code)] // each test binary uses what it needs
#![allow(clippy::unwrap_used)] // a test's helper functions may fail a test too

pub(crate) mod whole;

use std::ops::Range;

use mistral_kvcache::ndarray::Array3;
use mistral_kvcache::{KvElement, KvPage, KvView};

pub(crate) const HEADS: usize = 2;
pub(crate) const HEAD_DIM: usize = 3;

/// Chunks that differ in every element from every other chunk, dropped ones included.
pub(crate) struct Source {
    state: u64,
}

impl Source {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    pub(crate) fn chunk(&mut self, len: usize) -> Array3<f32> {
        Array3::from_shape_fn((len, HEADS, HEAD_DIM), |_| {
            self.state =
                self.state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (self.state >> 40) as f32 / 8388608.0 - 1.0
        })
    }
}

type Heads = [[f32; HEAD_DIM]; HEADS];

/// Key and value of every head at one position, as the format rounds them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Row {
    pub(crate) keys: Heads,
    pub(crate) values: Heads,
}

/// The rows of a chunk in the format's precision.
pub(crate) fn rounded<E: KvElement>(keys: &Array3<f32>, values: &Array3<f32>) -> Vec<Row> {
    let mut page = KvPage::<E>::new(HEADS, 16, HEAD_DIM).unwrap();
    let rows = keys.outer_iter().zip(values.outer_iter()).map(|(keys, values)| {
        page.write(0, keys, values).unwrap();
        let mut row = Row { keys: Heads::default(), values: Heads::default() };
        for head in 0..HEADS {
            page.key(head, 0, &mut row.keys[head]).unwrap();
            page.value(head, 0, &mut row.values[head]).unwrap();
        }
        row
    });
    rows.collect()
}

/// What a view has at a position; `None` if it lacks it in any head.
pub(crate) fn row_of<E: KvElement>(view: &KvView<'_, E>, position: usize) -> Option<Row> {
    let mut row = Row { keys: Heads::default(), values: Heads::default() };
    for head in 0..HEADS {
        let rows = view.head(head)?;
        rows.key(position, &mut row.keys[head])?;
        rows.value(position, &mut row.values[head])?;
    }
    Some(row)
}

/// The view holds these positions and the pinned ones, each as it was pushed, and nothing else.
pub(crate) fn assert_shows<E: KvElement>(
    view: &KvView<'_, E>,
    pushed: &[Row],
    positions: Range<usize>,
    pinned: usize,
) {
    assert_eq!(view.positions(), positions);
    assert_eq!(view.n_kv_heads(), HEADS);
    assert_eq!(view.head_dim(), HEAD_DIM);
    for position in 0..positions.end + 3 {
        let there = position < pinned || positions.contains(&position);
        let expected = pushed.get(position).copied().filter(|_| there);
        assert_eq!(row_of(view, position), expected, "position {position} in {positions:?}");
        // Kernels find it in the lane of its number modulo sixteen, and need not gather it.
        let panel = view.head(0).and_then(|head| head.panels(&(position..position + 1)));
        assert_eq!(panel.is_some(), there);
    }
}
