//! The whole program from outside: the real binary, real OTLP, real Postgres.
//!
//! Each test starts a culprit of its own on free ports with an empty data directory.

mod architecture;
mod support;

mod alerts;
mod bad_input;
mod browser;
mod crash;
mod demo;
mod backlog;
mod disk;
mod exec_sdk;
mod faults;
mod metrics;
mod migrations;
mod offline;
mod pooler;
mod roles;
mod round_trip;
mod sdk_python;
