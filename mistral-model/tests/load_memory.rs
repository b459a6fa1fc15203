//! What loading takes at most: the result, and one matrix on its way.
#![allow(clippy::unwrap_used)] // a test may panic
#![allow(unsafe_code)] // an allocator cannot be written without

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use mistral_model::{Checkpoint, OpenOptions, WeightFormat};
use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize_to_file};

/// Bytes that are in use, and the most there were.
static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(held, Ordering::Relaxed);
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const DIM: usize = 256;
const LAYERS: usize = 12;
/// Files are read through a buffer; names and shapes take a little.
const SMALL: usize = 768 << 10;

/// A model of 5 million weights in bf16, most of them in its layers.
fn write(folder: &Path) {
    let config = format!(
        r#"{{"model_type": "mistral", "hidden_size": {DIM}, "intermediate_size": 512,
        "num_hidden_layers": {LAYERS}, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 64, "vocab_size": 1024, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "sliding_window": 64, "max_position_embeddings": 512, "tie_word_embeddings": true,
        "hidden_act": "silu"}}"#
    );
    std::fs::write(folder.join("config.json"), config).unwrap();
    let mut shapes = BTreeMap::from([
        ("model.embed_tokens".to_owned(), vec![1024, DIM]),
        ("model.norm".to_owned(), vec![DIM]),
    ]);
    for layer in 0..LAYERS {
        for (name, shape) in [
            ("input_layernorm", vec![DIM]),
            ("post_attention_layernorm", vec![DIM]),
            ("self_attn.q_proj", vec![256, DIM]),
            ("self_attn.k_proj", vec![128, DIM]),
            ("self_attn.v_proj", vec![128, DIM]),
            ("self_attn.o_proj", vec![DIM, 256]),
            ("mlp.gate_proj", vec![512, DIM]),
            ("mlp.up_proj", vec![512, DIM]),
            ("mlp.down_proj", vec![DIM, 512]),
        ] {
            shapes.insert(format!("model.layers.{layer}.{name}"), shape);
        }
    }
    // Between 0.5 and 1, all different enough.
    let bytes: Vec<u8> = (0..1024 * DIM).flat_map(|i| [(i * 7) as u8, 0x3f]).collect();
    let tensors = shapes.into_iter().map(|(name, shape)| {
        let bytes = &bytes[..2 * shape.iter().product::<usize>()];
        (format!("{name}.weight"), TensorView::new(Dtype::BF16, shape, bytes).unwrap())
    });
    serialize_to_file(tensors, None, &folder.join("model.safetensors")).unwrap();
}

#[test]
fn rounding_while_loading_takes_the_result_and_one_matrix() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let largest = 2 * 1024 * DIM;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    for format in [None, Some(WeightFormat::Q8_0), Some(WeightFormat::Q4K)] {
        let options = format.map_or_else(OpenOptions::new, |f| OpenOptions::new().weights(f));
        let before = HELD.load(Ordering::Relaxed);
        MOST.store(before, Ordering::Relaxed);
        let model =
            pool.install(|| Checkpoint::open_with(folder.path(), options).unwrap().load().unwrap());
        let most = MOST.load(Ordering::Relaxed) - before;
        let bytes = model.bytes();
        assert!(most < bytes + largest + SMALL, "{format:?}: {most} for {bytes}");
        // The source is much larger than what is allowed beside a result of 4 bits.
        assert!(format.is_some() || bytes > 4 * (largest + SMALL), "{bytes}");
    }
}
