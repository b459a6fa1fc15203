//! How long what matches can be: text to look back at must have one length.

/// How many characters a part can match, at least and at most.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Width {
    pub(super) least: u64,
    pub(super) most: u64,
}

impl Width {
    pub(super) const ZERO: Self = Self { least: 0, most: 0 };
    pub(super) const ONE: Self = Self { least: 1, most: 1 };

    pub(super) fn then(self, next: Self) -> Self {
        let most = self.most.saturating_add(next.most);
        Self { least: self.least.saturating_add(next.least), most }
    }

    pub(super) fn or(self, other: Self) -> Self {
        Self { least: self.least.min(other.least), most: self.most.max(other.most) }
    }

    pub(super) fn times(self, least: u64, most: u64) -> Self {
        Self { least: self.least.saturating_mul(least), most: self.most.saturating_mul(most) }
    }
}
