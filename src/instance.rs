//! Instances: one registered server, its addresses and what it says of itself.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use crate::address::Address;
use crate::error::Error;

/// One registered server: its addresses, and what it says of itself.
///
/// Each address is one server to a balancer. Instances compare by value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    addresses: Vec<Address>,
    weight: Option<NonZeroU32>,
    zone: Option<Box<str>>,
    version: Option<Box<str>>,
    id: Option<Box<str>>,
    draining: bool,
    metadata: BTreeMap<String, String>,
    misread: Option<Box<str>>,
}

impl Instance {
    /// An instance with one address, and nothing said beyond it.
    ///
    /// # Errors
    /// When the address cannot be parsed.
    pub fn new<A>(address: A) -> Result<Self, Error>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        Ok(Self::at(address.try_into()?))
    }

    /// An instance at an address that is parsed already.
    pub(crate) fn at(address: Address) -> Self {
        Self {
            addresses: vec![address],
            weight: None,
            zone: None,
            version: None,
            id: None,
            draining: false,
            metadata: BTreeMap::new(),
            misread: None,
        }
    }

    /// Adds a further address of the same server process; one that is there already is not added twice.
    ///
    /// # Errors
    /// When the address cannot be parsed, or is there already as the other of `http` and `https`.
    pub fn with_address<A>(mut self, address: A) -> Result<Self, Error>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        let address = address.try_into()?;
        match self.addresses.iter().find(|known| known.parsed_authority() == address.parsed_authority()) {
            Some(known) if *known == address => {}
            Some(known) => {
                let reason = format!("{known} is one of the instance's addresses already");
                return Err(Error::invalid("address", address.to_string(), reason));
            }
            None => self.addresses.push(address),
        }
        Ok(self)
    }

    /// Sets the weight, relative to the service's other instances: 9 gets nine times the calls of 1.
    /// [`BalancedChannel`](crate::BalancedChannel) shares calls out by it; tonic's balanced channel takes no notice of it. An instance
    /// that says none counts as the mean of those that do (as in gRFC A58).
    ///
    /// # Errors
    /// When it is 0: many systems write that for "not said", so that it cannot mean "no calls".
    /// [`Instance::with_draining`] says that.
    pub fn with_weight(self, weight: u32) -> Result<Self, Error> {
        if weight == 0 {
            let reason = "0 stands for \"not said\" in other systems: leave the weight out, or, where it is to get no new calls, \
                          say with_draining(true)";
            return Err(Error::invalid("weight", "0", reason));
        }
        Ok(self.with_stored_weight(weight))
    }

    /// The weight of a record that another has written: there 0 means "not said".
    pub(crate) fn with_stored_weight(mut self, weight: u32) -> Self {
        self.weight = NonZeroU32::new(weight);
        self
    }

    /// Sets the zone (data centre, rack) that the server stands in; an empty text says none.
    #[must_use]
    pub fn with_zone(mut self, zone: impl Into<String>) -> Self {
        self.zone = non_empty(zone);
        self
    }

    /// Sets the version of what the server runs; an empty text says none.
    #[must_use]
    pub fn with_version(mut self, version: impl Into<String>) -> Self {
        self.version = non_empty(version);
        self
    }

    /// Sets the instance's id: a name that the same instance has again after a restart (a pod's, a host's), and no other one
    /// has; an empty text says none. A registrar knows by it whose a key is, beside by the lease: see
    /// [`Conflict`](crate::Conflict).
    #[must_use]
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.id = non_empty(id);
        self
    }

    /// Marks the instance as one that is leaving: it stays in every [`Snapshot`](crate::Snapshot), and
    /// [`BalancedChannel`](crate::BalancedChannel) and [`Resolution::discover`](crate::Resolution::discover) give it no new
    /// calls. Clients of other kinds do not know the mark, and go on calling it.
    #[must_use]
    pub fn with_draining(mut self, draining: bool) -> Self {
        self.draining = draining;
        self
    }

    /// Adds one pair of metadata; a later value of the same name replaces the earlier.
    #[must_use]
    pub fn with_metadata(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(name.into(), value.into());
        self
    }

    /// For codecs: a part of the record that was not understood, and why; the first one is kept. The resolver says it once a service.
    #[must_use]
    pub fn with_misread(mut self, what: impl Into<String>) -> Self {
        self.misread.get_or_insert_with(|| what.into().into_boxed_str());
        self
    }

    /// Where the server listens; never empty.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// The weight, if the server says one; never 0.
    pub fn weight(&self) -> Option<u32> {
        self.weight.map(NonZeroU32::get)
    }

    /// The zone, if the server says one.
    pub fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    /// The version, if the server says one.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// The instance's id, if it has one.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Whether it is leaving, and is to get no new calls.
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// What else the server says of itself.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// What the instance's record says and was not understood, if anything.
    pub fn misread(&self) -> Option<&str> {
        self.misread.as_deref()
    }
}

fn non_empty(text: impl Into<String>) -> Option<Box<str>> {
    Some(text.into().into_boxed_str()).filter(|text| !text.is_empty())
}

/// For functions that change an instance, as [`Registration::update`](crate::Registration::update) takes them: they may give the
/// instance, or what [`Instance::with_weight`] and [`Instance::with_address`] give.
impl TryFrom<Result<Instance, Error>> for Instance {
    type Error = Error;

    fn try_from(changed: Result<Instance, Error>) -> Result<Self, Error> {
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// F24: who is to get no calls says so by `draining`.
    #[test]
    fn a_weight_of_zero_is_refused_with_advice() {
        let error = Instance::new("h:1").unwrap().with_weight(0).unwrap_err();
        assert!(error.is_invalid_argument() && error.to_string().contains("with_draining(true)"), "{error}");
        assert_eq!(Instance::new("h:1").unwrap().with_weight(1).unwrap().weight(), Some(1));
    }

    #[test]
    fn an_empty_text_says_nothing() {
        let instance = Instance::new("h:1").unwrap().with_zone("").with_version("").with_id("");
        assert_eq!(instance, Instance::new("h:1").unwrap());
    }
}
