//! Multiple choice: which of several answers a model takes.

use super::error::ScoreError;
use super::likelihood::LogLikelihood;

/// The answers to a question, with their likelihoods.
///
/// Long answers have more tokens to be unlikely with. So EleutherAI's evaluation harness has three
/// ways to choose, and counts the right answers of each: by the likelihood itself (`acc`), divided by
/// the answer's characters (`acc_norm`), or by its bytes (`acc_bytes`). Of equal answers the first
/// is taken.
///
/// ```
/// # use mistral_model::{Session, SessionOptions, Tokenizer, Transformer};
/// use mistral_model::score::{Choices, Scorer, TokenPair};
///
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../mistral-cli/demo/model");
/// let (model, tokenizer) = (Transformer::open(folder)?, Tokenizer::open(folder)?);
/// let mut scorer = Scorer::new(Session::new(&model, SessionOptions::default())?)?;
///
/// let choices = ["a time", "the tablecloth"];
/// // The harness puts a space before each choice, which does not count as part of its length.
/// let pairs = choices.map(|choice| {
///     TokenPair::encode(&tokenizer, "Once upon", &format!(" {choice}"))
/// });
/// let pairs: Vec<TokenPair> = pairs.into_iter().collect::<Result<_, _>>()?;
/// let answer = Choices::new(&choices, scorer.log_likelihoods(&pairs)?)?;
/// assert_eq!((answer.best(), answer.best_per_byte()), (0, 0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Choices {
    answers: Vec<Answer>,
    likelihoods: Vec<LogLikelihood>,
}

/// How long an answer is.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Answer {
    bytes: usize,
    characters: usize,
}

impl Choices {
    /// The texts of the answers, as their length counts, each with its likelihood.
    ///
    /// # Errors
    ///
    /// [`ScoreError::Choices`]: none, or not one likelihood for each.
    pub fn new<T: AsRef<str>>(
        texts: &[T],
        likelihoods: Vec<LogLikelihood>,
    ) -> Result<Self, ScoreError> {
        if texts.is_empty() || texts.len() != likelihoods.len() {
            let (texts, likelihoods) = (texts.len(), likelihoods.len());
            return Err(ScoreError::Choices { texts, likelihoods });
        }
        let answers = texts
            .iter()
            .map(AsRef::as_ref)
            .map(|text| Answer { bytes: text.len(), characters: text.chars().count() });
        Ok(Self { answers: answers.collect(), likelihoods })
    }

    /// The likelihood of each answer.
    pub fn likelihoods(&self) -> &[LogLikelihood] {
        &self.likelihoods
    }

    /// The likeliest answer, as `acc` counts it.
    pub fn best(&self) -> usize {
        self.best_by(|_| 1)
    }

    /// The likeliest for each of its characters (Unicode scalar values), as `acc_norm` counts it.
    pub fn best_per_character(&self) -> usize {
        self.best_by(|answer| answer.characters)
    }

    /// The likeliest for each of its bytes in UTF-8, as `acc_bytes` counts it.
    pub fn best_per_byte(&self) -> usize {
        self.best_by(|answer| answer.bytes)
    }

    fn best_by(&self, length: impl Fn(&Answer) -> usize) -> usize {
        let scores = self.answers.iter().zip(&self.likelihoods);
        let scores = scores.map(|(answer, found)| found.sum / length(answer) as f64);
        let mut best = (0, f64::NEG_INFINITY);
        for (index, score) in scores.enumerate() {
            if score > best.1 {
                best = (index, score);
            }
        }
        best.0
    }
}

#[cfg(test)]
mod tests {
    use super::{Choices, LogLikelihood, ScoreError};

    fn likelihoods<const N: usize>(sums: [f64; N]) -> Vec<LogLikelihood> {
        sums.map(|sum| LogLikelihood { sum, ..Default::default() }).to_vec()
    }

    #[test]
    fn the_three_measures_can_disagree() {
        // -2; -6 / 4 characters, / 8 bytes; -5 / 5 characters, / 5 bytes.
        let texts = ["a", "éééé", "aaaaa"];
        let choices = Choices::new(&texts, likelihoods([-2.0, -6.0, -5.0])).unwrap();
        assert_eq!(choices.best(), 0);
        assert_eq!(choices.best_per_character(), 2);
        assert_eq!(choices.best_per_byte(), 1);
    }

    #[test]
    fn of_equal_answers_the_first_is_taken_and_an_empty_one_never_by_length() {
        let choices = Choices::new(&["", "bb", "cc"], likelihoods([-1.0; 3])).unwrap();
        assert_eq!((choices.best(), choices.best_per_byte()), (0, 1));
        let certain = Choices::new(&["", "b"], likelihoods([0.0, -3.0])).unwrap();
        assert_eq!((certain.best(), certain.best_per_character()), (0, 1));
    }

    #[test]
    fn every_answer_has_a_likelihood() {
        let none = Choices::new::<&str>(&[], vec![]);
        assert!(matches!(none, Err(ScoreError::Choices { texts: 0, likelihoods: 0 })));
        let short = Choices::new(&["a", "b"], likelihoods([-1.0]));
        assert!(matches!(short, Err(ScoreError::Choices { texts: 2, likelihoods: 1 })));
    }
}
