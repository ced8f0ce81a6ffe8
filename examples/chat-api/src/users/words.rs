//! What simulated users write: people, errands, tags.

use rand::Rng;
use rand::seq::IndexedRandom;

use crate::task::Priority::{self, High, Low, Medium, None as Whenever};

/// First names; a user's id is one of them, with a number once they are used up.
const NAMES: [&str; 16] = [
    "ann", "ben", "chidi", "dora", "emre", "farah", "goran", "hana", "ivo", "june", "kofi", "lena", "mateo", "nils",
    "oona", "priya",
];

/// Where they live; every user stays in one zone.
const ZONES: [&str; 7] = [
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",
    "Europe/London",
    "America/Sao_Paulo",
    "Asia/Tokyo",
    "Pacific/Auckland",
];

/// A kind of thing to do: how it is called, how it is tagged, how urgent it usually is.
#[derive(Clone, Copy)]
pub(super) struct Errand {
    title: &'static str,
    pub(super) tags: &'static [&'static str],
    pub(super) priority: Priority,
}

const fn errand(title: &'static str, tags: &'static [&'static str], priority: Priority) -> Errand {
    Errand { title, tags, priority }
}

/// `{person}` and `{thing}` are filled in.
const ERRANDS: [Errand; 36] = [
    errand("Water the plants", &["home"], Low),
    errand("Fix the dripping tap", &["home", "repair"], Medium),
    errand("Descale the kettle", &["home"], Whenever),
    errand("Sort the {thing} in the attic", &["home"], Whenever),
    errand("Change the bed linen", &["home"], Low),
    errand("Buy oat milk and bread", &["errands", "groceries"], Medium),
    errand("Pick up the parcel", &["errands"], Medium),
    errand("Return the {thing} to {person}", &["errands"], Low),
    errand("Take the bike to the workshop", &["errands", "repair"], Medium),
    errand("Send the weekly report", &["work"], High),
    errand("Review {person}'s draft on {thing}", &["work", "review"], High),
    errand("Prepare slides about {thing}", &["work"], High),
    errand("Answer {person} about the {thing}", &["work"], Medium),
    errand("Plan the sprint with {person}", &["work", "planning"], Medium),
    errand("Clear the inbox", &["work"], Whenever),
    errand("Renew the certificate for the {thing}", &["work", "ops"], High),
    errand("Pay the electricity bill", &["money"], High),
    errand("File receipts for {thing}", &["money", "paperwork"], Medium),
    errand("Compare offers for {thing}", &["money"], Low),
    errand("Send the tax documents to {person}", &["money", "paperwork"], High),
    errand("Book a check-up at the dentist", &["health"], Medium),
    errand("Run five kilometres", &["health", "sport"], Low),
    errand("Refill the prescription", &["health"], High),
    errand("Sign up for swimming with {person}", &["health", "sport"], Whenever),
    errand("Call {person}", &["family"], Medium),
    errand("Find a present for {person}", &["family", "birthday"], Medium),
    errand("Help {person} with the {thing}", &["family"], Low),
    errand("Print the holiday photos", &["family"], Whenever),
    errand("Learn ten words of Finnish", &["study"], Low),
    errand("Read the chapter on {thing}", &["study", "reading"], Medium),
    errand("Write to {person} about the course", &["study"], Low),
    errand("Book the train to {person}", &["travel"], High),
    errand("Check the passport's date", &["travel", "paperwork"], High),
    errand("Pack the {thing}", &["travel"], Medium),
    errand("Try the recipe from {person}", &["cooking"], Whenever),
    errand("Order seeds for the balcony", &["home", "garden"], Low),
];

const PEOPLE: [&str; 14] = [
    "Mina",
    "Grandpa",
    "Tomás",
    "the landlord",
    "Aunt Rosa",
    "Yusuf",
    "Dr. Weiß",
    "the neighbours",
    "Sam",
    "Noor",
    "Björn",
    "Mr. Okafor",
    "Léa",
    "the team",
];

const THINGS: [&str; 14] = [
    "tent",
    "budget",
    "old radio",
    "garden chairs",
    "database",
    "insurance",
    "piano",
    "boxes",
    "camera",
    "quarterly numbers",
    "bread oven",
    "telescope",
    "server room",
    "bookshelf",
];

/// Small things done again every minute or so, so that a series is seen moving.
const BREAKS: [&str; 8] = [
    "Sip some water",
    "Look out of the window",
    "Stretch for a moment",
    "Check the oven",
    "Sit up straight",
    "Stir the soup",
    "Save the document",
    "Breathe in, breathe out",
];

/// Duties that come back: what, by which rule, under which tag.
const ROUTINES: [(&str, &str, &str); 12] = [
    ("Daily stand-up", "FREQ=WEEKLY;BYDAY=MO,TU,WE,TH,FR", "work"),
    ("Take the vitamins", "FREQ=DAILY", "health"),
    ("Put the bins out", "FREQ=WEEKLY;BYDAY=TH", "home"),
    ("Pay the rent", "FREQ=MONTHLY;BYMONTHDAY=1", "money"),
    ("Back up the laptop", "FREQ=WEEKLY;BYDAY=SU", "home"),
    ("Month-end figures", "FREQ=MONTHLY;BYDAY=-1FR", "work"),
    ("Choir practice", "FREQ=WEEKLY;BYDAY=WE;COUNT=12", "music"),
    ("Water the ficus", "FREQ=DAILY;INTERVAL=3", "home"),
    ("Team retrospective", "FREQ=WEEKLY;INTERVAL=2;BYDAY=FR", "work"),
    ("Renew the library books", "FREQ=MONTHLY;BYMONTHDAY=28,29,30,31;BYSETPOS=-1", "reading"),
    ("Yoga", "FREQ=WEEKLY;BYDAY=TU,SA", "sport"),
    ("Anniversary dinner", "FREQ=YEARLY", "family"),
];

const NOTES: [&str; 8] = [
    "Ask first whether it is still wanted.",
    "The key is with the neighbours.",
    "Needs about half an hour.",
    "See the note from last time.\nTwo points were left open.",
    "Only on a dry day.",
    "Cheaper before noon – they close at 18:00.",
    "Number 4711, second shelf.",
    "Bring a bag.",
];

pub(super) fn user_id(index: usize) -> String {
    let name = NAMES[index % NAMES.len()];
    match index / NAMES.len() {
        0 => name.to_owned(),
        round => format!("{name}-{}", round + 1),
    }
}

pub(super) fn zone(index: usize) -> &'static str {
    ZONES[index % ZONES.len()]
}

pub(super) fn any_errand(rng: &mut impl Rng) -> Errand {
    any(&ERRANDS, rng)
}

impl Errand {
    pub(super) fn title(&self, rng: &mut impl Rng) -> String {
        self.title.replace("{person}", any(&PEOPLE, rng)).replace("{thing}", any(&THINGS, rng))
    }
}

pub(super) fn any_break(rng: &mut impl Rng) -> &'static str {
    any(&BREAKS, rng)
}

pub(super) fn any_routine(rng: &mut impl Rng) -> (&'static str, &'static str, &'static str) {
    any(&ROUTINES, rng)
}

pub(super) fn any_note(rng: &mut impl Rng) -> &'static str {
    any(&NOTES, rng)
}

fn any<T: Copy>(list: &[T], rng: &mut impl Rng) -> T {
    *list.choose(rng).expect("no word list is empty")
}
