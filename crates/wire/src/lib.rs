//! The network protocol of Synod: messages and services generated from `proto/synod.proto`.
//!
//! Clients speak the `Client` stream (fast) or the unary `Kv` service (any language); nodes speak `Peer` among
//! themselves; people and tools speak `Admin`. All of them speak through a [`channel::Channel`].

pub mod channel;

/// Generated code of package `synod.v1`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("synod.v1");
}

/// The compiled descriptors of package `synod.v1`, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/synod_descriptor.bin"));

/// Version of the peer protocol; nodes refuse another one by name.
pub const PEER_PROTOCOL: u32 = 1;

/// Largest gRPC message in either direction, in bytes: the largest value (8 MiB), its key, and frames around them.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;
