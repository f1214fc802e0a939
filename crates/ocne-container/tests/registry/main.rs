//! Fetching from registries: real ones where they are installed, and one that does everything wrong.

mod auth;
mod faults;
mod fetch;
mod image;
mod offline;
mod real;
mod server;
