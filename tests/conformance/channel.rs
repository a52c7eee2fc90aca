//! The channel under test.

use tonic::transport::{Channel, Endpoint};

use crate::server::Fleet;

pub(crate) fn balanced(fleet: &Fleet) -> Channel {
    Channel::balance_list(fleet.addresses().into_iter().map(|a| Endpoint::from_shared(format!("http://{a}")).unwrap()))
}
