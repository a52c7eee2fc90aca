//! The messages that this crate logs at INFO and above, what each means, and what to do.
//!
//! Messages are constants: search the logs for them as they stand here. Their data are fields of the event. The background work of
//! one service has the field `service`.
//!
//! # Resolver and etcd
//!
//! | message | level | meaning | what to do |
//! |---|---|---|---|
//! | `etcd failed, retrying; keeping the last snapshot` | WARN | A list or a watch of `service` failed. Logged once for each kind of failure until it recovers. | Read `error`. Nothing for a short outage of etcd. For a refusal: the user, the password or the role. |
//! | `watch recovered` | INFO | The watch of `service` is open again after such a failure. | Nothing. |
//! | `membership changed` | INFO | Servers of `service` were added, removed or changed (the counts are fields). | Nothing. |
//! | `record skipped: unreadable` | WARN | The value at `key` cannot be read. Its server gets no calls; other records are not affected. | Repair the record, or give the resolver the codec of its writer. `error` names the likely writer where it can. |
//! | `more records skipped: unreadable` | WARN | Beyond ten unreadable records of one change, `more` others were skipped. | As above. |
//! | `record field not understood, kept as metadata; logged once for each service` | WARN | A field of the record at `key` (`misread`) has a value that has no meaning there. The server is called without it. | Repair the field at its writer. |
//! | `prefix also holds keys of a longer name: if that is a service, its servers get calls of this one` | WARN | Keys of the service `below` lie under the prefix of `service`. | Choose names of which none continues another one after a slash. |
//! | `server left out: its endpoint cannot be made` | WARN | A change stream, or tonic's balanced channel, left out the server at `address`: `https` without TLS, or `configure_endpoint` failed or panicked. | Read `error`. |
//! | `etcd members learned` | INFO | etcd has named other members than before (`members`). | Nothing. |
//! | `etcd members not learned; using the given endpoints` | WARN | etcd refused to list its members. Logged once. | Give the role what it needs, or turn `learn_members` off, as behind a proxy. |
//! | `etcd members found by SRV records` | INFO | The SRV records of `domain` name other members than before (`members`). | Nothing. |
//! | `SRV lookup failed, retrying; keeping the last members` | WARN | The SRV records could not be read, or name no usable host. Logged once. | Read `error`; repair DNS or the records. |
//! | `SRV lookup recovered` | INFO | The SRV records of `domain` can be read again. | Nothing. |
//!
//! # Channel
//!
//! | message | level | meaning | what to do |
//! |---|---|---|---|
//! | `server cannot be connected, retrying` | WARN | The first attempt to connect to a server failed since all was well (`service`, `server`, `error`, `retry_in_ms`). Further failures are silent until it is connected again. | Look at `error`: whether the server runs, listens at the registered address, and is reachable from here; with TLS, whether certificates match. |
//! | `server silent, connecting again` | WARN | Keep-alive got no answer over the connection, so it was closed; the calls on it failed (`service`, `server`, `error`). | A frozen process, a lost host or a network that drops packets. If the server is only slow, raise the timeout of `KeepAlive`. |
//! | `server complained of pings, sending half as many` | WARN | The server ended the connection with `too_many_pings` (`service`, `server`). Pings to it are half as many from now on. | Allow the interval at the server (Go: `keepalive.EnforcementPolicy`), or raise the interval of `KeepAlive`. |
//! | `server connected again` | INFO | A server is connected about which a warning was logged (`service`, `server`). | Nothing. |
//! | `server ejected` | INFO | Outlier detection took the server out because its calls failed more than its peers' (`service`, `server`). | Look at the server's errors; `BalancedChannel::servers` has its counts. |
//! | `server back from its ejection` | INFO | The time of an ejection is over, and the server gets calls again, on probation (`service`, `server`). | Nothing. |
//! | `discovery failed, keeping the known servers` | WARN | The discovery that the channel was built with returned an error (`service`, `error`, `retry_in_ms`). It is polled again; further errors in a row are at DEBUG. | Look at `error`: it is the discovery's own. |
//! | `discovery panicked, keeping the known servers for good` | ERROR | The discovery that the channel was built with panicked (`service`, `panic`). It is polled no more. | Mend the discovery, and build the channel anew. |
//! | `policy panicked, picking by least request` | ERROR | `Policy::picker` panicked for a set of servers (`service`, `panic`). `LeastRequest` picks from that set. | Mend the policy. |
//!
//! # Connections
//!
//! | message | level | meaning | what to do |
//! |---|---|---|---|
//! | `TLS settings invalid, keeping the last valid ones` | WARN | Certificate files, or the function given to `ClientTls::rustls_with`, give nothing usable now (`error` says why). New connections use the last valid settings. Logged once until they are valid again. | Fix the files (pair of certificate and key, PEM, permissions) before the certificate in use expires. |
//! | `TLS settings valid again` | INFO | They can be used again, and new connections use them. | Nothing. |
//!
//! # Registrar and server
//!
//! | message | level | meaning | what to do |
//! |---|---|---|---|
//! | `registered` | INFO | etcd holds the instance under the lease. | Nothing. |
//! | `deregistered` | INFO | The instance has left etcd for good. | Nothing. |
//! | `registration paused` | INFO | The instance is out of etcd, for the `reason`. | Nothing, if the reason is expected; otherwise mend what it names. |
//! | `registration lost, registering again` | WARN | The instance was in etcd and is gone, or its lease may have expired. `error` says why. | Check that etcd is reachable, and that nobody deletes the key. It is registered again without action. |
//! | `key held by another instance, waiting for it` | WARN | Another instance has put the key, and the `Conflict` rule respects that, or it registered later. `error` names it. | If it is not wanted, stop the other instance or give this one another key. |
//! | `registrar request failed, retrying` | WARN | etcd failed or refused a request. Logged once for each kind of failure in an outage. | See `error`: a permission, a quota or a size needs an operator; the rest passes by itself. |
//! | `key watch denied, putting the key once a minute instead` | WARN | The role may not watch the registrar's own key. A deleted key comes back within a minute instead of at once. | Grant the role read access to the key. |
//! | `service name is nested in another, whose clients call both` | WARN | etcd has keys of `upper` and of `lower`, such as `shop` and `shop/payments`. Clients of `upper` call the servers of both. | Rename one of the services. |
//! | `runtime ended while a lease was held, its keys stay until the lease ends` | WARN | The tokio runtime ended before the registrations had left. Clients call the server until the lease ends (`ttl_s`). | Wait for `Registrar::close` before `main` returns. |
//! | `server ready, registering` | INFO | The checks pass and the address is known. | Nothing. |
//! | `check failed, not registering yet` | WARN | The readiness check, or the first health check, failed. The server serves, and is not in the directory. | Mend what `error` names. The check is repeated. |
//! | `health check failed, leaving the directory` | WARN | The server is taken out of etcd until the check passes. | Mend what `error` names. |
//! | `health check passes again, returning to the directory` | INFO | The server is registered again. | Nothing. |
//! | `health service does not know the name, keeping its service out of the directory` | WARN | `Serve::health_name` names a service that the reporter was told nothing of. | Call `set_serving` or `set_service_status` for the name, or correct it. |
//! | `address to register unknown, retrying` | WARN | The address of etcd, or a route to it, is not known yet. | Check DNS and the network, or set `Serve::advertise` or `TONIC_ETCD_ADVERTISE`. |
//! | `advertised address is loopback because etcd is on this host, other hosts cannot reach it` | WARN | Every interface is listened on, and etcd is reached by loopback. | Nothing on a developer's host; otherwise set `Serve::advertise`. |
//! | `advertised address is of an address family that is not listened on` | WARN | The address has the listener's port and a family that it does not accept. Only something that forwards makes it work. | Listen on both families, or correct the address. |
//! | `instance change refused, leaving it out` | WARN | A change of the instance that was made before the server was ready was refused later. | Correct the change that `error` names. |
//! | `draining mark failed, leaving without it` | WARN | `Departure::MarkDraining` could not write the mark in time. The server deregisters all the same. | Check that etcd is reachable. |
//! | `deregistration failed, the key stays until its lease ends` | WARN | The server stopped without leaving etcd. Clients try it until the lease ends. | Check that etcd is reachable. |
//! | `server draining, no more calls accepted` | INFO | GOAWAY is sent; the calls in flight are answered. | Nothing. |
//! | `idle connections closed` | INFO | Connections without a call in flight did not end by themselves. | Nothing. |
//! | `drain ended with calls in flight, closing connections` | WARN | Calls took longer than `Serve::drain`. | Raise `Serve::drain`, or end long streams at shutdown. |
//! | `drain ended, closing TLS connections of uncounted calls` | WARN | TLS connections were open at the end of the drain, and nothing tells whether they had calls. | Add the layer of `Serve::count_calls`. |
//! | `server stopped` | INFO | The server has ended. | Nothing. |
//! | `server ended by itself` | WARN | tonic's server ended without being asked to, or failed. | See `error`. |
//! | `accept failed, retrying` | WARN | The listener failed, as with too many open files. Nothing is accepted for 100 ms after each failure. | Raise the limit that `error` names. |
//! | `socket file not removed` | WARN | The file of the Unix socket could not be removed at shutdown. | Remove it before the next start, or correct the permissions of its folder. |
