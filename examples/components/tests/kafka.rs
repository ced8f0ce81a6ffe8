//! The broker starts, is killed, and comes back at its address.

use components::kafka::{Broker, Options};

#[test]
fn a_broker_is_killed_and_comes_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut broker = Broker::start(dir.path(), &Options { secure: true, ..Options::default() }).expect("it starts");
    let address = broker.address();
    let connects = |address: &str| std::net::TcpStream::connect(address).is_ok();
    assert!(connects(&address));
    let secure = broker.secure().expect("it was asked for").clone();
    assert!(connects(&secure.password_address) && connects(&secure.certificate_address));
    broker.kill().expect("it can be killed");
    assert!(!connects(&address));
    broker.start_again().expect("it starts again");
    assert!(connects(&address));
    broker.end().expect("it ends in order");
}
