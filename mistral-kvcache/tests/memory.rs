//! How much memory a cache takes, and that it is known beforehand.
#![allow(clippy::unwrap_used)] // a test's helper functions may fail a test too

use mistral_kvcache::half::f16;
use mistral_kvcache::ndarray::Array3;
use mistral_kvcache::{
    CacheConfig, CacheError, DType, HeavyHitterCache, HeavyHitterConfig, KvElement, KvFormat,
    LayerCache, RollingKvCache,
};

#[test]
fn a_window_of_4096_takes_an_eighth_of_a_full_cache_at_32k() {
    let full = CacheConfig::new(32, 8, 128).with_context_len(32768);
    let rolling = full.clone().with_window(4096);
    for format in KvFormat::ALL {
        let [full, rolling] = [&full, &rolling].map(|c| c.sequence_bytes(format, 32768).unwrap());
        assert_eq!(full as f64 / rolling as f64, 8.0);
    }
}

#[test]
fn eight_kv_heads_take_a_quarter_of_thirty_two() {
    for format in KvFormat::ALL {
        let [few, many] = [8, 32].map(|n_kv_heads| {
            let config = CacheConfig::new(32, n_kv_heads, 128).with_window(4096);
            config.bytes(format, 3).unwrap()
        });
        assert_eq!(many as f64 / few as f64, 4.0);
    }
}

#[test]
fn int8_takes_little_more_than_half_of_f16() {
    let config = CacheConfig::new(32, 8, 128).with_window(4096);
    let [int8, f16] = [KvFormat::Int8, DType::F16.into()]
        .map(|format: KvFormat| config.sequence_bytes(format, 1).unwrap());
    assert_eq!(int8 as f64 / f16 as f64, (32.0 + 2.0) / 64.0);
}

#[test]
fn a_windowless_sequence_grows_by_pages_up_to_its_limit() {
    let config = CacheConfig::new(1, 1, 16).with_context_len(600);
    let slots = |tokens| config.sequence_bytes(KvFormat::F32, tokens).unwrap() / 128;
    assert_eq!([0, 1, 128, 129, 512, 513, 600].map(slots), [0, 128, 128, 256, 512, 608, 608]);
    let beyond = config.sequence_bytes(KvFormat::F32, 601).unwrap_err();
    assert!(matches!(beyond, CacheError::ContextFull { context_len: 600, .. }));
}

#[test]
fn slack_sinks_and_chunk_are_counted_in_panels_of_sixteen() {
    let config = CacheConfig::new(3, 1, 16).with_window(32).with_max_chunk(1);
    let slots = |config: &CacheConfig| config.sequence_bytes(KvFormat::F32, 9).unwrap() / 384;
    assert_eq!(slots(&config), 32);
    assert_eq!(slots(&config.clone().with_rewind_slack(1)), 48);
    assert_eq!(slots(&config.clone().with_sinks(4)), 48);
    assert_eq!(slots(&config.clone().with_windows(vec![Some(16), None, Some(20)])), 176 / 3);
    assert_eq!(config.staging_bytes(KvFormat::F32), Ok(16 * 128));
    let longer = config.with_max_chunk(2);
    assert_eq!(longer.staging_bytes(KvFormat::F32), Ok(32 * 128));
    assert_eq!(longer.plan(KvFormat::F32, 2, 9), Ok((32 * 3 * 2 + 32) * 128));
}

#[test]
fn only_windows_within_the_context_lift_the_limit() {
    let config = CacheConfig::new(2, 1, 1).with_context_len(8);
    assert_eq!(config.limit(), Some(8));
    assert_eq!(config.clone().with_window(9).limit(), Some(8));
    assert_eq!(config.clone().with_window(8).limit(), None);
    assert_eq!(config.clone().with_window(9).capacity(), 8);
    assert_eq!(config.clone().with_window(7).capacity(), 7);
    assert_eq!(config.clone().with_window(7).with_rewind_slack(3).capacity(), 10);
    let mixed = config.clone().with_windows(vec![Some(3), None]).with_rewind_slack(2);
    assert_eq!((mixed.limit(), mixed.window(), mixed.capacity()), (Some(8), None, 8));
    assert_eq!([0, 1, 2].map(|layer| mixed.layer_capacity(layer)), [Some(5), Some(8), None]);
    // No layer has more than the sequence can.
    let slack = config.clone().with_windows(vec![Some(7), None]).with_rewind_slack(9);
    assert_eq!(slack.layer_capacity(0), Some(8));
    let both = config.with_windows(vec![Some(3), Some(5)]);
    assert_eq!((both.limit(), both.window(), both.capacity()), (None, Some(5), 5));
    assert_eq!(both.windows().collect::<Vec<_>>(), [Some(3), Some(5)]);
}

#[test]
fn zeros_are_named_and_giants_refused() {
    let good = CacheConfig::new(1, 1, 1);
    for (config, field) in [
        (CacheConfig::new(0, 1, 1), "n_layers"),
        (CacheConfig::new(1, 0, 1), "n_kv_heads"),
        (CacheConfig::new(1, 1, 0), "head_dim"),
        (good.clone().with_window(0), "window"),
        (good.clone().with_windows(vec![Some(0)]), "window"),
        (good.clone().with_context_len(0), "context_len"),
        (good.clone().with_max_chunk(0), "max_chunk"),
    ] {
        assert_eq!(config.bytes(DType::F32, 1).unwrap_err(), CacheError::Zero { field });
    }
    let uncounted = good.clone().with_windows(vec![None; 2]).bytes(DType::F32, 1);
    assert_eq!(uncounted, Err(CacheError::WindowCount { found: 2, n_layers: 1 }));
    for giant in [
        good.clone().with_context_len(usize::MAX),
        good.clone().with_window(9).with_rewind_slack(usize::MAX),
        good.clone().with_window(9).with_sinks(usize::MAX),
        good.clone().with_max_chunk(usize::MAX),
        CacheConfig::new(usize::MAX, 1, 1),
        CacheConfig::new(1, usize::MAX, 1),
        CacheConfig::new(1, 1, usize::MAX),
    ] {
        for format in KvFormat::ALL {
            assert_eq!(giant.bytes(format, 1), Err(CacheError::SizeOverflow));
        }
    }
    let crowd = good.bytes(DType::F32, usize::MAX);
    assert_eq!(crowd, Err(CacheError::SizeOverflow));
}

#[test]
fn what_no_machine_has_is_refused_before_a_page_is_taken() {
    // Petabytes, which would be handed out page by page until the machine has none left.
    let small = CacheConfig::new(1, 8, 128).with_window(4).with_context_len(1 << 40);
    let full = |result: Result<(), CacheError>| {
        assert!(matches!(result, Err(CacheError::OutOfMemory { .. })), "{result:?}");
    };
    full(RollingKvCache::<f16>::new(small.clone().with_max_chunk(1 << 40)).map(drop));
    for large in [
        small.clone().with_window(1 << 40),
        small.clone().with_sinks(1 << 40),
        CacheConfig::new(1 << 40, 8, 128).with_window(4),
    ] {
        full(RollingKvCache::<f16>::new(large).unwrap().add_sequence().map(drop));
    }
    let mut endless = RollingKvCache::<f16>::new(small.with_windows(vec![None])).unwrap();
    let id = endless.add_sequence().unwrap();
    full(endless.reserve(id, 1 << 40));
    full(LayerCache::<f16>::new(8, 128, 1 << 40).map(drop));
    full(
        HeavyHitterCache::<f16>::new(HeavyHitterConfig::new(1, 8, 128).with_recent(1 << 40))
            .map(drop),
    );
}

/// Bytes of a cache in which `sequences` really have had `tokens` each.
fn bytes_of<E: KvElement>(config: &CacheConfig, sequences: usize, tokens: usize) -> usize {
    let k = Array3::<f32>::ones((1, config.n_kv_heads(), config.head_dim()));
    let mut cache = RollingKvCache::<E>::new(config.clone()).unwrap();
    for _ in 0..sequences {
        let id = cache.add_sequence().unwrap();
        for step in 0..tokens * config.n_layers() {
            let layer = step % config.n_layers();
            cache.stage(id, layer, k.view(), k.view()).unwrap().commit();
        }
    }
    cache.bytes()
}

#[test]
fn a_cache_takes_what_was_planned_at_every_length() {
    let config = CacheConfig::new(2, 2, 5).with_context_len(300).with_max_chunk(3);
    for config in [
        config.clone(),
        config.clone().with_window(20),
        config.clone().with_window(20).with_sinks(4).with_rewind_slack(13),
        config.with_windows(vec![Some(130), None]).with_sinks(4),
    ] {
        for tokens in [0, 1, 127, 128, 129, 256, 257, 300] {
            let planned = config.plan(f16::FORMAT, 2, tokens).unwrap();
            assert_eq!(bytes_of::<f16>(&config, 2, tokens), planned, "{tokens} tokens");
        }
        assert_eq!(config.plan(f16::FORMAT, 3, 300), config.bytes(f16::FORMAT, 3));
    }
}

#[test]
fn a_rolling_cache_in_use_takes_an_eighth_and_grouped_heads_a_quarter() {
    // As 7B at 32k with W = 4096, with a 64th of the tokens.
    let full = CacheConfig::new(2, 8, 16).with_context_len(512).with_max_chunk(1);
    let staging = |config: &CacheConfig| config.staging_bytes(f16::FORMAT).unwrap();
    let held = |config: &CacheConfig| bytes_of::<f16>(config, 1, 512) - staging(config);
    let rolling = full.clone().with_window(64);
    assert_eq!(held(&full) as f64 / held(&rolling) as f64, 8.0);
    let ungrouped = CacheConfig::new(2, 32, 16).with_window(64).with_max_chunk(1);
    assert_eq!(held(&ungrouped) as f64 / held(&rolling) as f64, 4.0);
}
