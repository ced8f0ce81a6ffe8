//! A set of slots that may be tiny: most words of a vocabulary stand in few tasks, and a bitmap for each would cost
//! more than the tasks.

use std::borrow::Cow;

use roaring::{MultiOps, RoaringBitmap};

/// Up to this many slots are a plain sorted list.
const FEW: usize = 48;

/// A set of slots.
#[derive(Clone, Debug)]
pub(super) enum Posting {
    One(u32),
    Few(Vec<u32>),
    Many(Box<RoaringBitmap>),
}

impl Default for Posting {
    fn default() -> Self {
        Posting::Few(Vec::new())
    }
}

impl Posting {
    pub(super) fn len(&self) -> u64 {
        match self {
            Posting::One(_) => 1,
            Posting::Few(slots) => slots.len() as u64,
            Posting::Many(bitmap) => bitmap.len(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Posting::Few(slots) if slots.is_empty())
    }

    pub(super) fn contains(&self, slot: u32) -> bool {
        match self {
            Posting::One(only) => *only == slot,
            Posting::Few(slots) => slots.binary_search(&slot).is_ok(),
            Posting::Many(bitmap) => bitmap.contains(slot),
        }
    }

    pub(super) fn insert(&mut self, slot: u32) {
        match self {
            Posting::One(only) if *only == slot => {}
            Posting::One(only) => *self = Posting::Few(vec![slot.min(*only), slot.max(*only)]),
            Posting::Few(slots) if slots.is_empty() => *self = Posting::One(slot),
            Posting::Few(slots) => {
                if let Err(at) = slots.binary_search(&slot) {
                    if slots.len() < FEW {
                        slots.insert(at, slot);
                    } else {
                        let mut bitmap: RoaringBitmap = slots.iter().copied().collect();
                        bitmap.insert(slot);
                        *self = Posting::Many(Box::new(bitmap));
                    }
                }
            }
            Posting::Many(bitmap) => {
                bitmap.insert(slot);
            }
        }
    }

    pub(super) fn remove(&mut self, slot: u32) {
        match self {
            Posting::One(only) if *only == slot => *self = Posting::default(),
            Posting::One(_) => {}
            Posting::Few(slots) => {
                if let Ok(at) = slots.binary_search(&slot) {
                    slots.remove(at);
                }
                if let [only] = slots[..] {
                    *self = Posting::One(only);
                }
            }
            Posting::Many(bitmap) => {
                bitmap.remove(slot);
                // Well below the other bound, so that a set at the border does not change its form each time.
                if bitmap.len() as usize <= FEW / 2 {
                    *self = Posting::Few(bitmap.iter().collect());
                }
            }
        }
    }

    /// Adds slots that are greater than all that are there, in ascending order.
    pub(super) fn append(&mut self, more: &[u32]) {
        if self.len() as usize + more.len() <= FEW {
            more.iter().for_each(|slot| self.insert(*slot));
            return;
        }
        if let Posting::Many(bitmap) = self {
            let fits = bitmap.append(more.iter().copied());
            debug_assert!(fits.is_ok());
            return;
        }
        let bitmap = bitmap_of(self.iter().chain(more.iter().copied()));
        *self = Posting::Many(Box::new(bitmap));
    }

    /// The set of slots given in ascending order.
    pub(super) fn from_sorted(slots: Vec<u32>) -> Self {
        match slots[..] {
            [only] => Posting::One(only),
            _ if slots.len() <= FEW => Posting::Few(slots),
            _ => Posting::Many(Box::new(bitmap_of(slots))),
        }
    }

    /// The set as a bitmap.
    pub(super) fn bitmap(&self) -> Cow<'_, RoaringBitmap> {
        match self {
            Posting::Many(bitmap) => Cow::Borrowed(bitmap),
            few => Cow::Owned(bitmap_of(few.iter())),
        }
    }

    pub(super) fn iter(&self) -> Box<dyn Iterator<Item = u32> + '_> {
        match self {
            Posting::One(only) => Box::new(std::iter::once(*only)),
            Posting::Few(slots) => Box::new(slots.iter().copied()),
            Posting::Many(bitmap) => Box::new(bitmap.iter()),
        }
    }
}

/// The bitmap of slots in ascending order.
pub(super) fn bitmap_of(slots: impl IntoIterator<Item = u32>) -> RoaringBitmap {
    RoaringBitmap::from_sorted_iter(slots).expect("slots come in ascending order")
}

/// The slots that stand in any of `postings`.
pub(super) fn union<'a>(postings: impl IntoIterator<Item = &'a Posting>) -> RoaringBitmap {
    let mut loose = Vec::new();
    let mut bitmaps = Vec::new();
    for posting in postings {
        match posting {
            Posting::One(only) => loose.push(*only),
            Posting::Few(slots) => loose.extend_from_slice(slots),
            Posting::Many(bitmap) => bitmaps.push(&**bitmap),
        }
    }
    loose.sort_unstable();
    loose.dedup();
    let loose = bitmap_of(loose);
    match bitmaps[..] {
        [] => loose,
        [only] if loose.is_empty() => only.clone(),
        _ => bitmaps.union() | loose,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn behaves_as_a_set_through_all_its_forms() {
        let mut random = rand::rngs::StdRng::seed_from_u64(7);
        for most in [2, 30, 200] {
            let (mut posting, mut set) = (Posting::default(), BTreeSet::new());
            for _ in 0..2000 {
                let slot = random.random_range(0..most) * 3;
                if random.random_bool(0.5) {
                    posting.insert(slot);
                    set.insert(slot);
                } else {
                    posting.remove(slot);
                    set.remove(&slot);
                }
                assert!(posting.iter().eq(set.iter().copied()));
                assert_eq!((posting.len(), posting.is_empty()), (set.len() as u64, set.is_empty()));
                assert_eq!(posting.contains(3), set.contains(&3));
            }
            let more: Vec<u32> = (1000..1000 + most * 2).collect();
            posting.append(&more);
            set.extend(more);
            assert!(posting.iter().eq(set.iter().copied()));
            let other = Posting::One(999);
            assert!(union([&posting, &other]).iter().eq(set.iter().copied().chain([999]).collect::<BTreeSet<_>>()));
        }
    }
}
