//! Users: settings and erasure (§1.4, §7).

use expect_test::{Expect, expect};
use pipeline::Config;

use super::script::{check, run};

#[test]
fn settings_hold_for_all_tasks_of_the_user() {
    check(
        r#"
        at 2026-03-01T08:00:00Z
        > created 1 user=ann due=2026-03-10
        > created 2 user=bob due=2026-03-10
        > created 3 user=ann due=2026-03-10 reminders=[]
        show reminders
        user-updated ann timezone=America/New_York reminderOffsets=["P1D"]
        show reminders
        restart
        > created 4 user=ann due=2026-03-11
        user-updated ann reminderOffsets=null
        show reminders
        show audit ann
        show audit 1
        "#,
        expect![[r#"
            -- reminders
            1 triggerTime=2026-03-10T08:00Z status=PENDING late=false
            2 triggerTime=2026-03-10T08:00Z status=PENDING late=false
            -- reminders
            1 triggerTime=2026-03-09T13:00Z status=PENDING late=false
            1 triggerTime=2026-03-10T08:00Z status=CANCELLED reason=entry_removed late=false
            2 triggerTime=2026-03-10T08:00Z status=PENDING late=false
            -- reminders
            1 triggerTime=2026-03-09T13:00Z status=CANCELLED reason=entry_removed late=false
            1 triggerTime=2026-03-10T12:00Z status=PENDING late=false
            2 triggerTime=2026-03-10T08:00Z status=PENDING late=false
            4 triggerTime=2026-03-10T13:00Z status=CANCELLED reason=entry_removed late=false
            4 triggerTime=2026-03-11T12:00Z status=PENDING late=false
            -- audit ann
            1 USER_UPDATED -→-
            2 USER_UPDATED -→-
            -- audit 1
            1 CREATED -→v1
            2 REMINDER_CANCELLED v1→v1
            3 REMINDER_CANCELLED v1→v1
        "#]],
    );
}

#[test]
fn erasure_takes_what_is_personal() {
    check(
        r#"
        at 2026-03-01T08:00:00Z
        > created 1 user=ann due=2026-03-10T09:00:00Z rule=FREQ=DAILY tags=["x"] description=Secret colour=red
        > completed 1 user=ann due=2026-03-10T09:00:00Z rule=FREQ=DAILY
        > created 2 user=ann due=2026-03-10T09:00:00Z
        > created 3 user=bob due=2026-03-10T09:00:00Z
        user-erased ann
        show tasks
        show reminders
        show actions
        show audit ann
        show audit 2
        "#,
        expect![[r#"
            -- tasks
            1: v3 completed=true completedAt=2026-03-01T08:00Z description={$erased:true} dueDate=2026-03-10T09:00Z extra={$erased:true} occurrenceIndex=1 recurrenceId=2026-03-10T09:00Z recurrenceRule=FREQ=DAILY recurrenceStart=2026-03-10T09:00Z seriesId=1 tags={$erased:true} title={$erased:true}
            2: v2 description={$erased:true} dueDate=2026-03-10T09:00Z extra={$erased:true} tags={$erased:true} title={$erased:true}
            3: v1 dueDate=2026-03-10T09:00Z title=Task 3
            -- reminders
            1 triggerTime=2026-03-10T08:00Z status=CANCELLED reason=task_completed late=false
            2 triggerTime=2026-03-10T08:00Z status=CANCELLED reason=user_erased late=false
            3 triggerTime=2026-03-10T08:00Z status=PENDING late=false
            -- actions
            create-next-task of 1 CANCELLED due=2026-03-11T09:00Z index=2
            -- audit ann
            1 ERASED -→-
            -- audit 2
            1 CREATED -→v1
            2 REMINDER_CANCELLED v2→v2
        "#]],
    );
}

/// What the user had set went with the erasure, so the next event of a task asks for what the configuration says.
#[test]
fn after_an_erasure_the_next_event_asks_for_reminders_anew() {
    check(
        r#"
        at 2026-03-01T08:00:00Z
        user-updated ann reminderOffsets=["P1D"]
        > created 1 user=ann due=2026-03-10T09:00:00Z
        user-erased ann
        show reminders
        restart
        at 2026-03-01T08:00:01Z
        > updated 1 user=ann due=2026-03-10T09:00:00Z title=Again
        show reminders
        "#,
        expect![[r#"
            -- reminders
            1 triggerTime=2026-03-09T09:00Z status=CANCELLED reason=user_erased late=false
            -- reminders
            1 triggerTime=2026-03-09T09:00Z status=CANCELLED reason=user_erased late=false
            1 triggerTime=2026-03-10T08:00Z status=PENDING late=false
        "#]],
    );
}

/// The same records in another order of partitions and topics come to the same.
#[track_caller]
fn check_orders(start: &str, orders: &[&str], end: &str, expected: Expect) {
    let shown: Vec<String> = orders
        .iter()
        .map(|order| run(&format!("at 2026-03-02T08:00:00Z\n{start}\n{order}\n{end}"), Config::default()))
        .collect();
    for other in &shown[1..] {
        assert_eq!(&shown[0], other, "the order of reading decided");
    }
    expected.assert_eq(&shown[0]);
}

const ERASED: &str = "user-erased ann time=2026-03-01T10:00:00Z";

#[test]
fn an_erasure_covers_what_is_read_behind_it() {
    let created = "> created 1 user=ann due=2026-03-10T09:00:00Z tags=[\"x\"] description=Secret colour=red \
        time=2026-03-01T09:00:00Z id=c1";
    check_orders(
        "",
        &[&format!("{created}\n{ERASED}"), &format!("{ERASED}\n{created}")],
        "show tasks\nrestart\nshow tasks",
        expect![[r#"
            -- tasks
            1: v2 description={$erased:true} dueDate=2026-03-10T09:00Z extra={$erased:true} tags={$erased:true} title={$erased:true}
            -- tasks
            1: v2 description={$erased:true} dueDate=2026-03-10T09:00Z extra={$erased:true} tags={$erased:true} title={$erased:true}
        "#]],
    );
    // What the user says later is kept, and of what it leaves as it was, nothing.
    let change = "> updated 1 bare ~description=Later ~size=7 time=2026-03-01T11:00:00Z id=u1";
    let untitled = "> updated 1 user=ann title=null tags=[\"y\"] time=2026-03-01T12:00:00Z id=u2";
    let [c, e] = [created, ERASED];
    let orders = [format!("{c}\n{change}\n{e}"), format!("{c}\n{e}\n{change}"), format!("{e}\n{c}\n{change}")];
    check_orders(
        "",
        &orders.each_ref().map(String::as_str),
        "show tasks\nshow reminders status where status!=CANCELLED",
        expect![[r#"
            -- tasks
            1: v3 description=Later dueDate=2026-03-10T09:00Z extra={size:7} tags={$erased:true} title={$erased:true}
            -- reminders status where status!=CANCELLED
            (none)
        "#]],
    );
    let orders =
        [format!("{c}\n{untitled}\n{e}"), format!("{c}\n{e}\nrestart\n{untitled}"), format!("{e}\n{c}\n{untitled}")];
    check_orders(
        "",
        &orders.each_ref().map(String::as_str),
        "show tasks\nshow reminders status where status!=CANCELLED",
        expect![[r#"
            -- tasks
            1: v3 tags=[y] title={$erased:true}
            -- reminders status where status!=CANCELLED
            (none)
        "#]],
    );
}

#[test]
fn settings_hold_by_their_time() {
    let early = "user-updated ann timezone=America/New_York reminderOffsets=[\"P1D\"] time=2026-03-01T09:00:00Z";
    let late = "user-updated ann timezone=Europe/Berlin email=a@b.c time=2026-03-01T10:00:00Z";
    let created = "> created 1 user=ann due=2026-03-10 time=2026-03-01T09:30:00Z id=c1";
    let orders = [
        [early, late, created],
        [late, early, created],
        [created, late, early],
        [late, created, early],
        [created, early, late],
    ]
    .map(|order| order.join("\n"));
    check_orders(
        "",
        &orders.each_ref().map(String::as_str),
        "show tasks\nshow reminders triggerTime,status,createdAt,updatedAt where status!=CANCELLED",
        expect![[r#"
            -- tasks
            1: v1 dueDate=2026-03-10 title=Task 1
            -- reminders triggerTime,status,createdAt,updatedAt where status!=CANCELLED
            1 triggerTime=2026-03-09T08:00Z status=PENDING createdAt=2026-03-01T09:30Z updatedAt=2026-03-01T10:00Z
        "#]],
    );
}

/// The trigger is past by the later of both events; one that was expired under other settings does not stay.
#[test]
fn what_is_past_is_judged_by_the_later_event() {
    let created = "> created 1 user=ann due=2026-03-01T10:00:00Z time=2026-03-01T08:30:00Z id=c1";
    let settings = "user-updated ann reminderOffsets=[\"PT2H\",\"PT5M\"] time=2026-03-01T09:00:00Z";
    let orders = [[created, settings], [settings, created]].map(|order| order.join("\n"));
    check_orders(
        "restart holding",
        &orders.each_ref().map(String::as_str),
        "show reminders triggerTime,status,reason,createdAt where status!=CANCELLED",
        expect![[r#"
            -- reminders triggerTime,status,reason,createdAt where status!=CANCELLED
            1 triggerTime=2026-03-01T08:00Z status=EXPIRED reason=trigger_in_past createdAt=2026-03-01T09:00Z
            1 triggerTime=2026-03-01T09:55Z status=PENDING createdAt=2026-03-01T09:00Z
        "#]],
    );
}

#[test]
fn open_tasks_are_counted() {
    check(
        r#"
        at 2026-03-01T08:00:00Z
        > created 1 user=ann tags=["Home","x"] priority=high
        > created 2 user=ann tags=["home"]
        > created 3 user=bob priority=high
        > updated 3 user=bob priority=low
        > completed 2 user=ann
        show open
        restart
        > deleted 3
        show open
        > deleted 1
        show open
        "#,
        expect![[r#"
            -- open
            Open 2
            Priority(High) 1
            Priority(Low) 1
            User(ann) 1
            User(bob) 1
            Tag("home") 1
            Tag("x") 1
            -- open
            Open 1
            Priority(High) 1
            User(ann) 1
            Tag("home") 1
            Tag("x") 1
            -- open
            (none)
        "#]],
    );
}

#[test]
fn overdue_tasks_are_counted_as_time_passes() {
    check(
        r#"
        at 2026-03-01T08:00:00Z
        > created 1 user=ann due=2026-03-01T09:00:00Z
        > created 2 user=ann due=2026-03-01
        > created 3 user=ann due=2026-02-28
        > created 4 user=ann
        show open
        at 2026-03-01T09:00:00Z
        show open
        at 2026-03-01T09:00:01Z
        show open
        restart
        at 2026-03-02T00:00:00Z
        show open
        > completed 3 user=ann
        > updated 1 user=ann due=2026-03-05T09:00:00Z
        > deleted 2
        show open
        "#,
        expect![[r#"
            -- open
            Open 4
            Overdue 1
            Priority(None) 4
            User(ann) 4
            -- open
            Open 4
            Overdue 1
            Priority(None) 4
            User(ann) 4
            -- open
            Open 4
            Overdue 2
            Priority(None) 4
            User(ann) 4
            -- open
            Open 4
            Overdue 3
            Priority(None) 4
            User(ann) 4
            -- open
            Open 2
            Priority(None) 2
            User(ann) 2
        "#]],
    );
}

#[test]
fn a_task_can_change_hands() {
    check(
        r#"
        at 2026-03-01T08:00:00Z
        > created 1 user=ann due=2026-03-10
        > updated 1 user=bob due=2026-03-10
        user-updated ann reminderOffsets=[]
        show reminders userId,status,reason
        > updated 1 user=ann due=2026-03-10
        > updated 1 user=bob due=2026-03-10
        user-updated bob reminderOffsets=["P1D"]
        show reminders userId,status,reason
        show audit 1
        "#,
        expect![[r#"
            -- reminders userId,status,reason
            1 userId=bob status=PENDING
            -- reminders userId,status,reason
            1 userId=bob status=CANCELLED reason=entry_removed
            1 userId=bob status=PENDING
            -- audit 1
            1 CREATED -→v1
            2 UPDATED v1→v2
            3 UPDATED v2→v3
            4 REMINDER_CANCELLED v3→v3
            5 UPDATED v3→v4
            6 REMINDER_CANCELLED v4→v4
        "#]],
    );
}
