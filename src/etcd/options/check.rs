//! What can be refused of options, and what is made of them.

use std::time::Duration;

use crate::address::Authority;
#[cfg(feature = "_tls")]
use crate::connection::{ClientTls, Invalid, Tls};
use crate::error::Error;
use crate::etcd::members::endpoint::Endpoint;
#[cfg(feature = "srv")]
use crate::etcd::members::srv::longest_name;
use crate::etcd::options::EtcdOptions;
use crate::secret;

/// Every wait is bounded, whatever is asked.
const LONGEST: Duration = Duration::from_secs(3600);
/// etcd ends connections that are pinged more often than every 5 s.
const KEEP_ALIVE_LEAST: Duration = Duration::from_secs(6);
/// Characters of a DNS name, without a dot at its end.
#[cfg(feature = "srv")]
const LONGEST_NAME: usize = 253;
/// How often the members may be listed at most.
const LEARN_LEAST: Duration = Duration::from_secs(1);

impl EtcdOptions {
    /// The members that were given, in the order in which they are tried.
    pub(crate) fn configured(&self) -> Vec<Endpoint> {
        self.endpoints.iter().filter_map(|text| Endpoint::parse(text, self.has_tls()).ok()).collect()
    }

    pub(crate) fn hosts(&self) -> Vec<Authority> {
        self.configured().into_iter().map(|endpoint| endpoint.authority).collect()
    }

    #[cfg_attr(not(feature = "srv"), expect(clippy::unused_self, reason = "with the feature there may be a domain"))]
    pub(crate) fn is_srv(&self) -> bool {
        #[cfg(feature = "srv")]
        return self.srv.is_some();
        #[cfg(not(feature = "srv"))]
        false
    }

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
        if let Some(every) = self.learn_every.filter(|every| !(LEARN_LEAST..=LONGEST).contains(every)) {
            return Err(Error::invalid(
                "interval of listing members",
                format!("{every:?}"),
                "it must be from 1 s to 1 h",
            ));
        }
        #[cfg(feature = "_tls")]
        if let Err((what, why)) = self.built() {
            return Err(Error::invalid("TLS settings", what, why));
        }
        if self.keep_alive.0 < KEEP_ALIVE_LEAST {
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
                return refuse("nothing can be done in no time");
            }
            if timeout > LONGEST {
                return refuse("a member that hangs would never be left: an hour is the most");
            }
        }
        Ok(())
    }

    #[cfg(feature = "srv")]
    fn check_srv(&self) -> Result<(), Error> {
        let Some(srv) = &self.srv else { return Ok(()) };
        let refuse = |reason| Err(Error::invalid("SRV domain", secret::without_user(&srv.domain), reason));
        let domain = match srv.domain() {
            Ok(domain) => domain,
            Err(reason) => return refuse(reason),
        };
        let is_label = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        // With `_etcd-client-ssl-` before it, and at most 63 characters together.
        if let Some(name) = srv.name.as_deref().filter(|name| name.is_empty() || name.len() > 46 || !is_label(name)) {
            return Err(Error::invalid("SRV name", name, "it is 1 to 46 letters, digits, - or _"));
        }
        let asked = longest_name(&domain, srv.name.as_deref());
        if asked.trim_end_matches('.').len() > LONGEST_NAME {
            let reason = format!("{asked:?} is longer than the {LONGEST_NAME} characters of a DNS name");
            return refuse(reason);
        }
        Ok(())
    }

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

    /// TLS, where any endpoint is spoken to by it. Made once: roots may be read from the system.
    #[cfg(feature = "_tls")]
    pub(crate) fn built(&self) -> &Result<Option<Tls>, Invalid> {
        self.built.get_or_init(|| {
            if self.is_srv() && self.tls.is_none() {
                // Without roots no https member is looked for.
                return Ok(ClientTls::default().build().ok());
            }
            if self.tls.is_none() && !self.configured().iter().any(|endpoint| endpoint.secure) {
                return Ok(None);
            }
            self.tls.clone().unwrap_or_default().build().map(Some)
        })
    }

    /// Whether members that speak TLS can be spoken to.
    #[cfg(feature = "srv")]
    #[cfg_attr(not(feature = "_tls"), expect(clippy::unused_self, reason = "with TLS there may be some"))]
    pub(crate) fn can_tls(&self) -> bool {
        #[cfg(feature = "_tls")]
        return matches!(self.built(), Ok(Some(_)));
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
        assert!(refusal(&EtcdOptions::from(["http://h1:1,http://h2:2"])).contains("several"));
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
        let of = |text: &str| EtcdOptions::of_target(&Target::parse(text).unwrap());
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
