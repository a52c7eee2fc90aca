//! Each rule with documents that keep it and documents that break it.

#[cfg(test)]
mod document;
mod fuzz;
#[cfg(test)]
mod go;
#[cfg(test)]
mod load_balancing;
#[cfg(test)]
mod methods;
#[cfg(test)]
mod retry;
#[cfg(test)]
mod warnings;

pub(crate) use fuzz::fuzz;

#[cfg(test)]
use super::{InvalidServiceConfig, ServiceConfig};

/// How many attempts A6 allows.
#[cfg(test)]
const MOST_ATTEMPTS: u32 = 5;

#[cfg(test)]
fn parse(text: &str) -> Result<ServiceConfig, InvalidServiceConfig> {
    ServiceConfig::parse(text.as_bytes(), MOST_ATTEMPTS)
}

#[cfg(test)]
fn valid(text: &str) -> ServiceConfig {
    parse(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// What the error shows of an invalid document.
#[cfg(test)]
fn invalid(text: &str) -> String {
    match parse(text) {
        Ok(config) => panic!("{text} is {config:?}"),
        Err(error) => error.to_string(),
    }
}
