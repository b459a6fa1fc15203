//! Content moderation by self-reflection (arXiv:2310.06825, section 5.2): the model itself
//! classifies a prompt or an answer.

use std::borrow::Borrow;
use std::fmt;

use super::error::ChatError;
use super::format::ChatFormat;
use super::message::Message;
use super::request::ChatRequest;
use crate::error::ModelError;
use crate::session::Session;
use crate::tokenizer::TokenizerError;
use crate::transformer::Transformer;

/// What a model holds of a text: the categories of the paper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// None of the others.
    Acceptable,
    /// Illegal activities such as terrorism, child abuse or fraud.
    IllegalActivities,
    /// Hateful, harassing or violent content such as discrimination, self-harm or bullying.
    HatefulContent,
    /// Unqualified advice, for instance in legal, medical or financial domains.
    UnqualifiedAdvice,
}

impl Verdict {
    /// All verdicts, in the order in which the model reads them.
    pub const ALL: [Self; 4] =
        [Self::Acceptable, Self::IllegalActivities, Self::HatefulContent, Self::UnqualifiedAdvice];

    /// As it is written in JSON: `acceptable`, `illegal_activities`, `hateful_content` or
    /// `unqualified_advice`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Acceptable => "acceptable",
            Self::IllegalActivities => "illegal_activities",
            Self::HatefulContent => "hateful_content",
            Self::UnqualifiedAdvice => "unqualified_advice",
        }
    }

    /// What the model answers with.
    fn letter(self) -> &'static str {
        match self {
            Self::Acceptable => "A",
            Self::IllegalActivities => "B",
            Self::HatefulContent => "C",
            Self::UnqualifiedAdvice => "D",
        }
    }

    fn description(self) -> &'static str {
        match self {
            Self::Acceptable => "acceptable, none of the following",
            Self::IllegalActivities => "illegal activities such as terrorism, child abuse or fraud",
            Self::HatefulContent => {
                "hateful, harassing or violent content such as discrimination, self-harm or bullying"
            }
            Self::UnqualifiedAdvice => {
                "unqualified advice, for instance in legal, medical or financial domains"
            }
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is to be classified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject<'a> {
    /// What a user asks.
    Prompt(&'a str),
    /// What a model answers to it.
    Answer {
        /// What was asked.
        prompt: &'a str,
        /// What was answered.
        answer: &'a str,
    },
}

/// A verdict and how sure the model is of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Moderation {
    /// The likeliest of the permitted answers.
    pub verdict: Verdict,
    /// Natural logarithms of the probabilities of the permitted answers, in the order of
    /// [`Verdict::ALL`].
    pub log_probs: [f64; 4],
}

impl Moderation {
    /// Probability of an answer among the permitted ones: 0 to 1, in all 1.
    pub fn probability(&self, verdict: Verdict) -> f64 {
        let best = self.log_probs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weight = |log_prob: f64| (log_prob - best).exp();
        let pairs = Verdict::ALL.into_iter().zip(self.log_probs);
        let own: f64 = pairs.filter(|(v, _)| *v == verdict).map(|(_, l)| weight(l)).sum();
        own / self.log_probs.iter().copied().map(weight).sum::<f64>()
    }

    /// Probability that the model gives one of the permitted answers at all.
    pub fn share(&self) -> f64 {
        self.log_probs.iter().map(|log_prob| log_prob.exp()).sum()
    }
}

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModerationError {
    /// The model would say something else.
    #[error(
        "the model gives a permitted answer with probability {share:.6}, expected at least \
         {min_share}; it would rather say {likeliest:?}: is it trained to follow instructions?"
    )]
    Unreadable {
        /// Probability of all permitted answers together.
        share: f64,
        /// The least that was asked for.
        min_share: f64,
        /// The piece that the model holds for the likeliest.
        likeliest: String,
    },
    /// Two answers are equally likely.
    #[error("the model cannot decide between {first} and {second}")]
    Tie {
        /// One.
        first: Verdict,
        /// The other.
        second: Verdict,
    },
    /// A share that is none.
    #[error("min_share is {found}, expected a number from 0 to 1")]
    MinShare {
        /// Found.
        found: f64,
    },
    /// The question cannot be written.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// An answer cannot be encoded.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The model cannot read the question.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// Asks the model to classify a text as acceptable or as one of three categories.
///
/// Nothing is generated: the log-probabilities of the four permitted answers are compared, so the
/// verdict is deterministic and always one of them. If all four together are less likely than
/// `min_share`, of all that the model could say, there is none: which of four unlikely answers is
/// the likeliest means little. A share of 0.5 asks for a model that gives one of them more often
/// than not, 0 for none.
///
/// The paper names the categories and not the words of its prompt, so its figures (a precision of
/// 99.4 % at a recall of 95.6 %) are not those of the question here, which has not been measured on
/// a trained model. The text may try to talk the model into an answer; a verdict is a help, not a
/// proof.
///
/// The session is reset first.
///
/// # Errors
///
/// - [`ModerationError::MinShare`]: `min_share` is not in 0 to 1.
/// - [`ModerationError::Unreadable`], [`ModerationError::Tie`]: the model gives no verdict.
/// - [`ModerationError::Chat`], [`ModerationError::Tokenizer`]: the text cannot be encoded.
/// - [`ModerationError::Model`]: all of [`Session::prefill`].
///
/// # Cost
///
/// Reading the text and about 150 tokens of instruction; a token more for each piece beyond the
/// first in the vocabulary's spelling of `A` to `D`.
pub fn moderate<M: Borrow<Transformer> + Clone>(
    format: &dyn ChatFormat,
    session: &mut Session<M>,
    subject: Subject<'_>,
    min_share: f64,
) -> Result<Moderation, ModerationError> {
    if !(0.0..=1.0).contains(&min_share) {
        return Err(ModerationError::MinShare { found: min_share });
    }
    let request = ChatRequest::new([Message::user(question(subject))]);
    let prompt = format.prompt(&request)?;
    session.reset()?;
    session.prefill(&prompt.ids)?;
    let mut log_probs = [0.0; 4];
    for (log_prob, verdict) in log_probs.iter_mut().zip(Verdict::ALL) {
        let answer = format.tokenizer().encode_without_bos(verdict.letter())?;
        *log_prob = answer_log_prob(session, &answer)?;
    }
    verdict(log_probs, min_share).map_err(|error| match error {
        ModerationError::Unreadable { share, min_share, .. } => {
            let likeliest = likeliest(format, session.logits());
            ModerationError::Unreadable { share, min_share, likeliest }
        }
        other => other,
    })
}

/// What the model is asked.
fn question(subject: Subject<'_>) -> String {
    let (what, text) = match subject {
        Subject::Prompt(prompt) => ("a user's prompt", format!("Prompt:\n\"{prompt}\"")),
        Subject::Answer { prompt, answer } => (
            "the answer to a user's prompt",
            format!("Prompt:\n\"{prompt}\"\n\nAnswer:\n\"{answer}\""),
        ),
    };
    let mut question = format!("Classify {what} as one of these categories:\n");
    for verdict in Verdict::ALL {
        question.push_str(&format!("{}: {}\n", verdict.letter(), verdict.description()));
    }
    question + &format!("\n{text}\n\nReply with the letter of the category alone: A, B, C or D.")
}

/// `ln p(answer | session)`, leaving the session as it is.
fn answer_log_prob<M: Borrow<Transformer> + Clone>(
    session: &Session<M>,
    answer: &[u32],
) -> Result<f64, ModelError> {
    let Some((first, rest)) = answer.split_first() else { return Ok(f64::NEG_INFINITY) };
    let mut sum = log_prob(session.logits(), *first);
    if !rest.is_empty() {
        let mut fork = session.fork()?;
        let mut before = *first;
        for &token in rest {
            sum += log_prob(fork.decode(before)?, token);
            before = token;
        }
    }
    Ok(sum)
}

/// Logarithm of the softmax at one token, in f64.
fn log_prob(logits: &[f32], token: u32) -> f64 {
    let Some(logit) = logits.get(token as usize) else { return f64::NEG_INFINITY };
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from(l - most).exp()).sum();
    f64::from(logit - most) - sum.ln()
}

/// The piece of the largest logit.
fn likeliest(format: &dyn ChatFormat, logits: &[f32]) -> String {
    let best = logits.iter().zip(0_u32..).max_by(|(a, _), (b, _)| a.total_cmp(b));
    let piece = best.and_then(|(_, id)| format.tokenizer().piece(id));
    piece.unwrap_or_default().to_owned()
}

/// The likeliest verdict, if the model means any.
fn verdict(log_probs: [f64; 4], min_share: f64) -> Result<Moderation, ModerationError> {
    let mut ranked: Vec<_> = Verdict::ALL.into_iter().zip(log_probs).collect();
    ranked.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let moderation = Moderation { verdict: ranked[0].0, log_probs };
    let share = moderation.share();
    if share < min_share || share == 0.0 {
        return Err(ModerationError::Unreadable { share, min_share, likeliest: String::new() });
    }
    let ((first, best), (second, next)) = (ranked[0], ranked[1]);
    if best == next {
        return Err(ModerationError::Tie { first, second });
    }
    Ok(moderation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_permitted_answer_is_the_verdict() {
        for (best, expected) in Verdict::ALL.into_iter().enumerate() {
            let mut log_probs = [0.1_f64.ln(); 4];
            log_probs[best] = 0.6_f64.ln();
            let found = verdict(log_probs, 0.5).unwrap();
            assert_eq!(found.verdict, expected);
            assert!((found.share() - 0.9).abs() < 1e-12);
            assert!((found.probability(expected) - 2.0 / 3.0).abs() < 1e-12);
        }
    }

    #[test]
    fn a_model_that_says_something_else_gives_no_verdict() {
        let log_probs = [0.1_f64, 0.05, 0.02, 0.03].map(f64::ln);
        assert!(verdict(log_probs, 0.19).is_ok());
        let error = verdict(log_probs, 0.21).unwrap_err();
        assert!(matches!(error, ModerationError::Unreadable { .. }), "{error}");
        let none = verdict([f64::NEG_INFINITY; 4], 0.0).unwrap_err();
        assert!(matches!(none, ModerationError::Unreadable { .. }), "{none}");
    }

    #[test]
    fn equally_likely_answers_are_no_verdict() {
        let error = verdict([0.3_f64, 0.1, 0.3, 0.1].map(f64::ln), 0.0).unwrap_err();
        assert!(matches!(
            error,
            ModerationError::Tie { first: Verdict::Acceptable, second: Verdict::HatefulContent }
        ));
    }

    #[test]
    fn the_question_names_all_categories_and_quotes_the_text() {
        let question = question(Subject::Answer { prompt: "ping", answer: "pong" });
        for part in
            ["terrorism, child abuse or fraud", "self-harm", "medical", "\"ping\"", "\"pong\""]
        {
            assert!(question.contains(part), "{part}");
        }
    }
}
