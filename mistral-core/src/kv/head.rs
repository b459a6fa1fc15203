//! One head of a view, as kernels walk over it: panels and rows by absolute position.

use std::ops::Range;
use std::sync::Arc;

use ndarray::{ArrayView3, Axis};

use super::element::{BLOCK, KvElement, ValueRowsMut};
use super::page::{KvPage, PAGE, Panels};
use super::{KvSegment, PANEL, Rows};
use crate::simd::Level;

/// Runs of consecutive positions in a head: the pinned ones, and those of three segments.
const RUNS: usize = super::MAX_SEGMENTS + 1;

/// One head of a [`KvView`](super::KvView): its keys and values by absolute position.
#[derive(Debug, Clone, Copy)]
pub struct HeadView<'a, E: KvElement> {
    runs: [Option<KvSegment<'a, E>>; RUNS],
    head: usize,
}

impl<'a, E: KvElement> HeadView<'a, E> {
    pub(super) fn new(runs: [Option<KvSegment<'a, E>>; RUNS], head: usize) -> Self {
        Self { runs, head }
    }

    /// The key at `position`, widened; `None` if the view does not hold it.
    pub fn key(&self, position: usize, out: &mut [f32]) -> Option<()> {
        let (run, index) = self.find(position)?;
        match run.rows {
            Rows::Arrays { keys, .. } => {
                let row = keys.index_axis_move(Axis(0), index).index_axis_move(Axis(0), self.head);
                E::widen_row(row.to_slice()?, out);
                Some(())
            }
            Rows::Pages { pages, first_slot } => {
                let (page, slot) = page_of(pages, first_slot + index)?;
                page.key(self.head, slot, out).ok()
            }
        }
    }

    /// The value at `position`, widened; `None` if the view does not hold it.
    pub fn value(&self, position: usize, out: &mut [f32]) -> Option<()> {
        let (run, index) = self.find(position)?;
        match run.rows {
            Rows::Arrays { values, .. } => {
                let row =
                    values.index_axis_move(Axis(0), index).index_axis_move(Axis(0), self.head);
                E::widen_row(row.to_slice()?, out);
                Some(())
            }
            Rows::Pages { pages, first_slot } => {
                let (page, slot) = page_of(pages, first_slot + index)?;
                page.value(self.head, slot, out).ok()
            }
        }
    }

    /// The panels in which `positions` lie, in the lanes of their numbers modulo sixteen, if one
    /// page has them all. `positions` are some of one block.
    #[doc(hidden)]
    #[inline(always)]
    pub fn panels(&self, positions: &Range<usize>) -> Option<Panels<'a>> {
        let (run, index) = self.find(positions.start)?;
        let Rows::Pages { pages, first_slot } = run.rows else {
            return None;
        };
        let slot = first_slot + index;
        if positions.end > run.end() || slot % PANEL != positions.start % PANEL {
            return None;
        }
        let (page, slot) = page_of(pages, slot)?;
        page.panels(self.head, slot..slot + positions.len()).ok()
    }

    /// Copies the keys of `positions` into the lanes of their numbers modulo sixteen, and their
    /// values into the rows of their numbers modulo [`BLOCK`]. `positions` are some of one aligned
    /// sixteen.
    #[doc(hidden)]
    pub fn gather(
        &self,
        level: Level,
        positions: Range<usize>,
        keys: &mut [u8],
        values: ValueRowsMut<'_>,
    ) {
        if let Some(rows) = self.sixteen_rows(&positions) {
            E::place_keys(level, keys, rows.map(|(key, _)| key));
            for (row, (_, value)) in rows.into_iter().enumerate() {
                let to = ValueRowsMut { bytes: &mut *values.bytes, rows: values.rows };
                E::place_value(to, positions.start % BLOCK + row, value);
            }
            return;
        }
        for position in positions {
            let to = ValueRowsMut { bytes: &mut *values.bytes, rows: values.rows };
            let Some((run, index)) = self.find(position) else {
                continue;
            };
            let (lane, place) = (position % PANEL, position % BLOCK);
            match run.rows {
                Rows::Arrays { keys: k, values: v } => {
                    E::place_key(keys, lane, self.row(k, index));
                    E::place_value(to, place, self.row(v, index));
                }
                Rows::Pages { pages, first_slot } => {
                    let Some((page, slot)) = page_of(pages, first_slot + index) else {
                        continue;
                    };
                    if let Ok(panel) = page.panels(self.head, slot..slot + 1) {
                        let head_dim = page.head_dim();
                        E::copy_key((keys, lane), (panel.keys, slot % PANEL), head_dim);
                        E::copy_values((to, place), (panel.values, slot), 1, head_dim);
                    }
                }
            }
        }
    }

    /// Keys and values of `positions`, if they are sixteen in lanes 0 to 15, rows of the same arrays.
    fn sixteen_rows(&self, positions: &Range<usize>) -> Option<[(&'a [E], &'a [E]); PANEL]> {
        let (run, index) = self.find(positions.start)?;
        let Rows::Arrays { keys, values } = run.rows else {
            return None;
        };
        let whole = positions.len() == PANEL && positions.start.is_multiple_of(PANEL);
        (whole && positions.end <= run.end()).then(|| {
            let row = |i| (self.row(keys, index + i), self.row(values, index + i));
            std::array::from_fn(row)
        })
    }

    /// The head's part of a row of an array.
    fn row(&self, array: ArrayView3<'a, E>, index: usize) -> &'a [E] {
        let token = array.index_axis_move(Axis(0), index);
        token.index_axis_move(Axis(0), self.head).to_slice().unwrap_or_default()
    }

    /// The run that holds `position`, and where in it.
    #[inline(always)]
    fn find(&self, position: usize) -> Option<(&KvSegment<'a, E>, usize)> {
        let run = self.runs.iter().flatten().find(|run| run.positions().contains(&position))?;
        Some((run, position - run.start()))
    }
}

/// The page in which a slot lies, and the slot's number in it.
#[inline(always)]
fn page_of<E>(pages: &[Arc<KvPage<E>>], slot: usize) -> Option<(&KvPage<E>, usize)> {
    Some((pages.get(slot / PAGE)?, slot % PAGE))
}
