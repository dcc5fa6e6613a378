//! The broker against a certified authorization server.

#[cfg(test)]
mod consent;
#[cfg(test)]
mod minting;
#[cfg(test)]
mod support;
