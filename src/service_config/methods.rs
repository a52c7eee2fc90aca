//! What a service config says of methods: `methodConfig`. PURE.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::document::{Node, Object};
use super::invalid::InvalidServiceConfig;
use super::retry::{HedgingParams, RetryParams};

/// The settings of the methods that one entry of `methodConfig` names.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct MethodParams {
    /// Whether calls wait for a connected server instead of failing when there is none.
    pub(crate) wait_for_ready: Option<bool>,
    /// The longest time of a call; 0 lets every call fail.
    pub(crate) timeout: Option<Duration>,
    /// The largest message of a request, in bytes; 0 lets only empty ones pass.
    pub(crate) max_request_bytes: Option<usize>,
    /// The largest message of a response, in bytes; 0 lets only empty ones pass.
    pub(crate) max_response_bytes: Option<usize>,
    /// How calls are retried. Never beside [`hedging`](Self::hedging).
    pub(crate) retry: Option<RetryParams>,
    /// How calls are hedged. Never beside [`retry`](Self::retry).
    pub(crate) hedging: Option<HedgingParams>,
}

/// Where an entry says how calls are repeated: only if the code lets it, it has an effect.
#[derive(Debug, PartialEq)]
pub(crate) struct DeclaredRepeats {
    /// The path of its `retryPolicy` or `hedgingPolicy` in the document.
    pub(crate) policy: String,
    /// The paths that the entry names, as in [`ServiceConfig::methods`](super::ServiceConfig::methods).
    pub(crate) methods: Vec<String>,
}

/// The settings of all entries, by the paths that they name. An entry without names is read, so that it must be valid, and
/// then skipped.
pub(super) fn read(
    entries: &Node<'_>,
    most_attempts: u32,
    repeats: &mut Vec<DeclaredRepeats>,
) -> Result<BTreeMap<String, Arc<MethodParams>>, InvalidServiceConfig> {
    let mut methods = BTreeMap::new();
    let mut named_at = BTreeMap::new();
    for entry in entries.list()? {
        entry.fields(|object| {
            let names = object.optional("name", Node::list)?.unwrap_or_default();
            let params = Arc::new(MethodParams::read(object, most_attempts)?);
            let mut paths = Vec::with_capacity(names.len());
            for name in &names {
                let path = path(name)?;
                if let Some(other) = named_at.insert(path.clone(), name.path().to_owned()) {
                    return Err(name.invalid(format!("is the same name as {other}")));
                }
                methods.insert(path.clone(), Arc::clone(&params));
                paths.push(path);
            }
            if paths.is_empty() {
                entry.warn("has no name, and is skipped; {} is the name of all methods");
            } else if let Some(policy) = params.repeats_by() {
                repeats.push(DeclaredRepeats { policy: object.path_of(policy), methods: paths });
            }
            Ok(())
        })?;
    }
    Ok(methods)
}

/// The path that a name stands for. For both of its fields the empty text, `null` and absence are the same.
fn path(name: &Node<'_>) -> Result<String, InvalidServiceConfig> {
    let part = |node: &Node<'_>| {
        let text = node.string()?;
        if text.contains('/') {
            node.warn("has a slash, so that it names no method of a generated client: write it as in the proto file");
        }
        Ok(text)
    };
    let (service, method) = name.fields(|name| {
        let service = name.optional("service", part)?.unwrap_or_default();
        Ok((service, name.optional("method", part)?.unwrap_or_default()))
    })?;
    match (service.as_str(), method.as_str()) {
        ("", "") => Ok("/".to_owned()),
        ("", _) => Err(name.invalid("names a method without its service")),
        _ => Ok(format!("/{service}/{method}")),
    }
}

impl MethodParams {
    /// Reads all fields of an entry but its names.
    fn read(entry: &Object<'_>, most_attempts: u32) -> Result<Self, InvalidServiceConfig> {
        let bytes = |node: &Node<'_>| {
            let bytes = node.unsigned()?;
            if bytes == 0 {
                node.warn("is 0: every call with a message that is not empty fails");
            }
            Ok(bytes as usize)
        };
        let bytes = |name| entry.optional(name, bytes);
        let timeout = |node: &Node<'_>| {
            let timeout = node.duration()?;
            if timeout.is_zero() {
                node.warn("is 0: every call fails");
            }
            Ok(timeout)
        };
        let params = Self {
            wait_for_ready: entry.optional("waitForReady", Node::boolean)?,
            timeout: entry.optional("timeout", timeout)?,
            max_request_bytes: bytes("maxRequestMessageBytes")?,
            max_response_bytes: bytes("maxResponseMessageBytes")?,
            retry: entry.optional("retryPolicy", |policy| RetryParams::read(policy, most_attempts))?,
            hedging: entry.optional("hedgingPolicy", |policy| HedgingParams::read(policy, most_attempts))?,
        };
        if params.retry.is_some() && params.hedging.is_some() {
            return Err(entry.invalid("hedgingPolicy", "must not be set together with retryPolicy"));
        }
        Ok(params)
    }

    /// The field that says how calls are repeated, if one does.
    fn repeats_by(&self) -> Option<&'static str> {
        let hedging = self.hedging.as_ref().map(|_| "hedgingPolicy");
        self.retry.as_ref().map(|_| "retryPolicy").or(hedging)
    }
}
