//! A restart goes on where the last commit ended, and a rebuild comes to the same (§1.3, §4.1).

use std::time::Duration;

use expect_test::expect;

use super::script::{check, run};

/// Much of everything, with `{}` between any two events.
const HISTORY: &str = r#"
    at 2026-03-01T08:00:00Z
    > created 1 due=2026-03-02T09:00:00Z rule=FREQ=DAILY tags=["a"] version=1 {}
    > created 2 seq=5 due=2026-03-02 reminders=["P1D","PT1H"] {}
    > updated 2 seq=4 due=2026-03-09 {}
    > created 3 user=bob colour=red {}
    user-updated ann timezone=Europe/Berlin {}
    at 2026-03-01T10:00:00Z
    > completed 1 due=2026-03-02T09:00:00Z rule=FREQ=DAILY corr=c1 version=2 {}
    retry 1 {}
    create-arrives 1 {}
    at 2026-03-02T09:00:00Z
    > deleted 3 user=null {}
    > updated 3 {}
    > completed next(1) due=2026-03-03T09:00:00Z rule=FREQ=DAILY {}
    > created 3 user=bob {}
    delivered next(1) {}
    at 2026-03-03T09:00:00Z
    user-updated ann timezone=null {}
    > updated 1 version=2 title=Late {}
    > updated 1 version=4 title=Gap due=2026-03-02T09:00:00Z rule=FREQ=WEEKLY {}
"#;

const SHOWN: &str = "
    show tasks
    show occurrences
    show reminders
    show actions
    show audit 1
    show audit 2
    show audit 3
    show audit ann
    show open
";

#[test]
fn a_restart_at_any_place_changes_nothing() {
    let shown = |between: &str| run(&format!("{}{SHOWN}", HISTORY.replace("{}", between)), pipeline::Config::default());
    let straight = shown("");
    let restarted = shown("\nrestart");
    assert_eq!(straight, restarted);
    assert_eq!(straight, shown("\nrestart\nredeliver"));
    expect![[r#"
        -- tasks
        1: v3 dueDate=2026-03-02T09:00Z occurrenceIndex=1 recurrenceId=2026-03-02T09:00Z recurrenceRule=FREQ=WEEKLY recurrenceStart=2026-03-02T09:00Z seriesId=1 title=Gap
        2: v1 dueDate=2026-03-02 reminders=[P1D,PT1H] title=Task 2
        3: v3 title=Task 3
        next(1): v2 completed=true completedAt=2026-03-02T09:00Z dueDate=2026-03-03T09:00Z occurrenceIndex=2 previousTaskId=1 recurrenceId=2026-03-03T09:00Z recurrenceRule=FREQ=DAILY recurrenceStart=2026-03-02T09:00Z seriesId=1 title=Task next(1)
        -- occurrences
        1 state=ACTIVE anchor=2026-03-02T09:00Z currentDue=2026-03-02T09:00Z nextDue=2026-03-09T09:00Z occurrenceIndex=1 successor={state:CONFIRMED,taskId:next(1)}
        next(1) state=ACTIVE anchor=2026-03-02T09:00Z currentDue=2026-03-03T09:00Z nextDue=2026-03-04T09:00Z occurrenceIndex=2 successor={state:DELIVERED,taskId:next(next(1))}
        -- reminders
        1 triggerTime=2026-03-02T08:00Z status=EXPIRED reason=trigger_in_past late=false
        2 triggerTime=2026-03-01T09:00Z status=EXPIRED reason=trigger_in_past late=false
        2 triggerTime=2026-03-02T08:00Z status=EXPIRED reason=trigger_in_past late=false
        next(1) triggerTime=2026-03-03T08:00Z status=CANCELLED reason=task_completed late=false
        -- actions
        reminder of 2 CANCELLED
        create-next-task of 1 CONFIRMED attempts=1 due=2026-03-03T09:00Z index=2
        reminder of 2 CANCELLED
        create-next-task of next(1) DELIVERED attempts=1 due=2026-03-04T09:00Z index=3
        -- audit 1
        1 CREATED -→v1
        2 COMPLETED v1→v2
        3 NEXT_TASK_CREATED v2→v2
        4 REMINDER_CANCELLED v2→v2
        5 UPDATED v2→v2 stale
        6 UPDATED v2→v3 gap
        7 REMINDER_EXPIRED v3→v3
        -- audit 2
        1 CREATED -→v1
        2 UPDATED v1→v1 stale
        3 REMINDER_EXPIRED v1→v1
        4 REMINDER_EXPIRED v1→v1
        -- audit 3
        1 CREATED -→v1
        2 DELETED v1→-
        3 UPDATED -→- stale
        4 CREATED -→v3
        -- audit ann
        1 USER_UPDATED -→-
        2 USER_UPDATED -→-
        -- open
        Open 3
        Overdue 2
        Priority(None) 3
        User(ann) 2
        User(bob) 1
    "#]].assert_eq(&straight);
}

#[test]
fn a_rebuild_comes_to_the_same_rows() {
    let history = r#"
        at 2026-03-01T08:00:00Z
        > created 1 due=2026-03-02T09:00:00Z rule=FREQ=DAILY
        > created 2 due=2026-03-05T09:00:00Z
        > completed 1 due=2026-03-02T09:00:00Z rule=FREQ=DAILY
        create-arrives 1
        > updated 2 due=2026-03-06T09:00:00Z
        > deleted 2
        > updated 2
    "#;
    let shown = "
        show tasks
        show occurrences
        show reminders
        show actions
        show audit 1
        show audit 2
    ";
    let straight = run(&format!("{history}{shown}"), pipeline::Config::default());
    assert_eq!(straight, run(&format!("{history}\nrebuild{shown}"), pipeline::Config::default()));
}

#[test]
fn nothing_fires_while_holding() {
    check(
        r#"
        at 2026-03-01T08:00:00Z
        > created 1 due=2026-03-02T09:00:00Z reminders=["PT1H"]
        > created 2 due=2026-03-02T09:00:00Z reminders=["PT1H"]
        rebuild
        at 2026-03-02T08:00:00Z
        show actions
        show reminders
        "#,
        expect![[r#"
            -- actions
            reminder of 1 PENDING
            reminder of 2 PENDING
            -- reminders
            1 triggerTime=2026-03-02T08:00Z status=PENDING late=false
            2 triggerTime=2026-03-02T08:00Z status=PENDING late=false
        "#]],
    );
    check(
        r#"
        at 2026-03-02T08:30:00Z holding
        > created 1 due=2026-03-02T09:00:00Z reminders=["PT1H"] time=2026-03-01T09:00:00Z
        > created 2 due=2026-03-02T09:00:00Z reminders=["PT1H"] time=2026-03-01T09:00:00Z
        show actions
        > completed 1 due=2026-03-02T09:00:00Z reminders=["PT1H"]
        caught-up
        show actions
        show reminders
        "#,
        expect![[r#"
            -- actions
            (none)
            -- actions
            reminder of 2 PENDING
            -- reminders
            1 triggerTime=2026-03-02T08:00Z status=CANCELLED reason=task_completed late=false
            2 triggerTime=2026-03-02T08:00Z status=PENDING late=true
        "#]],
    );
}

/// Until the log was read to its end once, a start goes on with the rebuild that the one before began.
#[test]
fn a_rebuild_that_is_cut_off_is_gone_on_with() {
    check(
        r#"
        at 2026-03-02T08:30:00Z holding
        > created 1 due=2026-03-02T09:00:00Z rule=FREQ=DAILY reminders=["PT1H"] time=2026-03-01T08:00:00Z
        restart holding
        sent-before 1 PT1H 2026-03-02T09:00:00Z
        sent-before 2 PT1H 2026-03-02T09:00:00Z
        restart holding
        sent-before 1 PT1H 2026-03-02T09:00:00Z
        sent-before 2 PT1H 2026-03-02T09:00:00Z
        > created 2 due=2026-03-02T09:00:00Z reminders=["PT1H"] time=2026-03-01T08:00:00Z
        > completed 1 due=2026-03-02T09:00:00Z rule=FREQ=DAILY reminders=["PT1H"] time=2026-03-01T09:00:00Z
        caught-up
        show actions
        show reminders
        restart holding
        > created 3 due=2026-03-02T09:00:00Z rule=FREQ=DAILY reminders=[] time=2026-03-01T08:00:00Z
        > completed 3 due=2026-03-02T09:00:00Z rule=FREQ=DAILY reminders=[] time=2026-03-01T09:00:00Z
        caught-up
        show actions
        "#,
        expect![[r#"
            -- actions
            create-next-task of 1 FAILED (not_confirmed) due=2026-03-03T09:00Z index=2
            -- reminders
            1 triggerTime=2026-03-02T08:00Z status=SENT late=false
            2 triggerTime=2026-03-02T08:00Z status=SENT late=false
            -- actions
            create-next-task of 1 FAILED (not_confirmed) due=2026-03-03T09:00Z index=2
            create-next-task of 3 DECIDED due=2026-03-03T09:00Z index=2
        "#]],
    );
}

#[test]
fn what_was_sent_before_is_known_until_the_log_end_however_long_that_takes() {
    let config = pipeline::Config { hold_max: Duration::ZERO, reads_back: true, ..pipeline::Config::default() };
    let shown = run(
        r#"
        at 2026-03-02T08:30:00Z holding
        > created 1 due=2026-03-02T09:00:00Z reminders=["PT1H"] time=2026-03-01T08:00:00Z
        show actions
        sent-before 2 PT1H 2026-03-02T09:00:00Z
        show actions
        > created 2 due=2026-03-02T09:00:00Z reminders=["PT1H"] time=2026-03-01T08:00:00Z
        show actions
        show reminders
        "#,
        config,
    );
    expect![[r#"
        -- actions
        (none)
        -- actions
        reminder of 1 PENDING
        -- actions
        reminder of 1 PENDING
        -- reminders
        1 triggerTime=2026-03-02T08:00Z status=PENDING late=true
        2 triggerTime=2026-03-02T08:00Z status=SENT late=false
    "#]]
    .assert_eq(&shown);
}
