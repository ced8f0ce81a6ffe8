//! The parts that a cluster has, on one machine without containers: for tests, benches and `demo --real`.
//!
//! Each component has a module: it finds the program, or installs it by the system's packager once and keeps it in
//! [`cache_dir`], and starts it on free ports of loopback in a directory of its own. What is started is ended with the
//! value that stands for it, and can be killed, stopped and continued meanwhile ([`Process`]).

pub mod daprd;
pub mod faketime;
mod install;
mod process;
pub mod kafka;
pub mod postgres;
pub mod redis;

pub use install::{cache_dir, find, install_packages, once};
pub use process::{Process, free_port, wait_until};
