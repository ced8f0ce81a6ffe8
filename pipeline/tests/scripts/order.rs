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
        expect![[""]],
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
        expect![[""]],
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
        expect![[""]],
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
        expect![[""]],
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
        expect![[""]],
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
        expect![[""]],
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
        expect![[""]],
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
        expect![[""]],
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
        expect![[""]],
    );
}

#[test]
fn created_again_begins_anew_in_the_audit() {
    check(
        r#"
        at 2026-03-01T08:00:00Z
        > created 1 title=One tags=["x"]
        > created 1 title=Two
        show task 1
        show audit 1
        "#,
        expect![[""]],
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
        expect![[""]],
    );
}
