//! Tasktide as one process: the wiring of its crates and the command line. It decides nothing else.
//!
//! [`run`] puts source, dataflow, store, relay, index and HTTP together; [`ops`] adds what only the process that
//! writes may offer (`/v1/ops`, `/v1/events`); [`demo`] adds a Chat API and simulated users.

pub mod cli;
pub mod settings;
pub mod run;
pub mod ops;
pub mod sidecar;
pub mod reading;
pub mod demo;
pub mod verify;
pub mod commands;
pub mod traces;
