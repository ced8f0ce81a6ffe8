//! Where the world changes: the store, the relay to Dapr, dead letters.

pub mod store;
pub mod relay;
pub mod state_mirror;
