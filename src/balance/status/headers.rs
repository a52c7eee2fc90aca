//! What the headers of requests and responses say, and the statuses of those that are too large.

use http::header::{CONTENT_TYPE, TE};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use tonic::{Code, Status};

use crate::address::Address;
use crate::balance::status;
use crate::balance::status::{code_name, not_grpc};
use crate::connection::{Failure, RequestLimit};

/// What HTTP/2 counts for each header in addition to its name and value (RFC 9113, 6.5.2).
const FIELD_OVERHEAD: usize = 32;
/// The size of `:status` with its three digits.
const STATUS_FIELD: usize = 7 + 3 + FIELD_OVERHEAD;
/// An upper bound for the headers that the channel adds for an attempt: a timeout of 9 bytes, a number of 10.
const ADDED_FIELDS: usize =
    "grpc-timeout".len() + 9 + FIELD_OVERHEAD + "grpc-previous-rpc-attempts".len() + 10 + FIELD_OVERHEAD;

/// Returns the size of a header, as HTTP/2 counts it.
pub(crate) fn field_size(name: &str, value_len: usize) -> usize {
    name.len() + value_len + FIELD_OVERHEAD
}

/// What headers or trailers of a response say, found in one pass. Of several headers of one name the first counts.
pub(crate) struct ResponseHeaders {
    /// As HTTP/2 counts it, without pseudo headers.
    size: usize,
    /// The code in `grpc-status`.
    pub(crate) code: Option<Code>,
    /// The content type is one of gRPC's.
    pub(crate) is_grpc: bool,
    /// `grpc-status-details-bin` is among them.
    pub(crate) has_details: bool,
}

impl ResponseHeaders {
    #[inline]
    pub(crate) fn scan(headers: &HeaderMap) -> Self {
        let (mut size, mut code, mut content_type, mut has_details) = (0, None, None, false);
        for (name, value) in headers {
            let name = name.as_str();
            size += field_size(name, value.len());
            // One pass is cheaper than a look-up of each, and comparing texts is cheaper than comparing `HeaderName`s.
            match name {
                "content-type" => content_type = content_type.or(Some(value)),
                "grpc-status" => code = code.or(Some(value)),
                "grpc-status-details-bin" => has_details = true,
                _ => {}
            }
        }
        Self {
            size,
            code: code.map(|value| Code::from_bytes(value.as_bytes())),
            is_grpc: content_type.is_some_and(|value| not_grpc::is_grpc(value.as_bytes())),
            has_details,
        }
    }

    /// Makes the status of a response whose head is larger than the channel takes.
    #[inline]
    pub(crate) fn head_too_large(&self, limit: u32, address: &Address) -> Option<Status> {
        let size = self.size + STATUS_FIELD;
        (size > limit as usize).then(|| self.too_large(&measured("headers", size, limit), address))
    }

    /// Makes the status of a response whose trailers are larger than the channel takes. `cut` is the failure of HTTP/2 if they
    /// are beyond its own limit.
    #[inline]
    pub(crate) fn trailers_too_large(&self, cut: Option<&Failure>, limit: u32, address: &Address) -> Option<Status> {
        match cut {
            Some(cut) => Some(self.too_large(&format!("trailers that are too large: {cut}"), address)),
            None if self.size <= limit as usize => None,
            None => Some(self.too_large(&measured("trailers", self.size, limit), address)),
        }
    }

    fn too_large(&self, what: &str, address: &Address) -> Status {
        let code = self.code.map_or("without a status", code_name);
        let text = format!("{address}: the server answered {code}, with {what}");
        status::with_server(Code::ResourceExhausted, text, address)
    }

    /// Returns what a response that was too large says about its server: its own code, if it came.
    pub(crate) fn code_of_too_large(&self) -> Code {
        self.code.unwrap_or(Code::ResourceExhausted)
    }
}

fn measured(what: &str, size: usize, limit: u32) -> String {
    format!("{what} of {size} bytes; BalancedChannelBuilder::max_header_list_size is {limit}")
}

/// What the headers of a request say, found in one pass.
pub(crate) struct RequestHeaders<'a> {
    /// As HTTP/2 counts it, without pseudo headers.
    pub(crate) size: usize,
    /// The value of `grpc-timeout`.
    pub(crate) timeout: Option<&'a HeaderValue>,
    pub(crate) user_agent: Option<&'a HeaderValue>,
    /// There is nothing else than [`plain`] and a timeout, each once: the headers of most calls.
    pub(crate) is_plain: bool,
}

/// What a generated client sends with a call that has no metadata.
pub(crate) fn plain() -> [(HeaderName, HeaderValue); 2] {
    [(TE, HeaderValue::from_static("trailers")), (CONTENT_TYPE, HeaderValue::from_static("application/grpc"))]
}

impl<'a> RequestHeaders<'a> {
    #[inline]
    pub(crate) fn scan(headers: &'a HeaderMap) -> Self {
        let (mut size, mut timeout, mut user_agent, mut plain) = (0, None, None, [false; 2]);
        for (name, value) in headers {
            let name = name.as_str();
            size += field_size(name, value.len());
            match name {
                "grpc-timeout" => timeout = timeout.or(Some(value)),
                "user-agent" => user_agent = user_agent.or(Some(value)),
                "te" => plain[0] = value == "trailers",
                "content-type" => plain[1] = value == "application/grpc",
                _ => {}
            }
        }
        // A header that stands twice makes one more than there are names.
        let is_plain = plain == [true; 2] && headers.len() == plain.len() + usize::from(timeout.is_some());
        Self { size, timeout, user_agent, is_plain }
    }
}

/// Makes the status of a request whose headers are larger than the server takes. It names the largest header and never its value,
/// which may be a secret.
///
/// `own_size` is an upper bound for the call's own headers: with it, almost no request has to be measured for each attempt. The
/// code is that of Go's client. A request of exactly the limit is refused too, because h2's servers refuse it.
pub(crate) fn request_too_large(
    head: &Request<()>,
    own_size: usize,
    limit: RequestLimit,
    address: &Address,
) -> Option<Status> {
    let (uri, max) = (head.uri(), limit.bytes as usize);
    let pseudo = [
        (":method", head.method().as_str().len()),
        (":scheme", uri.scheme_str().map_or(0, str::len)),
        (":authority", uri.authority().map_or(0, |authority| authority.as_str().len())),
        (":path", uri.path_and_query().map_or(0, |path| path.as_str().len())),
    ];
    let size_of = |(name, value_len)| field_size(name, value_len);
    let pseudo_size = pseudo.map(size_of).iter().sum::<usize>();
    if pseudo_size + own_size + ADDED_FIELDS < max {
        return None;
    }
    let fields = || head.headers().iter().map(|(name, value)| (name.as_str(), value.len()));
    let size = pseudo_size + fields().map(size_of).sum::<usize>();
    if size < max {
        return None;
    }
    let (name, value_len) = pseudo.into_iter().chain(fields()).max_by_key(|field| size_of(*field)).unwrap_or_default();
    let origin = if limit.is_announced {
        "its SETTINGS_MAX_HEADER_LIST_SIZE"
    } else {
        "BalancedChannelBuilder::max_request_header_list_size, because its SETTINGS do not say"
    };
    let text = format!(
        "{address}: not sent: the request's headers are {size} bytes, and the server takes less than {max} ({origin}); \
         the largest is {name:?} with {value_len} bytes"
    );
    Some(status::with_server(Code::Internal, text, address))
}

#[cfg(test)]
mod tests {
    use http::header::CONTENT_TYPE;

    use super::*;
    use crate::balance::status::GRPC_STATUS;

    #[test]
    fn the_first_of_several_counts() {
        let mut map = HeaderMap::new();
        for value in ["5", "0"] {
            map.append(GRPC_STATUS, value.parse().unwrap());
        }
        for value in ["text/html", "application/grpc"] {
            map.append(CONTENT_TYPE, value.parse().unwrap());
        }
        let headers = ResponseHeaders::scan(&map);
        assert_eq!((headers.code, headers.is_grpc), (Some(Code::NotFound), false));
        assert_eq!(headers.size, 2 * (11 + 1 + 32) + 12 + 9 + 32 + 12 + 16 + 32);
    }
}
