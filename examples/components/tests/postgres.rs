//! PostgreSQL, started and harmed as tests do it.

use std::time::Duration;

use components::postgres::{Options, Server};
use components::wait_until;

#[test]
fn a_server_is_started_killed_and_goes_on() {
    let mut server = Server::start(Options::default()).expect("starts");
    let url = server.create_database("one").expect("a database");
    assert!(url.ends_with(&format!("@127.0.0.1:{}/one", server.port())));
    server.psql("one", "CREATE TABLE t (n int); INSERT INTO t VALUES (1), (2)").expect("a table");
    server.kill().expect("it is killed");
    assert!(server.psql("one", "SELECT 1").is_err());
    server.run().expect("it comes back");
    assert_eq!(server.psql("one", "SELECT count(*), max(n) FROM t").expect("rows"), "2|2");
    server.pause().expect("it stops");
    server.resume().expect("it goes on");
    server.stop().expect("it ends");
    server.run().expect("it comes back");
    assert_eq!(server.psql("one", "SHOW fsync").expect("a setting"), "on");
    let error = server.psql("one", "SELECT * FROM nowhere").expect_err("no such table").to_string();
    assert!(error.contains("nowhere"), "{error}");
    let port = server.port();
    drop(server);
    let gone = || std::net::TcpStream::connect(("127.0.0.1", port)).is_err();
    assert!(wait_until(Duration::from_secs(10), gone));
}
