//! Files from strangers: each way to be wrong is an error of its own that names the place.
#![allow(clippy::unwrap_used, clippy::panic)] // a test may panic

mod contents;
mod formats;
mod headers;

use std::fs;
use std::path::{Path, PathBuf};

use mistral_model::{Checkpoint, ModelError, OpenOptions, Session, SessionOptions, Transformer};
use serde_json::{Map, Value, json};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models").join(name)
}

/// A safetensors file in parts that a test can bend.

#[derive(Clone)]
struct File {
    config: Value,
    header: Map<String, Value>,
    data: Vec<u8>,
}

impl File {
    fn golden(name: &str) -> Self {
        let config = fs::read_to_string(golden(name).join("config.json")).unwrap();
        let bytes = fs::read(golden(name).join("model.safetensors")).unwrap();
        let length = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
        Self {
            config: serde_json::from_str(&config).unwrap(),
            header: serde_json::from_slice(&bytes[8..8 + length]).unwrap(),
            data: bytes[8 + length..].to_vec(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let header = Value::Object(self.header.clone()).to_string();
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &self.data].concat()
    }

    fn open(&self) -> Result<Transformer, ModelError> {
        self.open_with(OpenOptions::new())
    }

    fn open_with(&self, options: OpenOptions) -> Result<Transformer, ModelError> {
        let (config, bytes) = (self.config.to_string(), self.bytes());
        Checkpoint::from_bytes_with(&config, &bytes, options)?.load()
    }

    fn entry(&mut self, tensor: &str) -> &mut Value {
        self.header.get_mut(tensor).unwrap()
    }

    /// The bytes of a tensor.
    fn part(&mut self, tensor: &str) -> &mut [u8] {
        let offsets = self.entry(tensor)["data_offsets"].clone();
        let at = |i: usize| offsets[i].as_u64().unwrap() as usize;
        let (from, to) = (at(0), at(1));
        &mut self.data[from..to]
    }

    /// Appends a tensor.
    fn add(&mut self, name: &str, dtype: &str, shape: &[usize], data: &[u8]) {
        let from = self.data.len();
        self.data.extend_from_slice(data);
        let offsets = [from, self.data.len()];
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": offsets});
        self.header.insert(name.to_owned(), entry);
    }
}

const UP: &str = "model.layers.1.mlp.up_proj.weight";

fn logits(model: &Transformer) -> Vec<u32> {
    let mut session = Session::new(model, SessionOptions::default()).unwrap();
    session.prefill(&[1, 2, 3, 200]).unwrap().iter().map(|x| x.to_bits()).collect()
}
