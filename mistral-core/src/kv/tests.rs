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
            for position in 1..4 {
                let mut row = [0.0; 4];
                view.head(head).unwrap().key(position, &mut row).unwrap();
                let first = (position * 100 + head * 10) as f32;
                assert_eq!(row, [first, first + 1.0, first + 2.0, first + 3.0]);
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
    let head = view.head(0).unwrap();
    let value = |position| {
        let mut row = [0.0];
        head.value(position, &mut row).map(|()| row[0])
    };
    let values: Vec<_> = (6..14).map(value).collect();
    let held = [0.0, 100.0, 200.0, 0.0, 100.0].map(Some);
    assert_eq!(values[1..6], held);
    assert_eq!((values[0], values[6]), (None, None));
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

fn row(seed: usize, heads: usize, dim: usize) -> ndarray::Array2<f32> {
    ndarray::Array2::from_shape_fn((heads, dim), |(h, d)| {
        ((seed * 31 + h * 17 + d * 7) % 97) as f32 / 13.0 - 3.0
    })
}

fn pages_of<E: KvElement>(len: usize, heads: usize, dim: usize) -> Vec<Arc<KvPage<E>>> {
    let mut pages = Vec::new();
    for first in (0..len).step_by(PAGE) {
        let mut page = KvPage::new(heads, PAGE.min(len - first), dim).unwrap();
        for slot in 0..PAGE.min(len - first) {
            let keys = row(first + slot, heads, dim);
            page.write(slot, keys.view(), (&keys * -2.0).view()).unwrap();
        }
        pages.push(Arc::new(page));
    }
    pages
}

fn a_page_gives_back_what_was_written<E: KvElement>(steps: f32) {
    for dim in [1, 16, 20, 32, 33, 80] {
        let pages = pages_of::<E>(150, 3, dim);
        let view = KvView::new([KvSegment::from_pages(7, &pages, 0..150).unwrap()]).unwrap();
        for position in [7, 23, 134, 135, 156] {
            let want = row(position - 7, 3, dim);
            for head in 0..3 {
                let (mut key, mut value) = (vec![0.0; dim], vec![0.0; dim]);
                view.head(head).unwrap().key(position, &mut key).unwrap();
                view.head(head).unwrap().value(position, &mut value).unwrap();
                let want = want.row(head);
                let largest = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                for ((key, value), want) in key.iter().zip(&value).zip(want) {
                    let tolerance = 0.51 * largest / steps + 1e-3 * largest;
                    assert!((key - want).abs() <= tolerance, "{key} for {want}");
                    assert!((value + 2.0 * want).abs() <= 2.0 * tolerance, "{value} for {want}");
                }
            }
        }
    }
}

#[test]
fn pages_of_every_format_give_back_what_was_written() {
    a_page_gives_back_what_was_written::<f32>(f32::INFINITY);
    a_page_gives_back_what_was_written::<half::f16>(1024.0);
    a_page_gives_back_what_was_written::<half::bf16>(128.0);
    a_page_gives_back_what_was_written::<Int8>(127.0);
}

#[test]
fn copied_slots_are_the_same_bytes_wherever_they_go() {
    fn check<E: KvElement>() {
        let source = pages_of::<E>(64, 2, 40).remove(0);
        for (at, slots) in [(0, 0..64), (16, 0..33), (5, 3..40), (31, 16..17)] {
            let mut page = KvPage::<E>::new(2, 64, 40).unwrap();
            page.copy(at, &source, slots.clone()).unwrap();
            for (to, from) in (at..).zip(slots) {
                for head in 0..2 {
                    let (mut a, mut b) = ([0.0; 40], [1.0; 40]);
                    page.key(head, to, &mut a).unwrap();
                    source.key(head, from, &mut b).unwrap();
                    assert_eq!(a, b);
                    page.value(head, to, &mut a).unwrap();
                    source.value(head, from, &mut b).unwrap();
                    assert_eq!(a, b);
                }
            }
        }
        let mut read = KvPage::<E>::new(2, 64, 40).unwrap();
        read.as_bytes_mut().copy_from_slice(source.as_bytes());
        assert_eq!(read.as_bytes(), source.as_bytes());
        assert_eq!(KvPage::<E>::bytes_for(2, 64, 40), Some(source.bytes()));
    }
    check::<f32>();
    check::<half::bf16>();
    check::<Int8>();
}

#[test]
fn sinks_stand_before_a_gap() {
    let pages = pages_of::<f32>(40, 1, 4);
    let sinks = KvSegment::from_pages(0, &pages, 0..4).unwrap();
    let later = KvView::new([KvSegment::from_pages(20, &pages, 20..40).unwrap()]).unwrap();
    assert_eq!(later.sinks(), 0);
    let view = later.with_sinks(sinks).unwrap();
    assert_eq!((view.sinks(), view.positions()), (4, 20..40));
    let mut key = [0.0; 4];
    assert!(view.head(0).unwrap().key(3, &mut key).is_some());
    assert!(view.head(0).unwrap().key(4, &mut key).is_none());
    let late = KvSegment::from_pages(1, &pages, 0..4).unwrap();
    assert!(matches!(later.with_sinks(late), Err(KvError::NotConsecutive { .. })));
    // Nothing is forgotten yet: the view's own rows are the sinks.
    let whole = KvView::new([KvSegment::from_pages(0, &pages, 0..40).unwrap()]).unwrap();
    assert_eq!(whole.with_sinks(sinks).unwrap().sinks(), 40);
}

#[test]
fn pages_that_do_not_fit_are_named() {
    let pages = pages_of::<f32>(40, 1, 4);
    let error = KvSegment::from_pages(0, &pages, 0..49).unwrap_err();
    assert_eq!(error, KvError::NoSuchSlot { found: 48, slots: 48 });
    let half = Arc::new(KvPage::<f32>::new(1, 48, 4).unwrap());
    let error = KvSegment::from_pages(0, &[Arc::clone(&half), half], 0..48).unwrap_err();
    assert_eq!(error, KvError::ShortPage { page: 0, slots: 48 });
    let mut page = (*pages[0]).clone();
    let wide = row(0, 1, 5);
    let error = page.write(0, wide.view(), wide.view()).unwrap_err();
    assert_eq!(error, KvError::PageShape { found: (1, 5), expected: (1, 4) });
    let error = KvPage::<f32>::new(1, PAGE + 1, 4).unwrap_err();
    assert_eq!(error, KvError::NoSuchSlot { found: PAGE, slots: PAGE });
    assert!(matches!(KvPage::<f32>::new(usize::MAX, 16, 4), Err(KvError::OutOfMemory { .. })));
    assert!(page.key(1, 0, &mut []).is_err());
}

/// What a cache that writes row by row would have.
fn pages_are_those_written_by_hand<E: KvElement>(len: usize) {
    let keys = numbered(len, 2, 20);
    // Heads first in memory: strides that no kernel would take.
    let stored = (&keys * -0.37).permuted_axes([1, 0, 2]).as_standard_layout().into_owned();
    let values = stored.view().permuted_axes([1, 0, 2]);
    let pages = KvPage::<E>::from_arrays(keys.view(), values).unwrap();
    assert_eq!(pages.len(), len.div_ceil(PAGE));
    for (index, page) in pages.iter().enumerate() {
        let rows = index * PAGE..len.min((index + 1) * PAGE);
        let mut by_hand = KvPage::<E>::new(2, rows.len(), 20).unwrap();
        for (slot, row) in rows.enumerate() {
            by_hand
                .write(slot, keys.slice(s![row, .., ..]), values.slice(s![row, .., ..]))
                .unwrap();
        }
        assert_eq!(page.slots(), by_hand.slots());
        assert_eq!(page.as_bytes(), by_hand.as_bytes(), "{} of {len} in {}", index, E::FORMAT);
    }
    let view = KvView::from_pages(&pages, len).unwrap();
    assert_eq!(view.positions(), 0..len);
}

#[test]
fn pages_of_arrays_have_each_row_in_its_slot() {
    for len in [1, 15, 16, 17, 127, 128, 129, 300] {
        pages_are_those_written_by_hand::<f32>(len);
        pages_are_those_written_by_hand::<half::f16>(len);
        pages_are_those_written_by_hand::<half::bf16>(len);
        pages_are_those_written_by_hand::<Int8>(len);
    }
}

#[test]
fn arrays_that_make_no_pages_are_named() {
    let (k, v) = (numbered(3, 2, 4), numbered(3, 1, 4));
    let error = KvPage::<Int8>::from_arrays(k.view(), v.view()).unwrap_err();
    assert_eq!(error, KvError::ShapeMismatch { keys: (3, 2, 4), values: (3, 1, 4) });
    // More positions than could ever be held, without a single element.
    let none = Array3::zeros((usize::MAX / 16, 0, 4));
    assert!(KvPage::<Int8>::from_arrays(none.view(), none.view()).unwrap().is_empty());
    let pages = KvPage::<Int8>::from_arrays(k.view(), k.view()).unwrap();
    assert_eq!(
        KvView::from_pages(&pages, 17).unwrap_err(),
        KvError::NoSuchSlot { found: 16, slots: 16 }
    );
    assert_eq!(KvView::from_pages(&pages, 0).unwrap_err(), KvError::Empty);
}
