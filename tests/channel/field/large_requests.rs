//! Request metadata beyond what a server takes.
