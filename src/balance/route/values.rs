//! What a server carries for the route keys. PURE.

use crate::instance::Instance;

/// Returns the value that an instance carries for a route key: that of its metadata, or else, for `version` and `zone`,
/// its own field. `None`: it has neither, or the text is empty.
pub(crate) fn value_of<'a>(instance: &'a Instance, key: &str) -> Option<&'a str> {
    let field = || match key {
        "version" => instance.version(),
        "zone" => instance.zone(),
        _ => None,
    };
    let metadata = instance.metadata().get(key).map(String::as_str).filter(|value| !value.is_empty());
    metadata.or_else(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_come_before_the_field_of_the_same_name() {
        let plain = || Instance::new("h:1").unwrap();
        let table = [
            (plain(), "lane", None),
            (plain(), "version", None),
            (plain().with_metadata("lane", "blue"), "lane", Some("blue")),
            (plain().with_metadata("lane", ""), "lane", None),
            (plain().with_metadata("Lane", "blue"), "lane", None),
            (plain().with_version("v2"), "version", Some("v2")),
            (plain().with_zone("eu-1a"), "zone", Some("eu-1a")),
            (plain().with_zone("eu-1a").with_metadata("zone", "eu-1b"), "zone", Some("eu-1b")),
            (plain().with_version("v2").with_metadata("version", ""), "version", Some("v2")),
            (plain().with_id("blue"), "id", None),
        ];
        for (instance, key, expected) in table {
            assert_eq!(value_of(&instance, key), expected, "{key} of {instance:?}");
        }
    }
}
