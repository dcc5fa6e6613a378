//! The external API over HTTP: routes, errors, authentication, event streams.
