//! What decode allocates when the caller keeps the working memory: nothing, from the second call on.
#![allow(clippy::unwrap_used)] // a test's helper functions may fail a test too
#![allow(unsafe_code)] // an allocator cannot be written without

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mistral_attention::half::{bf16, f16};
use mistral_attention::ndarray::{Array2, Array3, s};
use mistral_attention::{
    Attention, AttentionConfig, BatchItem, Int8, KvElement, KvPage, KvSegment, KvView, PAGE, PANEL,
    Scratch, Window,
};
use rayon::{ThreadPool, ThreadPoolBuilder};

thread_local! {
    /// Where requests of this thread are counted: a pool of the tests has one counter.
    static COUNTER: Cell<Option<&'static AtomicUsize>> = const { Cell::new(None) };
}

struct Counting;

fn count() {
    // Not there any more while the thread ends; nothing is measured then.
    if let Some(asked) = COUNTER.try_with(Cell::get).ok().flatten() {
        asked.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as promised by the caller.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A pool whose threads' requests for memory are counted.
struct Pool {
    threads: ThreadPool,
    asked: &'static AtomicUsize,
}

impl Pool {
    fn new(threads: usize) -> Self {
        let asked: &'static AtomicUsize = Box::leak(Box::default());
        let threads = ThreadPoolBuilder::new().num_threads(threads);
        let threads = threads.start_handler(|_| COUNTER.set(Some(asked))).build().unwrap();
        // A thread allocates when it first takes up a job.
        threads.broadcast(|_| ());
        Self { threads, asked }
    }

    fn count(&self) -> usize {
        self.threads.current_num_threads()
    }

    /// How often any thread asks for memory while one of them does `work`.
    fn asked_while(&self, work: impl FnOnce() + Send) -> usize {
        self.threads.install(|| {
            let before = self.asked.load(Ordering::Relaxed);
            work();
            self.asked.load(Ordering::Relaxed) - before
        })
    }
}

/// Heads, window and sinks of a layer, and how long the history is.
#[derive(Debug, Clone, Copy)]
struct Case {
    heads: (usize, usize),
    window: Option<usize>,
    sinks: usize,
    positions: usize,
}

const HEAD_DIM: usize = 64;

/// Steps of decode that are measured: more than a block, so that all of its borders are met.
const STEPS: usize = 150;

impl Case {
    fn attention(&self) -> Attention {
        let window = self.window.map_or(Window::Full, |size| Window::last(size).unwrap());
        let config = AttentionConfig::new(self.heads.0, self.heads.1, HEAD_DIM);
        Attention::new(config.with_window(window).with_sinks(self.sinks)).unwrap()
    }

    fn pages<E: KvElement>(&self) -> Vec<Arc<KvPage<E>>> {
        let shape = (self.positions.next_multiple_of(PAGE), self.heads.1, HEAD_DIM);
        let rows = Array3::from_shape_fn(shape, |(i, h, d)| (i * 7 + h + d) as f32 * 0.01 % 1.0);
        KvPage::from_arrays(rows.view(), rows.view()).unwrap()
    }

    /// What a cache shows at the step whose query stands at `last`: the sinks, what the window has
    /// left of the ring, and the last position beside it.
    fn view<'a, E: KvElement>(&self, pages: &'a [Arc<KvPage<E>>], last: usize) -> KvView<'a, E> {
        let start = self.window.map_or(0, |window| (last + 1).saturating_sub(window + 20));
        let ring = KvSegment::from_pages(start, pages, start..last).unwrap();
        // In the same place of a page of its own.
        let own = KvSegment::from_pages(last, pages, last % PANEL..last % PANEL + 1).unwrap();
        let view = KvView::new([ring, own]).unwrap();
        match self.sinks {
            0 => view,
            sinks => {
                let sinks = KvSegment::from_pages(0, pages, 0..sinks).unwrap();
                view.with_sinks(sinks).unwrap()
            }
        }
    }

    /// The steps of one sequence.
    fn decode<E: KvElement>(&self, pool: &Pool) {
        let (attention, pages) = (self.attention(), self.pages::<E>());
        let q = Array3::from_elem((1, self.heads.0, HEAD_DIM), 0.1);
        let (mut out, mut lse) = (Array3::zeros(q.dim()), Array2::zeros((1, self.heads.0)));
        let scratch = Scratch::default();
        let mut step = |last: usize| {
            let kv = self.view(&pages, last);
            let call = attention.call(q.view(), &kv).sink_queries(q.view()).lse(lse.view_mut());
            call.scratch(&scratch).run(out.view_mut()).unwrap();
        };
        let first = self.positions - STEPS;
        pool.asked_while(|| step(first - 1));
        let asked = pool.asked_while(|| (first..self.positions).for_each(step));
        assert_eq!(asked, 0, "{self:?} in {} on {} threads", E::FORMAT, pool.count());
    }

    /// The steps of sequences of unequal length.
    fn decode_batch<E: KvElement>(&self, pool: &Pool, members: usize) {
        let (attention, pages) = (self.attention(), self.pages::<E>());
        let q = Array3::from_elem((members, self.heads.0, HEAD_DIM), 0.1);
        let mut outs: Vec<_> =
            (0..members).map(|_| Array3::zeros((1, q.dim().1, HEAD_DIM))).collect();
        let scratch = Scratch::default();
        let asked: usize = (0..STEPS)
            .map(|i| {
                let items = outs.iter_mut().enumerate().map(|(member, out)| BatchItem {
                    q: q.slice(s![member..=member, .., ..]),
                    kv: self.view(&pages, self.positions - STEPS - member * 30 + i),
                    out: out.view_mut(),
                    sink_queries: None,
                });
                let mut items: Vec<_> = items.collect();
                let step = || attention.forward_batch(&mut items, &scratch, None).unwrap();
                let asked = pool.asked_while(step);
                if i == 0 { 0 } else { asked }
            })
            .sum();
        let threads = pool.count();
        assert_eq!(asked, 0, "{members} of {self:?} in {} on {threads} threads", E::FORMAT);
    }
}

fn cases() -> Vec<Case> {
    let case = |heads, window, sinks, positions| Case { heads, window, sinks, positions };
    vec![
        case((8, 2), None, 0, 300),
        case((8, 2), Some(100), 0, 700),
        case((8, 2), Some(100), 4, 700),
        // One head or three: blocks are shared out.
        case((4, 1), Some(1500), 4, 2500),
        case((6, 3), Some(2000), 0, 2500),
        // So many heads in a group that blocks are widened.
        case((32, 1), Some(600), 4, 1500),
    ]
}

#[test]
fn a_step_of_decode_allocates_nothing_on_any_number_of_threads() {
    for pool in [1, 2, 3, 5].map(Pool::new) {
        for case in cases() {
            case.decode::<f32>(&pool);
            case.decode::<f16>(&pool);
            case.decode::<bf16>(&pool);
            case.decode::<Int8>(&pool);
        }
    }
}

#[test]
fn a_step_of_a_batch_allocates_nothing_on_any_number_of_threads() {
    for pool in [1, 2, 3].map(Pool::new) {
        for case in cases() {
            for members in [1, 2, 5] {
                case.decode_batch::<f16>(&pool, members);
                case.decode_batch::<Int8>(&pool, members);
            }
        }
    }
}
