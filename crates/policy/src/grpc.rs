//! gRPC: the service and the method that a request calls are in its head.

use crate::{media::MediaType, path::NormalPath};

/// The service, with its package, and the method: for a request of a content type of gRPC (gRPC-Web included) whose path has
/// two segments. What a path escapes is no name.
pub fn grpc_call<'p>(content_type: Option<&str>, path: &'p NormalPath<'_>) -> Option<(&'p str, &'p str)> {
    content_type.and_then(MediaType::parse).filter(MediaType::is_grpc)?;
    let (service, method) = path.as_str().strip_prefix('/')?.split_once('/')?;
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.')
    };
    (is_name(service) && is_name(method)).then_some((service, method))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_read_from_its_head() {
        for (kind, path, call) in [
            ("application/grpc", "/a.b.Users/Get", Some(("a.b.Users", "Get"))),
            ("application/grpc+proto", "/Users/Get", Some(("Users", "Get"))),
            ("application/grpc-web+proto", "/Users/Get", Some(("Users", "Get"))),
            ("application/grpcx", "/Users/Get", None),
            ("application/json", "/Users/Get", None),
            ("application/grpc", "/Users", None),
            ("application/grpc", "/Users/Get/x", None),
            ("application/grpc", "/Users/%47%C3%A9", None),
        ] {
            let path = NormalPath::parse(path).unwrap();
            assert_eq!(grpc_call(Some(kind), &path), call, "{kind} {}", path.as_str());
        }
    }
}
