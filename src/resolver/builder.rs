//! The settings of a resolver.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tonic::transport::Endpoint;

use crate::address::Address;
use crate::codec::{CatchPanics, Codec};
use crate::error::{BoxError, Error};
#[cfg(feature = "unstable-etcd-client")]
use crate::etcd::EtcdClient;
use crate::etcd::EtcdPerRuntime;
use crate::metrics::Metrics;
use crate::resolver::cache::CacheOptions;
use crate::resolver::config::ConfigKeys;
use crate::resolver::discover::Configure;
use crate::resolver::mass_loss::MassLoss;
use crate::resolver::record::RecordReader;
use crate::resolver::{Resolver, Shared};

/// Builds a [`Resolver`] with options beyond those of etcd.
///
/// Finish with [`ResolverBuilder::connect`], which waits for etcd, or with
/// [`ResolverBuilder::connect_lazy`], which does not.
#[must_use]
pub struct ResolverBuilder {
    etcds: Result<EtcdPerRuntime, Error>,
    reader: RecordReader,
    configure: Option<Configure>,
    cache: CacheOptions,
    mass_loss: MassLoss,
    control_prefix: Option<String>,
    metrics: Option<Metrics>,
}

impl ResolverBuilder {
    /// A builder with every option at its default.
    pub(super) fn over(etcds: Result<EtcdPerRuntime, Error>) -> Self {
        Self {
            etcds,
            reader: RecordReader::default(),
            configure: None,
            cache: CacheOptions::default(),
            mass_loss: MassLoss::default(),
            control_prefix: None,
            metrics: None,
        }
    }

    /// A builder over your own client: see [`Resolver::new`]. Exempt from semver.
    #[cfg(feature = "unstable-etcd-client")]
    #[cfg_attr(docsrs, doc(cfg(feature = "unstable-etcd-client")))]
    pub fn from_client(client: EtcdClient) -> Self {
        Self::over(Ok(EtcdPerRuntime::from_client(client)))
    }

    /// The stored format to read. By default [`Detect`](crate::codec::Detect), which reads etcd's
    /// gRPC naming and plain addresses.
    pub fn codec(mut self, codec: impl Codec) -> Self {
        self.reader.codec = Arc::new(CatchPanics(codec));
        self
    }

    /// Whether records may name Unix sockets (`unix:/run/greeter.sock`). False by default:
    /// otherwise whoever may write into etcd could send this process's calls to any socket of its
    /// host. If this is false, such a record counts as unreadable.
    pub fn unix_sockets(mut self, allow: bool) -> Self {
        self.reader.unix_sockets = allow;
        self
    }

    /// Configures the `tonic::transport::Endpoint` of each server (TLS, timeouts) before
    /// [`Resolution::discover`](crate::Resolution::discover) and
    /// [`Resolution::balance_channel`](crate::Resolution::balance_channel) give it out. A server for
    /// which this fails or panics is left out and logged at WARN.
    ///
    /// The function must then also set TLS for `https` addresses. Without the function, `https`
    /// addresses use the root certificates of the enabled features.
    /// [`BalancedChannel`](crate::BalancedChannel) uses neither: its TLS is set by
    /// [`BalancedChannelBuilder`](crate::BalancedChannelBuilder).
    pub fn configure_endpoint<E: Into<BoxError>>(
        mut self,
        configure: impl Fn(&Address, Endpoint) -> Result<Endpoint, E> + Send + Sync + 'static,
    ) -> Self {
        self.configure = Some(Arc::new(move |address, endpoint| configure(address, endpoint).map_err(Into::into)));
        self
    }

    /// Keeps the last known instances of each service in a file of this folder, and uses them when
    /// the program starts while etcd is down. Without it, such a program knows no server until etcd
    /// responds. No folder by default. Use it with [`ResolverBuilder::connect_lazy`]:
    /// [`ResolverBuilder::connect`] fails while etcd is down.
    ///
    /// **Reading.** [`Resolver::resolve`] reads the file of the service in the background. If etcd
    /// has not responded 300 ms later, its instances are used: the state is
    /// [`ResolutionState::Cached`](crate::ResolutionState::Cached), and
    /// [`Resolution::ready`](crate::Resolution::ready) returns them. When etcd responds, its
    /// instances replace them, and the differences go out as changes. A file without instances is
    /// not used. Neither is a file that is damaged, too old ([`ResolverBuilder::cache_max_age`]), or
    /// of another prefix, codec ([`Codec::name`]) or version of the format: that is logged at WARN,
    /// once for each service.
    ///
    /// **Writing.** A file is written when instances have changed, by one thread for each resolver, at most ten
    /// files a second; the latest state of each service comes last. While nothing changes, etcd's
    /// confirmation is noted in the file every five minutes, which costs none of these ten. Nothing waits for
    /// the thread, and it ends with the process: a change of the last tenth of a second may then be missing,
    /// and where more than ten services have changed within a second, those whose turn has not come. A folder that
    /// cannot be written is logged at WARN, once for each service, and otherwise ignored.
    ///
    /// **Service configs** that channels take from etcd
    /// ([`BalancedChannelBuilder::service_config_from_etcd`](crate::BalancedChannelBuilder::service_config_from_etcd))
    /// have a file for each service, which is read and written in the same way. A file without a document is used: it says that
    /// there was none. What goes wrong is logged once for each channel.
    ///
    /// **The files** hold keys and values as they are in etcd, and never a user, a password, a token
    /// or a private key of this resolver. The folder is made if it is missing. On Unix the folder
    /// that is made and the files are readable by their owner alone. Whoever can write into the folder
    /// can send the calls of this program elsewhere. Several processes may use one folder if they use
    /// the same etcd and the same codec: use a folder for each cluster, and for each codec. None of them
    /// replaces what another has learned later from etcd. A relative path is of the folder in which the process works
    /// when the resolver is built.
    pub fn cache(mut self, directory: impl Into<PathBuf>) -> Self {
        self.cache.directory = Some(directory.into());
        self
    }

    /// How long ago etcd must have confirmed the instances of a cache file at most; 1 h by default,
    /// because addresses are used again by other servers. More than 0; 0 is refused, and so is an age
    /// without [`ResolverBuilder::cache`].
    ///
    /// It counts when the file is read. Instances that are in use stay until etcd responds. A file may be
    /// five minutes older than the last confirmation.
    pub fn cache_max_age(mut self, age: Duration) -> Self {
        self.cache.max_age = Some(age);
        self
    }

    /// Which losses of instances are doubtful, so that servers which still answer are kept while etcd
    /// no longer lists them. [`MassLoss::default`] by default; [`MassLoss::never_doubtful`] turns it
    /// off.
    pub fn mass_loss(mut self, options: MassLoss) -> Self {
        self.mass_loss = options;
        self
    }

    /// The beginning of the keys that operators write, without the slash that follows it. `tonic-etcd` by default. Below it are
    /// service configs: see
    /// [`BalancedChannelBuilder::service_config_from_etcd`](crate::BalancedChannelBuilder::service_config_from_etcd).
    /// [`Resolver::resolve`] refuses a service of that name, one whose name begins with it and a slash, and one whose name and a
    /// slash it begins with: `team` for `team/control`.
    pub fn control_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.control_prefix = Some(prefix.into());
        self
    }

    /// Where the instruments `tonic_etcd.resolver.*` go: a [`Recorder`](crate::metrics::Recorder), or [`Metrics`]. Nowhere by default;
    /// [`Resolution::stats`](crate::Resolution::stats) has the same numbers.
    ///
    /// Each service that is watched is counted once, however many resolutions and channels share its watch. Its series end with the
    /// watch: what is counted at present is then 0. Channels of the resolver's services record into the same recorder, unless their
    /// builder has one of their own.
    pub fn metrics(mut self, metrics: impl Into<Metrics>) -> Self {
        self.metrics = Some(metrics.into());
        self
    }

    /// Connects to etcd and waits for its first response: see [`Resolver::connect`].
    ///
    /// # Errors
    /// As [`Resolver::connect`].
    ///
    /// # Cancel safety
    /// As [`Resolver::connect`].
    pub async fn connect(self) -> Result<Resolver, Error> {
        let resolver = self.connect_lazy()?;
        resolver.shared.etcds.connect().await?;
        Ok(resolver)
    }

    /// The resolver, which connects in the background: see [`Resolver::connect_lazy`].
    ///
    /// # Errors
    /// When an endpoint, an option, the control prefix, or with a cache the name of the codec is invalid, or the path is
    /// relative and the process has no working folder ([`Error::is_invalid_argument`]).
    pub fn connect_lazy(self) -> Result<Resolver, Error> {
        if let Some((setting, value, bound)) = self.mass_loss.invalid() {
            return Err(Error::invalid("mass loss", value, format!("{setting} must be {bound}")));
        }
        let cache = self.cache.build(&*self.reader.codec)?;
        let reader = RecordReader { keep_values: cache.is_some(), ..self.reader };
        let (configure, mass_loss) = (self.configure, self.mass_loss);
        let config_keys = self.control_prefix.as_deref().map(ConfigKeys::new).transpose()?.unwrap_or_default();
        let (metrics, defaults) = (self.metrics, Shared::new(self.etcds?));
        Ok(Resolver::over(Shared { reader, configure, cache, mass_loss, config_keys, metrics, ..defaults }))
    }
}

impl fmt::Debug for ResolverBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResolverBuilder").field("codec", &self.reader.codec).finish_non_exhaustive()
    }
}
