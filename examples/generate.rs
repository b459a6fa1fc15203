//! Text as it comes, from the demo model of this repository, or from another with `-- MODEL_DIR`.
//!
//! The output, wrapped to fit here:
//!
//! ```text
//! $ cargo run --release -p examples --example generate
//! Once upon a time a man who was faithful and industrious, and said, "I have a good fortune,
//! and a pair of gold, and a great deal of money." The man went away and told him that he had a
//! good heart. The man said to him, "If that is
//! ```

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;

use mistral_model::generate::{StopStrings, TextGenerator};
use mistral_model::{Sampler, SamplerOptions, Session, SessionOptions, Tokenizer, Transformer};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../mistral-cli/demo/model");
const PROMPT: &str = "Once upon a time";

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).map_or(PathBuf::from(DEMO), PathBuf::from);
    let tokenizer = Tokenizer::open(&folder)?;
    let model = Transformer::open(&folder)?;
    let mut session = Session::new(&model, SessionOptions::default())?;

    // The same seed gives the same text.
    let options = SamplerOptions { temperature: 0.6, top_p: 0.95, seed: 7, ..Default::default() };
    let prompt = tokenizer.encode(PROMPT)?;
    let tokens = session.generate(&prompt, Sampler::new(options)?)?;
    let mut text = TextGenerator::new(tokens, &tokenizer, StopStrings::default())
        .after(&prompt)?
        .max_tokens(60);

    let mut stdout = std::io::stdout();
    write!(stdout, "{PROMPT}")?;
    for piece in text.by_ref() {
        write!(stdout, "{}", piece?)?;
        stdout.flush()?;
    }
    writeln!(stdout)?;
    eprintln!("({} tokens)", text.tokens_used());
    Ok(())
}
