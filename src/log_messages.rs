//! The messages that this crate logs at INFO and above, what each means, and what to do.
//!
//! Messages are constants: search the logs for them as they stand here. Their data are fields of the event. Events of
//! a service's background work have the field `service`.
//!
//! # Resolver and etcd
//!
//! | message | level | meaning | what to do |
//! |---|---|---|---|
//! | `etcd failed, retrying; keeping the last snapshot` | WARN | A list or a watch of `service` failed. Logged once for each kind of failure until it recovers. | See `error`. After a short outage: nothing. If etcd refused the request: correct the user, the password or the role. The watch of service configs has the control prefix as its `service` (`tonic-etcd/config`); that its role may not read them is not logged here, but as `service config unreadable, settings unchanged`. |
//! | `watch recovered` | INFO | The watch of `service` is open again after such a failure. | Nothing. |
//! | `etcd has not answered, using cached instances` | WARN | etcd has not responded for 300 ms after `service` was resolved. The instances of its cache file are called until it does (`instances`, `revision`, and `age_s` since etcd confirmed them). | Check that etcd is reachable. |
//! | `cache file not used` | WARN | The cache file of `service` is damaged, too old, of another prefix, codec or version of the format, or cannot be read (`error` says which). Logged once for each service; etcd is waited for, as without a cache. | After an upgrade or a long stop: nothing, etcd's next response replaces the file. Otherwise see `error`: several clusters or codecs may share the folder, or its permissions are wrong. |
//! | `cache file not written; logged once for each service` | WARN | The cache file of `service` cannot be written (`error`). Everything else works. | Correct the folder of `ResolverBuilder::cache`, its permissions, or the room on its disk. |
//! | `etcd has lost most instances, channels keep those that answer` | WARN | Most instances of `service` went at once (`loss` is `sudden`), or one after the other in a short time (`gradual`). `doubtful` is the number of lost instances that are doubtful so far, `instances` that of those which are left. Logged once until none is doubtful. | If the servers were not meant to leave: look whether etcd was wiped or restored, whether somebody has deleted keys, and whether the servers reach etcd. [`MassLoss`](crate::MassLoss) has the rules. |
//! | `no instance is doubtful any more` | INFO | The lost instances of `service` have registered again, or their time is over (60 s by default). | Nothing. |
//! | `membership changed` | INFO | Servers of `service` were added, removed or changed (the counts are fields). | Nothing. |
//! | `record skipped: unreadable` | WARN | The value at `key` cannot be read. Its server gets no calls; other records are not affected. | Repair the record, or give the resolver the codec of its writer. If `error` recognises the writer, it says so. |
//! | `more records skipped: unreadable` | WARN | One change brought more than ten unreadable records. Ten were logged one by one; `more` is the number of the rest. | As above. |
//! | `record field not understood, kept as metadata; logged once for each service` | WARN | A field of the record at `key` (`misread`) has a value that cannot be understood. The server is called as if the field were not set. | Repair the field at its writer. |
//! | `prefix also holds keys of a longer name: if that is a service, its servers get calls of this one` | WARN | Keys under the prefix of the service (field `service`) look like those of another service (field `below`). | Do not name one service `shop` and another one `shop/…`. A chosen key ([`RegistrationOptions::key`](crate::RegistrationOptions::key)) looks like such a name too if it has a slash, or if [`Conflict::UniqueKey`](crate::Conflict::UniqueKey) had to add a random id because the instance has none. |
//! | `server left out: its endpoint cannot be made` | WARN | A change stream, or tonic's balanced channel, left out the server at `address`: `https` without TLS, or `configure_endpoint` failed or panicked. | See `error`. |
//! | `recorder of metrics has panicked` | ERROR | [`Recorder::bind`](crate::metrics::Recorder::bind) panicked (`panic`) for an instrument (`instrument`), also one of a channel, a registrar or a server. That series is not recorded; all else goes on. | Fix the recorder. |
//! | `etcd members learned` | INFO | etcd now names other members than before (`members`). | Nothing. |
//! | `etcd members not learned; using the given endpoints` | WARN | etcd refused to list its members. Logged once. | Allow the role to list members. Behind a proxy, turn `learn_members` off. |
//! | `etcd members found by SRV records` | INFO | The SRV records of the domain in `domain` now list other members than before (`members`). | Nothing. |
//! | `SRV lookup failed, retrying; keeping the last members` | WARN | The SRV records could not be read, or name no usable host. Logged once until it recovers. | See `error`; correct DNS or the records. |
//! | `SRV lookup recovered` | INFO | The SRV records of `domain` can be read again. | Nothing. |
//!
//! # Channel
//!
//! | message | level | meaning | what to do |
//! |---|---|---|---|
//! | `service config in force` | INFO | The channel of `service` has taken another service config from `source`, or there is none any more (`has_document` is false). It holds for calls that begin after it. `unused` lists what of it the code does not let it say, or says itself. | Nothing, if `unused` is expected: it has the methods of the builder that let a document say more. |
//! | `service config has warnings` | WARN | The service config that came into force is valid, and says something that is probably not meant (`warnings`): a field that is not known, a name with a slash, a timeout of 0. | Correct the document; [`check_service_config`](crate::check_service_config) checks it before the put. |
//! | `service config refused, settings unchanged` | WARN | A service config from `source` is invalid. Logged once for each error. What was in force stays: the last good document (`has_document` is true), or else the settings of the code. | See `error`: it begins with the path of what is wrong. [`BalancedChannel::service_config`](crate::BalancedChannel::service_config) shows which document is in force. |
//! | `service config unreadable, settings unchanged` | WARN | The file of a service config cannot be read, or the role may read neither the key of this service in etcd nor all of them; or etcd fails since the channel began, and no cache file has one. Logged once for each error. What was in force stays, as above. It is tried again: a file every second, etcd every 30 to 60 s. | See `error`: it names the file, or the key and the prefix to grant, or says why etcd does not answer. |
//! | `etcd has lost the service config, keeping it for now` | WARN | etcd was wiped or restored, or has lost most instances of `service`, and has no service config of it any more. The last one stays in force for as long as the loss of instances is doubtful (60 s by default). | Look whether etcd was wiped or restored. If it was, put the document again. |
//! | `server cannot be connected, retrying` | WARN | Connecting to a server failed, for the first time since it was last connected or became known (`service`, `server`, `error`, `retry_in_ms`). Further failures are silent until it is connected again. | See `error`. Check whether the server runs, listens at the registered address, and is reachable from here; with TLS, whether the certificates match. |
//! | `server silent, connecting again` | WARN | Nothing was read from the server within the timeout after a PING, so the connection was closed; the calls on it failed (`service`, `server`, `error`). | Look for a frozen process, a lost host, or a network that drops packets. If the server is only slow, raise the timeout of `KeepAlive`. |
//! | `connection silent, the server has others` | WARN | Nothing was read over one of several connections to a server ([`connections_per_server`](crate::BalancedChannelBuilder::connections_per_server)) within the timeout after a PING, so it was closed; the calls on it failed (`service`, `server`, `error`; `left` connections remain). | As for `server silent, connecting again`. |
//! | `server complained of pings, sending half as many` | WARN | The server ended the connection with `too_many_pings` (`service`, `server`). From now on it is pinged half as often. | Allow the interval at the server (Go: `keepalive.EnforcementPolicy`), or raise the interval of `KeepAlive`. |
//! | `server connected again` | INFO | A server about which a warning was logged is connected again (`service`, `server`). | Nothing. |
//! | `server unhealthy` | INFO | The server says that it does not serve, or its health check has ended or was not answered in time (`service`, `server`, `error`). It gets no new calls. Only where [`health_check`](crate::BalancedChannelBuilder::health_check), or `healthCheckConfig` of a service config, is set. The sixth such message of a server within a minute and those after it are at DEBUG. | See `error` and the server. |
//! | `server healthy again` | INFO | The server says that it serves after such a message (`service`, `server`). At DEBUG if that was. | Nothing. |
//! | `health not checked any more, the server gets calls again` | INFO | After such a message the service config or its policy has ended the health checks, or the server cannot be asked any more (`service`, `server`). It says nothing of the server's health. | Nothing, if that change was meant. |
//! | `health not checked, the server counts as healthy` | WARN | The server cannot be asked whether it serves: it has no health service, or accepts one stream at a time over a connection (`service`, `server`, `error`). It gets calls while it is connected. Logged once for each server. | Add the health service to the server, or raise its limit of streams. |
//! | `health not checked, the policy does without` | INFO | The channel was told to check the health of its servers, and its policy (`policy`) does without (`service`). | Use another policy, or set neither `health_check` nor `healthCheckConfig`. |
//! | `server ejected` | INFO | Outlier detection took the server out because its calls failed more than its peers' (`service`, `server`). | See the server's errors; `BalancedChannel::servers` has its counts. |
//! | `server back from its ejection` | INFO | The time of an ejection is over, and the server gets calls again, on probation (`service`, `server`). | Nothing. |
//! | `discovery failed, keeping the known servers` | WARN | The discovery that the channel was built with returned an error (`service`, `error`, `retry_in_ms`). It is polled again; further errors in a row are at DEBUG. | See `error`: it is the discovery's own. |
//! | `discovery panicked, keeping the known servers for good` | ERROR | The discovery that the channel was built with panicked (`service`, `panic`). It is not polled again. | Fix the discovery, and build a new channel. |
//! | `policy picked an index out of range, taking the next server` | WARN | `Picker::pick` returned `Pick::Server` with an index (`index`) that is not below the number of ready servers (`servers`) of `service`. The first available server takes such calls. Logged once for each channel. | Fix the policy: its index must be one of the `ReadySet` that the picker was built from. |
//! | `filter panicked, leaving the server out` | ERROR | A function given to `Filter::new` panicked for the instance of `server` (`panic`). The instance does not match. | Fix the filter. |
//! | `too many values to route by, servers left out` | WARN | The servers carry more than 16 different sets of values for the channel's route keys. `beyond` of them are left out: their servers are not connected. Logged once for each channel. | Use a route key with fewer values, or a channel for each part. |
//! | `policy panicked, picking by least request` | ERROR | `Policy::picker` panicked for a set of servers (`service`, `panic`). `LeastRequest` picks from that set. | Fix the policy. |
//!
//! # Connections
//!
//! | message | level | meaning | what to do |
//! |---|---|---|---|
//! | `TLS settings invalid, keeping the last valid ones` | WARN | Certificate files, or the function given to `ClientTls::rustls_with`, give nothing usable at present (`error` says why, also if the function panicked). New connections use the last valid settings. Logged once until they are valid again. | Fix the files (pair of certificate and key, PEM, permissions) before the certificate in use expires. |
//! | `TLS settings valid again` | INFO | The settings can be used again, and new connections use them. | Nothing. |
//!
//! # Registrar and server
//!
//! | message | level | meaning | what to do |
//! |---|---|---|---|
//! | `registered` | INFO | etcd holds the instance under the lease. | Nothing. |
//! | `deregistered` | INFO | The instance has left etcd for good. | Nothing. |
//! | `registration paused` | INFO | The instance is out of etcd. The field `reason` says why. | Nothing, if the reason is expected; otherwise fix what it names. |
//! | `registration lost, registering again` | WARN | The instance was in etcd and is gone, or its lease may have expired. `error` says why. | Check that etcd is reachable, and that nobody deletes the key. It is registered again without action. |
//! | `key held by another instance, waiting for it` | WARN | Another instance has the key: the `Conflict` rule does not overwrite it, or it overwrote the key of this instance. `error` names the other instance. | If this is not wanted, stop the other instance or give this one another key. |
//! | `registrar request failed, retrying` | WARN | etcd failed or refused a request. Logged once for each kind of failure in an outage. | See `error`: permissions, quotas and sizes must be corrected; other failures pass. |
//! | `key watch denied, putting the key once a minute instead` | WARN | The role may not watch the registrar's own key. If the key is deleted, it comes back within a minute instead of at once. If another instance puts the same key, the two overwrite each other. | Grant the role read access to the key. |
//! | `service name is nested in another, whose clients call both` | WARN | etcd has keys of two services, named in the fields `upper` and `lower`, such as `shop` and `shop/payments`. Clients of the upper one call the servers of both. | Rename one of the services. A chosen key with a slash looks like a nested name too, as does the key that [`Conflict::UniqueKey`](crate::Conflict::UniqueKey) made of a chosen one and a random id because the instance has none. |
//! | `runtime ended while a lease was held, its keys stay until the lease ends` | WARN | The tokio runtime ended before the registrations had left. Clients try the server until the lease ends (`ttl_s`). | Before `main` returns, wait for `Registrar::close`, for `Registration::deregister` of each registration, or for the end of `Serve::serve`. |
//! | `server ready, registering` | INFO | The checks pass and the address is known. | Nothing. |
//! | `check failed, not registering yet` | WARN | The readiness check, or the first health check, failed. The server accepts calls, but is not in the directory. | Fix what `error` names. The check is repeated. |
//! | `health check failed, leaving the directory` | WARN | The server is taken out of etcd until the check passes. | Fix what `error` names. |
//! | `health check passes again, returning to the directory` | INFO | The server is put into etcd again. | Nothing. |
//! | `health service does not know the name, keeping its service out of the directory` | WARN | `Serve::health_name` names a service that the reporter was told nothing of. | Call `set_serving` or `set_service_status` for the name, or correct it. |
//! | `address to register unknown, retrying` | WARN | The address of etcd, or a route to it, is not known yet. | Check DNS and the network, or set `Serve::advertise` or `TONIC_ETCD_ADVERTISE`. |
//! | `advertised address is loopback because etcd is on this host, other hosts cannot reach it` | WARN | The server listens on every interface, and reaches etcd by loopback. | Nothing on a developer's host; otherwise set `Serve::advertise`. |
//! | `advertised address is of an address family that is not listened on` | WARN | The address has the listener's port and a family that it does not accept. It works only if something forwards the connections. | Listen on both families, or correct the address. |
//! | `instance change refused, leaving it out` | WARN | A change by `ServeControl::update`, made before the server was registered, could not be applied: its function returned an error or panicked, or its result was refused, as by the codec. The server registers without it. | Correct the change that `error` names. |
//! | `draining mark failed, leaving without it` | WARN | `Departure::MarkDraining` could not write the mark in time. The server deregisters without it. | Check that etcd is reachable. |
//! | `deregistration failed, the key stays until its lease ends` | WARN | The server stopped without leaving etcd. Clients try it until the lease ends. | Check that etcd is reachable. |
//! | `server draining, no more calls accepted` | INFO | GOAWAY is sent; the calls in flight go on. | Nothing. |
//! | `idle connections closed` | INFO | Connections without a call in flight did not end within 0.75 s, and were closed. | Nothing. |
//! | `drain ended with calls in flight, closing connections` | WARN | Calls took longer than `Serve::drain_timeout`. | Raise `Serve::drain_timeout`, or end long streams at shutdown. |
//! | `drain ended, closing TLS connections of uncounted calls` | WARN | TLS connections were open at the end of the drain. Whether they had calls in flight is not known. | Add the layer of `Serve::count_calls`. |
//! | `server stopped` | INFO | The server has ended. | Nothing. |
//! | `server ended by itself` | WARN | tonic's server ended without being asked to, or failed. | See `error`. |
//! | `accept failed, retrying` | WARN | The listener failed, as with too many open files. Nothing is accepted for 100 ms after each failure. | Raise the limit that `error` names. |
//! | `socket file not removed` | WARN | The file of the Unix socket could not be removed at shutdown. | Remove it before the next start, or correct the permissions of its folder. |
