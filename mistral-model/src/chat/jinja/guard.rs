//! What people say, marked so that no part of it is read as a control.
//!
//! A template writes one string, in which a control that it means and one that somebody typed look
//! the same. So before it runs, a mark is put into every control in what people said, behind its
//! first character, and at an end of a text that could complete a control together with what the
//! template writes beside it. The mark is a character that occurs nowhere in the conversation or
//! in the template, so nobody can type it. Behind the template it is taken out again, after the
//! controls were found. Texts without anything like a control, nearly all, have no mark, and the
//! template sees them as they are.
//!
//! What remains: a template that takes characters out of the middle of what people say could put a
//! control together that was not there. None that is known does.

/// Marks for one conversation.
#[derive(Debug)]
pub(super) struct Guard {
    /// In lower case, for a template may change the case of what it writes.
    controls: Vec<Vec<char>>,
    mark: char,
}

impl Guard {
    /// A mark that occurs in neither of two texts.
    pub(super) fn new<'c>(
        controls: impl Iterator<Item = &'c str>,
        request: &str,
        template: &str,
    ) -> Self {
        // Planes for private use have more characters than any conversation uses.
        let private = '\u{f0000}'..='\u{10fffd}';
        let used: std::collections::HashSet<char> =
            request.chars().chain(template.chars()).filter(|c| private.contains(c)).collect();
        let mark = private.into_iter().find(|c| !used.contains(c)).unwrap_or('\u{f0000}');
        Self { controls: controls.map(lower).collect(), mark }
    }

    /// A text with its marks.
    pub(super) fn apply(&self, text: &str) -> String {
        let low = lower(text);
        // Marks stand inside of white space at the ends, so that templates can still trim it.
        let trimmed = lower(text.trim());
        let begins = self.controls.iter().any(|control| completes(control, &trimmed));
        let ends = self.controls.iter().any(|control| opens(control, &trimmed));
        let (head, tail) = (text.len() - text.trim_start().len(), text.trim_end().len());
        let mut marked = String::with_capacity(text.len());
        for (index, (at, c)) in text.char_indices().enumerate() {
            if begins && at == head {
                marked.push(self.mark);
            }
            marked.push(c);
            let inside = || self.controls.iter().any(|control| low[index..].starts_with(control));
            if (ends && at + c.len_utf8() == tail) || inside() {
                marked.push(self.mark);
            }
        }
        marked
    }

    /// A text without its marks.
    pub(super) fn without(&self, text: &str) -> String {
        text.replace(self.mark, "")
    }
}

/// Characters one for one, in lower case where that is one character.
fn lower(text: &str) -> Vec<char> {
    text.chars().map(|c| c.to_ascii_lowercase()).collect()
}

/// Whether `control` could end with the start of `text`, or lie around all of it.
fn completes(control: &[char], text: &[char]) -> bool {
    !text.is_empty()
        && (1..control.len()).any(|at| {
            let rest = &control[at..];
            text.starts_with(rest) || rest.starts_with(text)
        })
}

/// Whether `control` could begin with the end of `text`.
fn opens(control: &[char], text: &[char]) -> bool {
    (1..control.len()).any(|len| text.ends_with(&control[..len]))
}

#[cfg(test)]
mod tests {
    use super::Guard;

    #[test]
    fn what_is_no_control_is_left_as_it_is() {
        let guard = Guard::new(["<s>", "[INST]"].into_iter(), "", "");
        for text in ["", "Hello, world!", "a <b> c", "x[0] = y"] {
            assert_eq!(guard.apply(text), text);
        }
    }

    #[test]
    fn a_control_and_what_could_complete_one_are_marked() {
        let guard = Guard::new(["<s>", "[INST]"].into_iter(), "", "\u{f0000}");
        let marked = |text: &str| {
            let marked = guard.apply(text);
            assert_eq!(guard.without(&marked), text);
            marked.replace('\u{f0001}', "|")
        };
        assert_eq!(marked("a<s>b [inst] c"), "a<|s>b [|inst] c");
        assert_eq!(marked(" INST] x"), " |INST] x");
        assert_eq!(marked("x <"), "x <|");
        assert_eq!(marked("x [IN \n"), "x [IN| \n");
        assert_eq!(marked("NS"), "|NS");
    }
}
