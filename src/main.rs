//! Tasktide.
fn main() {}
