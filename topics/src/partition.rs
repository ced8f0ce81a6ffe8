//! Which partition a key belongs to, as Kafka's default partitioner decides it (murmur2), so that records keep their
//! partition when they move between the embedded log and a broker.

/// The partition of `key` among `partitions`; records without a key go to partition 0.
pub fn partition_of(key: Option<&[u8]>, partitions: i32) -> i32 {
    match key {
        Some(key) => (murmur2(key) & 0x7fff_ffff) as i32 % partitions.max(1),
        None => 0,
    }
}

/// MurmurHash2 with Kafka's seed, over little-endian words.
fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    let mut hash = SEED ^ data.len() as u32;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (i, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * i);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(key: &str, hash: i32) {
        assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
    }

    /// The vectors of Kafka's own `UtilsTest`.
    #[test]
    fn agrees_with_kafka() {
        check("21", -973_932_308);
        check("foobar", -790_332_482);
        check("a-little-bit-long-string", -985_981_536);
        check("a-little-bit-longer-string", -1_486_304_829);
        check("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971);
        check("abc", 479_470_107);
    }

    #[test]
    fn partitions_are_in_range_and_no_key_is_partition_0() {
        assert_eq!(partition_of(None, 12), 0);
        assert_eq!(partition_of(Some(b"foobar"), 1), 0);
        for n in 0..1000 {
            let partition = partition_of(Some(format!("key-{n}").as_bytes()), 12);
            assert!((0..12).contains(&partition));
        }
        assert_eq!(partition_of(Some(b"foobar"), 12), ((-790_332_482i32) & 0x7fff_ffff) % 12);
    }
}
