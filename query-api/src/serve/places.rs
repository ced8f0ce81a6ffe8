//! Places for connections: how many there may be, and who has to go when one more comes.
//!
//! Descriptors are few, and a client that opens connections and says nothing costs itself nothing. So the number of
//! connections is bounded below the limit of descriptors. When all places are taken, the connection goes that has kept us
//! waiting longest, between two requests, for a head or for a body; of whom has the most of them. A connection that is
//! being answered is never closed for another one. One address has at most three quarters of the places.
//!
//! A few places are kept for those who ask how we are: a connection that finds nothing else free gets one, and health is
//! all that it is told.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio_util::sync::CancellationToken;

/// Places that are kept for health.
const KEPT: usize = 16;

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
enum Phase {
    /// The client has to send a request, or the rest of its head.
    Head = 0,
    /// The client has to send the rest of a body.
    Body = 1,
    /// We have to answer.
    Answer = 2,
    /// It had to go.
    Gone = 3,
}

/// All places of a listener.
pub(super) struct Places {
    began: Instant,
    max: usize,
    /// Most places of one address.
    share: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    next: u64,
    seats: BTreeMap<u64, Arc<Seat>>,
    /// Connections of each address, those in kept places left out.
    of: HashMap<IpAddr, usize>,
    /// How many are in kept places.
    kept: usize,
}

/// The place of one connection.
#[derive(Debug)]
pub(super) struct Seat {
    number: u64,
    pub(super) peer: IpAddr,
    /// Whether health is all that is told here.
    pub(super) kept: bool,
    began: Instant,
    /// Phase in the two lowest bits, above them the milliseconds at which it began or last went on.
    phase: AtomicU64,
    /// Whether it has to go.
    pub(super) gone: CancellationToken,
}

/// Holds a place until it is dropped.
pub(super) struct Hold {
    places: Arc<Places>,
    pub(super) seat: Arc<Seat>,
}

impl Places {
    pub(super) fn new(max: usize) -> Arc<Places> {
        let share = (max - max / 4).max(1);
        Arc::new(Places { began: Instant::now(), max, share, taken: Mutex::default() })
    }

    /// A place for a connection from `peer`; `None` when it has to be closed.
    pub(super) fn take(self: &Arc<Self>, peer: IpAddr) -> Option<Hold> {
        let peer = network(peer);
        let mut taken = self.taken();
        let own = taken.of.get(&peer).copied().unwrap_or_default();
        let mut free = own < self.share && taken.seats.len() - taken.kept < self.max;
        if !free {
            // Many at once, since looking for them costs as much as there are.
            let wanted = (self.max / 64).clamp(1, 64);
            free = match own < self.share {
                true => taken.give_up(wanted, |number| number >= own.max(1)),
                false => taken.give_up_of(peer, wanted),
            };
        }
        if !free && taken.kept >= KEPT && !taken.give_up_kept() {
            return None;
        }
        Some(self.seat(&mut taken, peer, !free))
    }

    fn seat(self: &Arc<Self>, taken: &mut Taken, peer: IpAddr, kept: bool) -> Hold {
        let number = taken.next;
        taken.next += 1;
        let phase = AtomicU64::new(Seat::word(self.began, Phase::Head));
        let seat = Seat { number, peer, kept, began: self.began, phase, gone: CancellationToken::new() };
        let seat = Arc::new(seat);
        match kept {
            true => taken.kept += 1,
            false => *taken.of.entry(peer).or_default() += 1,
        }
        taken.seats.insert(number, seat.clone());
        Hold { places: self.clone(), seat }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// Closes up to `wanted` connections that keep us waiting, of the address with the most of all that has such, where
    /// that number is `enough`.
    fn give_up(&mut self, wanted: usize, enough: impl Fn(usize) -> bool) -> bool {
        let waiting = self.seats.values().filter(|seat| !seat.kept && seat.waits().is_some());
        let most = waiting.map(|seat| (self.of.get(&seat.peer).copied().unwrap_or_default(), seat.peer)).max();
        match most {
            Some((number, peer)) if enough(number) => self.give_up_of(peer, wanted),
            _ => false,
        }
    }

    /// The same, of one address.
    fn give_up_of(&mut self, peer: IpAddr, wanted: usize) -> bool {
        let of = |seat: &&Arc<Seat>| !seat.kept && seat.peer == peer;
        let mut waiting: Vec<(u64, u64)> =
            self.seats.values().filter(of).filter_map(|seat| Some((seat.waits()?, seat.number))).collect();
        waiting.sort_unstable();
        let mut found = false;
        for (_, number) in waiting.into_iter().take(wanted) {
            found |= self.send_away(number);
        }
        found
    }

    fn give_up_kept(&mut self) -> bool {
        let waiting =
            self.seats.values().filter(|seat| seat.kept).filter_map(|seat| Some((seat.waits()?, seat.number)));
        waiting.min().is_some_and(|(_, number)| self.send_away(number))
    }

    /// Has a connection closed, unless it has just begun to be answered.
    fn send_away(&mut self, number: u64) -> bool {
        let sent = self.seats.get(&number).is_some_and(|seat| seat.go());
        if sent {
            self.remove(number);
        }
        sent
    }

    fn remove(&mut self, number: u64) {
        let Some(seat) = self.seats.remove(&number) else { return };
        if seat.kept {
            self.kept -= 1;
        } else if let Some(own) = self.of.get_mut(&seat.peer) {
            *own -= 1;
            if *own == 0 {
                self.of.remove(&seat.peer);
            }
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.places.taken().remove(self.seat.number);
    }
}

impl Seat {
    fn word(began: Instant, phase: Phase) -> u64 {
        (began.elapsed().as_millis() as u64) << 2 | phase as u64
    }

    fn is_in(word: u64, phase: Phase) -> bool {
        word & 3 == phase as u64
    }

    /// Since when it keeps us waiting; `None` where it does not.
    fn waits(&self) -> Option<u64> {
        let word = self.phase.load(Ordering::Acquire);
        (Seat::is_in(word, Phase::Head) || Seat::is_in(word, Phase::Body)).then_some(word >> 2)
    }

    /// Whether the client has to send something.
    pub(super) fn is_waiting(&self) -> bool {
        self.waits().is_some()
    }

    fn turn(&self, phase: Phase) {
        let new = Seat::word(self.began, phase);
        let stays = |word| (!Seat::is_in(word, Phase::Gone)).then_some(new);
        // Where it has to go already, that stays so.
        let _ = self.phase.fetch_update(Ordering::AcqRel, Ordering::Acquire, stays);
    }

    /// A request, or a whole body, is there: we have to answer.
    pub(super) fn answering(&self) {
        self.turn(Phase::Answer);
    }

    /// The answer is given; the next request may come.
    pub(super) fn answered(&self) {
        self.turn(Phase::Head);
    }

    /// The client has to go on with a body.
    pub(super) fn reading(&self) {
        self.turn(Phase::Body);
    }

    fn go(&self) -> bool {
        let gone = Seat::word(self.began, Phase::Gone);
        let waits = |word| (Seat::is_in(word, Phase::Head) || Seat::is_in(word, Phase::Body)).then_some(gone);
        let goes = self.phase.fetch_update(Ordering::AcqRel, Ordering::Acquire, waits).is_ok();
        if goes {
            self.gone.cancel();
        }
        goes
    }
}

/// Whom an address counts for: with IPv6 everybody has as many addresses as he likes.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, number])
    }

    /// Takes places, each later than the one before.
    fn take(places: &Arc<Places>, from: IpAddr, number: usize) -> Vec<Option<Hold>> {
        (0..number).map(|_| places.take(from)).collect()
    }

    fn gone(holds: &[Option<Hold>]) -> usize {
        holds.iter().flatten().filter(|hold| hold.seat.gone.is_cancelled()).count()
    }

    #[test]
    fn who_keeps_us_waiting_makes_room_and_who_has_the_most_first() {
        let places = Places::new(100);
        let many = take(&places, peer(1), 74);
        let few = take(&places, peer(2), 26);
        assert_eq!((gone(&many), gone(&few)), (0, 0));
        let one = places.take(peer(3)).unwrap();
        assert_eq!((gone(&many), gone(&few)), (1, 0));
        assert!(many[0].as_ref().unwrap().seat.gone.is_cancelled(), "the one that waits longest");
        assert!(!one.seat.kept);
    }

    #[test]
    fn one_address_has_at_most_its_share() {
        let places = Places::new(100);
        let many = take(&places, peer(1), 500);
        assert_eq!(many.iter().flatten().filter(|hold| !hold.seat.gone.is_cancelled()).count(), 75);
        let others = take(&places, peer(2), 25);
        assert_eq!(gone(&others), 0);
        assert!(others.iter().flatten().all(|hold| !hold.seat.kept));
    }

    #[test]
    fn what_is_being_answered_stays_and_health_has_a_place() {
        let places = Places::new(100);
        let busy: Vec<_> = (1..=4).flat_map(|from| take(&places, peer(from), 25)).flatten().collect();
        busy.iter().for_each(|hold| hold.seat.answering());
        let kept = take(&places, peer(9), KEPT);
        assert!(kept.iter().flatten().count() == KEPT && kept.iter().flatten().all(|hold| hold.seat.kept));
        assert!(busy.iter().all(|hold| !hold.seat.gone.is_cancelled()));
        // One more probe: the one that said nothing goes.
        let probe = places.take(peer(9)).unwrap();
        assert!(probe.seat.kept);
        assert_eq!(gone(&kept), 1);
        kept.iter().flatten().for_each(|hold| hold.seat.answering());
        probe.seat.answering();
        assert!(places.take(peer(9)).is_none());
        drop(probe);
        assert!(places.take(peer(9)).is_some());
        busy[7].seat.answered();
        assert!(!places.take(peer(9)).unwrap().seat.kept);
        assert!(busy[7].seat.gone.is_cancelled());
    }

    #[test]
    fn places_come_back() {
        let places = Places::new(10);
        for round in 0..100 {
            let held = take(&places, peer(round), 7);
            assert_eq!((held.iter().flatten().count(), gone(&held)), (7, 0), "{round}");
        }
        let taken = places.taken();
        assert_eq!((taken.seats.len(), taken.of.len(), taken.kept), (0, 0, 0));
    }

    #[test]
    fn addresses_of_one_network_are_one() {
        let text = |text: &str| network(text.parse().unwrap());
        assert_eq!(text("2001:db8::1"), text("2001:db8::ffff:1"));
        assert_ne!(text("2001:db8::1"), text("2001:db8:0:1::1"));
        assert_eq!(text("::ffff:10.0.0.1"), peer(1));
    }
}
