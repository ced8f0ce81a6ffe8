use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use axum::body::Bytes as Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use topics::action::{ActionState, OutcomeResult};
use topics::reminder::Channel;

use super::fixture::{at, create, delivery, delivery_of, task};
use super::*;

/// What a receiver does with one call.
#[derive(Clone, Debug)]
enum Reply {
    /// Answers with this status.
    Status(u16),
    /// Answers 200, and this as the upstream's status, as the sidecar does.
    Upstream(u16),
    /// Answers 200 with an upstream status and `metadata.retry-after`.
    After(u16, &'static str),
    /// Answers with a status and a body.
    Text(u16, &'static str),
    /// Never answers.
    Hang,
}

#[derive(Clone, Debug)]
struct Received {
    path: String,
    headers: HeaderMap,
    body: serde_json::Value,
}

#[derive(Default)]
struct Script {
    health: Mutex<VecDeque<u16>>,
    /// By the end of the path; when a list is used up the receiver answers 200.
    replies: Mutex<Vec<(&'static str, VecDeque<Reply>)>>,
    received: Mutex<Vec<Received>>,
    open: AtomicUsize,
    open_max: AtomicUsize,
}

/// A stand-in for the sidecar or the Chat API, which answers by a script.
struct Receiver {
    url: String,
    script: Arc<Script>,
}

impl Receiver {
    async fn start(replies: &[(&'static str, &[Reply])]) -> Receiver {
        let script = Arc::new(Script::default());
        let list = replies.iter().map(|(path, replies)| (*path, replies.iter().cloned().collect()));
        *script.replies.lock().unwrap() = list.collect();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app = axum::Router::new().fallback(answer).with_state(script.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Receiver { url, script }
    }

    fn received(&self) -> Vec<Received> {
        self.script.received.lock().unwrap().clone()
    }
}

async fn answer(
    State(script): State<Arc<Script>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let path = uri.path().to_owned();
    if method == Method::GET {
        let status = script.health.lock().unwrap().pop_front().unwrap_or(204);
        return StatusCode::from_u16(status).unwrap().into_response();
    }
    let open = script.open.fetch_add(1, Ordering::SeqCst) + 1;
    script.open_max.fetch_max(open, Ordering::SeqCst);
    let body = serde_json::from_slice(&body).unwrap();
    script.received.lock().unwrap().push(Received { path: path.clone(), headers, body });
    let reply = {
        let mut replies = script.replies.lock().unwrap();
        let list = replies.iter_mut().find(|(end, _)| path.ends_with(end));
        list.and_then(|(_, list)| list.pop_front()).unwrap_or(Reply::Status(200))
    };
    let status = |status: u16| StatusCode::from_u16(status).unwrap();
    let response = match reply {
        Reply::Status(code) => status(code).into_response(),
        Reply::Upstream(code) => (status(200), [("metadata.statuscode", code.to_string())]).into_response(),
        Reply::After(code, after) => {
            let headers = [("metadata.statuscode", code.to_string()), ("metadata.retry-after", after.to_owned())];
            (status(200), headers).into_response()
        }
        Reply::Text(code, text) => (status(code), text).into_response(),
        Reply::Hang => std::future::pending().await,
    };
    tokio::time::sleep(Duration::from_millis(2)).await;
    script.open.fetch_sub(1, Ordering::SeqCst);
    response
}

/// Collects outcomes.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Outcome>>>);

impl Told {
    fn all(&self) -> Vec<Outcome> {
        self.0.lock().unwrap().clone()
    }

    /// What became of an action, call by call.
    fn of(&self, action: &Action) -> Vec<&'static str> {
        let of = self.all().into_iter().filter(|outcome| outcome.action == action.id);
        let word = |outcome: Outcome| match outcome.result {
            OutcomeResult::Delivered => "delivered",
            OutcomeResult::Retry { .. } => "retry",
            OutcomeResult::Failed { .. } => "failed",
            OutcomeResult::RetryRequested => "requested",
        };
        of.map(word).collect()
    }

    #[track_caller]
    fn error_of(&self, action: &Action) -> String {
        let last = self.all().into_iter().rfind(|outcome| outcome.action == action.id).expect("something was told");
        match last.result {
            OutcomeResult::Retry { error, .. } | OutcomeResult::Failed { error } => error.to_string(),
            other => format!("{other:?}"),
        }
    }
}

fn ports(told: &Told) -> Ports {
    let told = told.clone();
    Ports {
        ledger: None,
        clock: Arc::new(|| at("2026-03-30T08:00:05.250Z")),
        outcomes: Arc::new(move |_, outcome| told.0.lock().unwrap().push(outcome)),
    }
}

/// Settings whose waits are short enough for a test over real sockets.
fn quick() -> Settings {
    let backoff = Backoff {
        first: Duration::from_millis(4),
        longest: Duration::from_millis(20),
        retry_after_max: Duration::from_millis(40),
        misconfigured: Duration::from_millis(10),
        confirm_wait: Duration::from_millis(60),
        ..Backoff::default()
    };
    let wording = Wording { email_from: "tasks@example.org".to_owned(), ..Wording::default() };
    Settings { backoff, timeout: Duration::from_millis(250), wording, ..Settings::default() }
}

fn dapr(receiver: &Receiver, create_by_invoke: bool) -> Target {
    Target::Dapr(Dapr { endpoint: receiver.url.clone(), token: Some("secret".to_owned()), create_by_invoke })
}

fn decided(actions: &[Action]) -> Vec<OutboxChange> {
    actions.iter().map(|action| OutboxChange::Decided(Arc::new(action.clone()))).collect()
}

fn moved(action: &Action, state: ActionState) -> OutboxChange {
    let progress = Progress { state, attempts: 0, last_error: None, next_attempt_at: None, delivered_at: None };
    OutboxChange::Moved { id: action.id, task: action.task, progress }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "it never came: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Sends one action through a sidecar that answers by the script, until it is settled.
async fn check(action: Action, replies: &[Reply], told: &[&str], error: Option<&str>) {
    let end: &'static str = action.component();
    let receiver = Receiver::start(&[(end, replies)]).await;
    let heard = Told::default();
    let relay = Relay::start(dapr(&receiver, false), quick(), ports(&heard)).unwrap();
    relay.offer(&decided(std::slice::from_ref(&action)));
    relay.release();
    until(&format!("{told:?}"), || heard.of(&action).len() >= told.len()).await;
    relay.stop(Duration::from_secs(1)).await;
    assert_eq!(heard.of(&action), told, "{replies:?}");
    if let Some(error) = error {
        assert_eq!(heard.error_of(&action), error);
    }
    let attempts: Vec<u32> = heard.all().iter().map(|outcome| outcome.attempts).collect();
    assert_eq!(attempts, (1..=told.len() as u32).collect::<Vec<_>>());
}

#[tokio::test]
async fn answers_of_the_upstream_decide() {
    use Reply::{After, Status, Text, Upstream};
    check(create(1), &[Upstream(201)], &["delivered"], None).await;
    check(create(1), &[Upstream(409)], &["delivered"], None).await;
    check(create(1), &[Status(204)], &["delivered"], None).await;
    check(create(1), &[Upstream(422)], &["failed"], Some("chat-api-out answered 422")).await;
    check(create(1), &[Upstream(429), After(503, "1"), Upstream(201)], &["retry", "retry", "delivered"], None).await;
    check(create(1), &[Upstream(403), Upstream(201)], &["retry", "delivered"], None).await;
    let unknown = Text(500, "couldn't find output binding chat-api-out");
    check(create(1), &[unknown.clone(), unknown, Status(201)], &["retry", "retry", "delivered"], None).await;
    check(delivery(1, Channel::Webhook), &[Upstream(409)], &["failed"], Some("webhook-out answered 409")).await;
    check(
        delivery(1, Channel::InApp),
        &[Status(400), Status(500), Status(200)],
        &["retry", "retry", "delivered"],
        None,
    )
    .await;
    check(delivery(1, Channel::Email), &[], &["failed"], Some("the user has no e-mail address")).await;
}

/// No answer is ambiguous: a create waits for its event, and is dropped when the event confirms it.
#[tokio::test]
async fn an_unanswered_create_waits_for_its_event() {
    let receiver = Receiver::start(&[("chat-api-out", &[Reply::Hang])]).await;
    let told = Told::default();
    let mut settings = quick();
    settings.backoff.confirm_wait = Duration::from_secs(3600);
    let relay = Relay::start(dapr(&receiver, false), settings, ports(&told)).unwrap();
    let action = create(1);
    relay.offer(&decided(std::slice::from_ref(&action)));
    relay.release();
    until("the call is given up", || !told.all().is_empty()).await;
    assert_eq!(told.error_of(&action), "chat-api-out did not answer: it took too long");
    assert_eq!(relay.numbers().pending_creates, 1);
    relay.offer(&[moved(&action, ActionState::Confirmed)]);
    assert_eq!(relay.numbers().pending_creates, 0);
    assert_eq!(receiver.received().len(), 1);
    relay.stop(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn a_refused_connection_is_tried_again_soon() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let told = Told::default();
    let mut settings = quick();
    settings.backoff.confirm_wait = Duration::from_secs(3600);
    let target = Target::ChatApi { url: format!("http://{closed}/"), log: Arc::new(Topic::default()) };
    let relay = Relay::start(target, settings, ports(&told)).unwrap();
    relay.offer(&decided(&[create(1)]));
    relay.release();
    until("three tries", || told.all().len() >= 3).await;
    assert_eq!(told.error_of(&create(1)), "chat-api did not answer: could not connect");
    relay.stop(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn nothing_is_sent_before_release_and_before_the_sidecar_is_ready() {
    let receiver = Receiver::start(&[]).await;
    receiver.script.health.lock().unwrap().extend([500, 503]);
    let told = Told::default();
    let relay = Relay::start(dapr(&receiver, false), quick(), ports(&told)).unwrap();
    relay.offer(&decided(&[create(1)]));
    relay.release();
    assert!(relay.waits_for_sidecar());
    until("the sidecar is ready", || !relay.waits_for_sidecar()).await;
    until("the create is sent", || !told.all().is_empty()).await;
    relay.stop(Duration::from_secs(1)).await;

    let relay = Relay::start(dapr(&receiver, false), quick(), ports(&told)).unwrap();
    let (held, dropped) = (create(2), create(3));
    relay.restore(vec![
        (
            Arc::new(held.clone()),
            Progress {
                state: ActionState::Sent,
                attempts: 2,
                last_error: None,
                next_attempt_at: None,
                delivered_at: None,
            },
        ),
        (
            Arc::new(dropped.clone()),
            Progress {
                state: ActionState::Decided,
                attempts: 0,
                last_error: None,
                next_attempt_at: None,
                delivered_at: None,
            },
        ),
    ]);
    until("the sidecar is ready", || !relay.waits_for_sidecar()).await;
    relay.offer(&[moved(&dropped, ActionState::Confirmed)]);
    assert_eq!(receiver.received().len(), 1);
    relay.release();
    until("the restored one is sent", || told.of(&held) == ["delivered"]).await;
    assert_eq!(told.all().last().unwrap().attempts, 3);
    assert!(told.of(&dropped).is_empty());
    relay.stop(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn calls_carry_token_trace_and_ids() {
    let receiver = Receiver::start(&[]).await;
    let told = Told::default();
    let relay = Relay::start(dapr(&receiver, false), quick(), ports(&told)).unwrap();
    let mut mail = delivery(3, Channel::Email);
    mail.metadata.insert("emailTo".to_owned(), "ann@example.org".to_owned());
    relay.offer(&decided(&[create(1), delivery(1, Channel::InApp), delivery(2, Channel::Webhook), mail]));
    relay.release();
    until("four calls", || told.all().len() == 4).await;
    relay.stop(Duration::from_secs(1)).await;
    let received = receiver.received();
    for call in &received {
        assert_eq!(call.headers["dapr-api-token"], "secret");
        assert_eq!(call.headers["traceparent"].len(), 55);
        assert_eq!(call.headers["content-type"], "application/json");
    }
    let of = |component: &str| {
        let call = received.iter().find(|call| call.path == format!("/v1.0/bindings/{component}"));
        call.expect(component).body.clone()
    };
    let create = of("chat-api-out");
    assert_eq!((&create["operation"], &create["metadata"]["path"]), (&"post".into(), &"/api/tasks".into()));
    assert_eq!(create["metadata"]["Idempotency-Key"], create["data"]["id"]);
    assert_eq!(of("task-reminders-out")["operation"], "create");
    assert_eq!(of("task-reminders-out")["metadata"]["partitionKey"], task(1).to_string());
    let webhook = of("webhook-out");
    assert_eq!(webhook["metadata"]["Webhook-Id"], webhook["data"]["id"]);
    assert_eq!(webhook["data"]["data"]["attempt"], 1);
    let mail = of("email-out");
    let mut fields: Vec<&String> = mail["metadata"].as_object().unwrap().keys().collect();
    fields.sort();
    assert_eq!(fields, ["emailBCC", "emailCC", "emailFrom", "emailTo", "priority", "subject"]);
}

#[tokio::test]
async fn creates_may_go_by_invocation() {
    let receiver = Receiver::start(&[("/method/api/tasks", &[Reply::Status(503), Reply::Status(201)])]).await;
    let told = Told::default();
    let relay = Relay::start(dapr(&receiver, true), quick(), ports(&told)).unwrap();
    let action = create(1);
    relay.offer(&decided(std::slice::from_ref(&action)));
    relay.release();
    until("delivered", || told.of(&action) == ["retry", "delivered"]).await;
    relay.stop(Duration::from_secs(1)).await;
    for call in receiver.received() {
        assert_eq!(call.path, "/v1.0/invoke/chat-api/method/api/tasks");
        assert_eq!(call.headers["idempotency-key"], action.id.to_string().as_str());
        assert_eq!(call.headers["x-correlation-id"], "corr-1");
        assert_eq!(call.body["id"], action.id.to_string());
    }
}

#[tokio::test]
async fn creates_may_go_straight_to_a_chat_api() {
    let receiver = Receiver::start(&[("/api/tasks", &[Reply::Status(409), Reply::Status(400)])]).await;
    let (told, topic) = (Told::default(), Topic::default());
    let target = Target::ChatApi { url: receiver.url.clone(), log: Arc::new(topic.clone()) };
    let relay = Relay::start(target, quick(), ports(&told)).unwrap();
    let reminder = delivery(1, Channel::Webhook);
    relay.offer(&decided(&[create(1), reminder.clone()]));
    relay.release();
    until("both", || told.all().len() == 2).await;
    relay.offer(&decided(&[create(2)]));
    until("refused", || told.of(&create(2)) == ["failed"]).await;
    relay.stop(Duration::from_secs(1)).await;
    assert_eq!(told.of(&create(1)), ["delivered"]);
    assert_eq!(told.of(&reminder), ["delivered"]);
    assert_eq!(topic.records.lock().unwrap().len(), 1);
    assert_eq!(receiver.received()[0].headers["idempotency-key"], create(1).id.to_string().as_str());
}

/// A component that hangs, and one that refuses, keep no other from its work.
#[tokio::test]
async fn a_failing_destination_holds_back_no_other() {
    let hang = vec![Reply::Hang; 1000];
    let refuse = vec![Reply::Upstream(500); 10_000];
    let receiver = Receiver::start(&[("webhook-out", &hang), ("chat-api-out", &refuse)]).await;
    let told = Told::default();
    let relay = Relay::start(dapr(&receiver, false), quick(), ports(&told)).unwrap();
    relay.release();
    for n in 0..200 {
        relay.offer(&decided(&[delivery(n, Channel::Webhook), create(n), delivery(n, Channel::InApp)]));
    }
    let delivered = || (0..200).filter(|n| told.of(&delivery(*n, Channel::InApp)) == ["delivered"]).count();
    until("all in-app reminders", || delivered() == 200).await;
    let numbers = relay.numbers();
    assert_eq!(numbers.components[1].delivered, 200);
    assert_eq!(numbers.components[2].delivered, 0);
    assert_eq!(numbers.pending_creates, 200);
    assert!(receiver.script.open_max.load(Ordering::SeqCst) <= 3 * 32);
    relay.stop(Duration::ZERO).await;
}

#[tokio::test]
async fn deliveries_of_a_task_arrive_in_order_despite_retries() {
    let mut replies = Vec::new();
    for n in 0..60 {
        replies.push(Reply::Upstream(if n % 3 == 0 { 503 } else { 200 }));
    }
    let receiver = Receiver::start(&[("webhook-out", &replies)]).await;
    let told = Told::default();
    let relay = Relay::start(dapr(&receiver, false), quick(), ports(&told)).unwrap();
    relay.release();
    let actions: Vec<Action> = (0..20).map(|n| delivery_of(task(n % 2), n, Channel::Webhook)).collect();
    relay.offer(&decided(&actions));
    let done = || told.all().into_iter().filter(|o| o.result == OutcomeResult::Delivered).map(|o| o.action);
    until("all", || done().count() == 20).await;
    relay.stop(Duration::from_secs(1)).await;
    for of in 0..2 {
        let order: Vec<Uuid> = done().filter(|id| actions.iter().any(|a| a.id == *id && a.task == task(of))).collect();
        let wanted: Vec<Uuid> = actions.iter().filter(|a| a.task == task(of)).map(|a| a.id).collect();
        assert_eq!(order, wanted);
    }
    // Every repeat has the same bytes but for its number.
    let mut bodies: Vec<serde_json::Value> =
        receiver.received().into_iter().map(|call| call.body["data"].clone()).collect();
    bodies.iter_mut().for_each(|body| body["data"]["attempt"] = 0.into());
    bodies.sort_by_key(|body| body["id"].as_str().unwrap().to_owned());
    bodies.dedup();
    assert_eq!(bodies.len(), 20);
}

/// A topic that keeps what is appended, and refuses as often as it is told to.
#[derive(Clone, Default)]
struct Topic {
    records: Arc<Mutex<Vec<LogRecord>>>,
    refusals: Arc<AtomicUsize>,
    appends: Arc<AtomicU64>,
}

#[async_trait]
impl Append for Topic {
    async fn append(&self, topic: &'static str, records: Vec<LogRecord>) -> Result<(), PortError> {
        assert_eq!(topic, "task-reminders");
        self.appends.fetch_add(1, Ordering::SeqCst);
        // As long as a commit takes.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let refuse = |left: usize| left.checked_sub(1);
        if self.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, refuse).is_ok() {
            return Err("the disk is full".into());
        }
        self.records.lock().unwrap().extend(records);
        Ok(())
    }
}

#[tokio::test]
async fn reminders_become_records_and_creates_are_only_recorded() {
    let (told, topic) = (Told::default(), Topic::default());
    let relay = Relay::start(Target::Log(Arc::new(topic.clone())), quick(), ports(&told)).unwrap();
    relay.release();
    let actions = [create(1), delivery(1, Channel::InApp), delivery(2, Channel::Email), delivery(3, Channel::Webhook)];
    relay.offer(&decided(&actions));
    until("all", || told.all().len() == 4).await;
    assert!(actions.iter().all(|action| told.of(action) == ["delivered"]));
    let records = topic.records.lock().unwrap().clone();
    assert_eq!(records.len(), 3);
    let of_first = records.iter().find(|record| record.key == task(1).to_string()).unwrap();
    assert_eq!(of_first.headers, [("content-type".into(), Bytes::from_static(EVENT_CONTENT_TYPE.as_bytes()))]);
    assert_eq!(of_first.timestamp, at("2026-03-30T08:00:05.250Z"));
    let event: serde_json::Value = serde_json::from_slice(&of_first.value).unwrap();
    assert_eq!(event["id"], actions[1].id.to_string());
    assert_eq!(event["type"], "com.todo.reminder.triggered.v1");
    relay.stop(Duration::from_secs(1)).await;
}

/// With time standing still but for the waits themselves: a full disk is tried again, for a day at most.
#[tokio::test(start_paused = true)]
async fn a_log_that_cannot_be_written_is_tried_for_a_day() {
    let (told, topic) = (Told::default(), Topic::default());
    topic.refusals.store(3, Ordering::SeqCst);
    let started = Instant::now();
    let relay = Relay::start(Target::Log(Arc::new(topic.clone())), Settings::default(), ports(&told)).unwrap();
    relay.release();
    let first = delivery(1, Channel::InApp);
    relay.offer(&decided(std::slice::from_ref(&first)));
    while told.of(&first).last() != Some(&"delivered") {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(told.of(&first), ["retry", "retry", "retry", "delivered"]);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());

    topic.refusals.store(usize::MAX, Ordering::SeqCst);
    let second = delivery(2, Channel::InApp);
    let started = Instant::now();
    relay.offer(&decided(std::slice::from_ref(&second)));
    while told.of(&second).last() != Some(&"failed") {
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    let hours = started.elapsed().as_secs_f64() / 3600.0;
    assert!((23.9..24.1).contains(&hours), "{hours}");
    assert!(told.error_of(&second).starts_with("given up after 864"));
    relay.stop(Duration::from_secs(1)).await;
}

/// A ledger of open actions in order, of which delivered ones are gone only when the pipeline has said so.
#[derive(Clone, Default)]
struct Book {
    open: Arc<Mutex<Vec<Arc<Action>>>>,
    failed: Arc<Mutex<Vec<Arc<Action>>>>,
}

#[async_trait]
impl Ledger for Book {
    async fn open_actions(
        &self,
        after: Option<(Timestamp, Uuid)>,
        limit: usize,
    ) -> Result<Vec<(Arc<Action>, Progress)>, PortError> {
        let mut open = self.open.lock().unwrap().clone();
        open.sort_by_key(|action| (action.decided_at, action.id));
        let page = open.into_iter().filter(|action| after.is_none_or(|after| (action.decided_at, action.id) > after));
        Ok(page.take(limit).map(|action| (action, pending())).collect())
    }

    async fn action(&self, id: Uuid) -> Result<Option<(Arc<Action>, Progress)>, PortError> {
        let found = self.failed.lock().unwrap().iter().find(|action| action.id == id).cloned();
        Ok(found.map(|action| (action, pending())))
    }
}

fn pending() -> Progress {
    Progress { state: ActionState::Pending, attempts: 0, last_error: None, next_attempt_at: None, delivered_at: None }
}

/// More actions than memory may hold: each is sent once, in the order of its task.
#[tokio::test]
async fn what_does_not_fit_in_memory_is_sent_from_the_ledger() {
    let (told, topic, book) = (Told::default(), Topic::default(), Book::default());
    let settings = Settings { held_max: 50, ..quick() };
    let ports = Ports { ledger: Some(Arc::new(book.clone())), ..ports(&told) };
    let relay = Relay::start(Target::Log(Arc::new(topic.clone())), settings, ports).unwrap();
    let mut actions = Vec::new();
    for n in 0..3000u64 {
        let mut action = delivery_of(task(n % 40), n, Channel::InApp);
        action.decided_at = action.decided_at.plus_millis(n as i64);
        actions.push(action);
    }
    for some in actions.chunks(70) {
        book.open.lock().unwrap().extend(some.iter().cloned().map(Arc::new));
        relay.offer(&decided(some));
    }
    assert_eq!(relay.numbers().pending_reminders, 3000);
    relay.release();
    // The pipeline commits outcomes some time after they were told.
    let mut committed = 0;
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while committed < 3000 {
        assert!(std::time::Instant::now() < deadline, "only {committed} were sent");
        tokio::time::sleep(Duration::from_millis(3)).await;
        let outcomes = told.all();
        let new: Vec<&Action> = outcomes[committed..]
            .iter()
            .map(|outcome| actions.iter().find(|action| action.id == outcome.action).unwrap())
            .collect();
        committed = outcomes.len();
        book.open.lock().unwrap().retain(|action| !new.iter().any(|done| done.id == action.id));
        relay.offer(&new.iter().map(|action| moved(action, ActionState::Delivered)).collect::<Vec<_>>());
    }
    until("nothing is left", || relay.numbers().pending_reminders == 0).await;
    relay.stop(Duration::from_secs(1)).await;
    let records = topic.records.lock().unwrap();
    assert_eq!(records.len(), 3000);
    let mut last = vec![0; 40];
    for record in records.iter() {
        let event: serde_json::Value = serde_json::from_slice(&record.value).unwrap();
        let n = actions.iter().position(|action| event["id"] == action.id.to_string()).unwrap();
        assert!(last[n % 40] <= n, "{n} came after {}", last[n % 40]);
        last[n % 40] = n;
    }
}

#[tokio::test]
async fn an_operator_may_have_a_failed_action_tried_again() {
    let (told, book) = (Told::default(), Book::default());
    let receiver = Receiver::start(&[("chat-api-out", &[Reply::Upstream(400), Reply::Upstream(201)])]).await;
    let ports = Ports { ledger: Some(Arc::new(book.clone())), ..ports(&told) };
    let relay = Relay::start(dapr(&receiver, false), quick(), ports).unwrap();
    relay.release();
    let action = create(1);
    relay.offer(&decided(std::slice::from_ref(&action)));
    until("failed", || told.of(&action) == ["failed"]).await;
    book.failed.lock().unwrap().push(Arc::new(action.clone()));
    relay.offer(&[moved(&action, ActionState::Failed)]);
    relay.offer(&[moved(&action, ActionState::Decided)]);
    until("delivered", || told.of(&action) == ["failed", "delivered"]).await;
    relay.stop(Duration::from_secs(1)).await;
}

/// The claim of 10,000 deliveries a second to the log, with room for an unoptimised build.
#[tokio::test(flavor = "multi_thread")]
async fn many_deliveries_share_an_append() {
    let (told, topic) = (Told::default(), Topic::default());
    let relay = Relay::start(Target::Log(Arc::new(topic.clone())), Settings::default(), ports(&told)).unwrap();
    let actions: Vec<Action> = (0..20_000).map(|n| delivery(n, Channel::InApp)).collect();
    relay.offer(&decided(&actions));
    let started = std::time::Instant::now();
    relay.release();
    until("all", || topic.records.lock().unwrap().len() == 20_000).await;
    let rate = 20_000.0 / started.elapsed().as_secs_f64();
    println!("{rate:.0} deliveries/s in {} appends", topic.appends.load(Ordering::SeqCst));
    assert!(topic.appends.load(Ordering::SeqCst) <= 40);
    relay.stop(Duration::from_secs(1)).await;
}
