//! Calls by gRPC whose messages are any bytes.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

/// What became of a call.
pub(crate) enum Outcome {
    Answered,
    Refused(Code),
    /// Neither, in time.
    Silent,
}

#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = buffer.remaining();
        Ok(Some(buffer.copy_to_bytes(length)))
    }
}

/// Sends the messages and waits for the first answer. A stream stays open until then.
pub(crate) async fn call(
    channel: Channel,
    path: &'static str,
    messages: Vec<Vec<u8>>,
    patience: Duration,
) -> Outcome {
    let asked = async {
        let mut grpc = Grpc::new(channel);
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let messages = tokio_stream::iter(messages);
        let path = tonic::codegen::http::uri::PathAndQuery::from_static(path);
        let mut answers = grpc.streaming(Request::new(messages), path, Raw).await?.into_inner();
        answers.message().await.map(drop)
    };
    match tokio::time::timeout(patience, asked).await {
        Ok(Ok(())) => Outcome::Answered,
        Ok(Err(status)) => Outcome::Refused(status.code()),
        Err(_) => Outcome::Silent,
    }
}
