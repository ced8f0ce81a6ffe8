//! A series keeps its identity: whatever is dropped, comes late or again, is deleted or taken back (§6, §13).

use expect_test::expect;
use pipeline::Config;

use super::script::{check, run};

#[test]
fn the_fields_of_an_old_version_are_an_echo_for_ever() {
    let old = "recurrenceStart=2026-03-01T09:00:00Z recurrenceId=2026-03-04T09:00:00Z occurrenceIndex=4 seriesId=6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c11";
    check(
        &r#"
        at 2026-03-04T08:00:00Z
        > created 1 due=2026-03-04T09:00:00Z rule=FREQ=DAILY OLD
        > updated 1 bare ~recurrenceRule=FREQ=WEEKLY;COUNT=2
        show task 1
        # Whole, in part, after a restart, with other events between.
        > updated 1 due=2026-03-04T09:00:00Z rule=FREQ=WEEKLY;COUNT=2 OLD
        show task 1
        restart
        > updated 1 due=2026-03-04T09:00:00Z rule=FREQ=WEEKLY;COUNT=2 recurrenceStart=2026-03-01T09:00:00Z
        > updated 1 bare ~priority=high
        > updated 1 due=2026-03-04T09:00:00Z rule=FREQ=WEEKLY;COUNT=2 occurrenceIndex=4
        > updated 1 bare ~recurrenceStart=2026-03-01T09:00:00Z ~occurrenceIndex=4
        show task 1
        show occurrences
        # A third rule, from a moved due; then the fields of the first version and of the second.
        > updated 1 bare ~recurrenceRule=FREQ=MONTHLY ~dueDate=2026-03-06T09:00:00Z
        restart
        > updated 1 due=2026-03-06T09:00:00Z rule=FREQ=MONTHLY OLD
        > updated 1 due=2026-03-06T09:00:00Z rule=FREQ=MONTHLY recurrenceStart=2026-03-04T09:00:00Z recurrenceId=2026-03-04T09:00:00Z occurrenceIndex=1
        show task 1
        # Back to the first rule: a version of its own.
        > updated 1 due=2026-03-06T09:00:00Z rule=FREQ=DAILY OLD
        > updated 1 due=2026-03-06T09:00:00Z rule=FREQ=DAILY OLD
        show task 1
        # Removed, and set again.
        > updated 1 due=2026-03-06T09:00:00Z OLD
        > updated 1 due=2026-03-06T09:00:00Z OLD
        show task 1
        > updated 1 due=2026-03-06T09:00:00Z rule=FREQ=DAILY OLD
        show task 1
        # Another kind of due.
        > updated 1 due=2026-03-06 rule=FREQ=DAILY OLD
        > updated 1 due=2026-03-06 rule=FREQ=DAILY OLD
        show task 1
        # What is of no old version is news.
        > updated 1 due=2026-03-06 rule=FREQ=DAILY recurrenceStart=2026-03-02 recurrenceId=2026-03-06 occurrenceIndex=5
        show task 1
        rebuild
        show task 1
        "#
        .replace("OLD", old),
        expect![[r#"
            -- task 1
            1: v2 dueDate=2026-03-04T09:00Z occurrenceIndex=1 recurrenceId=2026-03-04T09:00Z recurrenceRule=FREQ=WEEKLY;COUNT=2 recurrenceStart=2026-03-04T09:00Z seriesId=6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c11 title=Task 1
            -- task 1
            1: v3 dueDate=2026-03-04T09:00Z occurrenceIndex=1 recurrenceId=2026-03-04T09:00Z recurrenceRule=FREQ=WEEKLY;COUNT=2 recurrenceStart=2026-03-04T09:00Z seriesId=6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c11 title=Task 1
            -- task 1
            1: v7 dueDate=2026-03-04T09:00Z occurrenceIndex=1 recurrenceId=2026-03-04T09:00Z recurrenceRule=FREQ=WEEKLY;COUNT=2 recurrenceStart=2026-03-04T09:00Z seriesId=6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c11 title=Task 1
            -- occurrences
            1 state=ACTIVE anchor=2026-03-04T09:00Z currentDue=2026-03-04T09:00Z nextDue=2026-03-11T09:00Z occurrenceIndex=1 remaining=1
            -- task 1
            1: v10 dueDate=2026-03-06T09:00Z occurrenceIndex=1 recurrenceId=2026-03-06T09:00Z recurrenceRule=FREQ=MONTHLY recurrenceStart=2026-03-06T09:00Z seriesId=6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c11 title=Task 1
            -- task 1
            1: v12 dueDate=2026-03-06T09:00Z occurrenceIndex=1 recurrenceId=2026-03-06T09:00Z recurrenceRule=FREQ=DAILY recurrenceStart=2026-03-06T09:00Z seriesId=6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c11 title=Task 1
            -- task 1
            1: v14 dueDate=2026-03-06T09:00Z seriesId=6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c11 title=Task 1
            -- task 1
            1: v15 dueDate=2026-03-06T09:00Z occurrenceIndex=1 recurrenceId=2026-03-06T09:00Z recurrenceRule=FREQ=DAILY recurrenceStart=2026-03-06T09:00Z seriesId=6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c11 title=Task 1
            -- task 1
            1: v17 dueDate=2026-03-06 occurrenceIndex=1 recurrenceId=2026-03-06 recurrenceRule=FREQ=DAILY recurrenceStart=2026-03-06 seriesId=6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c11 title=Task 1
            -- task 1
            1: v18 dueDate=2026-03-06 occurrenceIndex=5 recurrenceId=2026-03-06 recurrenceRule=FREQ=DAILY recurrenceStart=2026-03-02 seriesId=6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c11 title=Task 1
            -- task 1
            1: v18 dueDate=2026-03-06 occurrenceIndex=5 recurrenceId=2026-03-06 recurrenceRule=FREQ=DAILY recurrenceStart=2026-03-02 seriesId=6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c11 title=Task 1
        "#]],
    );
}

#[test]
fn late_events_change_no_version() {
    check(
        r#"
        at 2026-03-04T08:00:00Z
        > created 1 version=1 due=2026-03-04T09:00:00Z rule=FREQ=DAILY recurrenceStart=2026-03-01T09:00:00Z recurrenceId=2026-03-04T09:00:00Z occurrenceIndex=4
        > updated 1 version=4 bare ~recurrenceRule=FREQ=WEEKLY
        > updated 1 version=3 due=2026-03-04T09:00:00Z rule=FREQ=MONTHLY
        > updated 1 version=2 due=2026-03-04T09:00:00Z rule=FREQ=DAILY recurrenceStart=2026-03-01T09:00:00Z recurrenceId=2026-03-04T09:00:00Z occurrenceIndex=4
        > updated 1 version=5 due=2026-03-04T09:00:00Z rule=FREQ=WEEKLY recurrenceStart=2026-03-01T09:00:00Z recurrenceId=2026-03-04T09:00:00Z occurrenceIndex=4
        show task 1
        show counts
        "#,
        expect![[r#"
            -- task 1
            1: v3 dueDate=2026-03-04T09:00Z occurrenceIndex=1 recurrenceId=2026-03-04T09:00Z recurrenceRule=FREQ=WEEKLY recurrenceStart=2026-03-04T09:00Z seriesId=1 title=Task 1
            -- counts
            duplicates=0 stale=2 duplicate_successors=0
        "#]],
    );
}

#[test]
fn more_old_versions_than_are_kept_leave_the_first_known() {
    let mut script = String::from(
        "at 2026-03-04T08:00:00Z\n> created 1 due=2026-03-04 rule=FREQ=DAILY recurrenceStart=2026-03-01 recurrenceId=2026-03-04 occurrenceIndex=4\n",
    );
    for day in 1..=28 {
        script.push_str(&format!(
            "> updated 1 bare ~recurrenceRule=FREQ=DAILY;INTERVAL={} ~dueDate=2026-04-{day:02}\n",
            1 + day
        ));
    }
    script.push_str(
        "> updated 1 due=2026-04-28 rule=FREQ=DAILY;INTERVAL=29 recurrenceStart=2026-03-01 recurrenceId=2026-03-04 occurrenceIndex=4\n\
         > updated 1 due=2026-04-28 rule=FREQ=DAILY;INTERVAL=29 recurrenceStart=2026-04-20 recurrenceId=2026-04-20 occurrenceIndex=1\n\
         show task 1\n",
    );
    check(
        &script,
        expect![[r#"
        -- task 1
        1: v31 dueDate=2026-04-28 occurrenceIndex=1 recurrenceId=2026-04-28 recurrenceRule=FREQ=DAILY;INTERVAL=29 recurrenceStart=2026-04-28 seriesId=1 title=Task 1
    "#]],
    );
}

/// The fields that a sender may drop.
const DROPPED: &str = "without recurrenceStart recurrenceId seriesId previousTaskId occurrenceIndex";

#[test]
fn a_successor_that_comes_back_goes_on_with_its_series() {
    check(
        &r#"
        at 2026-03-02T08:00:00Z
        > created 1 due=2026-03-02 rule=FREQ=DAILY;COUNT=3
        > completed 1 due=2026-03-02 rule=FREQ=DAILY;COUNT=3
        create-arrives 1 DROPPED
        show task next(1)
        > deleted next(1)
        > created next(1) due=2026-03-03 rule=FREQ=DAILY;COUNT=3
        show task next(1)
        > deleted next(1)
        > deleted next(1)
        restart
        > updated next(1) due=2026-03-04 rule=FREQ=DAILY;COUNT=3 deleted=false
        show task next(1)
        show occurrences
        # Its fields were given once, its rule changed, its rule removed.
        > updated next(1) due=2026-03-04 rule=FREQ=DAILY;COUNT=3 occurrenceIndex=1
        > deleted next(1)
        > created next(1) due=2026-03-04 rule=FREQ=DAILY;COUNT=3
        show task next(1)
        > updated next(1) bare ~recurrenceRule=FREQ=WEEKLY;COUNT=2
        > updated next(1) bare ~dueDate=2026-03-05
        > deleted next(1)
        restart
        > created next(1) due=2026-03-06 rule=FREQ=WEEKLY;COUNT=2 recurrenceStart=2026-03-02 recurrenceId=2026-03-03 occurrenceIndex=2
        show task next(1)
        > deleted next(1)
        > created next(1) due=2026-03-06 rule=FREQ=MONTHLY
        show task next(1)
        > updated next(1) due=2026-03-06
        > deleted next(1)
        > created next(1) due=2026-03-06
        show task next(1)
        > updated next(1) due=2026-03-07 rule=FREQ=MONTHLY
        show task next(1)
        show actions
        rebuild
        show task next(1)
        show occurrences
        "#
        .replace("DROPPED", DROPPED),
        expect![[r#"
            -- task next(1)
            next(1): v1 dueDate=2026-03-03 occurrenceIndex=2 previousTaskId=1 recurrenceId=2026-03-03 recurrenceRule=FREQ=DAILY;COUNT=3 recurrenceStart=2026-03-02 seriesId=1 title=Task 1
            -- task next(1)
            next(1): v3 dueDate=2026-03-03 occurrenceIndex=2 previousTaskId=1 recurrenceId=2026-03-03 recurrenceRule=FREQ=DAILY;COUNT=3 recurrenceStart=2026-03-02 seriesId=1 title=Task next(1)
            -- task next(1)
            next(1): v6 dueDate=2026-03-04 occurrenceIndex=2 previousTaskId=1 recurrenceId=2026-03-03 recurrenceRule=FREQ=DAILY;COUNT=3 recurrenceStart=2026-03-02 seriesId=1 title=Task next(1)
            -- occurrences
            1 state=ACTIVE anchor=2026-03-02 currentDue=2026-03-02 nextDue=2026-03-03 occurrenceIndex=1 remaining=2 successor={state:CONFIRMED,taskId:next(1)}
            next(1) state=ACTIVE anchor=2026-03-02 currentDue=2026-03-04 nextDue=2026-03-04 occurrenceIndex=2 remaining=1
            -- task next(1)
            next(1): v9 dueDate=2026-03-04 occurrenceIndex=1 previousTaskId=1 recurrenceId=2026-03-03 recurrenceRule=FREQ=DAILY;COUNT=3 recurrenceStart=2026-03-02 seriesId=1 title=Task next(1)
            -- task next(1)
            next(1): v13 dueDate=2026-03-06 occurrenceIndex=1 previousTaskId=1 recurrenceId=2026-03-04 recurrenceRule=FREQ=WEEKLY;COUNT=2 recurrenceStart=2026-03-04 seriesId=1 title=Task next(1)
            -- task next(1)
            next(1): v15 dueDate=2026-03-06 occurrenceIndex=1 previousTaskId=1 recurrenceId=2026-03-06 recurrenceRule=FREQ=MONTHLY recurrenceStart=2026-03-06 seriesId=1 title=Task next(1)
            -- task next(1)
            next(1): v18 dueDate=2026-03-06 previousTaskId=1 seriesId=1 title=Task next(1)
            -- task next(1)
            next(1): v19 dueDate=2026-03-07 occurrenceIndex=1 previousTaskId=1 recurrenceId=2026-03-07 recurrenceRule=FREQ=MONTHLY recurrenceStart=2026-03-07 seriesId=1 title=Task next(1)
            -- actions
            reminder of 1 CANCELLED
            create-next-task of 1 CONFIRMED due=2026-03-03 index=2
            -- task next(1)
            next(1): v19 dueDate=2026-03-07 occurrenceIndex=1 previousTaskId=1 recurrenceId=2026-03-07 recurrenceRule=FREQ=MONTHLY recurrenceStart=2026-03-07 seriesId=1 title=Task next(1)
            -- occurrences
            1 state=ACTIVE anchor=2026-03-02 currentDue=2026-03-02 nextDue=2026-03-03 occurrenceIndex=1 remaining=2 successor={state:CONFIRMED,taskId:next(1)}
            next(1) state=ACTIVE anchor=2026-03-07 currentDue=2026-03-07 nextDue=2026-04-07 occurrenceIndex=1
        "#]],
    );
}

#[test]
fn a_first_task_that_comes_back_begins_anew() {
    check(
        r#"
        at 2026-03-02T08:00:00Z
        > created 1 due=2026-03-02 rule=FREQ=DAILY;COUNT=3
        > updated 1 due=2026-03-02 rule=FREQ=WEEKLY
        > updated 1 due=2026-03-05 rule=FREQ=WEEKLY
        > deleted 1
        > created 1 due=2026-03-05 rule=FREQ=WEEKLY
        show task 1
        # Of its life before nothing is known: these are no echo.
        > updated 1 due=2026-03-05 rule=FREQ=WEEKLY recurrenceStart=2026-03-02 recurrenceId=2026-03-02 occurrenceIndex=1
        show task 1
        "#,
        expect![[r#"
            -- task 1
            1: v5 dueDate=2026-03-05 occurrenceIndex=1 recurrenceId=2026-03-05 recurrenceRule=FREQ=WEEKLY recurrenceStart=2026-03-05 seriesId=1 title=Task 1
            -- task 1
            1: v6 dueDate=2026-03-05 occurrenceIndex=1 recurrenceId=2026-03-02 recurrenceRule=FREQ=WEEKLY recurrenceStart=2026-03-02 seriesId=1 title=Task 1
        "#]],
    );
}

#[test]
fn every_task_that_matches_a_create_is_of_its_series() {
    check(
        &r#"
        at 2026-03-02T08:00:00Z
        > created 1 due=2026-03-02 rule=FREQ=DAILY;COUNT=3
        > completed 1 due=2026-03-02 rule=FREQ=DAILY;COUNT=3 corr=c1
        create-arrives 1 as 21 DROPPED
        # The same again under another id, and under the id that was asked for.
        create-arrives 1 as 31 DROPPED
        restart
        create-arrives 1 DROPPED
        # A title that somebody else happens to use is no match.
        > created 41 user=bob title="Task 1" due=2026-03-03 rule=FREQ=DAILY;COUNT=3 corr=c1
        # First heard of by another event.
        > created 2 due=2026-03-02 rule=FREQ=DAILY;COUNT=3
        > completed 2 due=2026-03-02 rule=FREQ=DAILY;COUNT=3
        > updated next(2) due=2026-03-05 rule=FREQ=DAILY;COUNT=3
        show tasks
        show actions
        show counts
        "#
        .replace("DROPPED", DROPPED),
        expect![[r#"
            -- tasks
            1: v2 completed=true completedAt=2026-03-02T08:00Z dueDate=2026-03-02 occurrenceIndex=1 recurrenceId=2026-03-02 recurrenceRule=FREQ=DAILY;COUNT=3 recurrenceStart=2026-03-02 seriesId=1 title=Task 1
            2: v2 completed=true completedAt=2026-03-02T08:00Z dueDate=2026-03-02 occurrenceIndex=1 recurrenceId=2026-03-02 recurrenceRule=FREQ=DAILY;COUNT=3 recurrenceStart=2026-03-02 seriesId=2 title=Task 2
            21: v1 dueDate=2026-03-03 occurrenceIndex=2 previousTaskId=1 recurrenceId=2026-03-03 recurrenceRule=FREQ=DAILY;COUNT=3 recurrenceStart=2026-03-02 seriesId=1 title=Task 1
            31: v1 dueDate=2026-03-03 occurrenceIndex=2 previousTaskId=1 recurrenceId=2026-03-03 recurrenceRule=FREQ=DAILY;COUNT=3 recurrenceStart=2026-03-02 seriesId=1 title=Task 1
            00000000-0000-4000-8000-000000000029: v1 dueDate=2026-03-03 occurrenceIndex=1 recurrenceId=2026-03-03 recurrenceRule=FREQ=DAILY;COUNT=3 recurrenceStart=2026-03-03 seriesId=00000000-0000-4000-8000-000000000029 title=Task 1
            next(1): v1 dueDate=2026-03-03 occurrenceIndex=2 previousTaskId=1 recurrenceId=2026-03-03 recurrenceRule=FREQ=DAILY;COUNT=3 recurrenceStart=2026-03-02 seriesId=1 title=Task 1
            next(2): v1 dueDate=2026-03-05 occurrenceIndex=2 previousTaskId=2 recurrenceId=2026-03-03 recurrenceRule=FREQ=DAILY;COUNT=3 recurrenceStart=2026-03-02 seriesId=2 title=Task next(2)
            -- actions
            reminder of 1 CANCELLED
            create-next-task of 1 CONFIRMED due=2026-03-03 index=2
            reminder of 2 CANCELLED
            create-next-task of 2 CONFIRMED due=2026-03-03 index=2
            -- counts
            duplicates=0 stale=0 duplicate_successors=2
        "#]],
    );
}

#[test]
fn a_due_that_was_cleared_counts_from_the_later_of_schedule_and_completion() {
    let script = r#"
        at 2026-03-10T12:00:00Z
        > created 1 due=2026-03-02 rule=FREQ=DAILY
        > updated 1 rule=FREQ=DAILY
        > completed 1 rule=FREQ=DAILY
        > created 2 due=2026-03-12T09:00:00Z rule=FREQ=DAILY
        > updated 2 rule=FREQ=DAILY
        > completed 2 rule=FREQ=DAILY
        > created 3 due=2026-03-02 rule=FREQ=WEEKLY
        > completed 3 due=2026-03-02 rule=FREQ=WEEKLY completedAt=2026-03-02T10:00:00Z
        create-arrives 3
        > updated next(3) rule=FREQ=WEEKLY
        > completed next(3) rule=FREQ=WEEKLY
        # The wall time of the schedule is kept by an interval too.
        > created 4 due=2026-03-02 rule=FREQ=WEEKLY mode=completion
        > updated 4 rule=FREQ=WEEKLY mode=completion
        > completed 4 rule=FREQ=WEEKLY mode=completion
        show occurrences state,nextDue
        show actions
    "#;
    check(
        script,
        expect![[r#"
        -- occurrences state,nextDue
        1 state=NONE
        2 state=NONE
        3 state=ACTIVE nextDue=2026-03-09
        4 state=NONE
        next(3) state=NONE
        -- actions
        create-next-task of 1 DECIDED due=2026-03-11 index=10
        create-next-task of 2 DECIDED due=2026-03-13T09:00Z index=2
        create-next-task of 3 CONFIRMED due=2026-03-09 index=2
        create-next-task of next(3) DECIDED due=2026-03-16 index=3
        create-next-task of 4 DECIDED due=2026-03-17 index=2
    "#]],
    );
    let config = Config { missed: pipeline::recurrence::Missed::Keep, ..Config::default() };
    expect![[r#"
        -- occurrences state,nextDue
        1 state=NONE
        2 state=NONE
        3 state=ACTIVE nextDue=2026-03-09
        4 state=NONE
        next(3) state=NONE
        -- actions
        create-next-task of 1 DECIDED due=2026-03-11 index=10
        create-next-task of 2 DECIDED due=2026-03-13T09:00Z index=2
        create-next-task of 3 CONFIRMED due=2026-03-09 index=2
        create-next-task of next(3) DECIDED due=2026-03-16 index=3
        create-next-task of 4 DECIDED due=2026-03-17 index=2
    "#]]
    .assert_eq(&run(script, config));
}

/// A successor's events come to the same wherever between them the completion that asks for it is read, with a restart
/// after each, and in a rebuild.
#[test]
fn a_successor_is_the_same_wherever_its_completion_is_read() {
    let predecessor = "> created 1 partition=1 due=2026-03-02 rule=FREQ=DAILY;COUNT=9 corr=c1\n\
                       > completed 1 partition=1 due=2026-03-02 rule=FREQ=DAILY;COUNT=9 corr=c1\n";
    let previous = "previousTaskId=00000000-0000-4000-8000-000000000001";
    let told = "recurrenceStart=2026-03-02 recurrenceId=2026-03-03 occurrenceIndex=2";
    let created = "created @ due=2026-03-03 rule=FREQ=DAILY;COUNT=9";
    let histories: &[&[&str]] = &[
        &["CREATED"],
        &["CREATED TOLD"],
        &["CREATED recurrenceStart=2026-03-01"],
        &["CREATED", "updated @ due=2026-03-05 rule=FREQ=DAILY;COUNT=9"],
        &["CREATED", "updated @ bare ~recurrenceRule=FREQ=WEEKLY", "updated @ due=2026-03-04 rule=FREQ=WEEKLY"],
        &["CREATED", "updated @ bare ~recurrenceRule=FREQ=WEEKLY", "updated @ bare ~dueDate=2026-03-09T10:00:00Z"],
        &["CREATED", "updated @ bare ~occurrenceIndex=7", "updated @ bare ~title=New"],
        &["CREATED", "updated @ due=2026-03-03", "updated @ due=2026-03-04 rule=FREQ=DAILY;COUNT=9"],
        &["CREATED", "deleted @", "CREATED"],
        &["CREATED", "deleted @", "updated @ due=2026-03-03 rule=FREQ=DAILY;COUNT=9 deleted=false"],
        &[
            "CREATED",
            "updated @ bare ~recurrenceRule=FREQ=WEEKLY",
            "deleted @",
            "created @ due=2026-03-03 rule=FREQ=WEEKLY",
        ],
        &["CREATED", "CREATED"],
        &["CREATED", "deleted @"],
        &["updated @ due=2026-03-03 rule=FREQ=DAILY;COUNT=9", "updated @ due=2026-03-03 rule=FREQ=NEVER"],
        &["created @ due=2026-03-03", "updated @ due=2026-03-03 rule=FREQ=DAILY;COUNT=9"],
        &["created @ rule=FREQ=DAILY;COUNT=9", "updated @ due=2026-03-04 rule=FREQ=DAILY;COUNT=9"],
    ];
    // By the successor's id; by the task before; by what it is about, which only a `CREATED` can be known by.
    for (task, always) in [("next(1)", ""), ("21", previous), ("21", "corr=c1")] {
        for history in histories.iter().filter(|history| always != "corr=c1" || history[0].starts_with("CREATED")) {
            let lines: Vec<String> = history
                .iter()
                .map(|line| {
                    let line = line.replace("CREATED", created).replace("TOLD", told).replace('@', task);
                    let known_by = if line.starts_with("created") { always } else { "" };
                    format!("> {line} title=\"Task 1\" {known_by}\n")
                })
                .collect();
            let shown = |place: usize, between: &str, end: &str| {
                let mut script = "at 2026-03-02T08:00:00Z\n".to_owned();
                for (number, line) in lines.iter().map(String::as_str).chain([""]).enumerate() {
                    let asked_here = if number == place { predecessor } else { "" };
                    script += &[asked_here, between, line, between].concat();
                }
                script += &format!("{end}show task {task}\nshow task 1\nshow occurrences\nshow actions\n");
                (without_chance(&run(&script, Config::default())), script)
            };
            let (expected, _) = shown(0, "", "");
            for place in 0..=lines.len() {
                for (between, end) in [("", ""), ("restart\n", ""), ("", "rebuild\n")] {
                    let (found, script) = shown(place, between, end);
                    assert_eq!(found, expected, "{script}");
                }
            }
        }
    }
}

/// That a fill-in counts a version more, or that a reminder was decided before the create, is no difference.
fn without_chance(shown: &str) -> String {
    let mut out = String::new();
    for line in shown.lines().filter(|line| !line.starts_with("reminder of")) {
        match line.split_once(": v") {
            Some((task, rest)) => {
                out.push_str(task);
                out.push_str(rest.trim_start_matches(|c: char| c.is_ascii_digit()));
            }
            None => out.push_str(line),
        }
        out.push('\n');
    }
    out
}
