//! The external API: one module per resource; the OpenAPI document comes from here.
