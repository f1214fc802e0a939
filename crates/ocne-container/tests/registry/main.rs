//! Fetching from registries: real ones where they are installed, and one that does everything wrong.

mod auth;
#[path = "../docker_registry/mod.rs"]
mod docker_registry;
mod faults;
mod fetch;
mod image;
mod offline;
mod real;
mod server;
