//! The broker starts, is killed, and comes back at its address; so does each node of a cluster.

use components::kafka::{Broker, Cluster, Options};

fn connects(address: &str) -> bool {
    std::net::TcpStream::connect(address).is_ok()
}

#[test]
fn a_broker_is_killed_and_comes_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut broker = Broker::start(dir.path(), &Options { secure: true, ..Options::default() }).expect("it starts");
    let address = broker.address();
    assert!(connects(&address));
    let secure = broker.secure().expect("it was asked for").clone();
    assert!(connects(&secure.password_address) && connects(&secure.certificate_address));
    broker.kill().expect("it can be killed");
    assert!(!connects(&address));
    broker.start_again().expect("it starts again");
    assert!(connects(&address));
    broker.end().expect("it ends in order");
}

#[test]
fn a_node_of_a_cluster_is_killed_and_comes_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut cluster = Cluster::start(dir.path(), 3, &Options::default()).expect("it starts");
    let addresses = cluster.addresses();
    let answer = || addresses.split(',').filter(|address| connects(address)).count();
    assert_eq!(answer(), 3);
    cluster.node(2).kill().expect("it can be killed");
    assert_eq!(answer(), 2);
    // It answers only once it has found the others.
    cluster.node(2).start_again().expect("it starts again");
    assert_eq!(answer(), 3);
}
