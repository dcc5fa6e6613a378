//! Scopes: `<resource>:<verb>[:own]`, and sets of them.

use std::fmt;

macro_rules! scopes {
    ($($(#[$meta:meta])* $variant:ident => $slug:literal,)+) => {
        /// One permission, spelled as documented.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Scope { $($(#[$meta])* $variant,)+ }

        impl Scope {
            /// Every scope, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// The documented spelling.
            pub const fn as_str(self) -> &'static str { match self { $(Self::$variant => $slug,)+ } }
        }
    };
}

scopes! {
    /// Change providers, roles and packs.
    CapsWrite => "caps:write",
    /// Read every workspace.
    WorkspaceRead => "workspace:read",
    /// Read own workspaces.
    WorkspaceReadOwn => "workspace:read:own",
    /// Create and change every workspace.
    WorkspaceWrite => "workspace:write",
    /// Create and change own workspaces.
    WorkspaceWriteOwn => "workspace:write:own",
    /// Submit tasks to every workspace.
    TasksWrite => "tasks:write",
    /// Submit tasks to own workspaces.
    TasksWriteOwn => "tasks:write:own",
    /// Read the organization's audit log.
    AuditRead => "audit:read",
    /// Read own audit rows.
    AuditReadOwn => "audit:read:own",
    /// Change every credential.
    AuthWrite => "auth:write",
    /// Change own personal credentials.
    AuthWriteOwn => "auth:write:own",
    /// Change secrets.
    SecretsWrite => "secrets:write",
    /// Read memberships.
    MembersRead => "members:read",
    /// Read the own membership.
    MembersReadOwn => "members:read:own",
    /// Change memberships.
    MembersWrite => "members:write",
    /// Create and revoke API keys.
    ApiKeysWrite => "apikeys:write",
    /// Change billing.
    BillingWrite => "billing:write",
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl serde::Serialize for Scope {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A set of scopes.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes(u32);

impl Scopes {
    /// The set of these.
    pub const fn of(scopes: &[Scope]) -> Self {
        let mut bits = 0;
        let mut index = 0;
        while index < scopes.len() {
            bits |= 1 << scopes[index] as u32;
            index += 1;
        }
        Self(bits)
    }

    /// Whether `scope` is in the set. `workspace:read` does not contain `workspace:read:own` as a member; a [`crate::Right`]
    /// knows that either will do.
    pub const fn contains(self, scope: Scope) -> bool {
        self.0 & (1 << scope as u32) != 0
    }

    /// Every scope of the set, in the order of declaration.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.iter().copied().filter(move |scope| self.contains(*scope))
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(Scope::as_str)).finish()
    }
}
