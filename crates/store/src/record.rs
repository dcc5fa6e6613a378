//! How a type of the model is a row of its table, said once for each.

use freehold_model::OrganizationId;

use crate::{
    Error,
    sql::{Row, Value},
};

/// A row of a table. Every table has a column `organization_id`, which is handled apart, and `id` as its first other
/// column unless it is never updated.
pub(crate) trait Record: Sized {
    const TABLE: &'static str;
    /// The columns, `organization_id` excepted, with `, ` between them.
    const COLUMNS: &'static str;
    /// The organization the record says it belongs to, for types that say so.
    fn organization(&self) -> Option<OrganizationId>;
    /// One value for each of `COLUMNS`.
    fn values(&self) -> Vec<Value<'_>>;
    /// Reads the columns from a row.
    fn read(organization: OrganizationId, row: &mut Row<'_>) -> Result<Self, Error>;
}

/// Declares a type of the model as a row: `record!(Type in "table" of organization_field; column, ...)`. Columns have
/// the names of fields. Without `of`, the type does not know its organization.
macro_rules! record {
    ($type:ident in $table:literal $(of $owner:ident)?; id $(, $field:ident)* $(,)?) => {
        impl $crate::record::Record for $type {
            const TABLE: &'static str = $table;
            const COLUMNS: &'static str = concat!("id", $(", ", stringify!($field)),*);

            fn organization(&self) -> Option<freehold_model::OrganizationId> {
                let named: &[freehold_model::OrganizationId] = &[$(self.$owner)?];
                named.first().copied()
            }

            fn values(&self) -> Vec<$crate::sql::Value<'_>> {
                vec![$crate::sql::Column::write(&self.id), $($crate::sql::Column::write(&self.$field)),*]
            }

            fn read(
                _organization: freehold_model::OrganizationId,
                row: &mut $crate::sql::Row<'_>,
            ) -> Result<Self, $crate::Error> {
                Ok(Self { $($owner: _organization,)? id: row.get($table)?, $($field: row.get($table)?),* })
            }
        }
    };
}
pub(crate) use record;
