//! Tokens. Of this service's trait etcd-client does not export every type, so its one method is served by hand.

use std::convert::Infallible;

use tonic::Status;
use tonic::service::{AxumBody, AxumRouter};

use super::Shared;

/// The router with authentication added, for any user and password.
pub(super) fn route(router: AxumRouter, shared: Shared) -> AxumRouter {
    let authenticate = move |_| {
        let shared = shared.clone();
        async move {
            Ok::<_, Infallible>(match shared.authenticate().await {
                Ok(message) => Status::ok("").into_http::<AxumBody>().map(|_| AxumBody::from(message)),
                Err(status) => status.into_http(),
            })
        }
    };
    router.route_service("/etcdserverpb.Auth/Authenticate", tower::service_fn(authenticate))
}

impl Shared {
    async fn authenticate(&self) -> Result<Vec<u8>, Status> {
        let number = self.state().rpcs.authenticate.seen.len() + 1;
        let honest = |_: &mut _, number: &usize| Ok(format!("token-{number}"));
        let token = self.answer(|rpcs| &mut rpcs.authenticate, &number, honest).await?;
        Ok(message(token.get_ref()))
    }
}

/// An `AuthenticateResponse` that carries the token, its field 2, in a frame of gRPC.
fn message(token: &str) -> Vec<u8> {
    let length = u8::try_from(token.len()).ok().filter(|length| *length < 120).expect("a short token");
    let mut message = vec![0, 0, 0, 0, length + 2, 0x12, length];
    message.extend(token.as_bytes());
    message
}
