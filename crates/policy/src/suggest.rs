//! "Did you mean": the known name that is nearest to one that is not known.

/// The longest name that is compared, in bytes: what is longer is no slip, and the distance takes time by its length.
const NAME_BYTES_MAX: usize = 64;

/// How a problem with an unknown name ends: the known name that is nearest, when it is near enough for a slip of the pen, or
/// else `all`, what there is.
pub(crate) fn suggest<'k>(given: &str, known: impl IntoIterator<Item = &'k str>, all: &str) -> String {
    nearest(given, known).map_or_else(|| all.to_owned(), |name| format!("did you mean `{name}`?"))
}

/// The known name that is nearest, when it is near enough to be what was meant.
pub fn nearest<'k>(given: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    if given.len() > NAME_BYTES_MAX {
        return None;
    }
    let given = given.to_ascii_lowercase();
    let distance = |name: &str| strsim::damerau_levenshtein(&given, &name.to_ascii_lowercase());
    let (distance, name) =
        known.into_iter().map(|name| (distance(name), name)).min_by_key(|(distance, _)| *distance)?;
    (distance <= 1 + name.len() / 5).then_some(name)
}
