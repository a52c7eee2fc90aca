//! The channel under test.

use tonic::transport::{Channel, Endpoint};

use crate::server::Fleet;

pub(crate) fn balanced(fleet: &Fleet) -> Channel {
    Channel::balance_list(fleet.addresses().into_iter().map(|a| Endpoint::from_shared(format!("http://{a}")).unwrap()))
}

pub(crate) fn with_windows(fleet: &Fleet, stream: u32, connection: u32) -> Channel {
    Channel::balance_list(fleet.addresses().into_iter().map(|a| {
        let endpoint = Endpoint::from_shared(format!("http://{a}")).unwrap();
        endpoint.initial_stream_window_size(stream).initial_connection_window_size(connection)
    }))
}

pub(crate) fn with_timeout(fleet: &Fleet, timeout: std::time::Duration) -> Channel {
    Channel::balance_list(
        fleet.addresses().into_iter().map(|a| Endpoint::from_shared(format!("http://{a}")).unwrap().timeout(timeout)),
    )
}
