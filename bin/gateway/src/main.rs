//! The binary `lockgate`.
#![forbid(unsafe_code)]
mod config;
mod mistake;
mod secret;
mod tls;
mod units;
mod upstream;
mod yaml;
fn main() {}
