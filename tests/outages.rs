//! Outages of what the whole product stands on, under load: the network to the broker and to the database fails in every
//! way, servers go away and come back.
//!
//! Every test ends with the comparison with a product without faults: nothing is lost, nothing is done twice.

#[path = "support/load.rs"]
#[allow(dead_code)]
mod load;
#[path = "support/process.rs"]
#[allow(dead_code)]
mod process;
#[path = "support/product.rs"]
#[allow(dead_code)]
mod product;
#[path = "support/proxy.rs"]
mod proxy;
#[path = "support/watched.rs"]
mod watched;

#[path = "outages/broker.rs"]
mod broker;
#[path = "outages/database.rs"]
mod database;
#[path = "outages/leaders.rs"]
mod leaders;
#[path = "outages/pipelines.rs"]
mod pipelines;
#[path = "outages/poison.rs"]
mod poison;
#[path = "outages/starts.rs"]
mod starts;
