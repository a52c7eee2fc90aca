//! Answers that a real etcd gives too rarely, given by a scripted fake of its services.

mod messages;
mod pages;
mod revisions;
mod server;
mod support;
