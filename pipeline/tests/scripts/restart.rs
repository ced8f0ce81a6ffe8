//! A restart goes on where the last commit ended, and a rebuild comes to the same (§1.3, §4.1).

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
    expect![[""]].assert_eq(&straight);
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
        expect![[""]],
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
        expect![[""]],
    );
}
