//! Reads: REST, streams and the page, all answered from the index in memory and, for the audit, from the store.
//!
//! A request passes [`routes`] (limits, request id, caller, freshness), is checked against the declared
//! [`params`], and is answered from one commit of the index. Whatever goes wrong becomes a [`problem`].
//! Nothing here writes: `/v1/ops` and `/v1/events` belong to the binary, which adds them to the same router.

pub mod text;
pub mod filter;
pub mod cursor;
pub mod index;
pub mod problem;
pub mod limits;
pub mod params;
pub mod auth;
pub mod freshness;
pub mod status;
pub mod metrics;
pub mod stream;
pub mod routes;
pub mod serve;
mod console;

pub use routes::{Api, Config, router, router_with};
pub use serve::serve;
