//! The HTTP side as a client meets it: a real socket, an index filled by commits, an audit in memory.

#[path = "http/client.rs"]
mod client;
#[path = "http/world.rs"]
mod world;
#[path = "http/errors.rs"]
mod errors;
#[path = "http/lists.rs"]
mod lists;
#[path = "http/audit.rs"]
mod audit;
#[path = "http/stream.rs"]
mod stream;
#[path = "http/days.rs"]
mod days;
#[path = "http/followers.rs"]
mod followers;
#[path = "http/operate.rs"]
mod operate;
