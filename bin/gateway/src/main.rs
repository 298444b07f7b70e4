//! The binary `lockgate`.
#![forbid(unsafe_code)]
mod config;
mod mistake;
mod rules;
mod scram;
mod secret;
mod settings;
mod tls;
mod units;
mod upstream;
mod yaml;
fn main() {}
