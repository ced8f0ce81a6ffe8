//! Series fields and the view of occurrences (§6, §13).

use expect_test::expect;

use super::script::check;

#[test]
fn a_first_task_is_counted_from_its_first_due() {
    check(
        r#"
        at 2026-03-01T08:00:00Z
        > created 1 due=2026-03-02T09:00:00Z rule=FREQ=WEEKLY;COUNT=4
        show task 1
        show occurrences
        # Moved by hand: phase and wall time stay, the ordinal follows.
        > updated 1 due=2026-03-10T12:00:00Z rule=FREQ=WEEKLY;COUNT=4
        show task 1
        show occurrences
        > updated 1 due=2026-03-30T12:00:00Z rule=FREQ=WEEKLY;COUNT=4
        show occurrences
        > deleted 1
        show occurrences
        "#,
        expect![[""]],
    );
}

#[test]
fn the_anchor_waits_for_the_first_due() {
    check(
        r#"
        at 2026-03-01T08:00:00Z
        > created 1 rule=FREQ=DAILY
        show task 1
        show occurrences
        > updated 1 rule=FREQ=DAILY due=2026-03-05
        show task 1
        show occurrences
        # Cleared under an anchored rule.
        > updated 1 rule=FREQ=DAILY
        show task 1
        show occurrences
        > updated 1 rule=FREQ=DAILY due=2026-03-07
        show occurrences
        "#,
        expect![[""]],
    );
}

#[test]
fn a_changed_rule_starts_a_new_version() {
    check(
        r#"
        at 2026-03-01T08:00:00Z
        > created 1 due=2026-03-02T09:00:00Z
        > updated 1 due=2026-03-02T09:00:00Z rule=FREQ=DAILY;COUNT=2
        show task 1
        # The base is the scheduled instant now: a moved due leaves it alone.
        > updated 1 due=2026-03-20T09:00:00Z rule=FREQ=DAILY;COUNT=2
        show occurrences
        > updated 1 due=2026-03-20T09:00:00Z rule=FREQ=WEEKLY
        show task 1
        # An invalid text leaves the series fields alone.
        > updated 1 due=2026-03-20T09:00:00Z rule=FREQ=NEVER
        show task 1
        show occurrences
        > updated 1 due=2026-03-20
        show task 1
        show occurrences
        > updated 1 due=2026-03-20 rule=FREQ=DAILY
        # Another kind of due.
        > updated 1 due=2026-03-20T10:00 zone=Europe/Berlin rule=FREQ=DAILY
        show task 1
        show occurrences
        "#,
        expect![[""]],
    );
}

#[test]
fn a_dtstart_is_the_anchor_in_the_kind_of_the_due() {
    check(
        r#"
        at 2026-03-01T08:00:00Z
        > created 1 due=2026-03-10T09:00:00Z rule="DTSTART:20260301T100000Z\nRRULE:FREQ=DAILY"
        > created 2 due=2026-03-10 rule="DTSTART:20260301T100000Z\nRRULE:FREQ=DAILY"
        > created 3 due=2026-03-10T09:00:00Z rule="DTSTART;VALUE=DATE:20260301\nRRULE:FREQ=DAILY"
        > created 4 due=2026-03-02 rule=FREQ=WEEKLY;BYDAY=WE
        show tasks
        show occurrences
        "#,
        expect![[""]],
    );
}

#[test]
fn an_echo_of_the_old_version_is_not_believed() {
    check(
        r#"
        at 2026-03-01T08:00:00Z
        > created 1 due=2026-03-05T09:00:00Z rule=FREQ=DAILY recurrenceStart=2026-03-01T09:00:00Z recurrenceId=2026-03-05T09:00:00Z occurrenceIndex=5 seriesId=6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c11
        show task 1
        > updated 1 due=2026-03-05T09:00:00Z rule=FREQ=WEEKLY recurrenceStart=2026-03-01T09:00:00Z recurrenceId=2026-03-05T09:00:00Z occurrenceIndex=5
        show task 1
        restart
        > updated 1 title=New due=2026-03-05T09:00:00Z rule=FREQ=WEEKLY recurrenceStart=2026-03-01T09:00:00Z recurrenceId=2026-03-05T09:00:00Z occurrenceIndex=5
        show task 1
        > updated 1 title=New due=2026-03-05T09:00:00Z rule=FREQ=WEEKLY recurrenceId=2026-03-12T09:00:00Z
        show task 1
        "#,
        expect![[""]],
    );
}

#[test]
fn completion_mode_shows_one_interval_after_the_due() {
    check(
        r#"
        at 2026-03-01T08:00:00Z
        > created 1 due=2026-01-31T09:00:00Z rule=FREQ=MONTHLY mode=completion
        > created 2 due=2026-01-31 rule=FREQ=MONTHLY;BYMONTHDAY=1 mode=completion
        > created 3 rule=FREQ=MONTHLY;BYMONTHDAY=1 mode=completion
        show tasks
        show occurrences
        "#,
        expect![[""]],
    );
}

#[test]
fn a_zone_moves_wall_clocks_but_not_instants() {
    check(
        r#"
        at 2026-03-01T08:00:00Z
        > created 1 due=2026-03-28T08:00:00Z rule=FREQ=DAILY
        > created 2 due=2026-03-28T09:00 rule=FREQ=DAILY
        > created 3 due=2026-03-28 rule=FREQ=DAILY
        show occurrences nextDue,nextDueAt
        user-updated ann timezone=Europe/Berlin
        show occurrences nextDue,nextDueAt
        show tasks
        "#,
        expect![[""]],
    );
}
