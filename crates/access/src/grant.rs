//! The scopes of member roles and of API key templates: the whole matrix is a golden file.

use freehold_model::{api_key::PermissionSet, member::MemberRole};

use crate::scope::{Scope, Scopes};

/// The scopes of a member in this role. Nobody has unscoped `tasks:write`: people submit to their own workspaces.
pub const fn member_scopes(role: MemberRole) -> Scopes {
    match role {
        MemberRole::Owner => Scopes::of(&[
            Scope::CapsWrite,
            Scope::AuthWrite,
            Scope::SecretsWrite,
            Scope::WorkspaceRead,
            Scope::WorkspaceWrite,
            Scope::TasksWriteOwn,
            Scope::AuditRead,
            Scope::MembersRead,
            Scope::MembersWrite,
            Scope::ApiKeysWrite,
            Scope::BillingWrite,
        ]),
        MemberRole::Operator => Scopes::of(&[
            Scope::CapsWrite,
            Scope::AuthWrite,
            Scope::SecretsWrite,
            Scope::WorkspaceRead,
            Scope::WorkspaceWrite,
            Scope::TasksWriteOwn,
            Scope::AuditRead,
            Scope::MembersRead,
            Scope::ApiKeysWrite,
        ]),
        MemberRole::Member => Scopes::of(&[
            Scope::WorkspaceReadOwn,
            Scope::WorkspaceWriteOwn,
            Scope::TasksWriteOwn,
            Scope::AuditReadOwn,
            Scope::MembersRead,
            Scope::AuthWriteOwn,
        ]),
    }
}

/// The scopes of an API key of this template. No key changes credentials, secrets, members, keys or billing.
pub const fn permission_set_scopes(set: PermissionSet) -> Scopes {
    match set {
        PermissionSet::FullAccess => Scopes::of(&[
            Scope::CapsWrite,
            Scope::WorkspaceRead,
            Scope::WorkspaceWrite,
            Scope::TasksWrite,
            Scope::AuditRead,
        ]),
        PermissionSet::SubmitObserve => {
            Scopes::of(&[Scope::WorkspaceRead, Scope::WorkspaceWrite, Scope::TasksWrite, Scope::AuditRead])
        }
        PermissionSet::ReadOnly => Scopes::of(&[Scope::WorkspaceRead, Scope::AuditRead]),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    #[test]
    fn the_matrix_of_roles_templates_and_scopes_is_the_golden_one() {
        let columns: Vec<(&str, Scopes)> = MemberRole::ALL
            .iter()
            .map(|role| (role.as_str(), member_scopes(*role)))
            .chain(PermissionSet::ALL.iter().map(|set| (set.as_str(), permission_set_scopes(*set))))
            .collect();
        let mut table = format!("{:20}", "");
        for (name, _) in &columns {
            write!(table, " {name:14}").unwrap();
        }
        for scope in Scope::ALL {
            write!(table, "\n{scope:20}").unwrap();
            for (_, scopes) in &columns {
                write!(table, " {:14}", if scopes.contains(*scope) { "yes" } else { "-" }).unwrap();
            }
        }
        let table: Vec<&str> = table.lines().map(str::trim_end).collect();
        insta::assert_snapshot!(table.join("\n"));
    }
}
