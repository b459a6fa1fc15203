//! What a cache allocates: all it will ever need when a sequence joins, and nothing in decode.
#![allow(clippy::unwrap_used)] // a test's helper functions may fail a test too
#![allow(unsafe_code)] // an allocator cannot be written without

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use mistral_kvcache::half::f16;
use mistral_kvcache::ndarray::Array3;
use mistral_kvcache::{CacheConfig, Int8, KvElement, RollingKvCache, SequenceChunk};

thread_local! {
    /// How often, and how many bytes of, memory this thread has asked for.
    static ASKED: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

struct Counting;

fn count(bytes: usize) {
    // Not there any more while the thread ends; nothing is measured then.
    let _ = ASKED.try_with(|asked| {
        let (times, sum) = asked.get();
        asked.set((times + 1, sum + bytes));
    });
}

// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: as promised by the caller.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What `work` asks for: how often, and how many bytes.
fn asked_while<T>(work: impl FnOnce() -> T) -> ((usize, usize), T) {
    let before = ASKED.get();
    let result = work();
    let after = ASKED.get();
    ((after.0 - before.0, after.1 - before.1), result)
}

fn decode<E: KvElement>(config: CacheConfig, tokens: usize) {
    let (heads, n_layers) = ((config.n_kv_heads(), config.head_dim()), config.n_layers());
    let mut cache = RollingKvCache::<E>::new(config).unwrap();
    let id = cache.add_sequence().unwrap();
    if cache.config().limit().is_some() {
        cache.reserve(id, tokens).unwrap();
    }
    let k = Array3::<f32>::ones((1, heads.0, heads.1));
    let (asked, ()) = asked_while(|| {
        for _ in 0..tokens {
            for layer in 0..n_layers {
                let step = cache.stage(id, layer, k.view(), k.view()).unwrap();
                assert!(step.kv().unwrap().positions().contains(&step.positions().start));
                step.commit();
            }
        }
    });
    assert_eq!(asked, (0, 0), "allocations in {tokens} steps of decode");
    assert_eq!(cache.position(id), Ok(tokens));
    let (asked, ()) = asked_while(|| {
        cache.rewind(id, 1).unwrap();
        assert!(cache.bytes() > 0);
        cache.reset(id).unwrap();
    });
    assert_eq!(asked, (0, 0), "allocations in going back");
}

#[test]
fn decode_allocates_nothing() {
    let config = CacheConfig::new(3, 2, 20);
    for window in [1, 4, 16, 150] {
        let windowed = config.clone().with_window(window);
        decode::<f32>(windowed.clone(), 400);
        decode::<f16>(windowed.clone().with_sinks(4).with_rewind_slack(3), 400);
        decode::<Int8>(windowed, 400);
    }
    decode::<f16>(config.clone(), 400);
    decode::<f16>(config.with_windows(vec![None, Some(5), Some(300)]).with_sinks(20), 400);
}

#[test]
fn decode_of_a_batch_allocates_nothing_from_the_second_step_on() {
    let config = CacheConfig::new(2, 2, 20).with_window(30).with_sinks(2).with_max_chunk(20);
    let mut cache = RollingKvCache::<f16>::new(config).unwrap();
    let k = Array3::<f32>::ones((1, 2, 20));
    let add =
        |_| SequenceChunk { id: cache.add_sequence().unwrap(), keys: k.view(), values: k.view() };
    let chunks: Vec<_> = (0..20).map(add).collect();
    let mut step = || {
        for layer in 0..2 {
            let step = cache.stage_batch(layer, &chunks).unwrap();
            assert!(step.kv().all(|kv| kv.is_ok()));
            step.commit();
        }
    };
    step();
    let (asked, ()) = asked_while(|| (0..100).for_each(|_| step()));
    assert_eq!(asked, (0, 0));
}

#[test]
fn a_cache_takes_what_was_planned() {
    let config = CacheConfig::new(4, 2, 32).with_window(500).with_sinks(4).with_max_chunk(100);
    for sequences in 1..4 {
        let planned = config.plan(f16::FORMAT, sequences, 9).unwrap();
        let (asked, cache) = asked_while(|| {
            let mut cache = RollingKvCache::<f16>::new(config.clone()).unwrap();
            for _ in 0..sequences {
                cache.add_sequence().unwrap();
            }
            cache
        });
        assert_eq!(cache.bytes(), planned);
        // Beside keys and values there are only pointers to their pages.
        assert!((planned..planned + planned / 50).contains(&asked.1), "{asked:?} for {planned}");
    }
}

#[test]
fn a_fork_takes_pointers_until_it_writes() {
    let config = CacheConfig::new(4, 2, 32).with_window(512);
    let mut cache = RollingKvCache::<f16>::new(config).unwrap();
    let id = cache.add_sequence().unwrap();
    let before = cache.bytes();
    let (forked, fork) = asked_while(|| cache.fork(id).unwrap());
    assert_eq!(cache.bytes(), before);
    assert!(forked.1 < before / 100, "{forked:?}");
    let k = Array3::<f32>::ones((1, 2, 32));
    for layer in 0..4 {
        cache.stage(fork, layer, k.view(), k.view()).unwrap().commit();
    }
    // One page of 128 slots of each layer.
    assert_eq!(cache.bytes() - before, 4 * 128 * 2 * 32 * 2 * 2);
    cache.remove_sequence(id).unwrap();
    assert_eq!(cache.bytes(), before);
}
