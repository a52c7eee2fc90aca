//! Headers of answers and requests: what they say, and what is said of those that are too large.

use http::{HeaderMap, HeaderValue, Request};
use tonic::{Code, Status};

use crate::address::Address;
use crate::balance::status;
use crate::balance::status::not_grpc;
use crate::connection::{Failure, RequestLimit};

/// What HTTP/2 counts for each header beside its name and value (RFC 9113, 6.5.2).
const EACH: usize = 32;
/// `:status` and its three digits.
const STATUS: usize = 7 + 3 + EACH;

/// How much a field counts.
pub(crate) fn size_of(name: &str, value: &HeaderValue) -> usize {
    name.len() + value.len() + EACH
}

/// What headers say, found in one pass.
pub(crate) struct AnswerHeaders {
    /// As HTTP/2 counts it, without pseudo headers.
    size: usize,
    pub(crate) code: Option<Code>,
    /// A content type of gRPC's.
    pub(crate) is_grpc: bool,
    /// The details of a status.
    pub(crate) has_details: bool,
}

impl AnswerHeaders {
    #[inline]
    pub(crate) fn by(headers: &HeaderMap) -> Self {
        let (mut size, mut code, mut content_type, mut has_details) = (0, None, None, false);
        for (name, value) in headers {
            let name = name.as_str();
            size += size_of(name, value);
            // Cheaper than to look each of them up, and than to compare names as `HeaderName`s.
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

    /// Why an answer's head is not taken.
    #[inline]
    pub(crate) fn head_beyond(&self, limit: u32, address: &Address) -> Option<Status> {
        let size = self.size + STATUS;
        (size > limit as usize).then(|| self.too_large(&measured("headers", size, limit), address))
    }

    /// Why trailers are not taken; `cut` is what HTTP/2 said of them.
    #[inline]
    pub(crate) fn trailers_beyond(&self, cut: Option<&Failure>, limit: u32, address: &Address) -> Option<Status> {
        match cut {
            Some(cut) => Some(self.too_large(&format!("trailers that are too large: {cut}"), address)),
            None if self.size <= limit as usize => None,
            None => Some(self.too_large(&measured("trailers", self.size, limit), address)),
        }
    }

    fn too_large(&self, what: &str, address: &Address) -> Status {
        let code = self.code.map_or_else(|| "without a status".into(), name_of);
        status::named(Code::ResourceExhausted, format!("{address}: the server answered {code}, with {what}"), address)
    }

    /// What an answer that was too large tells of its server.
    pub(crate) fn verdict(&self) -> Code {
        self.code.unwrap_or(Code::ResourceExhausted)
    }
}

fn measured(what: &str, size: usize, limit: u32) -> String {
    format!("{what} of {size} bytes; BalancedChannelBuilder::max_header_list_size is {limit}")
}

/// A code as gRPC's documents write it.
fn name_of(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

/// What a caller's headers say, and how large they are, found in one pass.
pub(crate) struct RequestedLimits<'a> {
    pub(crate) size: usize,
    pub(crate) timeout: Option<&'a HeaderValue>,
    pub(crate) agent: Option<&'a HeaderValue>,
}

impl<'a> RequestedLimits<'a> {
    #[inline]
    pub(crate) fn by(headers: &'a HeaderMap) -> Self {
        let (mut size, mut timeout, mut agent) = (0, None, None);
        for (name, value) in headers {
            let name = name.as_str();
            size += size_of(name, value);
            match name {
                "grpc-timeout" => timeout = timeout.or(Some(value)),
                "user-agent" => agent = agent.or(Some(value)),
                _ => {}
            }
        }
        Self { size, timeout, agent }
    }
}

/// How large the headers are at most that the channel adds for an attempt: a timeout of 9 bytes, a number of 10.
const ADDED: usize = "grpc-timeout".len() + 9 + EACH + "grpc-previous-rpc-attempts".len() + 10 + EACH;

/// Why a request is not sent to a server, where its headers are more than the server takes. It names the largest, whose
/// value may be a secret.
///
/// The caller's own are `own` bytes at most, so that almost none are measured for each attempt. The code is that of Go's client. It also refuses what is as large as the limit exactly, as h2's servers do.
pub(crate) fn refuse(head: &Request<()>, own: usize, limit: RequestLimit, address: &Address) -> Option<Status> {
    let uri = head.uri();
    let pseudo = [
        (":method", head.method().as_str().len()),
        (":scheme", uri.scheme_str().map_or(0, str::len)),
        (":authority", uri.authority().map_or(0, |authority| authority.as_str().len())),
        (":path", uri.path_and_query().map_or(0, |path| path.as_str().len())),
    ];
    let size_of = |(name, value): (&str, usize)| name.len() + value + EACH;
    let mut size: usize = pseudo.map(size_of).iter().sum();
    if size + own + ADDED < limit.bytes as usize {
        return None;
    }
    for (name, value) in head.headers() {
        size += size_of((name.as_str(), value.len()));
    }
    if size < limit.bytes as usize {
        return None;
    }
    let fields = head.headers().iter().map(|(name, value)| (name.as_str(), value.len()));
    let (name, value) = pseudo.into_iter().chain(fields).max_by_key(|field| size_of(*field)).unwrap_or_default();
    let whose = if limit.announced {
        "its SETTINGS_MAX_HEADER_LIST_SIZE"
    } else {
        "BalancedChannelBuilder::max_request_header_list_size, because its SETTINGS do not say"
    };
    let text = format!(
        "{address}: not sent: the request's headers are {size} bytes, and the server takes less than {} ({whose}); the largest is {name:?} \
         with {value} bytes",
        limit.bytes
    );
    Some(status::named(Code::Internal, text, address))
}

#[cfg(test)]
mod tests {
    use http::header::CONTENT_TYPE;

    use super::*;
    use crate::balance::status::GRPC_STATUS;

    #[test]
    fn codes_have_the_names_of_grpc() {
        assert_eq!(name_of(Code::Ok), "OK");
        assert_eq!(name_of(Code::FailedPrecondition), "FAILED_PRECONDITION");
    }

    #[test]
    fn the_first_of_several_counts() {
        let mut map = HeaderMap::new();
        for value in ["5", "0"] {
            map.append(GRPC_STATUS, value.parse().unwrap());
        }
        for value in ["text/html", "application/grpc"] {
            map.append(CONTENT_TYPE, value.parse().unwrap());
        }
        let said = AnswerHeaders::by(&map);
        assert_eq!((said.code, said.is_grpc), (Some(Code::NotFound), false));
        assert_eq!(said.size, 2 * (11 + 1 + 32) + 12 + 9 + 32 + 12 + 16 + 32);
    }
}
