//! Successors: what a completion decides, and how its create is confirmed (§4, §4.1, §6).

use std::time::Duration;

use expect_test::expect;
use pipeline::Config;

use super::script::{check, run};

#[test]
fn a_completion_decides_one_successor() {
    check(
        r#"
        at 2026-03-02T08:00:00Z
        > created 1 due=2026-03-02T09:00:00Z rule=FREQ=DAILY
        > completed 1 due=2026-03-02T09:00:00Z rule=FREQ=DAILY corr=c1
        show actions
        show occurrences successor
        # Reopened and completed again: nothing.
        > updated 1 due=2026-03-02T09:00:00Z rule=FREQ=DAILY
        > completed 1 due=2026-03-02T09:00:00Z rule=FREQ=DAILY
        show actions
        retry 1
        show actions
        show occurrences successor
        delivered 1
        create-arrives 1
        show actions
        show task next(1)
        show occurrences
        show audit 1
        "#,
        expect![[""]],
    );
}

#[test]
fn missed_ones_are_skipped_and_early_ones_not_repeated() {
    check(
        r#"
        at 2026-03-10T12:00:00Z
        > created 1 due=2026-03-02T09:00:00Z rule=FREQ=DAILY;COUNT=20
        > completed 1 due=2026-03-02T09:00:00Z rule=FREQ=DAILY;COUNT=20
        > created 2 due=2026-03-20T09:00:00Z rule=FREQ=DAILY
        > completed 2 due=2026-03-20T09:00:00Z rule=FREQ=DAILY
        > created 3 due=2026-03-02 rule=FREQ=DAILY;COUNT=1
        > completed 3 due=2026-03-02 rule=FREQ=DAILY;COUNT=1
        > created 4 due=2026-03-02 rule=FREQ=NEVER
        > completed 4 due=2026-03-02 rule=FREQ=NEVER
        > created 5 rule=FREQ=WEEKLY
        > completed 5 rule=FREQ=WEEKLY
        > created 6 due=2026-01-31 rule=FREQ=MONTHLY mode=completion
        > completed 6 due=2026-01-31 rule=FREQ=MONTHLY mode=completion completedAt=2026-01-31T10:00:00Z
        > created 7 due=2026-03-02 rule=FREQ=DAILY
        > deleted 7
        # Seen for the first time when it is completed already: only for COMPLETED.
        > completed 8 due=2026-03-02 rule=FREQ=DAILY
        > updated 9 due=2026-03-02 rule=FREQ=DAILY completed=true
        > created 10 due=2026-03-02 rule=FREQ=DAILY completed=true
        > created 11 due=2026-03-02 rule=FREQ=DAILY
        > updated 11 due=2026-03-02 rule=FREQ=DAILY completed=true
        # The due was cleared under an anchored rule.
        > created 12 due=2026-03-02T09:00:00Z rule=FREQ=DAILY
        > updated 12 rule=FREQ=DAILY
        > completed 12 rule=FREQ=DAILY
        show actions
        "#,
        expect![[""]],
    );
}

#[test]
fn missed_ones_can_be_kept() {
    let config = Config { missed: pipeline::recurrence::Missed::Keep, ..Config::default() };
    let shown = run(
        r#"
        at 2026-03-10T12:00:00Z
        > created 1 due=2026-03-02T09:00:00Z rule=FREQ=DAILY
        > completed 1 due=2026-03-02T09:00:00Z rule=FREQ=DAILY
        show actions
        "#,
        config,
    );
    expect![[""]].assert_eq(&shown);
}

#[test]
fn a_series_goes_on_over_its_successors() {
    check(
        r#"
        at 2026-03-02T08:00:00Z
        > created 1 due=2026-03-02 rule=FREQ=DAILY;COUNT=3 zone=Europe/Berlin reminders=["P1D"] colour=red tags=["a"] priority=low
        > completed 1 due=2026-03-02 rule=FREQ=DAILY;COUNT=3 zone=Europe/Berlin reminders=["P1D"] colour=red tags=["a"] priority=low
        create-arrives 1
        show task next(1)
        at 2026-03-03T08:00:00Z
        > completed next(1) due=2026-03-03 rule=FREQ=DAILY;COUNT=3 zone=Europe/Berlin
        create-arrives next(1) without recurrenceStart recurrenceId seriesId previousTaskId occurrenceIndex
        show task next(next(1))
        > completed next(next(1)) due=2026-03-04 rule=FREQ=DAILY;COUNT=3 zone=Europe/Berlin
        show actions
        show occurrences
        "#,
        expect![[""]],
    );
}

#[test]
fn a_create_is_confirmed_by_whatever_came_back() {
    check(
        r#"
        at 2026-03-02T08:00:00Z
        > created 1 due=2026-03-02T09:00:00Z rule=FREQ=DAILY
        > completed 1 due=2026-03-02T09:00:00Z rule=FREQ=DAILY corr=c1
        create-arrives 1 as 21
        > created 2 due=2026-03-02T09:00:00Z rule=FREQ=DAILY
        > completed 2 due=2026-03-02T09:00:00Z rule=FREQ=DAILY corr=c2
        create-arrives 2 as 22 without recurrenceStart recurrenceId seriesId previousTaskId occurrenceIndex
        > created 3 due=2026-03-02T09:00:00Z rule=FREQ=DAILY
        > completed 3 due=2026-03-02T09:00:00Z rule=FREQ=DAILY
        create-arrives 3 as 23 without recurrenceStart recurrenceId seriesId previousTaskId occurrenceIndex
        show actions
        show task 21
        show task 22
        show task 23
        # The same again under another id.
        create-arrives 1 as 31
        restart
        create-arrives 2 as 32 without recurrenceStart recurrenceId seriesId previousTaskId occurrenceIndex
        create-arrives 1 as 31
        show counts
        show audit 31
        show audit 32
        "#,
        expect![[""]],
    );
}

#[test]
fn a_successor_read_before_its_completion_confirms_at_once() {
    check(
        r#"
        at 2026-03-02T08:00:00Z
        > created next(1) partition=0 due=2026-03-03T09:00:00Z rule=FREQ=DAILY
        > created 22 partition=0 due=2026-03-03T09:00:00Z rule=FREQ=DAILY previousTaskId=00000000-0000-4000-8000-000000000002
        > created 23 partition=0 title="Task 3" due=2026-03-03T09:00:00Z rule=FREQ=DAILY corr=c3
        show task next(1)
        restart
        > created 1 partition=1 due=2026-03-02T09:00:00Z rule=FREQ=DAILY
        > created 2 partition=1 due=2026-03-02T09:00:00Z rule=FREQ=DAILY
        > created 3 partition=1 due=2026-03-02T09:00:00Z rule=FREQ=DAILY
        > completed 1 partition=1 due=2026-03-02T09:00:00Z rule=FREQ=DAILY
        > completed 2 partition=1 due=2026-03-02T09:00:00Z rule=FREQ=DAILY
        > completed 3 partition=1 due=2026-03-02T09:00:00Z rule=FREQ=DAILY corr=c3
        show actions
        show task next(1)
        show task 22
        show task 23
        show occurrences successor,occurrenceIndex
        show audit 22
        "#,
        expect![[""]],
    );
}

#[test]
fn a_failed_create_can_be_retried_and_confirmed() {
    check(
        r#"
        at 2026-03-02T08:00:00Z
        > created 1 due=2026-03-02T09:00:00Z rule=FREQ=DAILY
        > completed 1 due=2026-03-02T09:00:00Z rule=FREQ=DAILY
        failed 1
        show actions
        retry-requested 1
        show actions
        restart
        failed 1
        show actions
        show audit 1
        create-arrives 1
        show actions
        # Said too late.
        failed 1
        show actions
        "#,
        expect![[""]],
    );
}

#[test]
fn a_rebuild_gives_up_old_creates_that_nothing_confirmed() {
    check(
        r#"
        at 2026-03-02T08:00:00Z
        > created 1 due=2026-03-02T09:00:00Z rule=FREQ=DAILY
        > completed 1 due=2026-03-02T09:00:00Z rule=FREQ=DAILY
        > created 2 due=2026-03-02T09:00:00Z rule=FREQ=DAILY
        > completed 2 due=2026-03-02T09:00:00Z rule=FREQ=DAILY
        create-arrives 2
        at 2026-03-02T10:00:00Z
        > created 3 due=2026-03-02T09:00:00Z rule=FREQ=DAILY
        > completed 3 due=2026-03-02T09:00:00Z rule=FREQ=DAILY
        show actions
        rebuild
        show actions
        show audit 1
        "#,
        expect![[""]],
    );
}

#[test]
fn old_creates_are_given_up_after_the_hold_ended_too() {
    // The hold is over before the log's end is reached; what is decided then is as old.
    let config = Config { hold_max: Duration::ZERO, ..Config::default() };
    let shown = run(
        r#"
        at 2026-03-02T08:00:00Z holding
        > created 1 due=2026-03-02T09:00:00Z rule=FREQ=DAILY time=2026-03-01T08:00:00Z
        > completed 1 due=2026-03-02T09:00:00Z rule=FREQ=DAILY time=2026-03-01T09:00:00Z
        show actions
        caught-up
        > created 2 due=2026-03-02T09:00:00Z rule=FREQ=DAILY time=2026-03-01T08:00:00Z
        > completed 2 due=2026-03-02T09:00:00Z rule=FREQ=DAILY time=2026-03-01T09:00:00Z
        show actions
        "#,
        config,
    );
    expect![[""]].assert_eq(&shown);
}
