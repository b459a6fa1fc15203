//! Adapters made for a test, and golden ones.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mistral_model::ndarray::{Array2, ArrayView2};
use mistral_model::{
    Adapter, AdapterError, Config, DType, ModelError, Session, SessionOptions, Transformer,
};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

/// The projections of a layer as Hugging Face and Mistral name them.
pub(crate) const MODULES: [[&str; 2]; 7] = [
    ["self_attn.q_proj", "attention.wq"],
    ["self_attn.k_proj", "attention.wk"],
    ["self_attn.v_proj", "attention.wv"],
    ["self_attn.o_proj", "attention.wo"],
    ["mlp.gate_proj", "feed_forward.w1"],
    ["mlp.up_proj", "feed_forward.w3"],
    ["mlp.down_proj", "feed_forward.w2"],
];

/// `(outputs, inputs)` of a projection, by its place in [`MODULES`].
pub(crate) fn shape(config: &Config, module: usize) -> [usize; 2] {
    let (q, kv) = (config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim);
    let (dim, hidden) = (config.dim, config.hidden_dim);
    [[q, dim], [kv, dim], [kv, dim], [dim, q], [hidden, dim], [hidden, dim], [dim, hidden]][module]
}

pub(crate) fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

/// A safetensors file of matrices.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tensors(pub(crate) BTreeMap<String, Array2<f32>>);

impl Tensors {
    pub(crate) fn open(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let matrices = file.iter().filter(|(_, view)| view.shape().len() == 2);
        Self(matrices.map(|(name, view)| (name.to_owned(), matrix(&view))).collect())
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let data = |array: &Array2<f32>| array.iter().flat_map(|x| x.to_le_bytes()).collect();
        let data: Vec<Vec<u8>> = self.0.values().map(data).collect();
        let views = self.0.iter().zip(&data).map(|((name, array), bytes)| {
            (name, TensorView::new(Dtype::F32, array.shape().to_vec(), bytes).unwrap())
        });
        safetensors::serialize(views, None).unwrap()
    }
}

fn matrix(view: &TensorView<'_>) -> Array2<f32> {
    let numbers = view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
    Array2::from_shape_vec((view.shape()[0], view.shape()[1]), numbers.collect()).unwrap()
}

/// peft's adapter.
#[derive(Debug, Clone)]
pub(crate) struct Peft {
    pub(crate) settings: Value,
    pub(crate) tensors: Tensors,
}

impl Peft {
    pub(crate) fn golden() -> Self {
        let folder = golden("models/v01-lora");
        let settings = fs::read(folder.join("adapter_config.json")).unwrap();
        Self {
            settings: serde_json::from_slice(&settings).unwrap(),
            tensors: Tensors::open(&folder.join("adapter_model.safetensors")),
        }
    }

    /// Random matrices for some projections of every layer, alpha twice the rank.
    pub(crate) fn random(config: &Config, modules: &[usize], rank: usize, seed: u64) -> Self {
        let mut tensors = Tensors::default();
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = |scale: f32| {
            // Marsaglia's xorshift.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * scale
        };
        for layer in 0..config.n_layers {
            for &module in modules {
                let [outputs, inputs] = shape(config, module);
                let name = peft_name(layer, module);
                let a = Array2::from_shape_simple_fn((rank, inputs), || next(0.2));
                let b = Array2::from_shape_simple_fn((outputs, rank), || next(0.3));
                tensors.0.insert(format!("{name}.lora_A.weight"), a);
                tensors.0.insert(format!("{name}.lora_B.weight"), b);
            }
        }
        let targets: Vec<&str> =
            modules.iter().map(|m| MODULES[*m][0].split('.').next_back().unwrap()).collect();
        let settings = json!({
            "peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": targets,
        });
        Self { settings, tensors }
    }

    pub(crate) fn with(mut self, field: &str, value: Value) -> Self {
        self.settings[field] = value;
        self
    }

    pub(crate) fn try_open(&self, config: &Config) -> Result<Adapter, AdapterError> {
        Adapter::from_bytes(&self.settings.to_string(), &self.tensors.bytes(), config)
    }

    pub(crate) fn open(&self, config: &Config) -> Arc<Adapter> {
        Arc::new(self.try_open(config).unwrap())
    }

    /// The same matrices as mistral-finetune names and orders them.
    pub(crate) fn in_mistrals_names(&self, config: &Config) -> Tensors {
        let mut renamed = Tensors::default();
        for (name, array) in &self.tensors.0 {
            let rest = name.strip_prefix("base_model.model.model.").unwrap();
            let [ours, theirs] = MODULES.into_iter().find(|m| rest.contains(m[0])).unwrap();
            let rotated = ours.ends_with("q_proj") || ours.ends_with("k_proj");
            let array = match rotated && rest.contains("lora_B") {
                true => interleaved(array, config.head_dim),
                false => array.clone(),
            };
            renamed.0.insert(rest.replace(ours, theirs), array);
        }
        renamed
    }
}

pub(crate) fn peft_name(layer: usize, module: usize) -> String {
    format!("base_model.model.model.layers.{layer}.{}", MODULES[module][0])
}

/// `rows.view(heads, 2, D/2, cols).transpose(1, 2)`: Hugging Face's order to Mistral's.
fn interleaved(rows: &Array2<f32>, head_dim: usize) -> Array2<f32> {
    let (n, cols) = rows.dim();
    let split = rows.to_shape((n / head_dim, 2, head_dim / 2, cols)).unwrap();
    let swapped = split.permuted_axes([0, 2, 1, 3]);
    Array2::from_shape_vec((n, cols), swapped.iter().copied().collect()).unwrap()
}

/// Logits of every position, the tokens taken in chunks.
pub(crate) fn logits(
    model: &Transformer,
    adapters: &[&Arc<Adapter>],
    ids: &[u32],
    max_chunk: usize,
) -> Array2<f32> {
    let options = SessionOptions { kv_dtype: DType::F32.into(), max_chunk, ..Default::default() };
    let mut session = Session::new(model, options).unwrap();
    for adapter in adapters {
        session = session.with_adapter(Arc::clone(adapter)).unwrap();
    }
    let mut all = Array2::zeros((ids.len(), model.config().vocab_size));
    let each = |first, chunk: ArrayView2<'_, f32>| {
        for (i, row) in chunk.outer_iter().enumerate() {
            all.row_mut(first + i).assign(&row);
        }
        Ok::<(), ModelError>(())
    };
    session.logits_of_all(ids, each).unwrap();
    all
}

/// The largest difference.
pub(crate) fn worst(a: &Array2<f32>, b: &Array2<f32>) -> f32 {
    assert_eq!(a.dim(), b.dim());
    a.iter().zip(b).fold(0.0, |worst, (a, b)| worst.max((a - b).abs()))
}

/// The root mean square of the differences.
pub(crate) fn rms(a: &Array2<f32>, b: &Array2<f32>) -> f32 {
    (a - b).mapv(|d| d * d).mean().unwrap().sqrt()
}

pub(crate) fn bits(array: &Array2<f32>) -> Vec<u32> {
    array.iter().map(|x| x.to_bits()).collect()
}
