//! How the prompt tokens of a pass are shared among those who read.

/// Shares of a budget, none above what is wanted: equal ones, and what one does not need is the
/// others'. So a short prompt is read soon, however long those beside it are. The first few get
/// what cannot be divided.
///
/// Budget 10 for prompts with 2, 30 and 5 tokens left: 2, 4 and 4.
pub(super) fn shares(budget: usize, wanted: &[usize]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by_key(|index| wanted[*index]);
    let mut shares = vec![0; wanted.len()];
    let mut left = budget;
    for (done, index) in order.into_iter().enumerate() {
        let share = left.div_ceil(wanted.len() - done).min(wanted[index]);
        shares[index] = share;
        left -= share;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::shares;

    #[test]
    fn the_short_are_done_first_and_nothing_is_left_over() {
        assert_eq!(shares(10, &[2, 30, 5]), [2, 4, 4]);
        assert_eq!(shares(10, &[30, 30, 30]), [4, 3, 3]);
        assert_eq!(shares(100, &[2, 30, 5]), [2, 30, 5]);
        assert_eq!(shares(2, &[9, 9, 9]), [1, 1, 0]);
        assert!(shares(7, &[]).is_empty());
        assert_eq!(shares(0, &[3]), [0]);
    }

    #[test]
    fn a_budget_is_never_exceeded_and_used_up_while_anything_is_wanted() {
        for budget in 0..30 {
            for a in 0..8 {
                for b in 0..12 {
                    let wanted = [a, b, 9];
                    let shares = shares(budget, &wanted);
                    assert_eq!(shares.iter().sum::<usize>(), budget.min(a + b + 9));
                    assert!(shares.iter().zip(wanted).all(|(share, wanted)| *share <= wanted));
                }
            }
        }
    }
}
