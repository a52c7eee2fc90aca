//! What every implementation of gRPC is held to, through `BalancedChannel`: the standard interoperability cases against two
//! tonic servers, five thousand random exchanges beside tonic's own channel, and the layers that people put around a channel.

mod cases;
mod channel;
mod layers;
mod poison;
mod random;
mod server;
mod suite;
