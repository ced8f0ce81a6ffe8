//! Users: settings and erasure (§1.4, §7).

use expect_test::expect;

use super::script::check;

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
        expect![[""]],
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
        expect![[""]],
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
        expect![[""]],
    );
}
