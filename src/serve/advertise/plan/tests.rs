use proptest::prelude::*;

use super::*;

/// What is set, what the environment says, where is listened, and whether by TLS.
type Case = (Vec<String>, Environment, BoundAddress, bool);

fn cases() -> impl Strategy<Value = Case> {
    // Neither patterns, which are parsed anew for each input of a fuzzer, nor unions, of which it takes few.
    let host = || {
        prop::sample::select(
            &[
                "10.0.0.5",
                "0.0.0.0",
                "::1",
                "::",
                "fd00::5",
                "[fd00::6]",
                "fe80::1",
                "localhost",
                "h.x",
                "u:p@h",
                "unix:/run/x",
                "unix:",
                "http://h",
                "https://h",
                "",
                "10.0.0.5 fd00::5",
            ][..],
        )
    };
    let text = || {
        (host(), any::<bool>(), 0_u32..70_000)
            .prop_map(|(host, has_port, port)| if has_port { format!("{host}:{port}") } else { host.to_owned() })
    };
    let list = || {
        (any::<bool>(), proptest::collection::vec(text(), 0..4))
            .prop_map(|(is_set, list)| is_set.then(|| list.join(",")))
    };
    let ip = prop::sample::select(
        &[
            "0.0.0.0",
            "::",
            "127.0.0.1",
            "::1",
            "10.0.0.5",
            "fd00::5",
            "fe80::1",
            "169.254.1.1",
            "::ffff:10.0.0.5",
            "::ffff:0.0.0.0",
        ][..],
    );
    let bound = (0_u8..8, ip, 1_u16.., any::<bool>(), text()).prop_map(|(kind, ip, port, only_v6, path)| {
        let ip: IpAddr = ip.parse().unwrap();
        let family = match ip.to_canonical() {
            IpAddr::V4(_) => AddressFamily::V4,
            ip if ip.is_unspecified() && !only_v6 => AddressFamily::Any,
            IpAddr::V6(_) => AddressFamily::V6,
        };
        match kind {
            0 => BoundAddress::Unix(path),
            1 => BoundAddress::Unknown,
            _ => BoundAddress::Tcp(SocketAddr::new(ip, port), family),
        }
    });
    let environment = (list(), list()).prop_map(|(advertise, pod_ip)| Environment { advertise, pod_ip });
    (proptest::collection::vec(text(), 0..3), environment, bound, any::<bool>())
}

/// What is registered can be called, by TLS where that is asked for; what is refused says why.
fn is_callable((configured, environment, bound, https): &Case) {
    let plan = match plan(configured, environment, bound, *https) {
        Ok(plan) => plan,
        Err(error) => return assert!(error.is_invalid_argument() && !error.to_string().is_empty()),
    };
    let can_be_called = |address: &Address| {
        assert_eq!(address.uncallable_reason(), None, "{address}");
        assert!(!https || (address.is_secure() && address.unix_path().is_none()), "{address} without TLS");
        assert_eq!(Address::parse(&address.to_string()).ok().as_ref(), Some(address));
    };
    match &plan {
        AddressPlan::Known(addresses) => {
            assert!(!addresses.is_empty());
            addresses.iter().for_each(can_be_called);
            let others = of_other_family(addresses, bound);
            assert!(others.iter().all(|other| addresses.contains(other)));
            if configured.is_empty()
                && environment.advertise.as_ref().is_none_or(|list| split_list(Some(list)).is_empty())
            {
                assert!(addresses.len() == 1 && others.is_empty(), "{addresses:?} at {bound:?}");
            }
        }
        AddressPlan::Local(address, _) => {
            can_be_called(address);
            let is_local = locality(address.parsed_authority()) == Locality::Local;
            assert!(address.unix_path().is_some() || is_local, "{address}");
        }
        AddressPlan::Route { port, https: by_tls, .. } => {
            let BoundAddress::Tcp(bound, _) = bound else { panic!("{bound:?} has no port") };
            assert!(bound.ip().to_canonical().is_unspecified() && bound.port() == *port && by_tls == https);
        }
    }
}

proptest! {
    #[test]
    fn what_is_registered_can_be_called(case in cases()) {
        is_callable(&case);
    }
}

/// The fuzz target: the same property; and any text as an address and as a list.
pub(crate) fn fuzz(bytes: &[u8]) {
    crate::fuzzing::with(bytes, cases(), |case| {
        is_callable(&case);
        Ok(())
    });
    let text = String::from_utf8_lossy(bytes);
    for bound in [tcp("0.0.0.0:7"), tcp("[::]:7"), BoundAddress::Unix(text.to_string())] {
        let listed = environment(Some(&text), None);
        let pod = environment(None, Some(&text));
        for environment in [&listed, &pod] {
            is_callable(&(Vec::new(), environment.clone(), bound.clone(), bytes.len().is_multiple_of(2)));
        }
        is_callable(&(vec![text.to_string()], pod, bound, false));
    }
}

fn tcp(bound: &str) -> BoundAddress {
    let bound: SocketAddr = bound.parse().unwrap();
    let family = match bound.ip() {
        ip if ip.to_canonical().is_ipv4() => AddressFamily::V4,
        ip if ip.is_unspecified() => AddressFamily::Any,
        _ => AddressFamily::V6,
    };
    BoundAddress::Tcp(bound, family)
}

fn environment(advertise: Option<&str>, pod_ip: Option<&str>) -> Environment {
    Environment { advertise: advertise.map(Into::into), pod_ip: pod_ip.map(Into::into) }
}

fn planned(said: &[&str], environment: &Environment, bound: &BoundAddress, https: bool) -> Result<AddressPlan, String> {
    let said: Vec<String> = said.iter().map(|text| (*text).to_owned()).collect();
    plan(&said, environment, bound, https).map_err(|error| error.to_string())
}

fn known(addresses: &[&str]) -> AddressPlan {
    AddressPlan::Known(addresses.iter().map(|address| Address::parse(address).unwrap()).collect())
}

#[test]
fn what_is_said_comes_first_then_the_environment_then_what_is_listened_on() {
    let (none, bound) = (Environment::default(), tcp("10.0.0.5:50051"));
    let listed = environment(Some(" 10.9.9.9:1, , greeter.local "), Some("10.1.1.1"));
    let given = ["10.0.0.7", "greeter.local:81", "2001:db8::1", "[2001:db8::2]", "https://x", "unix:/run/g"];
    let read = [
        "10.0.0.7:50051",
        "greeter.local:81",
        "[2001:db8::1]:50051",
        "[2001:db8::2]:50051",
        "https://x:443",
        "unix:/run/g",
    ];
    assert_eq!(planned(&given, &listed, &bound, false).unwrap(), known(&read));
    assert_eq!(planned(&["127.0.0.1"], &none, &bound, false).unwrap(), known(&["127.0.0.1:50051"]), "it is said");
    assert_eq!(planned(&[], &listed, &bound, false).unwrap(), known(&["10.9.9.9:1", "greeter.local:50051"]));
    assert_eq!(planned(&[], &environment(Some(" "), None), &bound, false).unwrap(), known(&["10.0.0.5:50051"]));
    assert_eq!(planned(&[], &none, &bound, true).unwrap(), known(&["https://10.0.0.5:50051"]));
    assert_eq!(planned(&["a:1"], &none, &bound, true).unwrap(), known(&["https://a:1"]));
    assert!(planned(&["unix:/run/g"], &none, &bound, true).unwrap_err().contains("without TLS"));
    assert_eq!(planned(&[], &none, &tcp("[2001:db8::1]:1"), false).unwrap(), known(&["[2001:db8::1]:1"]));
    assert_eq!(planned(&[], &none, &tcp("[::ffff:10.0.0.5]:1"), false).unwrap(), known(&["10.0.0.5:1"]));
}

#[test]
fn every_interface_is_none() {
    let (none, pod) = (Environment::default(), environment(None, Some("10.1.1.1")));
    let pod6 = environment(Some(""), Some("2001:db8::9 "));
    assert_eq!(planned(&[], &pod, &tcp("0.0.0.0:7"), false).unwrap(), known(&["10.1.1.1:7"]));
    assert_eq!(planned(&[], &pod6, &tcp("[::]:7"), true).unwrap(), known(&["https://[2001:db8::9]:7"]));
    assert_eq!(planned(&[], &pod, &tcp("10.0.0.5:7"), false).unwrap(), known(&["10.0.0.5:7"]), "it is one already");
    let route = |family| Ok(AddressPlan::Route { port: 7, family, https: false });
    assert_eq!(planned(&[], &none, &tcp("0.0.0.0:7"), false), route(AddressFamily::V4));
    assert_eq!(planned(&[], &none, &tcp("[::ffff:0.0.0.0]:7"), false), route(AddressFamily::V4));
    assert_eq!(planned(&[], &none, &tcp("[::]:7"), false), route(AddressFamily::Any));
    let only_v6 = BoundAddress::Tcp("[::]:7".parse().unwrap(), AddressFamily::V6);
    assert_eq!(planned(&[], &none, &only_v6, false), route(AddressFamily::V6));
    assert!(
        !AddressFamily::V4.contains("::1".parse().unwrap()) && AddressFamily::V4.contains("1.1.1.1".parse().unwrap())
    );
    assert!(
        !AddressFamily::V6.contains("::ffff:1.1.1.1".parse().unwrap())
            && AddressFamily::V6.contains("::1".parse().unwrap())
    );
}

/// F22: what `POD_IP` says is registered where the listener answers on it, and refused where it
/// does not.
#[test]
fn a_pod_is_reached_by_the_family_that_is_listened_on() {
    let (v4, both) = (tcp("0.0.0.0:7"), tcp("[::]:7"));
    let v6 = BoundAddress::Tcp("[::]:7".parse().unwrap(), AddressFamily::V6);
    for (pod_ip, bound, expected) in [
        ("10.0.0.5,fd00::5", &v4, "10.0.0.5:7"),
        ("fd00::5, 10.0.0.5", &v4, "10.0.0.5:7"),
        ("fd00::5\t10.0.0.5\n", &v4, "10.0.0.5:7"),
        ("fd00::5,10.0.0.5", &both, "[fd00::5]:7"),
        ("10.0.0.5,FD00::5", &both, "10.0.0.5:7"),
        ("10.0.0.5,[fd00::5]", &v6, "[fd00::5]:7"),
        ("10.0.0.5,[fd00::5]:9", &v6, "[fd00::5]:9"),
        ("::ffff:10.0.0.5", &v4, "10.0.0.5:7"),
        (",,10.0.0.5,", &v4, "10.0.0.5:7"),
        ("fd00::5,pod.local", &v4, "pod.local:7"),
        (" , ", &tcp("10.0.0.9:7"), "10.0.0.9:7"),
        ("fd00::5", &tcp("10.0.0.9:7"), "10.0.0.9:7"),
    ] {
        assert_eq!(planned(&[], &environment(None, Some(pod_ip)), bound, false).unwrap(), known(&[expected]));
    }
    for (pod_ip, bound, family) in [
        ("fd00::5", &v4, "IPv4"),
        ("fd00::5,fd00::6", &v4, "IPv4"),
        ("[fd00::5]:7", &v4, "IPv4"),
        ("0x0a000005", &v6, "IPv6"),
        ("10.0.0.5", &v6, "IPv6"),
        ("::ffff:10.0.0.5", &v6, "IPv6"),
    ] {
        let error = planned(&[], &environment(None, Some(pod_ip)), bound, false).unwrap_err();
        let says = [POD_IP, family, ADVERTISE, pod_ip.split(',').next().unwrap()];
        assert!(says.iter().all(|text| error.contains(text)), "{error}");
    }
    // What is said of the address to advertise is believed: something may forward it.
    let listed = environment(Some("10.0.0.5,[fd00::5]:30001, fd00::5"), Some("10.9.9.9"));
    let plan = planned(&[], &listed, &v4, false).unwrap();
    assert_eq!(plan, known(&["10.0.0.5:7", "[fd00::5]:30001", "[fd00::5]:7"]));
    let AddressPlan::Known(addresses) = plan else { panic!("they are known") };
    assert_eq!(of_other_family(&addresses, &v4), [&addresses[2]]);
    assert!(
        of_other_family(&addresses, &both).is_empty() && of_other_family(&addresses, &BoundAddress::Unknown).is_empty()
    );
}

#[test]
fn what_only_this_host_reaches_is_for_an_etcd_on_it() {
    let local_of = |address, what| Ok(AddressPlan::Local(Address::parse(address).unwrap(), what));
    let local = |address| local_of(address, WHAT);
    let none = Environment::default();
    for (pod_ip, address) in [
        ("127.0.0.1", "127.0.0.1:7"),
        ("::1,10.0.0.5", "[::1]:7"),
        ("::ffff:127.0.0.1", "127.0.0.1:7"),
        ("localhost", "localhost:7"),
        ("unix:/run/g", "unix:/run/g"),
    ] {
        assert_eq!(planned(&[], &environment(None, Some(pod_ip)), &tcp("[::]:7"), false), local_of(address, POD_IP));
    }
    assert_eq!(planned(&[], &none, &tcp("127.0.0.1:7"), false), local("127.0.0.1:7"));
    assert_eq!(planned(&[], &none, &tcp("[::1]:7"), true), local("https://[::1]:7"));
    assert_eq!(planned(&[], &none, &BoundAddress::Unix("/run/g".into()), false), local("unix:/run/g"));
    assert!(planned(&[], &none, &BoundAddress::Unix("/run/g".into()), true).unwrap_err().contains("without TLS"));
    for (etcd, expected) in [
        ("localhost:2379", Locality::Local),
        ("etcd.localhost:2379", Locality::Local),
        ("127.0.0.9:1", Locality::Local),
        ("[::1]:1", Locality::Local),
        ("[::ffff:127.0.0.1]:1", Locality::Local),
        ("10.0.0.1:1", Locality::Remote),
        ("etcd.local:1", Locality::Unknown),
        ("notlocalhost:1", Locality::Unknown),
    ] {
        assert_eq!(locality(&Authority::parse(etcd, None).unwrap()), expected, "{etcd}");
    }
}

#[test]
fn what_cannot_be_is_refused_and_says_what_to_do() {
    let none = Environment::default();
    for (said, environment, bound, reason) in [
        (&[][..], &none, BoundAddress::Unknown, "Serve::advertise"),
        (&[], &none, tcp("169.254.1.1:7"), "one link"),
        (&[], &none, tcp("[fe80::1]:7"), "one link"),
        (&["0.0.0.0"], &none, tcp("10.0.0.5:7"), "every interface"),
        (&["[::]:8"], &none, tcp("10.0.0.5:7"), "every interface"),
        (&["host"], &none, BoundAddress::Unknown, "no port"),
        (&["10.0.0.7"], &none, BoundAddress::Unix("/run/g".into()), "no port"),
        (&["host:0"], &none, tcp("10.0.0.5:7"), "not a number from 1"),
        (&["a,b"], &none, tcp("10.0.0.5:7"), "only one address"),
        (&[], &environment(Some("host:x"), None), tcp("10.0.0.5:7"), "TONIC_ETCD_ADVERTISE"),
        (&[], &environment(Some("0.0.0.0"), None), tcp("10.0.0.5:7"), "TONIC_ETCD_ADVERTISE"),
        (&[], &environment(None, Some("no ip")), tcp("0.0.0.0:7"), "POD_IP"),
        (&[], &environment(None, Some("0.0.0.0")), tcp("0.0.0.0:7"), "POD_IP \"0.0.0.0\""),
        (&[], &environment(None, Some("224.0.0.1")), tcp("0.0.0.0:7"), "POD_IP \"224.0.0.1\""),
        (&[], &environment(Some("a:1,255.255.255.255"), None), tcp("[::]:7"), "\"255.255.255.255\""),
        (&["[ff02::1]:7"], &none, tcp("10.0.0.5:7"), "multicast"),
        (&[], &environment(Some("10.0.0.\u{fffd}"), None), tcp("10.0.0.5:7"), "TONIC_ETCD_ADVERTISE"),
        (&[], &environment(None, Some("169.254.1.1")), tcp("0.0.0.0:7"), "POD_IP \"169.254.1.1:7\""),
        (&[], &environment(None, Some("fe80::1")), tcp("[::]:7"), "POD_IP \"[fe80::1]:7\""),
    ] {
        let error = planned(said, environment, &bound, false).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
}
