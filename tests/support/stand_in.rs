//! A stand-in for the Chat API or the sidecar, which answers as a case tells it and remembers what it was asked.
//!
//! It speaks HTTP by hand, since some answers are of connections and not of requests: one that is closed without a word.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How one call is answered.
#[derive(Clone, Debug, Default)]
struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
    /// How long it hangs first.
    after: Duration,
    /// The connection is closed behind it, which the answer does not tell.
    close: bool,
}

/// A stand-in that serves until the test ends.
pub struct StandIn {
    addr: SocketAddr,
    calls: Arc<Mutex<Vec<String>>>,
}

impl StandIn {
    /// In place of a Chat API: `201`, `302 Location=/login`, `201 close`; calls that no answer is left for get 201.
    pub fn chat(answers: &[String]) -> StandIn {
        let mut left: Vec<Reply> = answers.iter().rev().map(|answer| plain(answer)).collect();
        StandIn::serve(move |_| left.pop().unwrap_or_else(|| plain("201")), |_| true)
    }

    /// In place of a sidecar, by component: `201` is the status of the service behind it, `500:text` the sidecar's own,
    /// and `hang:12s` an answer that comes so much later, in a tenth of the time.
    pub fn sidecar(answers: BTreeMap<String, Vec<String>>, faster: f64) -> StandIn {
        let mut left: BTreeMap<String, Vec<Reply>> = answers
            .iter()
            .map(|(name, answers)| (name.clone(), answers.iter().rev().map(|answer| behind(answer, faster)).collect()))
            .collect();
        let reply = move |path: &str| {
            let component = path.rsplit('/').next().unwrap_or_default();
            left.get_mut(component).and_then(Vec::pop).unwrap_or_else(|| behind("201", faster))
        };
        StandIn::serve(reply, |path| path.contains("/bindings/"))
    }

    fn serve(mut reply: impl FnMut(&str) -> Reply + Send + 'static, counts: fn(&str) -> bool) -> StandIn {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("it is bound");
        let calls: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = calls.clone();
        let reply = Arc::new(Mutex::new(move |method: &str, path: &str| {
            if !counts(path) {
                return Reply { status: 204, ..Reply::default() };
            }
            noted.lock().expect("nobody panics here").push(format!("{method} {path}"));
            reply(path)
        }));
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let reply = reply.clone();
                std::thread::spawn(move || {
                    // A client may go away at any time.
                    let _ = answer(connection, &mut |method, path| {
                        (reply.lock().expect("nobody panics here"))(method, path)
                    });
                });
            }
        });
        StandIn { addr, calls }
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Method and path of each call so far.
    pub fn calls(&self) -> Vec<String> {
        self.calls.lock().expect("nobody panics here").clone()
    }
}

/// An answer of a service itself.
fn plain(text: &str) -> Reply {
    let mut words = text.split(' ');
    let status = words.next().and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("{text} is no answer"));
    let mut reply = Reply { status, ..Reply::default() };
    for word in words {
        match word.split_once('=') {
            Some((name, value)) => reply.headers.push((name.to_owned(), value.to_owned())),
            None if word == "close" => reply.close = true,
            None => panic!("{text} is no answer"),
        }
    }
    reply
}

/// An answer of a sidecar for the service behind it.
fn behind(text: &str, faster: f64) -> Reply {
    if let Some(seconds) = text.strip_prefix("hang:").and_then(|rest| rest.strip_suffix('s')) {
        let seconds: f64 = seconds.parse().expect("seconds");
        return Reply { after: Duration::from_secs_f64(seconds / faster), ..behind("201", faster) };
    }
    match text.split_once(':') {
        Some((status, body)) => Reply { body: body.to_owned(), ..plain(status) },
        None => Reply {
            status: 200,
            headers: vec![("metadata.statuscode".to_owned(), text.to_owned())],
            ..Reply::default()
        },
    }
}

fn answer(mut connection: TcpStream, reply: &mut dyn FnMut(&str, &str) -> Reply) -> std::io::Result<()> {
    let mut from = BufReader::new(connection.try_clone()?);
    loop {
        let mut first = String::new();
        if from.read_line(&mut first)? == 0 {
            return Ok(());
        }
        let mut length = 0;
        loop {
            let mut line = String::new();
            from.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        let mut body = vec![0; length];
        from.read_exact(&mut body)?;
        let mut words = first.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let reply = reply(method, path);
        std::thread::sleep(reply.after);
        let mut head = format!("HTTP/1.1 {} Told\r\n", reply.status);
        for (name, value) in &reply.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if reply.status != 204 {
            head.push_str(&format!("content-length: {}\r\n", reply.body.len()));
        }
        connection.write_all(format!("{head}\r\n{}", reply.body).as_bytes())?;
        if reply.close {
            return connection.shutdown(Shutdown::Both);
        }
    }
}
