//! Fetching from registries: real ones where they are installed, and one that does everything wrong.

#![expect(clippy::print_stderr, reason = "tests that cannot run say so")]

mod auth;
mod faults;
mod fetch;
mod image;
mod offline;
mod real;
mod server;
