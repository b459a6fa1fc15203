//! candle on the CPU, measured as `mistral bench` measures this project.
//!
//! Quantised files run through candle's `quantized_llama`, files in f32, f16 or bf16 through its
//! `mistral`, each in its own type.

use std::collections::HashMap;
use std::error::Error;
use std::fs::File;

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Content;
use candle_core::{DType, Device, Tensor};
use candle_nn::{Activation, VarBuilder};
use candle_transformers::models::mistral::{Config, Model};
use candle_transformers::models::quantized_llama::ModelWeights;
use clap::Parser;
use measure::{Engine, Loaded, Work};

/// Measure candle on a GGUF file: one JSON object with the names of `mistral bench --json`
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    work: Work,
}

enum Weights {
    Dense(Model),
    Quantised(ModelWeights),
}

struct Candle {
    weights: Weights,
    position: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let Options { work } = Options::parse();
    rayon::ThreadPoolBuilder::new().num_threads(work.threads).build_global()?;
    work.run(|| load(&work))
}

fn load(work: &Work) -> Result<(Candle, Loaded), Box<dyn Error>> {
    let mut file = File::open(&work.model)?;
    let content = Content::read(&mut file)?;
    let format = content.tensor_infos["blk.0.attn_q.weight"].ggml_dtype;
    let layers = size(&content, "block_count")?;
    let vocab_size = size(&content, "vocab_size")?;
    let dense = match format {
        GgmlDType::F32 => Some(DType::F32),
        GgmlDType::F16 => Some(DType::F16),
        GgmlDType::BF16 => Some(DType::BF16),
        _ => None,
    };
    let weights = match dense {
        Some(dtype) => Weights::Dense(dense_model(&content, &mut file, dtype)?),
        None => Weights::Quantised(ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?),
    };
    let loaded = Loaded {
        engine: "candle".to_owned(),
        layers,
        vocab_size,
        weights: format!("{format:?}").to_lowercase().replace('k', "_k"),
        // candle's cache has the type of its activations.
        kv_dtype: dense.unwrap_or(DType::F32).as_str(),
    };
    Ok((Candle { weights, position: 0 }, loaded))
}

fn size(content: &Content, key: &str) -> candle_core::Result<usize> {
    let key = format!("llama.{key}");
    match content.metadata.get(&key) {
        Some(value) => Ok(value.to_u32()? as usize),
        None => candle_core::bail!("the file has no {key}"),
    }
}

/// candle's own Mistral, with the names and the rotation of Hugging Face's checkpoints.
fn dense_model(content: &Content, file: &mut File, dtype: DType) -> candle_core::Result<Model> {
    let config = Config {
        vocab_size: size(content, "vocab_size")?,
        hidden_size: size(content, "embedding_length")?,
        intermediate_size: size(content, "feed_forward_length")?,
        num_hidden_layers: size(content, "block_count")?,
        num_attention_heads: size(content, "attention.head_count")?,
        head_dim: None,
        num_key_value_heads: size(content, "attention.head_count_kv")?,
        hidden_act: Activation::Silu,
        max_position_embeddings: size(content, "context_length")?,
        rms_norm_eps: f64::from(
            content.metadata["llama.attention.layer_norm_rms_epsilon"].to_f32()?,
        ),
        rope_theta: f64::from(content.metadata["llama.rope.freq_base"].to_f32()?),
        sliding_window: None,
        use_flash_attn: false,
    };
    let mut tensors = HashMap::new();
    for name in content.tensor_infos.keys() {
        let tensor = content.tensor(file, name, &Device::Cpu)?;
        let mut tensor = tensor.dequantize(&Device::Cpu)?.to_dtype(dtype)?;
        if name.contains("attn_q.") {
            tensor = halves_from_pairs(&tensor, config.num_attention_heads)?;
        } else if name.contains("attn_k.") {
            tensor = halves_from_pairs(&tensor, config.num_key_value_heads)?;
        }
        tensors.insert(hugging_face_name(name), tensor);
    }
    Model::new(&config, VarBuilder::from_tensors(tensors, dtype, &Device::Cpu))
}

/// GGUF files of the llama architecture rotate neighbours, Hugging Face's models the two halves of a
/// head: the same weights in another order.
fn halves_from_pairs(weights: &Tensor, heads: usize) -> candle_core::Result<Tensor> {
    let (rows, columns) = weights.dims2()?;
    weights
        .reshape((heads, rows / heads / 2, 2, columns))?
        .transpose(1, 2)?
        .contiguous()?
        .reshape((rows, columns))
}

fn hugging_face_name(name: &str) -> String {
    let names = [
        ("blk.", "model.layers."),
        ("attn_norm", "input_layernorm"),
        ("ffn_norm", "post_attention_layernorm"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("attn_output", "self_attn.o_proj"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"),
        ("token_embd", "model.embed_tokens"),
        ("output_norm", "model.norm"),
    ];
    match name {
        "output.weight" => "lm_head.weight".to_owned(),
        _ => names.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to)),
    }
}

impl Engine for Candle {
    fn reset(&mut self) {
        self.position = 0;
        match &mut self.weights {
            Weights::Dense(model) => model.clear_kv_cache(),
            Weights::Quantised(model) => model.clear_kv_cache(),
        }
    }

    fn forward(&mut self, tokens: &[u32]) -> Result<Vec<f32>, Box<dyn Error>> {
        let input = Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?;
        let logits = match &mut self.weights {
            Weights::Dense(model) => model.forward(&input, self.position)?,
            Weights::Quantised(model) => model.forward(&input, self.position)?,
        };
        self.position += tokens.len();
        Ok(logits.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?)
    }
}
