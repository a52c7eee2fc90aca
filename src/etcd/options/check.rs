//! The validation of [`EtcdOptions`], and what is derived from them.
//!
//! [`EtcdOptions::check`] runs once, before anything is connected, so that the rest of `etcd/` can
//! rely on valid options. Every refusal names the option, its value and its bound. Values are shown
//! without a user and a password.
//!
//! | option | bounds |
//! |---|---|
//! | endpoints | at least one, each `http`, `https` or without a scheme, without a path |
//! | connect timeout, request timeout | more than 0, at most 1 h |
//! | keep-alive interval | 6 s to 1 h |
//! | keep-alive timeout | more than 0, at most 1 h |
//! | interval of learning members | 1 s to 1 h |
//! | SRV domain | a DNS name, without scheme and port |
//! | SRV name | 1 to 46 letters, digits, `-` or `_` |

use std::time::Duration;

use crate::address::Authority;
#[cfg(feature = "_tls")]
use crate::connection::{ClientTls, InvalidTls, Tls};
use crate::error::Error;
use crate::etcd::members::endpoint::Endpoint;
#[cfg(feature = "srv")]
use crate::etcd::members::srv::longest_name;
use crate::etcd::options::EtcdOptions;
use crate::secret;

/// The longest duration of any option: every wait is bounded.
const MAX_DURATION: Duration = Duration::from_secs(3600);
/// The shortest keep-alive interval. etcd closes connections that are pinged more often than every
/// 5 s.
const MIN_KEEP_ALIVE: Duration = Duration::from_secs(6);
/// The most characters of a DNS name, without a dot at its end.
#[cfg(feature = "srv")]
const MAX_NAME: usize = 253;
/// The shortest interval of asking for members: each request is a linearizable read.
const MIN_LEARN_INTERVAL: Duration = Duration::from_secs(1);

impl EtcdOptions {
    /// The endpoints, in the order in which they are tried. Invalid ones are left out:
    /// [`EtcdOptions::check`] has refused them.
    pub(crate) fn configured(&self) -> Vec<Endpoint> {
        self.endpoints.iter().filter_map(|text| Endpoint::parse(text, self.has_tls()).ok()).collect()
    }

    /// Their hosts and ports.
    pub(crate) fn hosts(&self) -> Vec<Authority> {
        self.configured().into_iter().map(|endpoint| endpoint.authority).collect()
    }

    /// Whether members are found by SRV records.
    #[cfg_attr(not(feature = "srv"), expect(clippy::unused_self, reason = "with the feature there may be a domain"))]
    pub(crate) fn is_srv(&self) -> bool {
        #[cfg(feature = "srv")]
        return self.srv.is_some();
        #[cfg(not(feature = "srv"))]
        false
    }

    /// Validates all options.
    ///
    /// # Errors
    /// The first option that is invalid: its name, its value and its bound.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.endpoints.is_empty() && !self.is_srv() {
            return Err(Error::invalid("endpoints", "", "at least one is needed"));
        }
        for text in &self.endpoints {
            let refuse = |reason: String| Error::invalid("endpoint", secret::without_user(text), reason);
            let endpoint = Endpoint::parse(text, self.has_tls()).map_err(refuse)?;
            self.check_scheme(endpoint.secure).map_err(|reason| refuse(reason.into()))?;
        }
        #[cfg(feature = "srv")]
        self.check_srv()?;
        if let Some(every) = self.learn_every.filter(|every| !(MIN_LEARN_INTERVAL..=MAX_DURATION).contains(every)) {
            return Err(Error::invalid(
                "interval of listing members",
                format!("{every:?}"),
                "it must be from 1 s to 1 h",
            ));
        }
        #[cfg(feature = "_tls")]
        if let Err(invalid) = self.built_tls() {
            return Err(Error::invalid("TLS settings", &invalid.setting, &invalid.reason));
        }
        if self.keep_alive.0 < MIN_KEEP_ALIVE {
            let reason = "etcd ends connections that are pinged more often than every 5 s: 6 s is the least";
            return Err(Error::invalid("keep-alive interval", format!("{:?}", self.keep_alive.0), reason));
        }
        for (what, timeout) in [
            ("connect timeout", self.connect_timeout),
            ("request timeout", self.request_timeout),
            ("keep-alive interval", self.keep_alive.0),
            ("keep-alive timeout", self.keep_alive.1),
        ] {
            let refuse = |reason| Err(Error::invalid(what, format!("{timeout:?}"), reason));
            if timeout.is_zero() {
                return refuse("it must be more than 0");
            }
            if timeout > MAX_DURATION {
                return refuse("it must be at most 1 h");
            }
        }
        Ok(())
    }

    /// Validates the options of SRV records: the domain, the suffix, and the length of the names
    /// that they give together.
    #[cfg(feature = "srv")]
    fn check_srv(&self) -> Result<(), Error> {
        let Some(srv) = &self.srv else { return Ok(()) };
        let refuse = |reason| Err(Error::invalid("SRV domain", secret::without_user(&srv.domain), reason));
        let domain = match srv.domain() {
            Ok(domain) => domain,
            Err(reason) => return refuse(reason),
        };
        let is_label = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        // With `_etcd-client-ssl-` before it a DNS label has at most 63 characters.
        if let Some(name) = srv.name.as_deref().filter(|name| name.is_empty() || name.len() > 46 || !is_label(name)) {
            return Err(Error::invalid("SRV name", name, "it is 1 to 46 letters, digits, - or _"));
        }
        let asked = longest_name(&domain, srv.name.as_deref());
        if asked.trim_end_matches('.').len() > MAX_NAME {
            let reason = format!("{asked:?} is longer than the {MAX_NAME} characters of a DNS name");
            return refuse(reason);
        }
        Ok(())
    }

    /// Whether an endpoint of this scheme can be used with the TLS settings and features.
    ///
    /// # Errors
    /// When it is `https` without a TLS feature, or `http` although TLS settings are given:
    /// requests with a password must not leave without TLS by mistake.
    fn check_scheme(&self, secure: bool) -> Result<(), &'static str> {
        if cfg!(not(feature = "_tls")) && secure {
            return Err("https needs tonic-etcd's feature \"tls-ring\" or \"tls-aws-lc\"");
        }
        if self.has_tls() && !secure {
            return Err("TLS settings are given, and the endpoint says http");
        }
        Ok(())
    }

    /// Whether TLS settings are given.
    #[cfg_attr(not(feature = "_tls"), expect(clippy::unused_self, reason = "with TLS there may be some"))]
    pub(crate) fn has_tls(&self) -> bool {
        #[cfg(feature = "_tls")]
        return self.tls.is_some();
        #[cfg(not(feature = "_tls"))]
        false
    }

    /// The TLS settings in use; `None` if no endpoint is `https`. Built once, because roots may be
    /// read from the system, and checked before the first connection.
    #[cfg(feature = "_tls")]
    pub(crate) fn built_tls(&self) -> &Result<Option<Tls>, InvalidTls> {
        self.built_tls.get_or_init(|| {
            if self.is_srv() && self.tls.is_none() {
                // Where there are no roots, no `https` member is looked up.
                return Ok(ClientTls::default().build().ok());
            }
            if self.tls.is_none() && !self.configured().iter().any(|endpoint| endpoint.secure) {
                return Ok(None);
            }
            self.tls.clone().unwrap_or_default().build().map(Some)
        })
    }

    /// Whether `https` members can be used.
    #[cfg(feature = "srv")]
    #[cfg_attr(not(feature = "_tls"), expect(clippy::unused_self, reason = "with TLS there may be some"))]
    pub(crate) fn can_tls(&self) -> bool {
        #[cfg(feature = "_tls")]
        return matches!(self.built_tls(), Ok(Some(_)));
        #[cfg(not(feature = "_tls"))]
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Target;

    fn refusal(options: &EtcdOptions) -> String {
        options.check().unwrap_err().to_string()
    }

    #[test]
    fn takes_endpoints_as_people_write_them() {
        let options = EtcdOptions::from(["HTTP://h1:2379", "H2", "[::1]:1/"]);
        options.check().unwrap();
        assert!(options.configured().iter().all(|endpoint| !endpoint.secure));
        assert_eq!(
            options.hosts().iter().map(Authority::as_str).collect::<Vec<_>>(),
            ["h1:2379", "h2:2379", "[::1]:1"]
        );
    }

    #[test]
    fn refuses_what_cannot_work_and_says_why() {
        assert!(refusal(&EtcdOptions::new([""; 0])).contains("at least one"));
        assert!(refusal(&EtcdOptions::from(["ftp://h1"])).contains("ftp"));
        assert!(refusal(&EtcdOptions::from(["h1:x"])).contains("h1:x"));
        assert!(refusal(&EtcdOptions::from(["http://h1:1,http://h2:2"])).contains("only one address"));
        assert!(refusal(&EtcdOptions::from(["h1:2379/v3"])).contains("path"));
        let options = EtcdOptions::from(["h1"]);
        assert!(refusal(&options.clone().learn_members(Duration::from_millis(10))).contains("1 s"));
        assert!(refusal(&options.clone().keep_alive(Duration::from_secs(1), Duration::from_secs(1))).contains("6 s"));
        assert!(refusal(&options.request_timeout(Duration::ZERO)).contains("request timeout"));
    }

    /// F18: no way to write a user and a password shows them.
    #[test]
    fn endpoints_with_a_user_are_refused_and_not_shown() {
        for text in [
            "http://root:secret@h1",
            "http://root:secret%40h1:2379",
            "root:secret@h1",
            "root%3Asecret@h1",
            "http://root:se/secret@h1",
            "http://h2,http://root:secret@h1",
            "etcd://root:secret@h1",
            "root:secret@x://h1",
        ] {
            let options = EtcdOptions::from([text]);
            let shown = format!("{} {:?} {options:?}", refusal(&options), options.check());
            assert!(shown.contains("EtcdOptions::user") && !shown.contains("secret"), "{text}: {shown}");
        }
    }

    #[cfg(feature = "srv")]
    #[test]
    fn srv_options_are_checked() {
        EtcdOptions::srv("example.org").srv_name("blue-1").check().unwrap();
        for options in [
            EtcdOptions::srv("root:secret@example.org"),
            EtcdOptions::srv("example.org:53"),
            EtcdOptions::srv(""),
            EtcdOptions::from(["h1"]).srv_name("blue"),
            EtcdOptions::from(["h1"]).srv_servers([([127, 0, 0, 1], 53).into()]),
            EtcdOptions::srv([&"a".repeat(60); 4].map(String::as_str).join(".")),
            EtcdOptions::srv("example.org").srv_name("a.b"),
            EtcdOptions::srv("example.org").srv_name(""),
        ] {
            let shown = format!("{} {options:?}", refusal(&options));
            assert!(shown.contains("SRV") && !shown.contains("secret"), "{shown}");
        }
    }

    #[test]
    fn a_target_says_where_etcd_is() {
        let of = |text: &str| EtcdOptions::from_target(&Target::parse(text).unwrap());
        assert_eq!(of("etcd://h1,h2:1/greeter").unwrap().endpoints, ["h1:2379", "h2:1"]);
        assert!(of("greeter").unwrap_err().to_string().contains("where etcd is"));
        #[cfg(feature = "srv")]
        assert!(of("etcd-srv://example.org/greeter").unwrap().is_srv());
    }

    #[test]
    fn never_shows_the_password() {
        let shown = format!("{:?}", EtcdOptions::from(["h1"]).user("root", "secret"));
        assert!(shown.contains("root") && !shown.contains("secret"));
    }
}
