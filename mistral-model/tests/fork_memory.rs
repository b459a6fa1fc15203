//! What a fork allocates: next to nothing, until it writes.
#![allow(clippy::unwrap_used)] // a test may panic
#![allow(unsafe_code)] // an allocator cannot be written without

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use mistral_model::{Config, DType, KvFormat, Session, SessionOptions, Transformer, Window};

/// Bytes that all threads have asked for.
static ASKED: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn asked_while<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let before = ASKED.load(Ordering::Relaxed);
    let result = work();
    (ASKED.load(Ordering::Relaxed) - before, result)
}

#[test]
fn a_fork_takes_a_page_of_each_layer_when_it_writes_and_nothing_before() {
    // A thread takes working memory when it first has something to do: one has it from the start.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    pool.install(check_what_a_fork_takes);
}

fn check_what_a_fork_takes() {
    let config = Config {
        dim: 32,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 4,
        head_dim: 64,
        hidden_dim: 32,
        vocab_size: 64,
        window: Window::Full,
        ..Config::mistral_7b_v01()
    };
    let model = Transformer::random(&config, DType::F32, 1).unwrap();
    let options = SessionOptions { kv_dtype: KvFormat::F32, max_chunk: 64, ..Default::default() };
    let mut session = Session::new(&model, options).unwrap();
    session.prefill(&[3; 20 * 128 - 10]).unwrap();
    // Positions, heads, elements, keys and values, bytes.
    let page = 128 * 4 * 64 * 2 * 4;
    assert!(session.cache_bytes() >= 2 * 20 * page);

    let (forked, fork) = asked_while(|| session.fork().unwrap());
    assert!(forked < page / 4, "{forked}");
    let mut fork = fork;
    let (first, _) = asked_while(|| fork.decode(5).map(|_| ()));
    let (second, _) = asked_while(|| fork.decode(5).map(|_| ()));
    let (other, _) = asked_while(|| session.decode(5).map(|_| ()));
    // The last page of each layer, and the chunk's own, of 80 slots; working memory.
    assert!((2 * page..4 * page).contains(&first), "{first}");
    // Whoever writes later has the old pages for itself.
    assert!(second < page / 2 && other < page / 2, "{second}, {other}");
}
