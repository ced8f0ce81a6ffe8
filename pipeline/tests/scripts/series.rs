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
        expect![[r#"
            -- task 1
            1: v1 dueDate=2026-03-02T09:00Z occurrenceIndex=1 recurrenceRule=FREQ=WEEKLY;COUNT=4 recurrenceStart=2026-03-02T09:00Z seriesId=1 title=Task 1
            -- occurrences
            1 state=ACTIVE anchor=2026-03-02T09:00Z currentDue=2026-03-02T09:00Z nextDue=2026-03-09T09:00Z occurrenceIndex=1 remaining=3
            -- task 1
            1: v2 dueDate=2026-03-10T12:00Z occurrenceIndex=2 recurrenceRule=FREQ=WEEKLY;COUNT=4 recurrenceStart=2026-03-02T09:00Z seriesId=1 title=Task 1
            -- occurrences
            1 state=ACTIVE anchor=2026-03-02T09:00Z currentDue=2026-03-10T12:00Z nextDue=2026-03-16T09:00Z occurrenceIndex=2 remaining=2
            -- occurrences
            1 state=ENDED reason=count anchor=2026-03-02T09:00Z currentDue=2026-03-30T12:00Z occurrenceIndex=4 remaining=0
            -- occurrences
            (none)
        "#]],
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
        expect![[r#"
            -- task 1
            1: v1 recurrenceRule=FREQ=DAILY seriesId=1 title=Task 1
            -- occurrences
            1 state=NONE
            -- task 1
            1: v2 dueDate=2026-03-05 occurrenceIndex=1 recurrenceRule=FREQ=DAILY recurrenceStart=2026-03-05 seriesId=1 title=Task 1
            -- occurrences
            1 state=ACTIVE anchor=2026-03-05 currentDue=2026-03-05 nextDue=2026-03-06 occurrenceIndex=1
            -- task 1
            1: v3 occurrenceIndex=1 recurrenceRule=FREQ=DAILY recurrenceStart=2026-03-05 seriesId=1 title=Task 1
            -- occurrences
            1 state=NONE anchor=2026-03-05 occurrenceIndex=1
            -- occurrences
            1 state=ACTIVE anchor=2026-03-05 currentDue=2026-03-07 nextDue=2026-03-08 occurrenceIndex=3
        "#]],
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
        expect![[r#"
            -- task 1
            1: v2 dueDate=2026-03-02T09:00Z occurrenceIndex=1 recurrenceId=2026-03-02T09:00Z recurrenceRule=FREQ=DAILY;COUNT=2 recurrenceStart=2026-03-02T09:00Z seriesId=1 title=Task 1
            -- occurrences
            1 state=ACTIVE anchor=2026-03-02T09:00Z currentDue=2026-03-20T09:00Z nextDue=2026-03-03T09:00Z occurrenceIndex=1 remaining=1
            -- task 1
            1: v4 dueDate=2026-03-20T09:00Z occurrenceIndex=1 recurrenceId=2026-03-20T09:00Z recurrenceRule=FREQ=WEEKLY recurrenceStart=2026-03-20T09:00Z seriesId=1 title=Task 1
            -- task 1
            1: v5 dueDate=2026-03-20T09:00Z occurrenceIndex=1 recurrenceId=2026-03-20T09:00Z recurrenceRule=FREQ=NEVER recurrenceStart=2026-03-20T09:00Z seriesId=1 title=Task 1 warnings=[{code:rrule_invalid,field:recurrenceRule}]
            -- occurrences
            1 state=INVALID reason=syntax anchor=2026-03-20T09:00Z currentDue=2026-03-20T09:00Z occurrenceIndex=1
            -- task 1
            1: v6 dueDate=2026-03-20 seriesId=1 title=Task 1
            -- occurrences
            (none)
            -- task 1
            1: v8 dueDate=2026-03-20T10:00 occurrenceIndex=1 recurrenceId=2026-03-20T10:00 recurrenceRule=FREQ=DAILY recurrenceStart=2026-03-20T10:00 seriesId=1 timezone=Europe/Berlin title=Task 1
            -- occurrences
            1 state=ACTIVE anchor=2026-03-20T10:00 currentDue=2026-03-20T10:00 nextDue=2026-03-21T10:00 occurrenceIndex=1
        "#]],
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
        expect![[r#"
            -- tasks
            1: v1 dueDate=2026-03-10T09:00Z occurrenceIndex=9 recurrenceRule=DTSTART:20260301T100000Z
            RRULE:FREQ=DAILY recurrenceStart=2026-03-01T10:00Z seriesId=1 title=Task 1
            2: v1 dueDate=2026-03-10 occurrenceIndex=10 recurrenceRule=DTSTART:20260301T100000Z
            RRULE:FREQ=DAILY recurrenceStart=2026-03-01 seriesId=2 title=Task 2
            3: v1 dueDate=2026-03-10T09:00Z recurrenceRule=DTSTART;VALUE=DATE:20260301
            RRULE:FREQ=DAILY recurrenceStart=2026-03-10T09:00Z seriesId=3 title=Task 3 warnings=[{code:rrule_invalid,field:recurrenceRule}]
            4: v1 dueDate=2026-03-02 occurrenceIndex=0 recurrenceRule=FREQ=WEEKLY;BYDAY=WE recurrenceStart=2026-03-02 seriesId=4 title=Task 4
            -- occurrences
            1 state=ACTIVE anchor=2026-03-01T10:00Z currentDue=2026-03-10T09:00Z nextDue=2026-03-10T10:00Z occurrenceIndex=9
            2 state=ACTIVE anchor=2026-03-01 currentDue=2026-03-10 nextDue=2026-03-11 occurrenceIndex=10
            3 state=INVALID reason=syntax anchor=2026-03-10T09:00Z currentDue=2026-03-10T09:00Z
            4 state=ACTIVE anchor=2026-03-02 currentDue=2026-03-02 nextDue=2026-03-04 occurrenceIndex=0
        "#]],
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
        expect![[r#"
            -- task 1
            1: v1 dueDate=2026-03-05T09:00Z occurrenceIndex=5 recurrenceId=2026-03-05T09:00Z recurrenceRule=FREQ=DAILY recurrenceStart=2026-03-01T09:00Z seriesId=6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c11 title=Task 1
            -- task 1
            1: v2 dueDate=2026-03-05T09:00Z occurrenceIndex=1 recurrenceId=2026-03-05T09:00Z recurrenceRule=FREQ=WEEKLY recurrenceStart=2026-03-05T09:00Z seriesId=6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c11 title=Task 1
            -- task 1
            1: v3 dueDate=2026-03-05T09:00Z occurrenceIndex=1 recurrenceId=2026-03-05T09:00Z recurrenceRule=FREQ=WEEKLY recurrenceStart=2026-03-05T09:00Z seriesId=6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c11 title=New
            -- task 1
            1: v4 dueDate=2026-03-05T09:00Z occurrenceIndex=1 recurrenceId=2026-03-12T09:00Z recurrenceRule=FREQ=WEEKLY recurrenceStart=2026-03-05T09:00Z seriesId=6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c11 title=New
        "#]],
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
        expect![[r#"
            -- tasks
            1: v1 dueDate=2026-01-31T09:00Z occurrenceIndex=1 recurrenceMode=completion recurrenceRule=FREQ=MONTHLY recurrenceStart=2026-01-31T09:00Z seriesId=1 title=Task 1
            2: v1 dueDate=2026-01-31 recurrenceMode=completion recurrenceRule=FREQ=MONTHLY;BYMONTHDAY=1 recurrenceStart=2026-01-31 seriesId=2 title=Task 2 warnings=[{code:rrule_invalid,field:recurrenceRule}]
            3: v1 recurrenceMode=completion recurrenceRule=FREQ=MONTHLY;BYMONTHDAY=1 seriesId=3 title=Task 3 warnings=[{code:rrule_invalid,field:recurrenceRule}]
            -- occurrences
            1 state=ACTIVE anchor=2026-01-31T09:00Z currentDue=2026-01-31T09:00Z nextDue=2026-02-28T09:00Z occurrenceIndex=1
            2 state=INVALID reason=mode anchor=2026-01-31 currentDue=2026-01-31
            3 state=INVALID reason=mode
        "#]],
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
        expect![[r#"
            -- occurrences nextDue,nextDueAt
            1 nextDue=2026-03-29T08:00Z nextDueAt=2026-03-29T08:00Z
            2 nextDue=2026-03-29T09:00 nextDueAt=2026-03-29T09:00Z
            3 nextDue=2026-03-29 nextDueAt=2026-03-29T00:00Z
            -- occurrences nextDue,nextDueAt
            1 nextDue=2026-03-29T07:00Z nextDueAt=2026-03-29T07:00Z
            2 nextDue=2026-03-29T09:00 nextDueAt=2026-03-29T07:00Z
            3 nextDue=2026-03-29 nextDueAt=2026-03-28T23:00Z
            -- tasks
            1: v1 dueDate=2026-03-28T08:00Z occurrenceIndex=1 recurrenceRule=FREQ=DAILY recurrenceStart=2026-03-28T08:00Z seriesId=1 title=Task 1
            2: v1 dueDate=2026-03-28T09:00 occurrenceIndex=1 recurrenceRule=FREQ=DAILY recurrenceStart=2026-03-28T09:00 seriesId=2 title=Task 2
            3: v1 dueDate=2026-03-28 occurrenceIndex=1 recurrenceRule=FREQ=DAILY recurrenceStart=2026-03-28 seriesId=3 title=Task 3
        "#]],
    );
}

#[test]
fn a_removed_rule_ends_the_series() {
    check(
        r#"
        at 2026-03-01T08:00:00Z
        > created 1 due=2026-03-05 rule=FREQ=DAILY recurrenceStart=2026-03-01 recurrenceId=2026-03-05 occurrenceIndex=5
        > updated 1 due=2026-03-05 recurrenceStart=2026-03-01 recurrenceId=2026-03-05 occurrenceIndex=5
        show task 1
        > updated 1 due=2026-03-05 recurrenceStart=2026-03-01 recurrenceId=2026-03-05 occurrenceIndex=5
        show task 1
        > completed 1 due=2026-03-05
        show actions
        show occurrences
        "#,
        expect![[r#"
            -- task 1
            1: v2 dueDate=2026-03-05 seriesId=1 title=Task 1
            -- task 1
            1: v3 dueDate=2026-03-05 seriesId=1 title=Task 1
            -- actions
            (none)
            -- occurrences
            (none)
        "#]],
    );
}
