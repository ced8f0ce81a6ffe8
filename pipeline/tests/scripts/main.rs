//! Whole histories through the real dataflow with a manual clock.

mod script;
mod show;
mod world;

mod order;
mod series;
mod creates;
mod identity;
mod restart;
mod users;
mod random;
mod flow;
