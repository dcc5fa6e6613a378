//! What the proofs admit.

use freehold_model::Timestamp;
use uuid::Uuid;

use super::*;

struct Thing {
    organization: OrganizationId,
    created_by: Option<MemberId>,
}

impl Owned for Thing {
    fn organization(&self) -> OrganizationId {
        self.organization
    }
    fn created_by(&self) -> Option<MemberId> {
        self.created_by
    }
}

fn organization(number: u128) -> OrganizationId {
    OrganizationId::from_uuid(Uuid::from_u128(number))
}

fn member(number: u128, role: MemberRole) -> Actor {
    Actor::member(&Member {
        id: MemberId::from_uuid(Uuid::from_u128(number)),
        organization_id: organization(1),
        email: "a@example.test".into(),
        role,
        created_at: Timestamp::UNIX_EPOCH,
    })
}

fn key(permission_set: PermissionSet) -> Actor {
    Actor::api_key(&ApiKey {
        id: ApiKeyId::from_uuid(Uuid::from_u128(9)),
        organization_id: organization(1),
        label: "ci".into(),
        prefix: "sk_...abcd".into(),
        permission_set,
        created_at: Timestamp::UNIX_EPOCH,
    })
}

fn thing(actor: &Actor) -> Thing {
    Thing { organization: organization(1), created_by: actor.member_id() }
}

#[test]
fn own_reaches_what_the_member_created_and_nothing_else() {
    let (one, other) = (member(2, MemberRole::Member), member(3, MemberRole::Member));
    assert!(one.authorize(&[Right::WorkspaceRead, Right::TasksWrite], thing(&one)).is_ok());
    assert_eq!(one.authorize(&[Right::WorkspaceRead], thing(&other)).err(), Some(Denied::NotOwner));
    assert_eq!(one.reach(Right::WorkspaceRead).unwrap().owner(), one.member_id());
}

#[test]
fn what_a_key_created_belongs_to_no_member() {
    let (owner, created) = (member(2, MemberRole::Owner), thing(&key(PermissionSet::FullAccess)));
    assert_eq!(owner.authorize(&[Right::TasksWrite], created).err(), Some(Denied::NotOwner));
}

#[test]
fn an_owner_reads_every_workspace_and_submits_only_to_own_ones() {
    let (owner, other) = (member(2, MemberRole::Owner), member(3, MemberRole::Member));
    assert!(owner.authorize(&[Right::WorkspaceRead, Right::WorkspaceWrite], thing(&other)).is_ok());
    assert_eq!(owner.authorize(&[Right::TasksWrite], thing(&other)).err(), Some(Denied::NotOwner));
}

#[test]
fn another_organization_comes_before_every_other_reason() {
    let foreign = Thing { organization: organization(7), created_by: None };
    let actor = key(PermissionSet::ReadOnly);
    assert_eq!(actor.authorize(&[Right::TasksWrite], foreign).err(), Some(Denied::OtherOrganization));
}

#[test]
fn a_right_without_an_own_scope_needs_the_unscoped_one() {
    let actor = member(2, MemberRole::Member);
    assert_eq!(
        actor.reach(Right::WorkspaceWriteAll).err(),
        Some(Denied::MissingScope { needed: Scope::WorkspaceWrite })
    );
    assert!(actor.reach(Right::WorkspaceWrite).is_ok());
}
