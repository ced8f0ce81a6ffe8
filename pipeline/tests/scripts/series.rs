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
            1: v1 dueDate=2026-03-02T09:00Z occurrenceIndex=1 recurrenceId=2026-03-02T09:00Z recurrenceRule=FREQ=WEEKLY;COUNT=4 recurrenceStart=2026-03-02T09:00Z seriesId=1 title=Task 1
            -- occurrences
            1 state=ACTIVE anchor=2026-03-02T09:00Z currentDue=2026-03-02T09:00Z nextDue=2026-03-09T09:00Z occurrenceIndex=1 remaining=3
            -- task 1
            1: v2 dueDate=2026-03-10T12:00Z occurrenceIndex=1 recurrenceId=2026-03-02T09:00Z recurrenceRule=FREQ=WEEKLY;COUNT=4 recurrenceStart=2026-03-02T09:00Z seriesId=1 title=Task 1
            -- occurrences
            1 state=ACTIVE anchor=2026-03-02T09:00Z currentDue=2026-03-10T12:00Z nextDue=2026-03-09T09:00Z occurrenceIndex=1 remaining=3
            -- occurrences
            1 state=ACTIVE anchor=2026-03-02T09:00Z currentDue=2026-03-30T12:00Z nextDue=2026-03-09T09:00Z occurrenceIndex=1 remaining=3
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
            1: v2 dueDate=2026-03-05 occurrenceIndex=1 recurrenceId=2026-03-05 recurrenceRule=FREQ=DAILY recurrenceStart=2026-03-05 seriesId=1 title=Task 1
            -- occurrences
            1 state=ACTIVE anchor=2026-03-05 currentDue=2026-03-05 nextDue=2026-03-06 occurrenceIndex=1
            -- task 1
            1: v3 occurrenceIndex=1 recurrenceId=2026-03-05 recurrenceRule=FREQ=DAILY recurrenceStart=2026-03-05 seriesId=1 title=Task 1
            -- occurrences
            1 state=NONE anchor=2026-03-05 occurrenceIndex=1
            -- occurrences
            1 state=ACTIVE anchor=2026-03-05 currentDue=2026-03-07 nextDue=2026-03-06 occurrenceIndex=1
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
            1: v1 dueDate=2026-03-10T09:00Z occurrenceIndex=9 recurrenceId=2026-03-10T09:00Z recurrenceRule=DTSTART:20260301T100000Z
            RRULE:FREQ=DAILY recurrenceStart=2026-03-01T10:00Z seriesId=1 title=Task 1
            2: v1 dueDate=2026-03-10 occurrenceIndex=10 recurrenceId=2026-03-10 recurrenceRule=DTSTART:20260301T100000Z
            RRULE:FREQ=DAILY recurrenceStart=2026-03-01 seriesId=2 title=Task 2
            3: v1 dueDate=2026-03-10T09:00Z recurrenceId=2026-03-10T09:00Z recurrenceRule=DTSTART;VALUE=DATE:20260301
            RRULE:FREQ=DAILY recurrenceStart=2026-03-10T09:00Z seriesId=3 title=Task 3 warnings=[{code:rrule_invalid,field:recurrenceRule}]
            4: v1 dueDate=2026-03-02 occurrenceIndex=0 recurrenceId=2026-03-02 recurrenceRule=FREQ=WEEKLY;BYDAY=WE recurrenceStart=2026-03-02 seriesId=4 title=Task 4
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
            1: v1 dueDate=2026-01-31T09:00Z occurrenceIndex=1 recurrenceId=2026-01-31T09:00Z recurrenceMode=completion recurrenceRule=FREQ=MONTHLY recurrenceStart=2026-01-31T09:00Z seriesId=1 title=Task 1
            2: v1 dueDate=2026-01-31 recurrenceId=2026-01-31 recurrenceMode=completion recurrenceRule=FREQ=MONTHLY;BYMONTHDAY=1 recurrenceStart=2026-01-31 seriesId=2 title=Task 2 warnings=[{code:rrule_invalid,field:recurrenceRule}]
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
            1: v1 dueDate=2026-03-28T08:00Z occurrenceIndex=1 recurrenceId=2026-03-28T08:00Z recurrenceRule=FREQ=DAILY recurrenceStart=2026-03-28T08:00Z seriesId=1 title=Task 1
            2: v1 dueDate=2026-03-28T09:00 occurrenceIndex=1 recurrenceId=2026-03-28T09:00 recurrenceRule=FREQ=DAILY recurrenceStart=2026-03-28T09:00 seriesId=2 title=Task 2
            3: v1 dueDate=2026-03-28 occurrenceIndex=1 recurrenceId=2026-03-28 recurrenceRule=FREQ=DAILY recurrenceStart=2026-03-28 seriesId=3 title=Task 3
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

#[test]
fn a_first_task_is_scheduled_for_the_due_that_set_the_rule() {
    check(
        r#"
        at 2026-04-10T12:00:00Z
        > created 1 due=2026-04-13 rule=FREQ=WEEKLY;COUNT=3
        > updated 1 due=2026-04-10 rule=FREQ=WEEKLY;COUNT=3
        restart
        > completed 1 due=2026-04-10 rule=FREQ=WEEKLY;COUNT=3
        # A start before the first match; a rule without a due, which waits for one; a completed task that is reopened.
        > created 2 due=2026-04-13 rule=FREQ=WEEKLY;BYDAY=WE
        > completed 2 due=2026-04-13 rule=FREQ=WEEKLY;BYDAY=WE
        > created 3 rule=FREQ=WEEKLY
        > updated 3 rule=FREQ=WEEKLY due=2026-04-13T09:00 zone=Europe/Berlin
        > updated 3 rule=FREQ=WEEKLY due=2026-04-11T09:00 zone=Europe/Berlin
        > updated 3 rule=FREQ=WEEKLY due=2026-04-11T09:00 zone=America/New_York
        > completed 3 rule=FREQ=WEEKLY due=2026-04-11T09:00 zone=America/New_York
        > updated 3 rule=FREQ=WEEKLY due=2026-04-12T09:00 zone=America/New_York
        > created 4 rule="DTSTART:20260401T090000Z\nRRULE:FREQ=DAILY"
        show task 4
        > updated 4 rule="DTSTART:20260401T090000Z\nRRULE:FREQ=DAILY" due=2026-04-10T09:00:00Z
        > created 5 due=2026-04-13 rule=FREQ=DAILY mode=completion
        > updated 5 due=2026-04-10 rule=FREQ=DAILY mode=completion
        # The mode changes, and is no new version.
        > updated 5 due=2026-04-10 rule=FREQ=DAILY
        show tasks
        show occurrences
        show actions
        "#,
        expect![[r#"
            -- task 4
            4: v1 recurrenceRule=DTSTART:20260401T090000Z
            RRULE:FREQ=DAILY recurrenceStart=2026-04-01T09:00Z seriesId=4 title=Task 4
            -- tasks
            1: v3 completed=true completedAt=2026-04-10T12:00Z dueDate=2026-04-10 occurrenceIndex=1 recurrenceId=2026-04-13 recurrenceRule=FREQ=WEEKLY;COUNT=3 recurrenceStart=2026-04-13 seriesId=1 title=Task 1
            2: v2 completed=true completedAt=2026-04-10T12:00Z dueDate=2026-04-13 occurrenceIndex=0 recurrenceId=2026-04-13 recurrenceRule=FREQ=WEEKLY;BYDAY=WE recurrenceStart=2026-04-13 seriesId=2 title=Task 2
            3: v6 dueDate=2026-04-12T09:00 occurrenceIndex=1 recurrenceId=2026-04-13T09:00 recurrenceRule=FREQ=WEEKLY recurrenceStart=2026-04-13T09:00 seriesId=3 timezone=America/New_York title=Task 3
            4: v2 dueDate=2026-04-10T09:00Z occurrenceIndex=10 recurrenceId=2026-04-10T09:00Z recurrenceRule=DTSTART:20260401T090000Z
            RRULE:FREQ=DAILY recurrenceStart=2026-04-01T09:00Z seriesId=4 title=Task 4
            5: v3 dueDate=2026-04-10 occurrenceIndex=1 recurrenceId=2026-04-13 recurrenceRule=FREQ=DAILY recurrenceStart=2026-04-13 seriesId=5 title=Task 5
            -- occurrences
            1 state=ACTIVE anchor=2026-04-13 currentDue=2026-04-10 nextDue=2026-04-20 occurrenceIndex=1 remaining=2 successor={state:DECIDED,taskId:next(1)}
            2 state=ACTIVE anchor=2026-04-13 currentDue=2026-04-13 nextDue=2026-04-15 occurrenceIndex=0 successor={state:DECIDED,taskId:next(2)}
            3 state=ACTIVE anchor=2026-04-13T09:00 currentDue=2026-04-12T09:00 nextDue=2026-04-20T09:00 occurrenceIndex=1 successor={state:DECIDED,taskId:next(3)}
            4 state=ACTIVE anchor=2026-04-01T09:00Z currentDue=2026-04-10T09:00Z nextDue=2026-04-11T09:00Z occurrenceIndex=10
            5 state=ACTIVE anchor=2026-04-13 currentDue=2026-04-10 nextDue=2026-04-14 occurrenceIndex=1
            -- actions
            create-next-task of 1 DECIDED due=2026-04-20 index=2
            create-next-task of 2 DECIDED due=2026-04-15 index=1
            create-next-task of 3 DECIDED due=2026-04-20T09:00 index=2
        "#]],
    );
}

#[test]
fn a_changed_rule_with_a_dtstart_is_scheduled_for_the_due() {
    check(
        r#"
        at 2026-03-05T12:00:00Z
        > created 1 due=2026-03-05T09:00:00Z rule=FREQ=DAILY
        > updated 1 due=2026-03-05T09:00:00Z rule="DTSTART:20260301T090000Z\nRRULE:FREQ=DAILY;COUNT=7"
        > created 2 due=2026-03-05 rule=FREQ=DAILY
        > updated 2 bare ~recurrenceRule="DTSTART;VALUE=DATE:20260309\nRRULE:FREQ=WEEKLY;COUNT=7"
        > created 3 rule=FREQ=DAILY
        > updated 3 bare ~recurrenceRule="DTSTART:20260301T090000Z\nRRULE:FREQ=DAILY;COUNT=7"
        show task 3
        > updated 3 bare ~dueDate=2026-03-04T09:00:00Z
        > completed 1 bare
        > completed 2 bare
        > completed 3 bare
        show tasks
        show occurrences
        show actions
        "#,
        expect![[r#"
            -- task 3
            3: v2 recurrenceRule=DTSTART:20260301T090000Z
            RRULE:FREQ=DAILY;COUNT=7 recurrenceStart=2026-03-01T09:00Z seriesId=3 title=Task 3
            -- tasks
            1: v3 completed=true completedAt=2026-03-05T12:00Z dueDate=2026-03-05T09:00Z occurrenceIndex=5 recurrenceId=2026-03-05T09:00Z recurrenceRule=DTSTART:20260301T090000Z
            RRULE:FREQ=DAILY;COUNT=7 recurrenceStart=2026-03-01T09:00Z seriesId=1 title=Task 1
            2: v3 completed=true completedAt=2026-03-05T12:00Z dueDate=2026-03-05 occurrenceIndex=0 recurrenceId=2026-03-05 recurrenceRule=DTSTART;VALUE=DATE:20260309
            RRULE:FREQ=WEEKLY;COUNT=7 recurrenceStart=2026-03-09 seriesId=2 title=Task 2
            3: v4 completed=true completedAt=2026-03-05T12:00Z dueDate=2026-03-04T09:00Z occurrenceIndex=4 recurrenceId=2026-03-04T09:00Z recurrenceRule=DTSTART:20260301T090000Z
            RRULE:FREQ=DAILY;COUNT=7 recurrenceStart=2026-03-01T09:00Z seriesId=3 title=Task 3
            -- occurrences
            1 state=ACTIVE anchor=2026-03-01T09:00Z currentDue=2026-03-05T09:00Z nextDue=2026-03-06T09:00Z occurrenceIndex=5 remaining=2 successor={state:DECIDED,taskId:next(1)}
            2 state=ACTIVE anchor=2026-03-09 currentDue=2026-03-05 nextDue=2026-03-09 occurrenceIndex=0 remaining=7 successor={state:DECIDED,taskId:next(2)}
            3 state=ACTIVE anchor=2026-03-01T09:00Z currentDue=2026-03-04T09:00Z nextDue=2026-03-05T09:00Z occurrenceIndex=4 remaining=3 successor={state:DECIDED,taskId:next(3)}
            -- actions
            create-next-task of 1 DECIDED due=2026-03-06T09:00Z index=6
            create-next-task of 2 DECIDED due=2026-03-09 index=1
            create-next-task of 3 DECIDED due=2026-03-06T09:00Z index=6
        "#]],
    );
}
