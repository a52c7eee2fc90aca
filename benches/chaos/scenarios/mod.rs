//! What is done to a fleet, and what may come of it.

mod age;
mod calls;
mod churn;
mod config;
mod dead;
mod discovery;
mod eject;
mod first;
mod freeze;
mod kill;
mod registration;
mod restart;
mod routing;
mod slow;
mod thousand;

use crate::findings::Findings;
use crate::world::{Result, World};

/// Something that is done to a fleet under load.
pub(crate) struct Scenario {
    pub(crate) group: &'static str,
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) run: fn(&World, &mut Findings) -> Result<()>,
}

const fn balancing(name: &'static str, about: &'static str, run: fn(&World, &mut Findings) -> Result<()>) -> Scenario {
    Scenario { group: "balancing", name, about, run }
}

const fn registration(
    name: &'static str,
    about: &'static str,
    run: fn(&World, &mut Findings) -> Result<()>,
) -> Scenario {
    Scenario { group: "registration", name, about, run }
}

const fn discovery(name: &'static str, about: &'static str, run: fn(&World, &mut Findings) -> Result<()>) -> Scenario {
    Scenario { group: "discovery", name, about, run }
}

const fn config(name: &'static str, about: &'static str, run: fn(&World, &mut Findings) -> Result<()>) -> Scenario {
    Scenario { group: "config", name, about, run }
}

const fn calls(name: &'static str, about: &'static str, run: fn(&World, &mut Findings) -> Result<()>) -> Scenario {
    Scenario { group: "calls", name, about, run }
}

const fn routing(name: &'static str, about: &'static str, run: fn(&World, &mut Findings) -> Result<()>) -> Scenario {
    Scenario { group: "routing", name, about, run }
}

/// In the order in which they run.
pub(crate) const SCENARIOS: &[Scenario] = &[
    balancing("slow", "one of 4 servers answers in 20 ms", slow::run),
    balancing("kill", "one of 3 servers is killed, the method declared repeatable", kill::repeatable),
    balancing("kill-undeclared", "one of 3 servers is killed, nothing declared", kill::undeclared),
    balancing("dead", "beside 3 servers a closed port, a silent listener and one with a full backlog", dead::run),
    balancing("freeze", "one of 3 servers is stopped (SIGSTOP) and goes on later", freeze::run),
    balancing("restart", "3 servers are restarted one after another", restart::run),
    balancing("age", "3 servers close each connection after a second", age::run),
    balancing("eject", "one of 3 servers answers UNAVAILABLE at once", eject::run),
    balancing("first", "the first server appears after the call began", first::run),
    balancing("thousand", "1 000 servers in one channel", thousand::run),
    balancing("churn", "200 endpoints are replaced per second", churn::run),
    registration("faults", "what can go wrong with a registration, one by one", registration::faults::one_by_one),
    registration("sequence", "the same, 50 times in random order", registration::faults::in_a_row),
    registration("rolling", "5 servers are restarted one after another, three rounds", registration::rolling::run),
    registration("many", "500 registrations of one process", registration::many::run),
    registration("storm", "2 000 registrars whose etcd comes back wiped after 3 s", registration::storm::run),
    registration("commits-stall", "no commit for 12 s while a second registration is put", registration::slow::commits),
    registration("held", "puts and password checks are held for 12 s", registration::slow::held),
    registration("unanswered", "the watch of one key is never answered", registration::slow::unanswered),
    registration("f19", "all certificates are renewed three times under 64 callers", registration::renewed::run),
    registration("f7", "200 puts arrive after their registrations have left", registration::late::run),
    registration("f12", "200 registrations, 50 ms of round trip", registration::many_far::run),
    registration("f61", "etcd is full, and one of four registrations wants out", registration::full::run),
    registration("stop", "a server stops while etcd is away", registration::stop::without_etcd),
    registration("killed", "a server is killed", registration::stop::killed),
    registration("unready", "a server never becomes ready", registration::stop::unready),
    registration("f23", "a server shuts down: silent, half-open and busy connections", registration::shutdown::run),
    registration("f63", "the check of one of 3 servers panics", registration::panics::run),
    discovery("quiet", "an etcd in which nothing happens for a minute", discovery::quiet::run),
    discovery("etcd-faults", "etcd fails in each of 6 ways while its servers change", discovery::faults::run),
    discovery("correct-again", "etcd restarts 10 times, and one of 3 members falls silent", discovery::again::run),
    discovery(
        "cold-start",
        "clients start while etcd is down, with good and with bad cache files",
        discovery::cold::run,
    ),
    discovery(
        "lost",
        "etcd is wiped, restored, or loses a prefix, and its servers register again 15 s later",
        discovery::doubt::lost,
    ),
    discovery("frozen", "2 of 3 servers are frozen for good, and their leases end", discovery::doubt::frozen),
    discovery("random", "200 random steps over 3 members, with 50 writers", discovery::random::run),
    discovery("thousand-services", "1 000 services of one resolver", discovery::thousand::run),
    discovery("ten-thousand-drops", "10 000 resolutions are made and dropped", discovery::drops::run),
    discovery("flood", "5 000 changes a second, beside a raw watch", discovery::flood::run),
    config("live", "the service config in etcd changes under 64 callers", config::live::run),
    config("health", "servers are asked for their health, as a service config says", config::health::run),
    calls("f30", "one of 3 servers is ejected because it restarts with calls in flight", calls::ejected::run),
    calls("f31", "calls are dropped while their server stands still, and 20 000 streams cancelled", calls::resets::run),
    calls("f33", "10 000 calls wait for 1 000 servers that are down", calls::waiting::for_a_server),
    calls("f34", "50 000 calls wait at the stream limit of a server", calls::waiting::for_room),
    calls("f35", "callers give up on one of 2 servers, which never answers", calls::given_up::run),
    calls("f36", "one of 3 servers fails at once, with each of 5 codes", calls::failing::codes),
    calls("f37", "servers of weights 10 : 1 and 1 : 1 : 100", calls::weights::run),
    calls("f38", "64 answers that nobody reads", calls::unread::run),
    calls("f39-f40", "the text of a status has 20 KB to 1 MiB", calls::texts::run),
    calls("f42", "2 000 servers with full backlogs, and one that lives", calls::backlog::run),
    calls("f62", "the handlers of one of 3 servers panic", calls::failing::panics),
    calls("f65", "metadata of 17, 70 and 200 KiB", calls::metadata::run),
    calls(
        "attempts",
        "one of 3 servers hangs, the method declared with an attempt timeout or hedges",
        calls::attempts::run,
    ),
    calls("metrics", "a recorder counts what callers count, while servers fail and go", calls::metrics::run),
    calls("stopped", "one of 3 servers is stopped for 2 s, with an attempt timeout", calls::stopped::run),
    calls("f66", "servers restart while nobody drives the runtime", calls::pauses::run),
    routing("zones", "2 zones of 4 servers", routing::zones::quiet),
    routing(
        "zone-full",
        "6 000 calls/s to a zone of 1 server beside 3 elsewhere, 3 200 calls/s each",
        routing::full::run,
    ),
    routing("zone-killed", "all 4 servers of the own zone are killed, and register again", routing::zones::killed),
    routing("slow-start", "a server that is slow at first joins three", routing::warming::run),
    routing("hash-keys", "consistent hash: servers leave, join and return", routing::keys::run),
    routing("hash-bound", "consistent hash with bounded load: 30 % of the calls have one key", routing::bound::run),
    routing("subset", "20 of 500 servers, of which 100 are replaced", routing::subset::replaced),
    routing("subset-spread", "1 000 clients of 20 of 100 servers each", routing::subset::spread),
    routing("route", "2 canaries of 20 servers are called by route, and killed", routing::canary::route),
    routing("split", "a share of 5 % of 20 000 calls", routing::canary::split),
];
