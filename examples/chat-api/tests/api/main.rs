//! The reference Chat API from outside: real HTTP, a real file, a receiver of events beside it.

mod server;
mod receiver;
mod tasks;
mod events;
mod publishing;
