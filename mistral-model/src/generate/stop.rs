//! Stop strings: text ends before the first of them, and no part of it is ever shown.
//!
//! A stop string arrives in pieces. With the stop string `"\n\nUser"` and the pieces `"Hi.\n"`,
//! `"\nUs"`, `"er: "`, the text to show is `"Hi."`, then nothing, then nothing and the end: what
//! could still become the stop string is held back. Had the second piece been `"\nYou"`, it would
//! come out as `"\n\nYou"`.

use super::error::StopError;

/// Watches text for the first of several stop strings.
///
/// The stop string that counts is the one that is complete first; of several complete at the same
/// character, the longest. So the outcome does not depend on how the text is cut into pieces, and
/// nothing is held back longer than it must be.
///
/// ```
/// use mistral_model::generate::StopStrings;
///
/// let mut stops = StopStrings::new(["</tale>", "###"])?;
/// assert_eq!(stops.push("The end. #"), "The end. ");
/// assert_eq!(stops.push("1 <"), "#1 ");
/// assert_eq!(stops.push("/tale> and more"), "");
/// assert_eq!(stops.stopped(), Some("</tale>"));
/// # Ok::<(), mistral_model::generate::StopError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct StopStrings {
    patterns: Vec<Pattern>,
    /// Text shown by the last call (`shown` bytes), then text held back.
    buffer: String,
    shown: usize,
    stopped: Option<usize>,
}

impl StopStrings {
    /// Stop strings in any order; none at all lets every text pass.
    ///
    /// # Errors
    ///
    /// [`StopError::Empty`]: one of them is the empty string.
    pub fn new<S: Into<String>>(stops: impl IntoIterator<Item = S>) -> Result<Self, StopError> {
        let patterns = stops
            .into_iter()
            .enumerate()
            .map(|(index, stop)| Pattern::new(stop.into()).ok_or(StopError::Empty { index }))
            .collect::<Result<_, _>>()?;
        Ok(Self { patterns, ..Self::default() })
    }

    /// Adds text and returns what may be shown now. After a stop string that is always nothing.
    ///
    /// # Cost
    ///
    /// A few operations for each byte and stop string; no allocation once the buffer has grown to
    /// the longest piece and stop string.
    pub fn push(&mut self, text: &str) -> &str {
        self.buffer.drain(..self.shown);
        self.shown = 0;
        if self.stopped.is_some() {
            return "";
        }
        let held = self.buffer.len();
        self.buffer.push_str(text);
        for (offset, byte) in text.bytes().enumerate() {
            if let Some(index) = self.advance(byte) {
                let end = held + offset + 1;
                self.shown = end - self.patterns[index].text.len();
                self.buffer.truncate(self.shown);
                self.stopped = Some(index);
                return &self.buffer;
            }
        }
        let begun = self.patterns.iter().map(|p| p.matched).max().unwrap_or(0);
        self.shown = self.buffer.len() - begun;
        &self.buffer[..self.shown]
    }

    /// No text follows: returns what is still held back, as no stop string can come of it.
    pub fn finish(&mut self) -> &str {
        self.buffer.drain(..self.shown);
        self.shown = self.buffer.len();
        self.patterns.iter_mut().for_each(|p| p.matched = 0);
        &self.buffer
    }

    /// The stop string that ended the text, if one did.
    pub fn stopped(&self) -> Option<&str> {
        self.stopped.map(|index| self.patterns[index].text.as_str())
    }

    /// Feeds one byte to all patterns; the index of the longest that is complete with it.
    fn advance(&mut self, byte: u8) -> Option<usize> {
        let mut complete: Option<(usize, usize)> = None;
        for (index, pattern) in self.patterns.iter_mut().enumerate() {
            let len = pattern.text.len();
            if pattern.advance(byte) && complete.is_none_or(|(_, longest)| len > longest) {
                complete = Some((index, len));
            }
        }
        complete.map(|(index, _)| index)
    }
}

/// One stop string, matched by the algorithm of Knuth, Morris and Pratt (SIAM J. Comput. 6, 1977).
///
/// Bytes are enough: in UTF-8 no character's bytes lie inside those of others.
#[derive(Debug, Clone)]
struct Pattern {
    text: String,
    /// `borders[n]`: length of the longest proper prefix of `text[..=n]` that is also its suffix.
    borders: Vec<usize>,
    /// Length of the longest prefix of `text` that the text so far ends with.
    matched: usize,
}

impl Pattern {
    /// `None` for the empty string.
    fn new(text: String) -> Option<Self> {
        if text.is_empty() {
            return None;
        }
        let bytes = text.as_bytes();
        let mut borders = vec![0; bytes.len()];
        for end in 1..bytes.len() {
            borders[end] = extend(bytes, &borders, borders[end - 1], bytes[end]);
        }
        Some(Self { text, borders, matched: 0 })
    }

    /// Whether the text so far ends with the whole pattern once `byte` is added.
    fn advance(&mut self, byte: u8) -> bool {
        self.matched = extend(self.text.as_bytes(), &self.borders, self.matched, byte);
        self.matched == self.text.len()
    }
}

/// The longest prefix of `pattern` that a text ends with after `byte`, if it ended with the first
/// `matched` bytes before it.
fn extend(pattern: &[u8], borders: &[usize], mut matched: usize, byte: u8) -> usize {
    loop {
        if pattern.get(matched) == Some(&byte) {
            return matched + 1;
        }
        match matched.checked_sub(1) {
            Some(last) => matched = borders[last],
            None => return 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_begun_stop_string_is_held_back_and_let_go() {
        let mut stops = StopStrings::new(["\n\nUser"]).unwrap();
        assert_eq!(stops.push("Hi.\n"), "Hi.");
        assert_eq!(stops.push("\nYou"), "\n\nYou");
        assert_eq!(stops.push("\n\nUs"), "");
        assert_eq!(stops.push("er: "), "");
        assert_eq!(stops.stopped(), Some("\n\nUser"));
        assert_eq!(stops.push("never shown"), "");
        assert_eq!(stops.finish(), "");
    }

    #[test]
    fn the_first_to_be_complete_counts_and_of_several_the_longest() {
        let mut stops = StopStrings::new(["abcd", "bc"]).unwrap();
        assert_eq!(stops.push("xabcd"), "xa");
        assert_eq!(stops.stopped(), Some("bc"));
        let mut stops = StopStrings::new(["c", "abc", "bc"]).unwrap();
        assert_eq!(stops.push("xabcd"), "x");
        assert_eq!(stops.stopped(), Some("abc"));
    }

    #[test]
    fn a_stop_string_that_overlaps_itself_is_found() {
        let mut stops = StopStrings::new(["aab"]).unwrap();
        assert_eq!(stops.push("a"), "");
        assert_eq!(stops.push("a"), "");
        assert_eq!(stops.push("a"), "a");
        assert_eq!(stops.push("b"), "");
        assert_eq!(stops.stopped(), Some("aab"));
    }

    #[test]
    fn what_was_held_back_comes_out_at_the_end() {
        let mut stops = StopStrings::new(["é\u{1F600}"]).unwrap();
        assert_eq!(stops.push("caf\u{e9}"), "caf");
        assert_eq!(stops.finish(), "é");
        assert_eq!(stops.finish(), "");
        assert_eq!(stops.stopped(), None);
    }

    #[test]
    fn an_empty_stop_string_is_refused_by_its_place() {
        let error = StopStrings::new(["a", ""]).unwrap_err();
        assert_eq!(error, StopError::Empty { index: 1 });
    }
}
