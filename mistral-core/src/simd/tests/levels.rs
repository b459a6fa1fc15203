//! What every level has, whatever it computes with.

use super::*;

struct Prefetch<'a>(&'a [u16], usize);

impl Kernel for Prefetch<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        simd.prefetch(self.0, self.1);
    }
}

#[test]
fn a_prefetch_may_name_any_index() {
    for level in Level::available() {
        for index in [0, 1, 1 << 20, usize::MAX / 2, usize::MAX] {
            level.dispatch(Prefetch(&[1, 2, 3], index));
        }
    }
}

#[test]
fn levels_go_from_the_scalar_one_to_the_detected_one() {
    let levels: Vec<_> = Level::available().collect();
    assert_eq!(levels.first(), Some(&Level::SCALAR));
    assert_eq!(levels.last(), Some(&Level::detect()));
    let mut names: Vec<_> = levels.iter().map(|level| level.name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), levels.len());
}
