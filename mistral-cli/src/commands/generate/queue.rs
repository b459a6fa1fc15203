//! The lines of a batch that wait to be answered, and the answers that wait to be written.

use std::collections::BTreeMap;

/// Lines go out in order, come back answered in any order, and are taken in order again.
///
/// However long one takes, only so many answers wait behind it: no line goes out that is too far
/// ahead of the first one whose answer was not taken.
#[derive(Debug)]
pub(super) struct Queue<'a> {
    lines: &'a [Vec<u8>],
    /// The next line to go out.
    next: usize,
    /// The next answer to be taken.
    first: usize,
    /// Most lines, from `first` on, that have gone out.
    ahead: usize,
    answers: BTreeMap<usize, String>,
}

impl<'a> Queue<'a> {
    /// Lines of which the first `done` are answered already.
    pub(super) fn new(lines: &'a [Vec<u8>], done: usize, ahead: usize) -> Self {
        Self { lines, next: done, first: done, ahead: ahead.max(1), answers: BTreeMap::new() }
    }

    /// The next line with its index; `None` where all have gone out, or as many as may wait.
    pub(super) fn line(&mut self) -> Option<(usize, &'a [u8])> {
        let index = self.next;
        let line = self.lines.get(index).filter(|_| index - self.first < self.ahead)?;
        self.next += 1;
        Some((index, line))
    }

    /// Keeps the answer to a line until its turn comes.
    pub(super) fn answer(&mut self, index: usize, answer: String) {
        self.answers.insert(index, answer);
    }

    /// The answer to the first line that has none yet, if it is there.
    pub(super) fn take(&mut self) -> Option<String> {
        let answer = self.answers.remove(&self.first)?;
        self.first += 1;
        Some(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(n: usize) -> Vec<Vec<u8>> {
        (0..n).map(|i| i.to_string().into_bytes()).collect()
    }

    #[test]
    fn behind_a_line_that_takes_for_ever_only_so_many_answers_wait() {
        let lines = lines(1000);
        for done in [0, 7] {
            let mut queue = Queue::new(&lines, done, 30);
            let (slow, _) = queue.line().unwrap();
            let mut answered = 0;
            while let Some((index, _)) = queue.line() {
                queue.answer(index, String::new());
                assert_eq!(queue.take(), None);
                answered += 1;
            }
            assert_eq!((slow, answered, queue.answers.len()), (done, 29, 29));
            // It comes to its end, and everything moves on.
            queue.answer(slow, String::new());
            for _ in 0..30 {
                assert!(queue.take().is_some());
            }
            assert_eq!((queue.take(), queue.line().unwrap().0), (None, done + 30));
        }
    }

    #[test]
    fn answers_are_taken_in_the_order_of_the_lines_and_none_is_lost() {
        let lines = lines(50);
        for ahead in [0, 1, 2, 7, 100] {
            let mut queue = Queue::new(&lines, 3, ahead);
            let (mut out, mut taken) = (Vec::new(), Vec::new());
            while taken.len() < 47 {
                out.extend(queue.line());
                // The one that went out last comes back first, as far as that goes.
                if out.len() == 3 || queue.next == 50 || out.len() >= ahead {
                    for (index, line) in out.drain(..).rev() {
                        queue.answer(index, String::from_utf8(line.to_vec()).unwrap());
                    }
                }
                taken.extend(std::iter::from_fn(|| queue.take()));
            }
            let expected: Vec<String> = (3..50).map(|i| i.to_string()).collect();
            assert_eq!(taken, expected, "{ahead}");
        }
    }
}
