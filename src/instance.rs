//! [`Instance`]: one registered server.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use crate::address::Address;
use crate::error::Error;

/// One registered server process: its addresses, and what it says of itself.
///
/// A balancer treats each address as a server of its own, with the whole weight of the instance:
/// two addresses get twice the calls of one. Instances compare by value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Where it listens; never empty.
    addresses: Vec<Address>,
    /// Its weight, if set.
    weight: Option<NonZeroU32>,
    /// Its zone, if set.
    zone: Option<Box<str>>,
    /// Its version, if set.
    version: Option<Box<str>>,
    /// Its id, if set.
    id: Option<Box<str>>,
    /// Whether it is leaving.
    draining: bool,
    /// Everything else.
    metadata: BTreeMap<String, String>,
    /// The first part of its record that was not understood.
    misread: Option<Box<str>>,
}

impl Instance {
    /// An instance with one address and nothing else set.
    ///
    /// # Errors
    /// When the address cannot be parsed ([`Error::is_invalid_argument`]).
    pub fn new<A>(address: A) -> Result<Self, Error>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        Ok(Self::at(address.try_into()?))
    }

    /// An instance at a parsed address.
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

    /// Adds another address of the same server process. An address that is there already is not
    /// added twice.
    ///
    /// # Errors
    /// When the address cannot be parsed, or the instance has the same host and port already with
    /// the other scheme (`http`, `https`).
    pub fn with_address<A>(mut self, address: A) -> Result<Self, Error>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        let address = address.try_into()?;
        match self.addresses.iter().find(|known| known.parsed_authority() == address.parsed_authority()) {
            Some(known) if *known == address => {}
            Some(known) => {
                let reason = format!("{known} is already an address of the instance");
                return Err(Error::invalid("address", address.to_string(), reason));
            }
            None => self.addresses.push(address),
        }
        Ok(self)
    }

    /// Sets the weight, relative to the other instances of the service: 9 gets nine times the calls
    /// of 1. Not set by default.
    ///
    /// [`BalancedChannel`](crate::BalancedChannel) distributes calls by it. tonic's balanced
    /// channel ignores it. An instance without a weight counts as the mean of those with one (as in
    /// gRFC A58).
    ///
    /// # Errors
    /// When the weight is 0, which other systems write for "not set". For an instance that gets no
    /// new calls use [`Instance::with_draining`].
    pub fn with_weight(self, weight: u32) -> Result<Self, Error> {
        if weight == 0 {
            let reason = "other systems write 0 for \"not set\": leave the weight out, or use with_draining(true) for no new calls";
            return Err(Error::invalid("weight", "0", reason));
        }
        Ok(self.with_stored_weight(weight))
    }

    /// Sets the weight of a record, where 0 means "not set".
    pub(crate) fn with_stored_weight(mut self, weight: u32) -> Self {
        self.weight = NonZeroU32::new(weight);
        self
    }

    /// Sets the zone (data centre, rack) of the server. An empty text means "not set", the default.
    #[must_use]
    pub fn with_zone(mut self, zone: impl Into<String>) -> Self {
        self.zone = non_empty(zone);
        self
    }

    /// Sets the zone, if the instance has none.
    pub(crate) fn with_zone_or(mut self, zone: impl FnOnce() -> Option<String>) -> Self {
        self.zone = self.zone.or_else(|| zone().and_then(non_empty));
        self
    }

    /// Sets the version of what the server runs. An empty text means "not set", the default.
    #[must_use]
    pub fn with_version(mut self, version: impl Into<String>) -> Self {
        self.version = non_empty(version);
        self
    }

    /// Sets the id: a name that this instance has again after a restart (a pod's, a host's) and no
    /// other instance has. An empty text means "not set", the default. A registrar uses the id,
    /// together with the lease, to know who has put a key: see [`Conflict`](crate::Conflict).
    #[must_use]
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.id = non_empty(id);
        self
    }

    /// Whether the instance is leaving; false by default. An instance that is leaving stays in
    /// every [`Snapshot`](crate::Snapshot). [`BalancedChannel`](crate::BalancedChannel) gives it no
    /// new calls, and [`Resolution::discover`](crate::Resolution::discover) removes it. Other
    /// clients do not know the mark and go on calling it.
    #[must_use]
    pub fn with_draining(mut self, draining: bool) -> Self {
        self.draining = draining;
        self
    }

    /// Adds one pair of metadata. A later value of the same name replaces the earlier one.
    #[must_use]
    pub fn with_metadata(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(name.into(), value.into());
        self
    }

    /// For codecs: a part of the record that was not understood, and why. The first one is kept.
    /// The resolver logs it once for each service.
    #[must_use]
    pub fn with_misread(mut self, what: impl Into<String>) -> Self {
        self.misread.get_or_insert_with(|| what.into().into_boxed_str());
        self
    }

    /// Where the server listens; never empty.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// The weight, if set; never 0.
    pub fn weight(&self) -> Option<u32> {
        self.weight.map(NonZeroU32::get)
    }

    /// The zone, if set.
    pub fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    /// The version, if set.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// The id, if set.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Whether the instance is leaving: see [`Instance::with_draining`].
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// Everything else that the server says of itself.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The part of its record that was not understood, if any.
    pub fn misread(&self) -> Option<&str> {
        self.misread.as_deref()
    }
}

/// The text, unless it is empty.
fn non_empty(text: impl Into<String>) -> Option<Box<str>> {
    Some(text.into().into_boxed_str()).filter(|text| !text.is_empty())
}

/// For functions that change an instance, as [`Registration::update`](crate::Registration::update)
/// takes them. They may return the instance, or the result of [`Instance::with_weight`] and
/// [`Instance::with_address`].
impl TryFrom<Result<Instance, Error>> for Instance {
    type Error = Error;

    fn try_from(changed: Result<Instance, Error>) -> Result<Self, Error> {
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_filled_in_where_none_is_set() {
        let (own, env) = (Instance::new("h:1").unwrap().with_zone("own"), || Some("env".to_owned()));
        assert_eq!(own.with_zone_or(env).zone(), Some("own"));
        assert_eq!(Instance::new("h:1").unwrap().with_zone_or(env).zone(), Some("env"));
        assert_eq!(Instance::new("h:1").unwrap().with_zone_or(|| Some(String::new())).zone(), None);
        assert_eq!(Instance::new("h:1").unwrap().with_zone_or(|| None).zone(), None);
    }

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
