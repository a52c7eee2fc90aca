//! Servers that refuse every call with `REFUSED_STREAM`, as one that is overloaded does, or one that drains.

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::job::block_on;

/// So many, until the process is killed. Their addresses are said on stdout.
pub(super) fn serve(count: usize) {
    block_on(async {
        let (mut servers, mut addresses) = (JoinSet::new(), Vec::new());
        for _ in 0..count {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            addresses.push(listener.local_addr().expect("its address").to_string());
            servers.spawn(async move {
                while let Ok((tcp, _)) = listener.accept().await {
                    tokio::spawn(refuse(tcp));
                }
            });
        }
        println!("{}", serde_json::to_string(&addresses).expect("addresses are JSON"));
        servers.join_all().await;
    });
}

async fn refuse(tcp: TcpStream) -> Result<(), h2::Error> {
    let mut connection = h2::server::Builder::new().handshake::<_, Bytes>(tcp).await?;
    while let Some(call) = connection.accept().await {
        let (_, mut respond) = call?;
        respond.send_reset(h2::Reason::REFUSED_STREAM);
    }
    Ok(())
}
