//! Puts a service config into force.

use std::sync::{Arc, PoisonError};

use crate::balance::config::ConfigText;
use crate::balance::shared::ChannelShared;
use crate::service_config::ServiceConfig;

/// Takes a text that has come. Calls that begin from now on see what it says. One that cannot be read, or is refused, leaves the last
/// good one in force, and without one the settings of the code: a mistake must not stop a client that starts anew, unlike gRFC A21.
pub(crate) fn apply(shared: &ChannelShared, ConfigText { source, text }: ConfigText) {
    match text.and_then(|text| parse(shared, text)) {
        Ok(Parsed { text, document }) => {
            if let Some(document) = document {
                put_into_force(shared, document);
                let (service, has_document) = (&*shared.connect_context.service, text.is_some());
                tracing::info!(parent: None, service, %source, has_document, "service config in force");
            }
            let mut status = shared.config.status.lock().unwrap_or_else(PoisonError::into_inner);
            (status.text, status.source, status.error) = (text, Some(source), None);
        }
        Err(error) => {
            let mut status = shared.config.status.lock().unwrap_or_else(PoisonError::into_inner);
            let is_known = status.error.as_deref() == Some(&*error);
            (status.source, status.error) = (Some(source.clone()), Some(error.as_str().into()));
            drop(status); // before the log, whose subscriber may ask for it
            if !is_known {
                let service = &*shared.connect_context.service;
                tracing::warn!(parent: None, service, %source, error, "service config refused, keeping the last one");
            }
        }
    }
}

/// A text that is valid.
struct Parsed {
    text: Option<Arc<str>>,
    /// What it says: nothing, if there is no text. `None` if that is in force already.
    document: Option<ServiceConfig>,
}

fn parse(shared: &ChannelShared, text: Option<Arc<str>>) -> Result<Parsed, String> {
    if shared.config.status().text == text {
        return Ok(Parsed { text, document: None });
    }
    let most_attempts = shared.settings.calls.most_attempts();
    let parse = |text: &Arc<str>| ServiceConfig::parse(text.as_bytes(), most_attempts);
    let document = text.as_ref().map(parse).transpose().map_err(|invalid| invalid.to_string())?;
    Ok(Parsed { text, document: Some(document.unwrap_or_default()) })
}

fn put_into_force(shared: &ChannelShared, document: ServiceConfig) {
    let calls = &shared.settings.calls;
    shared.methods.store(Arc::new(calls.compile(Some(&document), &shared.methods.load())));
    if let Some((tokens, ratio)) = calls.budget(Some(&document)) {
        shared.retry_budget.set(tokens, ratio);
    }
    shared.config.document.store(Some(Arc::new(document)));
}
