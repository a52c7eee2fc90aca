//! Answers of whoever is no gRPC server.
