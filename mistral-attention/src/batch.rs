//! Many sequences, one call.

use std::sync::atomic::AtomicBool;

use mistral_core::kv::{KvElement, KvView};
use mistral_core::threads;
use ndarray::{ArrayView3, ArrayViewMut3};

use crate::attention::Attention;
use crate::call::Options;
use crate::error::AttentionError;
use crate::kernel::{self, Demand};
use crate::plan::{Alignment, Plan};
use crate::scratch::Scratch;

/// One sequence of a ragged batch: any number of queries, any history.
#[derive(Debug)]
pub struct BatchItem<'q, 'v, 'o, E: KvElement> {
    /// `(q_len, n_heads, head_dim)`
    pub q: ArrayView3<'q, f32>,
    /// The last query stands at the last position.
    pub kv: KvView<'v, E>,
    /// Shaped as `q`.
    pub out: ArrayViewMut3<'o, f32>,
    /// The queries that meet sinks before the window: see
    /// [`Call::sink_queries`](crate::Call::sink_queries).
    pub sink_queries: Option<ArrayView3<'q, f32>>,
}

impl Attention {
    /// [`forward`](Self::forward) for each sequence of a list, spread over the threads by their
    /// work: sequences of unequal length keep all of them busy.
    ///
    /// Each has the bits that it has alone.
    ///
    /// # Errors
    ///
    /// As [`forward`](Self::forward), for the first sequence that does not fit, before anything is
    /// computed; and [`AttentionError::Cancelled`].
    pub fn forward_batch<E: KvElement>(
        &self,
        items: &mut [BatchItem<'_, '_, '_, E>],
        scratch: &Scratch,
        cancel: Option<&AtomicBool>,
    ) -> Result<(), AttentionError> {
        let config = self.config();
        let plan = |item: &BatchItem<'_, '_, '_, E>| {
            Plan::new(&config, item.q.dim(), &item.kv, Alignment::Last)
        };
        let mut demand: Option<Demand> = None;
        for item in items.iter() {
            let plan = plan(item)?;
            if item.out.dim() != item.q.dim() {
                let (found, expected) = (item.out.dim(), item.q.dim());
                return Err(AttentionError::OutShape { found, expected });
            }
            if let Some(found) = item.sink_queries.filter(|q| q.dim() != item.q.dim()) {
                let (found, expected) = (found.shape().to_vec(), item.q.shape().to_vec());
                return Err(AttentionError::Shape { array: "sink_queries", found, expected });
            }
            if !item.q.is_empty() {
                let options = Options { sink_queries: item.sink_queries, ..Options::default() };
                let one = kernel::demand(self.level(), plan, (item.q, item.kv), &options, scratch);
                demand = Some(demand.map_or(one, |all| all.beside(one)));
            }
        }
        if let Some(demand) = demand {
            scratch.reserve::<E>(&demand);
        }
        let run = |item: &mut BatchItem<'_, '_, '_, E>| {
            let plan = plan(item)?;
            if item.q.is_empty() {
                return Ok(());
            }
            let sink_queries = item.sink_queries;
            let options =
                Options { sink_queries, cancel, scratch: Some(scratch), ..Options::default() };
            kernel::forward(self.level(), plan, (item.q, item.kv), options, item.out.view_mut())
        };
        let work = |item: &BatchItem<'_, '_, '_, E>| {
            // One for the call itself: many that do nothing are halved too.
            plan(item).map_or(1, |plan| {
                let pairs = plan.visible_to_any(0..plan.q_len()).len().saturating_mul(plan.q_len());
                pairs.saturating_add(1)
            })
        };
        halves(items, &work, &run)
    }
}

/// Runs the items in two halves of about the same work, and so on.
fn halves<T: Send>(
    items: &mut [T],
    work: &(impl Fn(&T) -> usize + Sync),
    run: &(impl Fn(&mut T) -> Result<(), AttentionError> + Sync),
) -> Result<(), AttentionError> {
    match items {
        [] => return Ok(()),
        [item] => return run(item),
        _ => {}
    }
    let total: usize = items.iter().map(work).fold(0, usize::saturating_add);
    let mut left = 0usize;
    let mut middle = 1;
    for (index, item) in items.iter().enumerate().take(items.len() - 1) {
        middle = index + 1;
        left = left.saturating_add(work(item));
        if left >= total / 2 {
            break;
        }
    }
    let (first, second) = items.split_at_mut(middle);
    let (first, second) = threads::join(|| halves(first, work, run), || halves(second, work, run));
    first.and(second)
}
