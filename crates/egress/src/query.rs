//! Parameters of a query: one is put or taken away, and the others stay as the client wrote them.

use url::form_urlencoded;
use zeroize::Zeroizing;

/// Puts a parameter behind the others, in the place of all of its name. Neither is escaped yet.
pub(crate) fn set(query: &mut Option<String>, name: &str, value: &str) {
    remove(query, name);
    let given = Zeroizing::new(query.take().unwrap_or_default());
    let escaped: String = form_urlencoded::byte_serialize(name.as_bytes()).collect();
    let value = Zeroizing::new(form_urlencoded::byte_serialize(value.as_bytes()).collect::<String>());
    let between = if given.is_empty() { "" } else { "&" };
    *query = Some(format!("{}{between}{escaped}={}", given.as_str(), value.as_str()));
}

/// Takes away every parameter of a name. A query without any is none.
pub(crate) fn remove(query: &mut Option<String>, name: &str) {
    retain(query, |given, _| given != name);
}

/// Keeps the parameters of which this is true, by their unescaped name and value.
pub(crate) fn retain(query: &mut Option<String>, keep: impl Fn(&str, &str) -> bool) {
    let Some(given) = query.take() else { return };
    let keeps = |pair: &&str| {
        let parsed = form_urlencoded::parse(pair.as_bytes()).next();
        parsed.is_none_or(|(name, value)| keep(&name, &value))
    };
    let kept: Vec<&str> = given.split('&').filter(keeps).collect();
    *query = Some(kept.join("&")).filter(|text| !text.is_empty());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_takes_the_place_of_all_of_its_name_and_the_others_stay() {
        for (before, after) in [
            (None, "key=a%26b"),
            (Some(""), "key=a%26b"),
            (Some("x=1&key=mine&y&k%65y=2"), "x=1&y&key=a%26b"),
            (Some("x=%2f&&z"), "x=%2f&&z&key=a%26b"),
        ] {
            let mut query = before.map(str::to_owned);
            set(&mut query, "key", "a&b");
            assert_eq!(query.as_deref(), Some(after), "{before:?}");
        }
    }

    #[test]
    fn what_is_taken_away_leaves_no_empty_query() {
        let mut query = Some("key=1".to_owned());
        remove(&mut query, "key");
        assert_eq!(query, None);
        let mut query = Some("a=1&key=1&b=2".to_owned());
        retain(&mut query, |name, value| name != "key" || value != "1");
        assert_eq!(query.as_deref(), Some("a=1&b=2"));
    }
}
