//! x
#![allow(dead_code, missing_docs)]
mod log;
mod whole;
fn main() {}
