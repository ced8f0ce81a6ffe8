//! The corners of contract §5 and §13, one story each.

use super::*;
use crate::views::reminders::Status;

const DUE: Option<&str> = Some("2026-03-05T12:00:00Z");

fn failed(text: &str) -> OutcomeResult {
    OutcomeResult::Failed { error: text.into() }
}

#[test]
fn is_sent_once_and_edits_do_not_send_it_again() {
    check(
        |s| {
            s.set("01 08:00", Some(task(DUE, None)))
                .clock("05 10:59:59")
                .clock("05 11:00")
                .clock("05 11:00:01")
                .delivered("05 11:00:02")
                .delivered("05 11:00:03")
                .change("05 11:30", |task| task.title = "b".into())
                .change("05 12:30", |task| task.title = "c".into())
                .clock("05 13:00");
        },
        expect![[r#"
            05 11:00:00 PT1H SENT (in-app DELIVERED 1) sent 05 11:00:02 made 01 08:00:00 changed 01 08:00:00
            send in-app of 05 11:00:00 at 05 11:00:00
            action DELIVERED
            REMINDER_SENT|#|2026-03-05T11:00:00.000Z at 05 11:00:02
        "#]],
    );
}

#[test]
fn past_when_made_is_expired_and_a_minute_is_forgiven() {
    check(
        |s| {
            s.set("05 11:01:01", Some(task(DUE, None))).clock("05 11:01:01");
        },
        expect![[r#"
            05 11:00:00 PT1H EXPIRED trigger_in_past (in-app CANCELLED) made 05 11:01:01 changed 05 11:01:01
            REMINDER_EXPIRED|#|e1 at 05 11:01:01
        "#]],
    );
    check(
        |s| {
            s.set("05 11:01", Some(task(DUE, None))).clock("05 11:01");
        },
        expect![[r#"
            05 11:00:00 PT1H PENDING (in-app PENDING) made 05 11:01:00 changed 05 11:01:00
            send in-app of 05 11:00:00 at 05 11:01:00
        "#]],
    );
}

#[test]
fn missed_ones_are_sent_late_oldest_first_or_expire() {
    check(
        |s| {
            s.set("01 08:00", Some(task(Some("2026-03-09T12:00:00Z"), Some(r#"["PT1H","PT3H","PT2H","P8D"]"#))))
                .clock("09 11:01")
                .delivered("09 11:02");
        },
        expect![[r#"
            01 12:00:00 P8D EXPIRED too_late (in-app CANCELLED) made 01 08:00:00 changed 01 08:00:00
            09 09:00:00 PT3H PENDING late (in-app PENDING) made 01 08:00:00 changed 01 08:00:00
            09 10:00:00 PT2H PENDING late (in-app PENDING) made 01 08:00:00 changed 01 08:00:00
            09 11:00:00 PT1H SENT (in-app DELIVERED 1) sent 09 11:02:00 made 01 08:00:00 changed 01 08:00:00
            REMINDER_EXPIRED|#|2026-03-01T12:00:00.000Z at 09 11:01:00
            send in-app of 09 09:00:00 at 09 11:01:00
            send in-app of 09 10:00:00 at 09 11:01:00
            send in-app of 09 11:00:00 at 09 11:01:00
            action DELIVERED
            REMINDER_SENT|#|2026-03-09T11:00:00.000Z at 09 11:02:00
        "#]],
    );
    check(
        |s| {
            s.set("01 08:00", Some(task(DUE, None))).clock("12 11:00");
        },
        expect![[r#"
            05 11:00:00 PT1H PENDING late (in-app PENDING) made 01 08:00:00 changed 01 08:00:00
            send in-app of 05 11:00:00 at 12 11:00:00
        "#]],
    );
    check(
        |s| {
            s.set("01 08:00", Some(task(DUE, None))).clock("12 11:00:01");
        },
        expect![[r#"
            05 11:00:00 PT1H EXPIRED too_late (in-app CANCELLED) made 01 08:00:00 changed 01 08:00:00
            REMINDER_EXPIRED|#|2026-03-05T11:00:00.000Z at 12 11:00:01
        "#]],
    );
}

#[test]
fn every_channel_must_have_it() {
    let two = Some(r#"[{"offset":"PT1H","channels":["webhook","in-app"]}]"#);
    check(
        |s| {
            s.set("01 08:00", Some(task(DUE, two)))
                .clock("05 11:00")
                .delivered("05 11:00:01")
                .answer(
                    "05 11:00:02",
                    Channel::Webhook,
                    1,
                    OutcomeResult::Retry { error: "503".into(), next_attempt_at: march("05 11:00:05") },
                )
                .restart()
                .clock("05 11:00:05")
                .answer("05 11:00:06", Channel::Webhook, 2, OutcomeResult::Delivered);
        },
        expect![[r#"
            05 11:00:00 PT1H SENT (webhook DELIVERED 2, in-app DELIVERED 1) sent 05 11:00:06 made 01 08:00:00 changed 01 08:00:00
            send webhook of 05 11:00:00 at 05 11:00:00
            send in-app of 05 11:00:00 at 05 11:00:00
            action DELIVERED
            action SENT
            action DELIVERED
            REMINDER_SENT|#|2026-03-05T11:00:00.000Z at 05 11:00:06
        "#]],
    );
    check(
        |s| {
            s.set("01 08:00", Some(task(DUE, two)))
                .clock("05 11:00")
                .answer("05 11:00:01", Channel::Webhook, 1, failed("404"))
                .restart()
                .delivered("05 11:00:02")
                .answer("05 11:30", Channel::Webhook, 1, OutcomeResult::RetryRequested)
                .answer("05 11:31", Channel::Webhook, 2, failed("404"))
                .answer("05 11:40", Channel::Webhook, 2, OutcomeResult::RetryRequested)
                .restart()
                .answer("05 11:41", Channel::Webhook, 3, OutcomeResult::Delivered);
        },
        expect![[r#"
            05 11:00:00 PT1H SENT (webhook DELIVERED 3, in-app DELIVERED 1) sent 05 11:41:00 made 01 08:00:00 changed 01 08:00:00
            send webhook of 05 11:00:00 at 05 11:00:00
            send in-app of 05 11:00:00 at 05 11:00:00
            action FAILED
            REMINDER_FAILED|#|2026-03-05T11:00:00.000Z at 05 11:00:01
            action DELIVERED
            action PENDING
            action FAILED
            action PENDING
            action DELIVERED
            REMINDER_SENT|#|2026-03-05T11:00:00.000Z at 05 11:41:00
        "#]],
    );
}

#[test]
fn completing_or_deleting_cancels_also_what_was_handed_over() {
    check(
        |s| {
            s.set("01 08:00", Some(task(DUE, Some(r#"["PT1H","PT2H"]"#))))
                .clock("05 10:00")
                .completed("05 10:00", true)
                .clock("05 12:00");
        },
        expect![[r#"
            05 10:00:00 PT2H CANCELLED task_completed (in-app CANCELLED) made 01 08:00:00 changed 05 10:00:00
            05 11:00:00 PT1H CANCELLED task_completed (in-app CANCELLED) made 01 08:00:00 changed 05 10:00:00
            send in-app of 05 10:00:00 at 05 10:00:00
            REMINDER_CANCELLED|#|e2 at 05 10:00:00
            action CANCELLED
            REMINDER_CANCELLED|#|e2 at 05 10:00:00
        "#]],
    );
    check(
        |s| {
            s.set("01 08:00", Some(task(DUE, None))).set("02 08:00", None).clock("05 12:00");
        },
        expect![[r#"
            05 11:00:00 PT1H CANCELLED task_deleted (in-app CANCELLED) made 01 08:00:00 changed 02 08:00:00
            REMINDER_CANCELLED|#|e2 at 02 08:00:00
        "#]],
    );
}

#[test]
fn handed_over_before_it_was_cancelled_may_still_arrive() {
    check(
        |s| {
            s.set("01 08:00", Some(task(DUE, None)))
                .clock("05 11:00")
                .completed("05 11:00", true)
                .delivered("05 11:00:01");
        },
        expect![[r#"
            05 11:00:00 PT1H CANCELLED task_completed (in-app DELIVERED 1) made 01 08:00:00 changed 05 11:00:00
            send in-app of 05 11:00:00 at 05 11:00:00
            action CANCELLED
            REMINDER_CANCELLED|#|e2 at 05 11:00:00
            action DELIVERED
        "#]],
    );
}

#[test]
fn reopening_brings_back_what_is_still_to_come() {
    check(
        |s| {
            s.set("01 08:00", Some(task(DUE, Some(r#"["PT1H","PT2H","PT3H"]"#))))
                .clock("05 09:00")
                .delivered("05 09:00:01")
                .completed("05 09:30", true)
                .completed("05 10:30", false)
                .clock("05 11:00");
        },
        expect![[r#"
            05 09:00:00 PT3H SENT (in-app DELIVERED 1) sent 05 09:00:01 made 01 08:00:00 changed 01 08:00:00
            05 10:00:00 PT2H CANCELLED task_completed (in-app CANCELLED) made 01 08:00:00 changed 05 09:30:00
            05 11:00:00 PT1H PENDING (in-app PENDING) made 01 08:00:00 changed 05 10:30:00
            send in-app of 05 09:00:00 at 05 09:00:00
            action DELIVERED
            REMINDER_SENT|#|2026-03-05T09:00:00.000Z at 05 09:00:01
            REMINDER_CANCELLED|#|e2 at 05 09:30:00
            REMINDER_CANCELLED|#|e2 at 05 09:30:00
            send in-app of 05 11:00:00 at 05 11:00:00
        "#]],
    );
    check(
        |s| {
            s.set("01 08:00", Some(task(DUE, None)))
                .set("02 08:00", None)
                .set("03 08:00", Some(task(DUE, None)))
                .restart()
                .clock("05 11:00");
        },
        expect![[r#"
            05 11:00:00 PT1H PENDING (in-app PENDING) made 01 08:00:00 changed 03 08:00:00
            REMINDER_CANCELLED|#|e2 at 02 08:00:00
            send in-app of 05 11:00:00 at 05 11:00:00
        "#]],
    );
}

#[test]
fn a_handed_over_one_that_comes_back_is_decided_anew_under_its_id() {
    check(
        |s| {
            s.set("01 08:00", Some(task(DUE, None)))
                .clock("05 11:00")
                .completed("05 11:00:10", true)
                .completed("05 11:00:30", false)
                .clock("05 11:00:31")
                .delivered("05 11:00:32");
        },
        expect![[r#"
            05 11:00:00 PT1H SENT (in-app DELIVERED 1) sent 05 11:00:32 made 01 08:00:00 changed 05 11:00:30
            send in-app of 05 11:00:00 at 05 11:00:00
            action CANCELLED
            REMINDER_CANCELLED|#|e2 at 05 11:00:10
            send in-app of 05 11:00:00 at 05 11:00:31
            action DELIVERED
            REMINDER_SENT|#|2026-03-05T11:00:00.000Z at 05 11:00:32
        "#]],
    );
}

#[test]
fn due_there_and_back_gives_the_first_ids_back() {
    check(
        |s| {
            s.set("01 08:00", Some(task(DUE, Some(r#"["PT1H","P2D"]"#))))
                .clock("03 12:00")
                .delivered("03 12:00:01")
                .due("03 13:00", Some("2026-03-06T12:00:00Z"))
                .due("03 14:00", DUE)
                .due("03 15:00", None);
        },
        expect![[r#"
            03 12:00:00 P2D SENT (in-app DELIVERED 1) sent 03 12:00:01 made 01 08:00:00 changed 01 08:00:00
            04 12:00:00 P2D CANCELLED rescheduled (in-app CANCELLED) made 03 13:00:00 changed 03 14:00:00
            05 11:00:00 PT1H CANCELLED due_cleared (in-app CANCELLED) made 01 08:00:00 changed 03 15:00:00
            06 11:00:00 PT1H CANCELLED rescheduled (in-app CANCELLED) made 03 13:00:00 changed 03 14:00:00
            send in-app of 03 12:00:00 at 03 12:00:00
            action DELIVERED
            REMINDER_SENT|#|2026-03-03T12:00:00.000Z at 03 12:00:01
            REMINDER_CANCELLED|#|e2 at 03 13:00:00
            REMINDER_CANCELLED|#|e3 at 03 14:00:00
            REMINDER_CANCELLED|#|e3 at 03 14:00:00
            REMINDER_CANCELLED|#|e4 at 03 15:00:00
        "#]],
    );
}

#[test]
fn absolute_ones_outlive_the_due() {
    check(
        |s| {
            s.set("01 08:00", Some(task(DUE, Some(r#"["PT1H",{"at":"2026-03-05T09:00:00Z"}]"#))))
                .due("01 08:01", Some("2026-03-06T12:00:00Z"))
                .due("01 08:02", None)
                .entries("01 08:03", "[]");
        },
        expect![[r#"
            05 09:00:00 absolute CANCELLED entry_removed (in-app CANCELLED) made 01 08:00:00 changed 01 08:03:00
            05 11:00:00 PT1H CANCELLED rescheduled (in-app CANCELLED) made 01 08:00:00 changed 01 08:01:00
            06 11:00:00 PT1H CANCELLED due_cleared (in-app CANCELLED) made 01 08:01:00 changed 01 08:02:00
            REMINDER_CANCELLED|#|e2 at 01 08:01:00
            REMINDER_CANCELLED|#|e3 at 01 08:02:00
            REMINDER_CANCELLED|#|e4 at 01 08:03:00
        "#]],
    );
}

#[test]
fn an_entry_that_goes_and_comes() {
    check(
        |s| {
            s.set("01 08:00", Some(task(DUE, Some(r#"["PT1H","PT2H"]"#))))
                .entries("01 09:00", r#"["PT2H"]"#)
                .entries("01 10:00", r#"["PT1H",{"offset":"PT2H","channels":["email"]}]"#);
        },
        expect![[r#"
            05 10:00:00 PT2H PENDING (email PENDING) made 01 08:00:00 changed 01 10:00:00
            05 11:00:00 PT1H PENDING (in-app PENDING) made 01 08:00:00 changed 01 10:00:00
            REMINDER_CANCELLED|#|e2 at 01 09:00:00
        "#]],
    );
}

#[test]
fn zone_changes_move_what_hangs_on_the_wall_clock() {
    let entries = Some(r#"["PT1H",{"at":"2026-03-05T08:00"},{"at":"2026-03-05T07:00:00Z"}]"#);
    check(
        |s| {
            s.set("01 08:00", Some(task(Some("2026-03-05T12:00"), entries)))
                .change("01 09:00", |task| task.timezone = parse_zone("Europe/Berlin"))
                .user("01 10:00", |settings| settings.zone = parse_zone("Asia/Tokyo").unwrap());
        },
        expect![[r#"
            05 07:00:00 absolute PENDING (in-app PENDING) made 01 08:00:00 changed 01 08:00:00
            05 08:00:00 absolute CANCELLED rescheduled (in-app CANCELLED) made 01 08:00:00 changed 01 09:00:00
            05 10:00:00 PT1H PENDING (in-app PENDING) made 01 08:00:00 changed 01 09:00:00
            REMINDER_CANCELLED|#|e2 at 01 09:00:00
        "#]],
    );
    // The instant that it comes to is asked for anyway.
    let instant_first = Some(r#"[{"at":"2026-03-05T07:00:00Z"},{"at":"2026-03-05T08:00"}]"#);
    check(
        |s| {
            s.set("01 08:00", Some(task(DUE, instant_first)))
                .change("01 09:00", |task| task.timezone = parse_zone("Europe/Berlin"))
                .change("01 10:00", |task| task.timezone = parse_zone("Asia/Tokyo"));
        },
        expect![[r#"
            04 23:00:00 absolute PENDING (in-app PENDING) made 01 10:00:00 changed 01 10:00:00
            05 07:00:00 absolute PENDING (in-app PENDING) made 01 08:00:00 changed 01 08:00:00
            05 08:00:00 absolute CANCELLED rescheduled (in-app CANCELLED) made 01 08:00:00 changed 01 09:00:00
            REMINDER_CANCELLED|#|e2 at 01 09:00:00
        "#]],
    );
    // Past in the new zone, while it was being sent.
    check(
        |s| {
            s.set("01 08:00", Some(task(Some("2026-03-05"), Some(r#"["PT0S"]"#))))
                .clock("05 09:00")
                .change("05 09:00:30", |task| task.timezone = parse_zone("Europe/Berlin"));
        },
        expect![[r#"
            05 08:00:00 PT0S EXPIRED trigger_in_past (in-app CANCELLED) made 01 08:00:00 changed 05 09:00:30
            send in-app of 05 09:00:00 at 05 09:00:00
            action CANCELLED
            REMINDER_EXPIRED|#|e2 at 05 09:00:30
        "#]],
    );
    // To come again in the new zone, while it was being sent.
    check(
        |s| {
            s.set("01 08:00", Some(task(Some("2026-03-05"), Some(r#"["PT0S"]"#))))
                .clock("05 09:02")
                .change("05 09:02", |task| task.timezone = parse_zone("America/New_York"))
                .clock("05 14:00");
        },
        expect![[r#"
            05 14:00:00 PT0S PENDING (in-app PENDING) made 01 08:00:00 changed 05 09:02:00
            send in-app of 05 09:00:00 at 05 09:02:00
            action CANCELLED
            send in-app of 05 14:00:00 at 05 14:00:00
        "#]],
    );
}

#[test]
fn what_comes_to_its_end_stays_with_who_was_to_be_reminded() {
    let users = |s: &Story| s.rows.values().map(|row| (row.status, row.user.to_string())).collect::<Vec<_>>();
    let mut story = Story::new();
    let bobs = |due| Task { user_id: UserId::parse("bob").unwrap(), ..task(due, None) };
    story.set("01 08:00", Some(task(DUE, None))).set("01 09:00", Some(bobs(DUE)));
    assert_eq!(users(&story), [(Status::Pending, "bob".to_owned())], "what is asked for still goes along");
    story.set("01 10:00", Some(task(Some("2026-03-07T12:00:00Z"), None)));
    let mut ended = users(&story);
    ended.sort_by_key(|(_, user)| user.clone());
    assert_eq!(ended, [(Status::Pending, "ann".to_owned()), (Status::Cancelled, "bob".to_owned())]);
}

#[test]
fn what_is_on_its_way_goes_to_the_new_owner_instead() {
    check(
        |s| {
            s.set("01 08:00", Some(task(DUE, None)))
                .clock("05 11:00")
                .set("05 11:01", Some(Task { user_id: UserId::parse("bob").unwrap(), ..task(DUE, None) }))
                .clock("05 11:02")
                .delivered("05 11:03");
            assert!(s.rows.values().all(|row| row.user.as_str() == "bob"));
        },
        expect![[r#"
            05 11:00:00 PT1H SENT late (in-app DELIVERED 1) sent 05 11:03:00 made 01 08:00:00 changed 01 08:00:00
            send in-app of 05 11:00:00 at 05 11:00:00
            action CANCELLED
            send in-app of 05 11:00:00 at 05 11:02:00
            action DELIVERED
            REMINDER_SENT|#|2026-03-05T11:00:00.000Z at 05 11:03:00
        "#]],
    );
}

#[test]
fn the_users_settings_hold_where_the_task_says_nothing() {
    check(
        |s| {
            s.set("01 08:00", Some(task(DUE, None)))
                .user("01 09:00", |settings| settings.offsets = vec![Offset::parse("PT2H").unwrap()])
                .user("01 10:00", |settings| settings.channels = vec![Channel::Email])
                .user("01 11:00", |settings| settings.offsets.clear())
                .restart()
                .user("01 12:00", |settings| settings.offsets = vec![Offset::parse("PT2H").unwrap()]);
        },
        expect![[r#"
            05 10:00:00 PT2H PENDING (email PENDING) made 01 09:00:00 changed 01 12:00:00
            05 11:00:00 PT1H CANCELLED entry_removed (in-app CANCELLED) made 01 08:00:00 changed 01 09:00:00
            REMINDER_CANCELLED|#|e2 at 01 09:00:00
            REMINDER_CANCELLED|#|e4 at 01 11:00:00
        "#]],
    );
}

#[test]
fn snoozing_makes_another_one() {
    check(
        |s| {
            s.set("01 08:00", Some(task(DUE, None)))
                .snooze("01 09:00", "05 11:00", "05 08:15")
                .snooze("01 09:01", "05 11:00", "05 08:15")
                .entries("01 09:02", "[]")
                .clock("05 08:15")
                .delivered("05 08:15:01")
                .snooze("05 08:16", "05 08:15", "05 08:20")
                .clock("05 08:20");
        },
        expect![[r#"
            05 08:15:00 snooze SENT (in-app DELIVERED 1) sent 05 08:15:01 made 01 09:00:00 changed 01 09:00:00
            05 08:20:00 snooze PENDING (in-app PENDING) made 05 08:16:00 changed 05 08:16:00
            05 11:00:00 PT1H CANCELLED snoozed (in-app CANCELLED) made 01 08:00:00 changed 01 09:00:00
            REMINDER_CANCELLED|#|e2 at 01 09:00:00
            send in-app of 05 08:15:00 at 05 08:15:00
            action DELIVERED
            REMINDER_SENT|#|2026-03-05T08:15:00.000Z at 05 08:15:01
            send in-app of 05 08:20:00 at 05 08:20:00
        "#]],
    );
    // A changed due cancels it, and coming back it stays away while the first one returns.
    check(
        |s| {
            s.set("01 08:00", Some(task(DUE, None)))
                .snooze("01 09:00", "05 11:00", "05 08:15")
                .due("01 10:00", Some("2026-03-07T12:00:00Z"))
                .due("01 11:00", DUE);
        },
        expect![[r#"
            05 08:15:00 snooze CANCELLED rescheduled (in-app CANCELLED) made 01 09:00:00 changed 01 10:00:00
            05 11:00:00 PT1H PENDING (in-app PENDING) made 01 08:00:00 changed 01 11:00:00
            07 11:00:00 PT1H CANCELLED rescheduled (in-app CANCELLED) made 01 10:00:00 changed 01 11:00:00
            REMINDER_CANCELLED|#|e2 at 01 09:00:00
            REMINDER_CANCELLED|#|e3 at 01 10:00:00
            REMINDER_CANCELLED|#|e4 at 01 11:00:00
        "#]],
    );
    // Into the past, of a closed task, of an unknown reminder.
    check(
        |s| {
            s.set("01 08:00", Some(task(DUE, None)))
                .snooze("01 09:00", "05 11:00", "01 08:00")
                .said("01 09:30", Change::Snoozed { reminder: Uuid::nil(), until: march("02 08:00") })
                .completed("01 10:00", true)
                .snooze("01 11:00", "05 11:00", "05 08:15");
        },
        expect![[r#"
            01 08:00:00 snooze EXPIRED trigger_in_past (in-app CANCELLED) made 01 09:00:00 changed 01 09:00:00
            05 11:00:00 PT1H CANCELLED snoozed (in-app CANCELLED) made 01 08:00:00 changed 01 09:00:00
            REMINDER_CANCELLED|#|e2 at 01 09:00:00
            REMINDER_EXPIRED|#|e2 at 01 09:00:00
        "#]],
    );
}

#[test]
fn dismissed_comes_back_only_with_another_due_and_back() {
    check(
        |s| {
            s.set("01 08:00", Some(task(DUE, None)))
                .dismiss("01 09:00", "05 11:00")
                .change("01 10:00", |task| task.timezone = parse_zone("Europe/Berlin"))
                .completed("01 11:00", true)
                .completed("01 12:00", false)
                .entries("01 12:10", "[]")
                .restart()
                .entries("01 12:20", r#"["PT1H"]"#);
        },
        expect![[r#"
            05 11:00:00 PT1H CANCELLED dismissed (in-app CANCELLED) made 01 08:00:00 changed 01 09:00:00
            REMINDER_CANCELLED|#|e2 at 01 09:00:00
        "#]],
    );
    check(
        |s| {
            s.set("01 08:00", Some(task(DUE, None)))
                .dismiss("01 09:00", "05 11:00")
                .due("01 10:00", Some("2026-03-07T12:00:00Z"))
                .due("01 11:00", DUE);
        },
        expect![[r#"
            05 11:00:00 PT1H PENDING (in-app PENDING) made 01 08:00:00 changed 01 11:00:00
            07 11:00:00 PT1H CANCELLED rescheduled (in-app CANCELLED) made 01 10:00:00 changed 01 11:00:00
            REMINDER_CANCELLED|#|e2 at 01 09:00:00
            REMINDER_CANCELLED|#|e4 at 01 11:00:00
        "#]],
    );
    // One that was sent is sent.
    check(
        |s| {
            s.set("01 08:00", Some(task(DUE, None)))
                .clock("05 11:00")
                .delivered("05 11:00:01")
                .dismiss("05 11:01", "05 11:00");
        },
        expect![[r#"
            05 11:00:00 PT1H SENT (in-app DELIVERED 1) sent 05 11:00:01 made 01 08:00:00 changed 01 08:00:00
            send in-app of 05 11:00:00 at 05 11:00:00
            action DELIVERED
            REMINDER_SENT|#|2026-03-05T11:00:00.000Z at 05 11:00:01
        "#]],
    );
}

#[test]
fn erasing_the_user_cancels_until_a_later_event_asks_anew() {
    check(
        |s| {
            s.set("01 08:00", Some(task(DUE, Some(r#"["PT1H","PT2H"]"#))))
                .clock("05 10:00")
                .said("05 10:01", Change::Erased { at: march("05 10:01") })
                .completed("05 10:02", true)
                .completed("05 10:03", false)
                .clock("05 11:00");
        },
        expect![[r#"
            05 10:00:00 PT2H EXPIRED trigger_in_past (in-app CANCELLED) made 01 08:00:00 changed 05 10:03:00
            05 11:00:00 PT1H PENDING (in-app PENDING) made 01 08:00:00 changed 05 10:03:00
            send in-app of 05 10:00:00 at 05 10:00:00
            REMINDER_CANCELLED|#|e2 at 05 10:01:00
            action CANCELLED
            REMINDER_CANCELLED|#|e2 at 05 10:01:00
            REMINDER_EXPIRED|#|e4 at 05 10:03:00
            send in-app of 05 11:00:00 at 05 11:00:00
        "#]],
    );
}

#[test]
fn what_an_earlier_life_sent_is_not_sent_again() {
    let id = |due| topics::ids::relative_reminder(TaskId::parse(TASK).unwrap(), &Offset::parse("PT1H").unwrap(), due);
    let first = id(Due::parse(DUE.unwrap()));
    // Known before the reminder is made anew.
    check(
        |s| {
            s.sent_before(first, Channel::InApp, "05 11:00:02")
                .set("01 08:00", Some(task(DUE, None)))
                .completed("05 12:00", true)
                .clock("09 00:00");
        },
        expect![[r#"
            05 11:00:00 PT1H SENT (in-app DELIVERED 1) sent 05 11:00:02 made 01 08:00:00 changed 01 08:00:00
            REMINDER_SENT|#|2026-03-05T11:00:00.000Z at 05 11:00:02
        "#]],
    );
    // Known after it was made anew, and even cancelled.
    check(
        |s| {
            s.set("01 08:00", Some(task(DUE, None))).completed("05 12:00", true).sent_before(
                first,
                Channel::InApp,
                "05 11:00:02",
            );
        },
        expect![[r#"
            05 11:00:00 PT1H SENT (in-app DELIVERED 1) sent 05 11:00:02 made 01 08:00:00 changed 05 12:00:00
            REMINDER_CANCELLED|#|e2 at 05 12:00:00
            REMINDER_SENT|#|2026-03-05T11:00:00.000Z at 05 11:00:02
        "#]],
    );
    // The other channel is still to be served.
    check(
        |s| {
            s.sent_before(first, Channel::InApp, "05 11:00:02")
                .set("01 08:00", Some(task(DUE, Some(r#"[{"offset":"PT1H","channels":["in-app","webhook"]}]"#))))
                .clock("05 11:10")
                .answer("05 11:10:01", Channel::Webhook, 1, OutcomeResult::Delivered);
        },
        expect![[r#"
            05 11:00:00 PT1H SENT late (in-app DELIVERED 1, webhook DELIVERED 1) sent 05 11:10:01 made 01 08:00:00 changed 01 08:00:00
            send webhook of 05 11:00:00 at 05 11:10:00
            action DELIVERED
            REMINDER_SENT|#|2026-03-05T11:00:00.000Z at 05 11:10:01
        "#]],
    );
}

#[test]
fn a_clock_that_steps_back_sends_nothing_again() {
    check(
        |s| {
            s.set("01 08:00", Some(task(DUE, None)))
                .clock("05 11:00")
                .clock("05 10:00")
                .restart()
                .clock("05 11:00")
                .delivered("05 11:00:01");
        },
        expect![[r#"
            05 11:00:00 PT1H SENT (in-app DELIVERED 1) sent 05 11:00:01 made 01 08:00:00 changed 01 08:00:00
            send in-app of 05 11:00:00 at 05 11:00:00
            action DELIVERED
            REMINDER_SENT|#|2026-03-05T11:00:00.000Z at 05 11:00:01
        "#]],
    );
}

#[test]
fn tells_of_the_task_as_it_is_when_it_fires() {
    let mut story = Story::new();
    story
        .set("01 08:00", Some(task(DUE, Some(r#"[{"offset":"PT1H","channels":["email"]}]"#))))
        .change("02 08:00", |task| task.title = "new".into())
        .clock("05 11:02");
    let (action, _) = story.actions.values().next().unwrap();
    for part in [r#""title":"new""#, r#""late":true,"lateSeconds":120,"#, r#""channel":"email""#] {
        assert!(action.body.contains(part), "{part} in {}", action.body);
    }
    assert_eq!(action.metadata["emailTo"], "ann@example.org");
}

#[test]
fn the_series_is_followed_without_counting_as_a_change() {
    let mut story = Story::new();
    story.set("01 08:00", Some(task(DUE, None)));
    let series = TaskId::parse(TASK);
    story.change("02 08:00", |task| task.series_id = series);
    let row = story.rows.values().next().unwrap();
    assert_eq!((row.series, row.updated_at), (series, march("01 08:00")));
}

#[test]
fn keeps_a_task_only_while_something_of_it_is_pending() {
    let mut story = Story::new();
    story.set("01 08:00", Some(task(DUE, None))).clock("05 11:00");
    let slot = story.book.tasks.find(TaskId::parse(TASK).unwrap()).unwrap();
    assert!(story.book.tasks.get(slot).task.is_some());
    assert_eq!(story.book.pending(), 1);
    story.delivered("05 11:00:01");
    assert!(story.book.tasks.get(slot).task.is_none());
    assert_eq!((story.book.pending(), story.book.handed.len()), (0, 0));
}
