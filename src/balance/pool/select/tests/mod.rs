//! Tests of whole selections. `fleet.rs` has the servers and the strategies for them.

mod arbitrary;
mod fleet;
mod partitions;
mod spread;
mod substitute_order;
mod substitutes;
mod tiers;
mod warming;
