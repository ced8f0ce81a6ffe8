//! Order, duplicates, late events, dead letters (§1.2 to §1.4).

use expect_test::expect;

use super::script::check;

#[test]
fn a_task_lives_dies_and_comes_back() {
    check(
        r#"
        at 2026-03-01T08:00:00Z
        > created 1 due=2026-03-02T09:00:00Z tags=["home"] priority=high
        > updated 1 due=2026-03-03T09:00:00Z
        > completed 1
        show task 1
        > deleted 1
        show task 1
        # Older in meaning: stale, with both states null. A second deletion is applied and changes nothing.
        > updated 1
        > completed 1
        > deleted 1
        > updated 1 ~title=Late
        show task 1
        > created 1
        show task 1
        > deleted 1
        > updated 1 deleted=false
        show task 1
        show audit 1
        show counts
        "#,
        expect![[r#"
            -- task 1
            1: v3 completed=true completedAt=2026-03-01T08:00Z title=Task 1
            -- task 1
            (deleted)
            -- task 1
            (deleted)
            -- task 1
            1: v6 title=Task 1
            -- task 1
            1: v8 title=Task 1
            -- audit 1
            1 CREATED -→v1
            2 UPDATED v1→v2
            3 REMINDER_CANCELLED v2→v2
            4 COMPLETED v2→v3
            5 REMINDER_CANCELLED v3→v3
            6 DELETED v3→-
            7 UPDATED -→- stale
            8 COMPLETED -→- stale
            9 DELETED -→-
            10 UPDATED -→- stale
            11 CREATED -→v6
            12 DELETED v6→-
            13 UPDATED -→v8
            -- counts
            duplicates=0 stale=3 duplicate_successors=0
        "#]],
    );
}

#[test]
fn versions_decide_even_through_events_without() {
    check(
        r#"
        at 2026-03-01T08:00:00Z
        > created 1 version=1
        > updated 1 version=3 title=Three
        > updated 1 title=None
        > updated 1 version=2 title=Two
        > updated 1 version=3 title=Again
        show task 1
        show audit 1
        "#,
        expect![[r#"
            -- task 1
            1: v3 title=None
            -- audit 1
            1 CREATED -→v1
            2 UPDATED v1→v2 gap
            3 UPDATED v2→v3
            4 UPDATED v3→v3 stale
            5 UPDATED v3→v3 stale
        "#]],
    );
}

#[test]
fn sequences_decide_within_one_source() {
    check(
        r#"
        at 2026-03-01T08:00:00Z
        > created 1 seq=9
        > updated 1 seq=10 title=Ten
        > updated 1 seq=0010 title=Same
        > updated 1 seq=9 title=Nine
        > updated 1 seq=1 source=/other title=Other
        > updated 1 seq=2 source=/other title=Second
        > updated 1 title=Plain
        show task 1
        show audit 1
        "#,
        expect![[r#"
            -- task 1
            1: v5 title=Plain
            -- audit 1
            1 CREATED -→v1
            2 UPDATED v1→v2
            3 UPDATED v2→v2 stale
            4 UPDATED v2→v2 stale
            5 UPDATED v2→v3
            6 UPDATED v3→v4
            7 UPDATED v4→v5
        "#]],
    );
}

#[test]
fn the_log_decides_otherwise() {
    check(
        r#"
        at 2026-03-01T08:00:00Z
        > created 1 partition=3 title=Three
        > updated 1 partition=1 title=One
        > updated 1 partition=5 title=Five
        show task 1
        show audit 1
        "#,
        expect![[r#"
            -- task 1
            1: v2 title=Five
            -- audit 1
            1 CREATED -→v1
            2 UPDATED v1→v1 stale
            3 UPDATED v1→v2
        "#]],
    );
}

#[test]
fn duplicates_leave_no_trace() {
    check(
        r#"
        at 2026-03-01T08:00:00Z
        > created 1 id=a title=First
        > created 1 id=a title=Second
        > updated 1 id=a source=/other title=Third
        redeliver
        restart
        redeliver
        > updated 1 id=a title=Fourth
        show task 1
        show audit 1
        show counts
        "#,
        expect![[r#"
            -- task 1
            1: v2 title=Third
            -- audit 1
            1 CREATED -→v1
            2 UPDATED v1→v2
            -- counts
            duplicates=2 stale=0 duplicate_successors=0
        "#]],
    );
}

#[test]
fn changes_are_applied_to_what_is_stored() {
    check(
        r#"
        at 2026-03-01T08:00:00Z
        > created 1 due=2026-03-02 tags=["a","b"] colour=red size=3 description=Long
        > updated 1 ~title=Short ~due=null ~colour=null ~size={"from":3,"to":4}
        show task 1
        > updated 1 bare
        show task 1
        > updated 1 title=null
        show task 1
        > updated 2 ~title=Nobody
        > updated 2 bare user=null
        show dead-letters
        show audit 1
        "#,
        expect![[r#"
            -- task 1
            1: v2 description=Long extra={size:4} tags=[a,b] title=Short
            -- task 1
            1: v3 description=Long extra={size:4} tags=[a,b] title=Short
            -- task 1
            1: v4 title=Short
            -- dead-letters
            0@4 snapshot_missing
            0@5 missing_user_id
            -- audit 1
            1 CREATED -→v1
            2 UPDATED v1→v2
            3 REMINDER_CANCELLED v2→v2
            4 UPDATED v2→v3
            5 UPDATED v3→v4
        "#]],
    );
}

#[test]
fn the_owner_is_taken_from_the_stored_task() {
    check(
        r#"
        at 2026-03-01T08:00:00Z
        > created 1 user=ann
        > updated 1 user=null title=Hers
        > deleted 1 user=null
        > deleted 2 user=null
        > deleted 3
        > snoozed 4 reminderId=2e77e359-32f0-57b8-aaeb-62e301322ca4 until=2026-03-02T09:00:00Z
        show tasks
        show audit 1
        show audit 3
        show dead-letters
        > updated 3
        show task 3
        "#,
        expect![[r#"
            -- tasks
            (none)
            -- audit 1
            1 CREATED -→v1
            2 UPDATED v1→v2
            3 DELETED v2→-
            -- audit 3
            1 DELETED -→-
            -- dead-letters
            0@3 missing_user_id
            0@5 missing_user_id
            -- task 3
            (deleted)
        "#]],
    );
}

#[test]
fn a_batch_is_applied_all_or_none() {
    check(
        r#"
        at 2026-03-01T08:00:00Z
        batch
        > created 1 id=a
        > updated 1 id=b ~title=Changed
        > updated 2 id=c ~title=Unknown
        end
        show tasks
        show dead-letters
        # No identity was left: the corrected batch is applied.
        batch
        > created 1 id=a
        > updated 1 id=b ~title=Changed
        > created 2 id=c
        > deleted 2 user=null
        > snoozed 1 user=null reminderId=2e77e359-32f0-57b8-aaeb-62e301322ca4 until=2026-03-02T09:00:00Z
        end
        show tasks
        show audit 1
        show audit 2
        show dead-letters
        "#,
        expect![[r#"
            -- tasks
            (none)
            -- dead-letters
            0@0 snapshot_missing
            -- tasks
            1: v2 title=Changed
            -- audit 1
            1 CREATED -→v1
            2 UPDATED v1→v2
            3 REMINDER_SNOOZED v2→v2
            -- audit 2
            1 CREATED -→v1
            2 DELETED v1→-
            -- dead-letters
            0@0 snapshot_missing
        "#]],
    );
}

#[test]
fn snapshots_fill_in_what_they_leave_out() {
    check(
        r#"
        at 2026-03-01T08:00:00Z
        > created 1 title=7 completedAt=2026-01-01T00:00:00Z priority=urgent
        show task 1
        > completed 1 completed=false
        show task 1
        at 2026-03-01T09:00:00Z
        # Still completed: since when is kept.
        > updated 1 completed=true
        show task 1
        > updated 1 completed=false
        show task 1
        > completed 2
        show task 2
        show audit 1
        show audit 2
        "#,
        expect![[r#"
            -- task 1
            1: v1 title= warnings=[{code:priority_invalid,field:priority},{code:title_invalid,field:title}]
            -- task 1
            1: v2 completed=true completedAt=2026-03-01T08:00Z title=Task 1 warnings=[{code:completed_mismatch,field:completed}]
            -- task 1
            1: v3 completed=true completedAt=2026-03-01T08:00Z title=Task 1
            -- task 1
            1: v4 title=Task 1
            -- task 2
            2: v1 completed=true completedAt=2026-03-01T09:00Z title=Task 2
            -- audit 1
            1 CREATED -→v1 !priority:priority_invalid !title:title_invalid
            2 COMPLETED v1→v2 !completed:completed_mismatch
            3 UPDATED v2→v3
            4 UPDATED v3→v4
            -- audit 2
            1 COMPLETED -→v1 implicit
        "#]],
    );
}

#[test]
fn created_again_has_the_stored_task_before_it_and_a_deleted_one_nothing() {
    check(
        r#"
        at 2026-03-01T08:00:00Z
        > created 1 title=One tags=["x"]
        > created 1 title=Two
        > deleted 1
        > created 1 title=Three
        show audit 1
        "#,
        expect![[r#"
            -- audit 1
            1 CREATED -→v1
            2 CREATED v1→v2
            3 DELETED v2→-
            4 CREATED -→v4
        "#]],
    );
}

#[test]
fn warnings_are_those_of_the_last_event() {
    check(
        r#"
        at 2026-03-01T08:00:00Z
        > created 1 due=someday rule=FREQ=SOMETIMES
        show task 1
        show audit 1
        > updated 1 time=whenever
        show task 1
        > deleted 1 time=whenever
        > updated 1 time=whenever due=someday
        show audit 1
        "#,
        expect![[r#"
            -- task 1
            1: v1 recurrenceRule=FREQ=SOMETIMES title=Task 1 warnings=[{code:due_invalid,field:dueDate},{code:rrule_invalid,field:recurrenceRule}]
            -- audit 1
            1 CREATED -→v1 !dueDate:due_invalid !recurrenceRule:rrule_invalid
            -- task 1
            1: v2 title=Task 1 warnings=[{code:time_missing,field:time}]
            -- audit 1
            1 CREATED -→v1 !dueDate:due_invalid !recurrenceRule:rrule_invalid
            2 UPDATED v1→v2 !time:time_missing
            3 DELETED v2→- !time:time_missing
            4 UPDATED -→- stale !time:time_missing
        "#]],
    );
}
