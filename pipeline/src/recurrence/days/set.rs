//! A set of days of one year, as bits.

/// The days of one year, bit 0 being 1 January.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DaySet(pub(super) [u64; 6]);

impl DaySet {
    pub const EMPTY: DaySet = DaySet([0; 6]);

    pub fn all(len: u32) -> Self {
        let mut set = Self::EMPTY;
        set.insert_range(0, i64::from(len));
        set
    }

    pub fn is_empty(&self) -> bool {
        self.0 == [0; 6]
    }

    pub fn insert(&mut self, at: u32) {
        self.0[at as usize / 64] |= 1 << (at % 64);
    }

    pub fn contains(&self, at: u32) -> bool {
        self.0[at as usize / 64] >> (at % 64) & 1 != 0
    }

    /// Adds `from..to`, as far as it lies within a year.
    pub fn insert_range(&mut self, from: i64, to: i64) {
        let (from, to) = (from.clamp(0, 366) as u32, to.clamp(0, 366) as u32);
        for (word, bits) in self.0.iter_mut().enumerate() {
            *bits |= Self::word_of_range(word as u32, from, to);
        }
    }

    /// The bits of `from..to` that fall into a word.
    fn word_of_range(word: u32, from: u32, to: u32) -> u64 {
        let low = from.saturating_sub(word * 64).min(64);
        let high = to.saturating_sub(word * 64).min(64);
        let below = |n: u32| if n == 64 { u64::MAX } else { (1 << n) - 1 };
        below(high) & !below(low)
    }

    /// Adds up to 64 days beginning at `at`.
    pub(super) fn insert_bits(&mut self, at: u32, bits: u64) {
        let (word, shift) = (at as usize / 64, at % 64);
        self.0[word] |= bits << shift;
        if shift != 0 && word + 1 < self.0.len() {
            self.0[word + 1] |= bits >> (64 - shift);
        }
    }

    pub fn intersect(&mut self, other: &DaySet) {
        for (bits, other) in self.0.iter_mut().zip(other.0) {
            *bits &= other;
        }
    }

    /// How many of `from..to` are in the set.
    pub fn count(&self, from: u32, to: u32) -> u32 {
        (from / 64..to.div_ceil(64))
            .map(|word| (self.0[word as usize] & Self::word_of_range(word, from, to)).count_ones())
            .sum()
    }

    /// The first day at or after `from`.
    pub fn first_from(&self, from: u32) -> Option<u32> {
        let mut word = from as usize / 64;
        let mut bits = self.0.get(word)? & (u64::MAX << (from % 64));
        loop {
            if bits != 0 {
                return Some(word as u32 * 64 + bits.trailing_zeros());
            }
            word += 1;
            bits = *self.0.get(word)?;
        }
    }

    /// The first of `from..to` that is in the set and wanted.
    pub(super) fn find(&self, from: u32, to: u32, mut wanted: impl FnMut(u32) -> bool) -> Option<u32> {
        for word in from / 64..to.div_ceil(64) {
            let mut bits = self.0[word as usize] & Self::word_of_range(word, from, to);
            while bits != 0 {
                let at = word * 64 + bits.trailing_zeros();
                if wanted(at) {
                    return Some(at);
                }
                bits &= bits - 1;
            }
        }
        None
    }

    /// The `n`-th day (0-based) at or after `from`.
    pub fn nth_from(&self, from: u32, mut n: u32) -> Option<u32> {
        for word in from / 64..6 {
            let mut bits = self.0[word as usize] & Self::word_of_range(word, from, 366);
            let here = bits.count_ones();
            if n >= here {
                n -= here;
                continue;
            }
            for _ in 0..n {
                bits &= bits - 1;
            }
            return Some(word * 64 + bits.trailing_zeros());
        }
        None
    }
}
