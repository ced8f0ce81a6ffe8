//! Words for titles, descriptions and tags: made up, as unevenly frequent as those of a language.

/// Different words.
const WORDS: u64 = 20_000;
/// Different tags.
const TAGS: u64 = 300;
const SYLLABLES: [&str; 32] = [
    "ka", "ber", "mo", "tin", "le", "sor", "va", "rin", "do", "mel", "sa", "ter", "ni", "gon", "pe", "lar", "hu",
    "bes", "ro", "dan", "fi", "cor", "ma", "len", "tu", "ves", "ga", "nor", "ze", "lin", "wo", "ster",
];

/// A small generator for what follows from one number: texts are kept as their seed.
#[derive(Clone, Copy, Debug)]
pub struct Draw(u64);

impl Draw {
    /// The draws that follow from `seed`.
    pub fn new(seed: u64) -> Draw {
        Draw(seed)
    }

    /// The next number (SplitMix64).
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    /// True `percent` times of a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// A rank below `end`, the first ones far more often (Zipf).
    fn rank(&mut self, end: u64) -> u64 {
        let unit = self.next() as f64 / u64::MAX as f64;
        (((end as f64).ln() * unit).exp() as u64 - 1).min(end - 1)
    }
}

/// The word of a rank.
fn push_word(rank: u64, to: &mut String) {
    // Spread over the syllables, so that frequent words do not all begin alike.
    let mut left = rank.wrapping_mul(7919) % 32_768 + 32 * (rank / 32_768);
    for _ in 0..3 {
        to.push_str(SYLLABLES[(left % 32) as usize]);
        left /= 32;
    }
    // Some words are not ASCII, so one text in five is not.
    if rank % 37 == 11 {
        to.push('é');
    }
}

/// `count` words, separated by spaces.
pub fn push_text(draw: &mut Draw, count: u64, to: &mut String) {
    for word in 0..count {
        if word > 0 {
            to.push(' ');
        }
        push_word(draw.rank(WORDS), to);
    }
}

/// One word, as a searcher would type it.
pub fn word(draw: &mut Draw) -> String {
    let mut word = String::new();
    push_word(draw.rank(WORDS), &mut word);
    word
}

/// A tag.
pub fn tag(draw: &mut Draw) -> String {
    let mut tag = String::new();
    push_word(WORDS + draw.rank(TAGS), &mut tag);
    tag
}
