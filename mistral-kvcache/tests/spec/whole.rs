//! The specification of a whole cache: of each sequence everything that was pushed, of its memory
//! which page is whose.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use mistral_kvcache::{CacheConfig, KvElement, KvPage, PAGE, PANEL, RollingKvCache, SequenceId};

use super::{HEAD_DIM, HEADS, Row, assert_shows};

/// One layer of one sequence.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    /// Everything pushed and not taken back.
    pub(crate) pushed: Vec<Row>,
    /// Which of it the ring still has.
    pub(crate) lost: Vec<bool>,
    window: usize,
    capacity: usize,
    grows: bool,
    sinks: usize,
    /// The pages of the ring and of the sinks, by number.
    pages: Vec<u64>,
    sink_pages: Vec<u64>,
}

impl Layer {
    fn new(config: &CacheConfig, window: Option<usize>, names: &mut Names) -> Self {
        let context_len = config.context_len();
        let grows = window.is_none_or(|window| window > context_len);
        let window = window.unwrap_or(context_len).min(context_len);
        let capacity = match (grows, config.limit()) {
            (true, _) => context_len,
            (false, None) => window + config.rewind_slack(),
            (false, Some(limit)) => (window + config.rewind_slack()).min(limit),
        };
        let sinks = if grows { 0 } else { config.sinks() };
        let mut layer = Self {
            pushed: Vec::new(),
            lost: Vec::new(),
            window,
            capacity,
            grows,
            sinks,
            pages: Vec::new(),
            sink_pages: Vec::new(),
        };
        layer.grow(0, names);
        for first in (0..sinks).step_by(PAGE) {
            layer.sink_pages.push(names.page((sinks - first).min(PAGE)));
        }
        layer
    }

    fn slots(&self) -> usize {
        self.capacity.next_multiple_of(PANEL)
    }

    /// As many pages as the tokens below `end` need.
    fn grow(&mut self, end: usize, names: &mut Names) {
        let slots =
            if self.grows { end.next_multiple_of(PAGE).min(self.slots()) } else { self.slots() };
        while self.pages.len() < slots.div_ceil(PAGE) {
            let rest = self.slots() - self.pages.len() * PAGE;
            self.pages.push(names.page(rest.min(PAGE)));
        }
    }

    /// Positions in the ring.
    pub(crate) fn held(&self) -> Range<usize> {
        self.lost.iter().take_while(|lost| **lost).count()..self.pushed.len()
    }

    pub(crate) fn pinned(&self) -> usize {
        self.sinks.min(self.pushed.len())
    }

    pub(crate) fn push(&mut self, rows: &[Row]) {
        self.pushed.extend(rows);
        self.lost.resize(self.pushed.len(), false);
        let oldest = self.pushed.len().saturating_sub(self.capacity);
        self.lost[..oldest].fill(true);
    }

    /// Whether the token at `position` finds everything that it sees.
    pub(crate) fn can_return_to(&self, position: usize) -> bool {
        let first_visible = (position + 1).saturating_sub(self.window);
        position == 0 || !self.lost[first_visible..position].contains(&true)
    }

    pub(crate) fn return_to(&mut self, position: usize) {
        self.pushed.truncate(position);
        self.lost.truncate(position);
    }
}

/// Gives numbers to pages and remembers their slots.
#[derive(Debug, Default)]
pub(crate) struct Names {
    slots: HashMap<u64, usize>,
}

impl Names {
    fn page(&mut self, slots: usize) -> u64 {
        let name = self.slots.len() as u64;
        self.slots.insert(name, slots);
        name
    }
}

/// One sequence.
#[derive(Debug, Clone)]
pub(crate) struct Sequence {
    pub(crate) id: SequenceId,
    pub(crate) layers: Vec<Layer>,
    pub(crate) position: usize,
    pub(crate) layers_done: usize,
    pub(crate) chunk_len: usize,
}

impl Sequence {
    pub(crate) fn new(id: SequenceId, config: &CacheConfig, names: &mut Names) -> Self {
        let layers = config.windows().map(|window| Layer::new(config, window, names)).collect();
        Self { id, layers, position: 0, layers_done: 0, chunk_len: 0 }
    }

    pub(crate) fn can_return_to(&self, position: usize) -> bool {
        self.layers.iter().all(|layer| layer.can_return_to(position))
    }

    pub(crate) fn return_to(&mut self, position: usize) {
        self.layers.iter_mut().for_each(|layer| layer.return_to(position));
        self.position = position;
        self.layers_done = 0;
    }

    /// Pages that only longer sequences need are given back.
    pub(crate) fn shrink(&mut self) {
        for layer in self.layers.iter_mut().filter(|layer| layer.grows) {
            layer.pages.truncate(layer.pushed.len().div_ceil(PAGE));
        }
    }

    /// A sequence that was restored has pages of its own.
    pub(crate) fn rename(&mut self, names: &mut Names) {
        self.shrink();
        for layer in &mut self.layers {
            for page in layer.pages.iter_mut().chain(&mut layer.sink_pages) {
                *page = names.page(names.slots[page]);
            }
        }
    }
}

/// Before a chunk of `len` is staged in a layer, its pages are there and nobody else's: in the
/// first layer those of all.
pub(crate) fn reserve(
    sequences: &mut [Sequence],
    which: usize,
    (layer, len): (usize, usize),
    names: &mut Names,
) {
    let mut owners = HashMap::new();
    for page in sequences.iter().flat_map(pages_of) {
        *owners.entry(page).or_insert(0) += 1;
    }
    let n_layers = sequences[which].layers.len();
    let layers = if layer == 0 { 0..n_layers } else { layer..layer + 1 };
    for layer in &mut sequences[which].layers[layers] {
        let start = layer.pushed.len();
        let end = start + len;
        layer.grow(end, names);
        let written = start.max(end.saturating_sub(layer.capacity))..end;
        let slots = layer.slots();
        let ring: HashSet<usize> = written.map(|position| position % slots / PAGE).collect();
        let pinned: HashSet<usize> =
            (start..end.min(layer.sinks)).map(|slot| slot / PAGE).collect();
        let (rows, sinks) = (&mut layer.pages, &mut layer.sink_pages);
        for (pages, written) in [(rows, ring), (sinks, pinned)] {
            for index in written {
                if owners.get(&pages[index]).is_some_and(|owners| *owners > 1) {
                    pages[index] = names.page(names.slots[&pages[index]]);
                }
            }
        }
    }
}

fn pages_of(sequence: &Sequence) -> impl Iterator<Item = u64> {
    sequence.layers.iter().flat_map(|layer| layer.pages.iter().chain(&layer.sink_pages)).copied()
}

/// The cache has these sequences and what they say, and takes the bytes of their pages.
pub(crate) fn assert_is<E: KvElement>(
    cache: &RollingKvCache<E>,
    sequences: &[Sequence],
    names: &Names,
) {
    let ids: Vec<_> = sequences.iter().map(|sequence| sequence.id).collect();
    assert_eq!(cache.sequences().collect::<Vec<_>>(), ids);
    for sequence in sequences {
        let id = sequence.id;
        assert_eq!(cache.position(id), Ok(sequence.position));
        assert_eq!(cache.next_layer(id), Ok(sequence.layers_done));
        for (index, layer) in sequence.layers.iter().enumerate() {
            assert_eq!(cache.held(id, index), Ok(layer.held()));
            assert_eq!(cache.pinned(id, index), Ok(0..layer.pinned()));
            match cache.kv(id, index) {
                Ok(view) => assert_shows(&view, &layer.pushed, layer.held(), layer.pinned()),
                Err(_) => assert!(layer.held().is_empty()),
            }
        }
    }
    let pages: HashSet<u64> = sequences.iter().flat_map(pages_of).collect();
    let bytes = |slots: usize| KvPage::<E>::bytes_for(HEADS, slots, HEAD_DIM).unwrap();
    let sequences: usize = pages.iter().map(|page| bytes(names.slots[page])).sum();
    assert_eq!(cache.bytes(), sequences + cache.config().staging_bytes(E::FORMAT).unwrap());
}
