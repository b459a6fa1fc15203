//! Views over arrays of any layout.

use ndarray::{Array3, s};

use super::*;

fn numbered(len: usize, heads: usize, dim: usize) -> Array3<f32> {
    Array3::from_shape_fn((len, heads, dim), |(i, h, d)| (i * 100 + h * 10 + d) as f32)
}

#[test]
fn any_outer_stride_gives_the_same_rows() {
    let plain = numbered(5, 3, 4);
    let head_major = plain.view().permuted_axes([1, 0, 2]).as_standard_layout().into_owned();
    let wide = numbered(5, 6, 4);
    let views =
        [plain.view(), head_major.view().permuted_axes([1, 0, 2]), wide.slice(s![.., ..3, ..])];
    for array in views {
        let view = KvView::from_arrays(array, array).unwrap();
        for head in 0..3 {
            let rows: Vec<_> = view.head(head).unwrap().keys(1..4).collect();
            assert_eq!(rows.len(), 3);
            for (i, row) in rows.iter().enumerate() {
                let first = ((i + 1) * 100 + head * 10) as f32;
                assert_eq!(row, &[first, first + 1.0, first + 2.0, first + 3.0]);
            }
        }
    }
}

#[test]
fn rows_cross_segment_borders_in_order_of_position() {
    let (a, b) = (numbered(3, 1, 1), numbered(2, 1, 1));
    let view = KvView::new([
        KvSegment::new(7, a.view(), a.view()).unwrap(),
        KvSegment::new(10, b.view(), b.view()).unwrap(),
    ])
    .unwrap();
    let values: Vec<f32> = view.head(0).unwrap().values(8..99).map(|row| row[0]).collect();
    assert_eq!(values, [100.0, 200.0, 0.0, 100.0]);
    assert!(view.head(1).is_none());
}

#[test]
fn gaps_overlaps_and_strangers_are_named() {
    let a = numbered(3, 2, 4);
    let b = numbered(3, 1, 4);
    let at = |start, array: &'static str| {
        let array = if array == "a" { a.view() } else { b.view() };
        KvSegment::new(start, array, array).unwrap()
    };
    let gap = KvView::new([at(0, "a"), at(4, "a")]).unwrap_err();
    assert_eq!(gap, KvError::NotConsecutive { expected: 3, found: 4 });
    let overlap = KvView::new([at(5, "a"), at(6, "a")]).unwrap_err();
    assert_eq!(overlap, KvError::NotConsecutive { expected: 8, found: 6 });
    let stranger = KvView::new([at(0, "a"), at(3, "b")]).unwrap_err();
    assert_eq!(stranger, KvError::HeadsDiffer { first: (2, 4), found: (1, 4) });
    let four = KvView::new([at(0, "a"), at(3, "a"), at(6, "a"), at(9, "a")]).unwrap_err();
    assert_eq!(four, KvError::TooManySegments { limit: 3 });
    assert_eq!(KvView::<f32>::new([]).unwrap_err(), KvError::Empty);
    let end = KvSegment::new(usize::MAX - 1, a.view(), a.view()).unwrap_err();
    assert_eq!(end, KvError::PositionOverflow { start: usize::MAX - 1, len: 3 });
}

#[test]
fn a_strided_head_and_unequal_arrays_are_refused() {
    let a = numbered(3, 2, 4);
    let every_other = a.slice(s![.., .., ..;2]);
    assert_eq!(
        KvSegment::new(0, every_other, every_other).unwrap_err(),
        KvError::NotContiguous { array: "keys", stride: 2 }
    );
    let short = a.slice(s![..2, .., ..]);
    assert_eq!(
        KvSegment::new(0, a.view(), short).unwrap_err(),
        KvError::ShapeMismatch { keys: (3, 2, 4), values: (2, 2, 4) }
    );
}
