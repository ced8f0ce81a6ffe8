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
        expect![[r#"
            -- actions
            reminder of 1 CANCELLED
            create-next-task of 1 DECIDED due=2026-03-03T09:00Z index=2
            -- occurrences successor
            1 successor={state:DECIDED,taskId:next(1)}
            -- actions
            reminder of 1 CANCELLED
            create-next-task of 1 DECIDED due=2026-03-03T09:00Z index=2
            -- actions
            reminder of 1 CANCELLED
            create-next-task of 1 SENT attempts=1 (http 503) due=2026-03-03T09:00Z index=2
            -- occurrences successor
            1 successor={state:SENT,taskId:next(1)}
            -- actions
            reminder of 1 CANCELLED
            create-next-task of 1 CONFIRMED attempts=1 due=2026-03-03T09:00Z index=2
            -- task next(1)
            next(1): v1 dueDate=2026-03-03T09:00Z occurrenceIndex=2 previousTaskId=1 recurrenceId=2026-03-03T09:00Z recurrenceRule=FREQ=DAILY recurrenceStart=2026-03-02T09:00Z seriesId=1 title=Task 1
            -- occurrences
            1 state=ACTIVE anchor=2026-03-02T09:00Z currentDue=2026-03-02T09:00Z nextDue=2026-03-03T09:00Z occurrenceIndex=1 successor={state:CONFIRMED,taskId:next(1)}
            next(1) state=ACTIVE anchor=2026-03-02T09:00Z currentDue=2026-03-03T09:00Z nextDue=2026-03-04T09:00Z occurrenceIndex=2
            -- audit 1
            1 CREATED -→v1
            2 COMPLETED v1→v2
            3 NEXT_TASK_CREATED v2→v2
            4 REMINDER_CANCELLED v2→v2
            5 UPDATED v2→v3
            6 COMPLETED v3→v4
            7 REMINDER_CANCELLED v4→v4
        "#]],
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
        expect![[r#"
            -- actions
            create-next-task of 1 DECIDED due=2026-03-11T09:00Z index=10
            create-next-task of 2 DECIDED due=2026-03-21T09:00Z index=2
            create-next-task of 5 DECIDED due=2026-03-17T12:00Z index=2
            create-next-task of 6 DECIDED due=2026-02-28 index=2
            create-next-task of 8 DECIDED due=2026-03-11 index=10
            create-next-task of 11 DECIDED due=2026-03-11 index=10
            create-next-task of 12 DECIDED due=2026-03-11T09:00Z index=10
        "#]],
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
    expect![[r#"
        -- actions
        create-next-task of 1 DECIDED due=2026-03-03T09:00Z index=2
    "#]]
    .assert_eq(&shown);
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
        expect![[r#"
            -- task next(1)
            next(1): v1 dueDate=2026-03-03 extra={colour:red} occurrenceIndex=2 previousTaskId=1 priority=LOW recurrenceId=2026-03-03 recurrenceRule=FREQ=DAILY;COUNT=3 recurrenceStart=2026-03-02 reminders=[P1D] seriesId=1 tags=[a] timezone=Europe/Berlin title=Task 1
            -- task next(next(1))
            next(next(1)): v1 dueDate=2026-03-04 occurrenceIndex=3 previousTaskId=next(1) recurrenceId=2026-03-04 recurrenceRule=FREQ=DAILY;COUNT=3 recurrenceStart=2026-03-02 seriesId=1 timezone=Europe/Berlin title=Task next(1)
            -- actions
            create-next-task of 1 CONFIRMED due=2026-03-03 index=2
            reminder of next(1) CANCELLED
            create-next-task of next(1) CONFIRMED due=2026-03-04 index=3
            -- occurrences
            1 state=ACTIVE anchor=2026-03-02 currentDue=2026-03-02 nextDue=2026-03-03 occurrenceIndex=1 remaining=2 successor={state:CONFIRMED,taskId:next(1)}
            next(1) state=ACTIVE anchor=2026-03-02 currentDue=2026-03-03 nextDue=2026-03-04 occurrenceIndex=2 remaining=1 successor={state:CONFIRMED,taskId:next(next(1))}
            next(next(1)) state=ENDED reason=count anchor=2026-03-02 currentDue=2026-03-04 occurrenceIndex=3 remaining=0
        "#]],
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
        expect![[r#"
            -- actions
            reminder of 1 CANCELLED
            create-next-task of 1 CONFIRMED due=2026-03-03T09:00Z index=2
            reminder of 2 CANCELLED
            create-next-task of 2 CONFIRMED due=2026-03-03T09:00Z index=2
            reminder of 3 CANCELLED
            create-next-task of 3 DECIDED due=2026-03-03T09:00Z index=2
            -- task 21
            21: v1 dueDate=2026-03-03T09:00Z occurrenceIndex=2 previousTaskId=1 recurrenceId=2026-03-03T09:00Z recurrenceRule=FREQ=DAILY recurrenceStart=2026-03-02T09:00Z seriesId=1 title=Task 1
            -- task 22
            22: v1 dueDate=2026-03-03T09:00Z occurrenceIndex=2 previousTaskId=2 recurrenceId=2026-03-03T09:00Z recurrenceRule=FREQ=DAILY recurrenceStart=2026-03-02T09:00Z seriesId=2 title=Task 2
            -- task 23
            23: v1 dueDate=2026-03-03T09:00Z occurrenceIndex=1 recurrenceId=2026-03-03T09:00Z recurrenceRule=FREQ=DAILY recurrenceStart=2026-03-03T09:00Z seriesId=23 title=Task 3
            -- counts
            duplicates=0 stale=0 duplicate_successors=2
            -- audit 31
            1 CREATED -→v1 duplicate-successor
            2 CREATED v1→v2
            -- audit 32
            1 CREATED -→v1 duplicate-successor
        "#]],
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
        expect![[r#"
            -- task next(1)
            next(1): v1 dueDate=2026-03-03T09:00Z occurrenceIndex=1 recurrenceId=2026-03-03T09:00Z recurrenceRule=FREQ=DAILY recurrenceStart=2026-03-03T09:00Z seriesId=next(1) title=Task next(1)
            -- actions
            reminder of 1 CANCELLED
            reminder of 2 CANCELLED
            reminder of 3 CANCELLED
            create-next-task of 1 CONFIRMED due=2026-03-03T09:00Z index=2
            create-next-task of 2 CONFIRMED due=2026-03-03T09:00Z index=2
            create-next-task of 3 CONFIRMED due=2026-03-03T09:00Z index=2
            -- task next(1)
            next(1): v2 dueDate=2026-03-03T09:00Z occurrenceIndex=2 previousTaskId=1 recurrenceId=2026-03-03T09:00Z recurrenceRule=FREQ=DAILY recurrenceStart=2026-03-02T09:00Z seriesId=1 title=Task next(1)
            -- task 22
            22: v2 dueDate=2026-03-03T09:00Z occurrenceIndex=2 previousTaskId=2 recurrenceId=2026-03-03T09:00Z recurrenceRule=FREQ=DAILY recurrenceStart=2026-03-02T09:00Z seriesId=2 title=Task 22
            -- task 23
            23: v2 dueDate=2026-03-03T09:00Z occurrenceIndex=2 previousTaskId=3 recurrenceId=2026-03-03T09:00Z recurrenceRule=FREQ=DAILY recurrenceStart=2026-03-02T09:00Z seriesId=3 title=Task 3
            -- occurrences successor,occurrenceIndex
            1 successor={state:CONFIRMED,taskId:next(1)} occurrenceIndex=1
            2 successor={state:CONFIRMED,taskId:next(2)} occurrenceIndex=1
            22 occurrenceIndex=2
            23 occurrenceIndex=2
            3 successor={state:CONFIRMED,taskId:next(3)} occurrenceIndex=1
            next(1) occurrenceIndex=2
            -- audit 22
            1 CREATED -→v1
        "#]],
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
        expect![[r#"
            -- actions
            reminder of 1 CANCELLED
            create-next-task of 1 FAILED attempts=1 (http 400) due=2026-03-03T09:00Z index=2
            -- actions
            reminder of 1 CANCELLED
            create-next-task of 1 DECIDED attempts=1 (http 400) due=2026-03-03T09:00Z index=2
            -- actions
            reminder of 1 CANCELLED
            create-next-task of 1 FAILED attempts=1 (http 400) due=2026-03-03T09:00Z index=2
            -- audit 1
            1 CREATED -→v1
            2 COMPLETED v1→v2
            3 NEXT_TASK_CREATED v2→v2
            4 REMINDER_CANCELLED v2→v2
            5 ACTION_FAILED v2→v2
            -- actions
            reminder of 1 CANCELLED
            create-next-task of 1 CONFIRMED attempts=1 due=2026-03-03T09:00Z index=2
            -- actions
            reminder of 1 CANCELLED
            create-next-task of 1 CONFIRMED attempts=1 due=2026-03-03T09:00Z index=2
        "#]],
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
        expect![[r#"
            -- actions
            reminder of 1 CANCELLED
            create-next-task of 1 DECIDED due=2026-03-03T09:00Z index=2
            reminder of 2 CANCELLED
            create-next-task of 2 CONFIRMED due=2026-03-03T09:00Z index=2
            create-next-task of 3 DECIDED due=2026-03-03T09:00Z index=2
            -- actions
            create-next-task of 1 FAILED (not_confirmed) due=2026-03-03T09:00Z index=2
            create-next-task of 2 CONFIRMED due=2026-03-03T09:00Z index=2
            create-next-task of 3 DECIDED due=2026-03-03T09:00Z index=2
            -- audit 1
            1 CREATED -→v1
            2 COMPLETED v1→v2
            3 NEXT_TASK_CREATED v2→v2
            4 REMINDER_CANCELLED v2→v2
            5 ACTION_FAILED v2→v2
        "#]],
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
    expect![[r#"
        -- actions
        reminder of 1 CANCELLED
        create-next-task of 1 FAILED (not_confirmed) due=2026-03-03T09:00Z index=2
        -- actions
        reminder of 1 CANCELLED
        create-next-task of 1 FAILED (not_confirmed) due=2026-03-03T09:00Z index=2
        reminder of 2 CANCELLED
        create-next-task of 2 DECIDED due=2026-03-03T09:00Z index=2
    "#]]
    .assert_eq(&shown);
}
