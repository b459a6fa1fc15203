//! Snapshots: the same bytes in every view, and nothing at all from a file that is not as written.
#![allow(clippy::unwrap_used)] // a test's helper functions may fail a test too

mod spec;

use std::io::{self, Read, Write};

use mistral_kvcache::half::{bf16, f16};
use mistral_kvcache::{
    CacheConfig, CacheError, Int8, KvElement, KvFormat, RollingKvCache, SequenceId, SnapshotError,
    SnapshotHeader,
};
use spec::{HEAD_DIM, HEADS, Source, row_of};

const MODEL: [u8; 32] = [0xab; 32];
const TOKENS: [u32; 3] = [1, 733, u32::MAX];

fn small() -> CacheConfig {
    CacheConfig::new(2, HEADS, HEAD_DIM).with_window(5).with_sinks(2).with_max_chunk(4)
}

/// A cache with one sequence, fed with chunks of up to `max_chunk`.
fn filled<E: KvElement>(config: &CacheConfig, tokens: usize) -> (RollingKvCache<E>, SequenceId) {
    let mut cache = RollingKvCache::new(config.clone()).unwrap();
    let id = cache.add_sequence().unwrap();
    feed(&mut cache, id, tokens);
    (cache, id)
}

fn feed<E: KvElement>(cache: &mut RollingKvCache<E>, id: SequenceId, mut tokens: usize) {
    let mut source = Source::new(3);
    while tokens > 0 {
        let len = tokens.min(cache.config().max_chunk());
        for layer in 0..cache.config().n_layers() {
            let (k, v) = (source.chunk(len), source.chunk(len));
            cache.stage(id, layer, k.view(), v.view()).unwrap().commit();
        }
        tokens -= len;
    }
}

fn saved<E: KvElement>(cache: &RollingKvCache<E>, id: SequenceId) -> Vec<u8> {
    let mut bytes = Vec::new();
    cache.save(id, MODEL, &TOKENS, &mut bytes).unwrap();
    bytes
}

fn assert_same<E: KvElement>(
    a: (&RollingKvCache<E>, SequenceId),
    b: (&RollingKvCache<E>, SequenceId),
) {
    let position = a.0.position(a.1).unwrap();
    assert_eq!(b.0.position(b.1), Ok(position));
    for layer in 0..a.0.config().n_layers() {
        assert_eq!(a.0.held(a.1, layer), b.0.held(b.1, layer));
        let (Ok(a), Ok(b)) = (a.0.kv(a.1, layer), b.0.kv(b.1, layer)) else {
            assert_eq!(position, 0);
            continue;
        };
        assert_eq!(a.sinks(), b.sinks());
        for position in 0..position {
            assert_eq!(row_of(&a, position), row_of(&b, position));
        }
    }
}

#[test]
fn a_restored_sequence_is_the_same_and_goes_on_the_same() {
    fn check<E: KvElement>() {
        let windowless = CacheConfig::new(2, HEADS, HEAD_DIM).with_context_len(300);
        let mixed = windowless.clone().with_windows(vec![None, Some(140)]).with_sinks(130);
        for config in [small(), small().with_rewind_slack(20), windowless, mixed] {
            for tokens in [0, 1, 2, 4, 5, 6, 15, 16, 17, 33, 128, 129, 200, 299] {
                let (mut cache, id) = filled::<E>(&config, tokens);
                let bytes = saved(&cache, id);
                let mut other = RollingKvCache::new(config.clone()).unwrap();
                other.add_sequence().unwrap();
                let (restored, found) = other.restore(MODEL, bytes.as_slice()).unwrap();
                assert_eq!(found, TOKENS);
                assert_same((&cache, id), (&other, restored));
                assert_eq!(saved(&other, restored), bytes);
                feed(&mut cache, id, 1);
                feed(&mut other, restored, 1);
                assert_same((&cache, id), (&other, restored));
            }
        }
    }
    check::<f32>();
    check::<f16>();
    check::<bf16>();
    check::<Int8>();
}

#[test]
fn what_was_forgotten_or_taken_back_is_not_in_a_snapshot() {
    let (mut rewound, a) = filled::<f32>(&small(), 4);
    feed(&mut rewound, a, 1);
    rewound.rewind(a, 1).unwrap();
    let (plain, b) = filled::<f32>(&small(), 4);
    assert_eq!(saved(&rewound, a), saved(&plain, b));

    let (mut reset, a) = filled::<f32>(&small(), 40);
    reset.reset(a).unwrap();
    feed(&mut reset, a, 3);
    let (plain, b) = filled::<f32>(&small(), 3);
    assert_eq!(saved(&reset, a), saved(&plain, b));
}

/// Restoring `bytes` fails and leaves no trace.
fn refused<E: KvElement>(config: &CacheConfig, bytes: &[u8]) -> SnapshotError {
    let mut cache = RollingKvCache::<E>::new(config.clone()).unwrap();
    let before = cache.bytes();
    let error = cache.restore(MODEL, bytes).unwrap_err();
    assert_eq!((cache.sequences().count(), cache.bytes()), (0, before));
    error
}

#[test]
fn every_cut_is_found() {
    fn check<E: KvElement>() {
        let (cache, id) = filled::<E>(&small(), 9);
        let bytes = saved(&cache, id);
        for len in 0..bytes.len() {
            let error = refused::<E>(&small(), &bytes[..len]);
            assert!(matches!(error, SnapshotError::Truncated { .. }), "{len} bytes: {error}");
        }
        for more in [1, 2, 1000] {
            let longer = [bytes.as_slice(), &vec![0; more]].concat();
            let error = refused::<E>(&small(), &longer);
            let SnapshotError::TrailingBytes { at } = error else {
                panic!("{error}");
            };
            assert_eq!(at, bytes.len() as u64);
        }
    }
    check::<f32>();
    check::<Int8>();
}

#[test]
fn every_changed_byte_is_found() {
    fn check<E: KvElement>() {
        let (cache, id) = filled::<E>(&small(), 9);
        let mut bytes = saved(&cache, id);
        for index in 0..bytes.len() {
            for change in [0x01, 0x80, 0xff] {
                bytes[index] ^= change;
                refused::<E>(&small(), &bytes);
                bytes[index] ^= change;
            }
        }
        assert!(
            RollingKvCache::<E>::new(small()).unwrap().restore(MODEL, bytes.as_slice()).is_ok()
        );
    }
    check::<f16>();
    check::<Int8>();
}

/// A snapshot in which the bytes from `at` on are others, with a checksum that is right.
fn forged(bytes: &[u8], at: usize, new: &[u8]) -> Vec<u8> {
    let mut bytes = bytes[..bytes.len() - 8].to_vec();
    bytes[at..at + new.len()].copy_from_slice(new);
    let mut sum = !0u64;
    for byte in &bytes {
        sum ^= u64::from(*byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ 0xc96c5795d7870f42 } else { sum >> 1 };
        }
    }
    bytes.extend((!sum).to_le_bytes());
    bytes
}

/// Where the parts of a snapshot of `small()` begin.
const VERSION_AT: usize = 8;
const FINGERPRINT_AT: usize = 12;
const FORMAT_AT: usize = 44;
const SIZES_AT: usize = 48;
const WINDOWS_AT: usize = SIZES_AT + 5 * 8;
const POSITION_AT: usize = WINDOWS_AT + 2 * 8;
const N_TOKENS_AT: usize = POSITION_AT + 8;
const LAYER_AT: usize = N_TOKENS_AT + 8 + 3 * 4;

#[test]
fn lies_with_a_right_checksum_are_found_too() {
    let (cache, id) = filled::<f32>(&small(), 9);
    let bytes = saved(&cache, id);
    let refuse = |at: usize, new: &[u8]| refused::<f32>(&small(), &forged(&bytes, at, new));
    let big = u64::MAX.to_le_bytes();
    assert!(matches!(refuse(0, b"safetens"), SnapshotError::NotASnapshot { .. }));
    let error = refuse(VERSION_AT, &2u32.to_le_bytes());
    assert!(matches!(error, SnapshotError::UnknownVersion { found: 2, expected: 1 }));
    assert!(matches!(refuse(FINGERPRINT_AT, b"x"), SnapshotError::OtherModel { .. }));
    let error = refuse(FORMAT_AT, &4u32.to_le_bytes());
    assert!(matches!(error, SnapshotError::UnknownFormat { found: 4 }));
    for (i, field) in
        ["n_layers", "n_kv_heads", "head_dim", "rewind_slack", "sinks"].into_iter().enumerate()
    {
        match refuse(SIZES_AT + 8 * i, &1u64.to_le_bytes()) {
            SnapshotError::OtherConfig { field: named, found: 1, .. } => assert_eq!(named, field),
            // One window fewer is read, so everything after it lies elsewhere.
            SnapshotError::Truncated { .. } => assert_eq!(field, "n_layers"),
            error => panic!("{error}"),
        }
        // A number of layers that no file can have is not believed either.
        refuse(SIZES_AT + 8 * i, &big);
    }
    let error = refuse(WINDOWS_AT + 8, &6u64.to_le_bytes());
    assert!(matches!(error, SnapshotError::OtherWindow { layer: 1, found: 6, expected: 5 }));
    assert!(matches!(refuse(N_TOKENS_AT, &big), SnapshotError::Truncated { part: "tokens", .. }));
    // 4..9 is what a window of 5 holds at position 9.
    for start in [0u64, 3, 6, 10, u64::MAX] {
        let error = refuse(LAYER_AT, &start.to_le_bytes());
        assert!(matches!(error, SnapshotError::BadPositions { layer: 0, .. }), "{error}");
    }
    for position in [3u64, 7, 10, u64::MAX] {
        let error = refuse(POSITION_AT, &position.to_le_bytes());
        assert!(matches!(error, SnapshotError::BadPositions { layer: 0, .. }), "{error}");
    }
    let windowless = CacheConfig::new(2, HEADS, HEAD_DIM).with_context_len(10);
    let (cache, id) = filled::<f32>(&windowless, 9);
    let long = forged(&saved(&cache, id), POSITION_AT, &11u64.to_le_bytes());
    let error = refused::<f32>(&windowless, &long);
    assert!(matches!(error, SnapshotError::Cache(CacheError::ContextFull { len: 11, .. })));
}

#[test]
fn another_cache_refuses_by_name() {
    let (cache, id) = filled::<f16>(&small(), 9);
    let bytes = saved(&cache, id);
    let error = refused::<bf16>(&small(), &bytes);
    assert_eq!(
        error.to_string(),
        "the snapshot has keys and values as f16, expected bf16 as in the cache"
    );
    let error = refused::<f16>(&small().with_sinks(3), &bytes);
    assert_eq!(error.to_string(), "the snapshot has sinks = 2, expected 3 as in the cache");
    let error = refused::<f16>(&small().with_windows(vec![Some(5), None]), &bytes);
    assert!(matches!(error, SnapshotError::OtherWindow { layer: 1, found: 5, expected: 0 }));
    let mut same = RollingKvCache::<f16>::new(small()).unwrap();
    let error = same.restore([0; 32], bytes.as_slice()).unwrap_err();
    assert!(
        matches!(error, SnapshotError::OtherModel { found: MODEL, expected } if expected == [0; 32])
    );
    // What does not concern the sequence may differ.
    let mut other = RollingKvCache::<f16>::new(small().with_max_chunk(9)).unwrap();
    let restored = other.restore(MODEL, bytes.as_slice()).unwrap().0;
    assert_same((&cache, id), (&other, restored));
}

#[test]
fn a_header_can_be_read_alone() {
    let (cache, id) = filled::<Int8>(&small(), 9);
    let bytes = saved(&cache, id);
    let header = SnapshotHeader::read(bytes.as_slice()).unwrap();
    assert_eq!((header.fingerprint, header.format), (MODEL, KvFormat::Int8));
    assert_eq!((header.position, header.tokens.as_slice()), (9, &TOKENS[..]));
    assert_eq!((header.windows, header.sinks), (vec![5, 5], 2));
    assert!(SnapshotHeader::read(&bytes[..LAYER_AT]).is_ok());
    assert!(SnapshotHeader::read(&bytes[..LAYER_AT - 1]).is_err());
}

/// Reads and writes a few bytes, and then fails.
struct Failing(usize);

impl Read for Failing {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let error = || io::Error::other("unplugged");
        self.0 = self.0.checked_sub(1).ok_or_else(error)?;
        bytes[0] = b"MKVCACHE"[self.0 % 8];
        Ok(1)
    }
}

impl Write for Failing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(1).ok_or_else(|| io::Error::other("full"))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn errors_of_readers_and_writers_are_passed_on() {
    let (mut cache, id) = filled::<f32>(&small(), 9);
    assert!(matches!(cache.restore(MODEL, Failing(3)), Err(SnapshotError::Io { .. })));
    for calls in 0..10 {
        let error = cache.save(id, MODEL, &TOKENS, Failing(calls)).unwrap_err();
        assert!(matches!(error, SnapshotError::Io { .. }));
    }
    cache.remove_sequence(id).unwrap();
    let error = cache.save(id, MODEL, &TOKENS, Vec::new()).unwrap_err();
    assert!(matches!(error, SnapshotError::Cache(CacheError::UnknownSequence { .. })));
}

#[test]
fn a_file_is_whole_or_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chat.kv");
    let (mut cache, id) = filled::<f32>(&small(), 9);
    cache.save_file(id, MODEL, &TOKENS, &path).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), saved(&cache, id));
    assert_eq!(SnapshotHeader::open(&path).unwrap().position, 9);

    // Replaced by another, and by none that fails.
    feed(&mut cache, id, 1);
    cache.save_file(id, MODEL, &TOKENS, &path).unwrap();
    let whole = std::fs::read(&path).unwrap();
    let half = cache.add_sequence().unwrap();
    let k = Source::new(1).chunk(1);
    cache.stage(half, 0, k.view(), k.view()).unwrap().commit();
    cache.save_file(half, MODEL, &TOKENS, &path).unwrap_err();
    assert_eq!(std::fs::read(&path).unwrap(), whole);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "something was left");

    let (restored, tokens) = cache.restore_file(MODEL, &path).unwrap();
    assert_eq!(tokens, TOKENS);
    assert_same((&cache, id), (&cache, restored));
    for bad in [folder.path().join("no/chat.kv"), folder.path().to_owned(), "".into()] {
        assert!(cache.save_file(id, MODEL, &TOKENS, &bad).is_err());
    }
    let error = cache.restore_file(MODEL, folder.path().join("none")).unwrap_err();
    assert!(matches!(error, SnapshotError::File { .. }));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "something was left");
}
