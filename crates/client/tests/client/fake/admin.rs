//! What clients ask of the `Admin` service: the routing table, and which transactions are under way.

use std::sync::Arc;

use tokio_stream::Empty;
use tonic::{Request, Response, Status};
use wire::v1::admin_server::Admin;
use wire::v1::{
    ExplainRequest, ExplainResponse, Faults, FaultsRequest, LogRequest, LogResponse, Routing, RoutingRequest,
    StatusRequest, StatusResponse, TraceLine, TraceRequest, TransactionsRequest, TransactionsResponse,
    TransferLeaderRequest, TransferLeaderResponse,
};

use super::World;

pub(crate) struct Tables {
    pub(crate) node: u32,
    pub(crate) world: Arc<World>,
}

fn no<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not of a fake"))
}

#[tonic::async_trait]
impl Admin for Tables {
    type TraceStream = Empty<Result<TraceLine, Status>>;

    async fn get_routing(&self, _: Request<RoutingRequest>) -> Result<Response<Routing>, Status> {
        Ok(Response::new(self.world.routing(self.node)))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Ok(Response::new(StatusResponse { node: self.node, ..StatusResponse::default() }))
    }

    async fn log(&self, _: Request<LogRequest>) -> Result<Response<LogResponse>, Status> {
        no()
    }

    async fn explain(&self, _: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        no()
    }

    async fn trace(&self, _: Request<TraceRequest>) -> Result<Response<Self::TraceStream>, Status> {
        no()
    }

    async fn transfer_leader(
        &self,
        _: Request<TransferLeaderRequest>,
    ) -> Result<Response<TransferLeaderResponse>, Status> {
        no()
    }

    async fn transactions(
        &self,
        _: Request<TransactionsRequest>,
    ) -> Result<Response<TransactionsResponse>, Status> {
        let told = self.world.transactions.lock().get(&self.node).cloned();
        Ok(Response::new(told.unwrap_or_default()))
    }

    async fn set_faults(&self, _: Request<Faults>) -> Result<Response<Faults>, Status> {
        no()
    }

    async fn get_faults(&self, _: Request<FaultsRequest>) -> Result<Response<Faults>, Status> {
        no()
    }
}
