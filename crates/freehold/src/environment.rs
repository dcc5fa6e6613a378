//! Variables of the environment: those that begin as ours do and that no part reads are refused, for they are misspelt.

use std::ffi::OsString;

use crate::config;

/// Variables that the client verbs read.
const CLIENT: &[&str] = &["FREEHOLD_URL", "FREEHOLD_API_KEY"];

/// How alike two names must be for one to be suggested in the place of the other, of 1.
const ALIKE_MIN: f64 = 0.7;

/// Checks the names of variables.
///
/// # Errors
/// When one begins with `FREEHOLD_` and is neither a setting nor the client's.
pub fn check(variables: impl Iterator<Item = (OsString, OsString)>) -> anyhow::Result<()> {
    let settings = config::variables();
    for (name, value) in variables {
        let name = name.to_string_lossy().to_ascii_uppercase();
        if !name.starts_with(config::ENVIRONMENT_PREFIX) || is_of_a_cluster(&name, &value.to_string_lossy()) {
            continue;
        }
        // What lies below a table of settings has names of its own.
        let is_setting =
            settings.iter().any(|known| name == *known || name.starts_with(&format!("{known}__")));
        if !is_setting && !CLIENT.contains(&name.as_str()) {
            let known = settings.iter().map(String::as_str).chain(CLIENT.iter().copied());
            let hint = match nearest(&name, known) {
                Some(near) => format!("did you mean {near}?"),
                None => {
                    "settings are FREEHOLD_SECTION__KEY, and `freehold config show` lists them".to_owned()
                }
            };
            anyhow::bail!("nothing reads the variable {name}\nhint: {hint}");
        }
    }
    Ok(())
}

/// Whether a cluster made the variable for a service that is called `freehold`.
fn is_of_a_cluster(name: &str, value: &str) -> bool {
    let rest = &name[config::ENVIRONMENT_PREFIX.len()..];
    let is_address = value.starts_with("tcp://") || value.starts_with("udp://");
    rest.starts_with("SERVICE_HOST")
        || rest.starts_with("SERVICE_PORT")
        || (rest == "PORT" && is_address)
        || rest.strip_prefix("PORT_").is_some_and(|port| port.starts_with(|c: char| c.is_ascii_digit()))
}

/// The known name that is most like this one, with or without its section.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let bare = |text: &str| text[config::ENVIRONMENT_PREFIX.len()..].replace('_', "");
    let wanted = bare(name);
    let likeness = |candidate: &str| {
        let key =
            candidate.rsplit_once("__").map_or_else(|| bare(candidate), |(_, key)| key.replace('_', ""));
        let whole = strsim::normalized_levenshtein(&wanted, &bare(candidate));
        let is_part = key.ends_with(&wanted) || bare(candidate).starts_with(&wanted);
        let part = if is_part { 0.9 } else { strsim::normalized_levenshtein(&wanted, &key) };
        whole.max(part)
    };
    known
        .map(|candidate| (likeness(candidate), candidate))
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .filter(|(alike, _)| *alike >= ALIKE_MIN)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(name: &str, value: &str) -> Result<(), String> {
        check([(name.into(), value.into())].into_iter()).map_err(|error| error.to_string())
    }

    #[test]
    fn settings_and_the_client_s_variables_are_known_and_others_no_concern() {
        for name in [
            "FREEHOLD_URL",
            "FREEHOLD_API_KEY",
            "FREEHOLD_SERVER__LISTEN",
            "freehold_pod__memory_bytes",
            "FREEHOLD_EGRESS__HOSTS",
            "PATH",
        ] {
            assert_eq!(checked(name, "x"), Ok(()), "{name}");
        }
    }

    #[test]
    fn a_misspelt_variable_is_refused_with_the_one_that_was_meant() {
        for (name, meant) in [
            ("FREEHOLD_LISTEN", "FREEHOLD_SERVER__LISTEN"),
            ("FREEHOLD_SERVER_LISTEN", "FREEHOLD_SERVER__LISTEN"),
            ("FREEHOLD_SERVER__LISTN", "FREEHOLD_SERVER__LISTEN"),
            ("FREEHOLD_DATA_DIR", "FREEHOLD_SERVER__DATA_DIR"),
            ("FREEHOLD_DATABASE_URL", "FREEHOLD_SERVER__DATABASE_URL"),
            ("FREEHOLD_KEY", "FREEHOLD_API_KEY"),
            ("FREEHOLD_APIKEY", "FREEHOLD_API_KEY"),
            ("FREEHOLD_POD__MEMORY", "FREEHOLD_POD__MEMORY_BYTES"),
        ] {
            let error = checked(name, "x").unwrap_err();
            assert!(error.ends_with(&format!("did you mean {meant}?")), "{name}: {error}");
        }
        let error = checked("FREEHOLD_ZZZ", "x").unwrap_err();
        assert!(error.contains("FREEHOLD_SECTION__KEY"), "{error}");
    }

    #[test]
    fn what_a_cluster_makes_for_a_service_of_this_name_is_left_alone() {
        for (name, value) in [
            ("FREEHOLD_SERVICE_HOST", "10.0.0.1"),
            ("FREEHOLD_SERVICE_PORT_HTTP", "7070"),
            ("FREEHOLD_PORT", "tcp://10.0.0.1:7070"),
            ("FREEHOLD_PORT_7070_TCP_ADDR", "10.0.0.1"),
        ] {
            assert_eq!(checked(name, value), Ok(()), "{name}");
        }
        assert!(checked("FREEHOLD_PORT", "7070").is_err());
    }
}
