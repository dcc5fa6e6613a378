//! Every resource reads back as it was written.

use freehold_model::{
    ApiKeyId, TokenId, UploadId,
    api_key::{ApiKey, PermissionSet},
    credential::{Credential, Kind, Status},
    member::{MemberRole, PersonalToken},
    upload::Upload,
    workspace::Phase,
};
use freehold_store::{
    Caller, Consent, CredentialOwners, Error, IdempotencyRecord, Page, RoleFilter, Rule, Topic,
    WorkspaceFilter,
};
use freehold_testkit::model;

use crate::{
    fixture::{self, World, member, now, task, uuid, workspace},
    on_both_databases,
};

pub fn credential(organization_id: freehold_model::OrganizationId, name: &str) -> Credential {
    Credential {
        organization_id,
        name: name.to_owned(),
        scopes: vec!["read".to_owned()],
        last_minted_at: Some(now()),
        ..model::credential(Kind::BasicAuth, "anthropic", &[("username", "me")])
    }
}

on_both_databases! {
    async fn providers_and_roles_read_back_as_written(fixture) {
        let World { mut provider, mut role, .. } = World::new(fixture.organization);
        let (p, r) = (provider.clone(), role.clone());
        fixture.write(move |tx| { tx.provider_insert(&p)?; tx.role_insert(&r) }).await;
        let (id, name) = (provider.id, provider.name.clone());
        assert_eq!(fixture.read(move |tx| tx.provider_view(id)).await, Some(provider.clone()));
        assert_eq!(fixture.read(move |tx| tx.provider_by_name(&name)).await, Some(provider.clone()));
        let (id, name) = (role.id, role.name.clone());
        assert_eq!(fixture.read(move |tx| tx.role_view(id)).await, Some(role.clone()));
        assert_eq!(fixture.read(move |tx| tx.role_by_name(&name)).await, Some(role.clone()));

        provider.archived_at = Some(now());
        provider.display_name = None;
        role.archived_at = Some(now());
        role.pack_ids.clear();
        let (p, r) = (provider.clone(), role.clone());
        fixture.write(move |tx| { tx.provider_update(&p)?; tx.role_update(&r) }).await;
        let page = Page::first(10);
        assert_eq!(fixture.read(move |tx| tx.provider_list(false, &page)).await, []);
        assert_eq!(fixture.read(move |tx| tx.provider_list(true, &page)).await, [provider.clone()]);
        let page = Page::first(10);
        let of_provider = RoleFilter { include_archived: true, provider: Some(provider.id) };
        assert_eq!(fixture.read(move |tx| tx.role_list(&of_provider, &page)).await, [role]);
        assert_eq!(fixture.read(move |tx| tx.role_list(&RoleFilter::default(), &page)).await, []);
    }

    async fn a_name_that_exists_is_told_by_its_constraint(fixture) {
        let provider = fixture::provider(fixture.organization);
        let mut other = fixture::provider(fixture.organization);
        other.name.clone_from(&provider.name);
        fixture.write(move |tx| tx.provider_insert(&provider)).await;
        let refused = fixture.store.write(fixture.organization, move |tx| tx.provider_insert(&other)).await;
        assert!(refused.unwrap_err().is_duplicate("providers_organization_id_name_key"));
    }

    async fn a_reference_to_nothing_is_refused(fixture) {
        let role = fixture::role(fixture.organization, freehold_model::ProviderId::from_uuid(uuid()));
        let refused = fixture.store.write(fixture.organization, move |tx| tx.role_insert(&role)).await;
        assert!(matches!(refused, Err(Error::Violation { rule: Rule::Reference, .. })), "{refused:?}");
    }

    async fn an_update_of_nothing_is_missing(fixture) {
        let provider = fixture::provider(fixture.organization);
        let refused = fixture.store.write(fixture.organization, move |tx| tx.provider_update(&provider)).await;
        assert!(matches!(refused, Err(Error::Missing { table: "providers" })), "{refused:?}");
    }

    async fn a_workspace_and_its_session_read_back_as_written(fixture) {
        let (mut workspace, session) = fixture.workspace().await;
        let (w, s) = (workspace.id, session.id);
        assert_eq!(fixture.read(move |tx| tx.workspace_view(w)).await, Some(workspace.clone()));
        assert_eq!(fixture.read(move |tx| tx.session_view(s)).await, Some(session));
        workspace.phase = Phase::Stopped;
        workspace.pod_id = None;
        workspace.generation = 7;
        workspace.snapshot_ref = Some("snap".to_owned());
        let w = workspace.clone();
        fixture.write(move |tx| tx.workspace_update(&w)).await;
        let id = workspace.id;
        assert_eq!(fixture.store.system_read(move |tx| tx.workspace_by_id(id)).await.unwrap(), Some(workspace));
    }

    async fn workspaces_are_listed_newest_first_by_page_and_filter(fixture) {
        let (first, _) = fixture.workspace().await;
        let owner = member(fixture.organization);
        let mut all = vec![first.clone()];
        for n in 0..5 {
            let mut next = workspace(fixture.organization, first.role_id);
            next.created_by = (n % 2 == 0).then_some(owner.id);
            next.archived_at = (n == 3).then(now);
            all.insert(0, next);
        }
        let inserted = all.clone();
        let id = owner.id;
        fixture.write(move |tx| {
            tx.member_insert(&owner)?;
            inserted[..5].iter().rev().try_for_each(|workspace| tx.workspace_insert(workspace))
        }).await;
        let everything = WorkspaceFilter { include_archived: true, ..WorkspaceFilter::default() };
        let (page, rest) = fixture.read(move |tx| {
            let page = tx.workspace_list(&everything, &Page::first(4))?;
            let rest = tx.workspace_list(&everything, &Page::after(page[3].id, 4))?;
            Ok((page, rest))
        }).await;
        assert_eq!([page, rest].concat(), all);
        let live = fixture.read(|tx| tx.workspace_list(&WorkspaceFilter::default(), &Page::first(10))).await;
        assert_eq!(live.len(), 5);
        let mine = WorkspaceFilter { created_by: Some(id), ..WorkspaceFilter::default() };
        assert_eq!(fixture.read(move |tx| tx.workspace_list(&mine, &Page::first(10))).await.len(), 3);
        let idle = WorkspaceFilter { phases: vec![Phase::Idle, Phase::Busy], ..WorkspaceFilter::default() };
        assert_eq!(fixture.read(move |tx| tx.workspace_list(&idle, &Page::first(10))).await, []);
    }

    async fn the_reconciler_sees_the_work_of_all_organizations(fixture) {
        let (mine, _) = fixture.workspace().await;
        let other = fixture::organization_insert(&fixture.store, "other").await;
        let (mut theirs, _) =
            fixture.store.write(other, move |tx| World::new(other).insert(tx)).await.unwrap();
        let seen = fixture.store.system_read(|tx| tx.workspaces_needing_work(&Page::first(10))).await;
        assert_eq!(seen.unwrap(), [mine.clone(), theirs.clone()]);
        let after = mine.id;
        let seen = fixture.store.system_read(move |tx| tx.workspaces_needing_work(&Page::after(after, 10))).await;
        assert_eq!(seen.unwrap(), [theirs.clone()]);
        let pod = theirs.pod_id.unwrap();
        let found = fixture.store.system_read(move |tx| tx.workspace_by_pod(pod)).await.unwrap();
        assert_eq!(found.map(|workspace| workspace.id), Some(theirs.id));
        theirs.phase = Phase::Failed;
        fixture.store.system_write(move |tx| tx.organization(other)?.workspace_update(&theirs)).await.unwrap();
        let seen = fixture.store.system_read(|tx| tx.workspaces_needing_work(&Page::first(10))).await;
        assert_eq!(seen.unwrap(), [mine]);
    }

    async fn a_credential_and_its_sealed_secret_read_back_and_are_deleted_together(fixture) {
        let mut credential = credential(fixture.organization, "key");
        let (c, id) = (credential.clone(), credential.id);
        fixture.write(move |tx| tx.credential_insert(&c, &[0, 1, 255])).await;
        assert_eq!(fixture.read(move |tx| tx.credential_sealed(id)).await, Some(vec![0, 1, 255]));
        credential.status = Status::NeedsReauth;
        let c = credential.clone();
        fixture.write(move |tx| tx.credential_update(&c)).await;
        assert_eq!(fixture.read(|tx| tx.credential_by_name("key")).await, Some(credential.clone()));
        assert_eq!(fixture.read(move |tx| tx.credential_sealed(id)).await, Some(vec![0, 1, 255]));
        assert_eq!(
            fixture.read(|tx| tx.credential_list(CredentialOwners::All, &Page::first(9))).await,
            [(credential, vec![0, 1, 255])]
        );
        fixture.write(move |tx| tx.credential_delete(id)).await;
        assert_eq!(fixture.read(move |tx| tx.credential_view(id)).await, None);
        assert_eq!(fixture.read(move |tx| tx.credential_sealed(id)).await, None);
    }

    async fn every_kind_of_credential_is_kept(fixture) {
        for &kind in Kind::ALL {
            let name = kind.as_str();
            let one = Credential { kind, allow_user_override: true, ..credential(fixture.organization, name) };
            let o = one.clone();
            fixture.write(move |tx| tx.credential_insert(&o, b"")).await;
            assert_eq!(fixture.read(move |tx| tx.credential_by_name(name)).await, Some(one));
        }
    }

    async fn a_secret_is_replaced_only_where_its_credential_is_as_it_was(fixture) {
        let mut credential = credential(fixture.organization, "key");
        let (c, id, before) = (credential.clone(), credential.id, credential.updated_at);
        fixture.write(move |tx| tx.credential_insert(&c, b"old")).await;
        assert!(fixture.write(move |tx| tx.credential_reseal(id, before, b"new")).await);
        assert_eq!(fixture.read(move |tx| tx.credential_sealed(id)).await.unwrap(), b"new");
        credential.updated_at = before + std::time::Duration::from_secs(1);
        fixture.write(move |tx| tx.credential_update(&credential)).await;
        assert!(!fixture.write(move |tx| tx.credential_reseal(id, before, b"late")).await);
        assert_eq!(fixture.read(move |tx| tx.credential_sealed(id)).await.unwrap(), b"new");
    }

    async fn attempts_are_noted_without_a_change_and_without_a_signal(fixture) {
        let credential = credential(fixture.organization, "key");
        let (c, id) = (credential.clone(), credential.id);
        fixture.write(move |tx| tx.credential_insert(&c, b"")).await;
        let changes = fixture.store.subscribe(Topic::Credentials);
        fixture.write(move |tx| tx.credential_note(id, None, "timeout")).await;
        let noted = fixture.read(move |tx| tx.credential_view(id)).await.unwrap();
        assert_eq!((noted.last_minted_at, noted.updated_at), (credential.last_minted_at, credential.updated_at));
        assert_eq!(noted.last_minted_status.as_deref(), Some("timeout"));
        let later = now() + std::time::Duration::from_secs(9);
        fixture.write(move |tx| tx.credential_note(id, Some(later), "ok")).await;
        assert_eq!(fixture.read(move |tx| tx.credential_view(id)).await.unwrap().last_minted_at, Some(later));
        // The listener of PostgreSQL may wake everybody once it is connected; that is no commit.
        assert!(fixture.postgresql.is_some() || !changes.has_changed().unwrap());
        fixture.write(move |tx| tx.credential_delete(id)).await;
        assert!(changes.has_changed().unwrap());
    }

    async fn a_consent_is_found_until_it_expires_is_taken_once_and_goes_with_its_credential(fixture) {
        let credential = credential(fixture.organization, "key");
        let (id, at) = (credential.id, now());
        let later = at + std::time::Duration::from_secs(60);
        let consent = move |n: u8| Consent { state_hash: [n; 32], cookie_hash: [9; 32], credential_id: id,
            started_by: "system".to_owned(), expires_at: later };
        fixture.write(move |tx| {
            tx.credential_insert(&credential, b"")?;
            tx.consent_insert(&consent(1), at)
        }).await;
        assert_eq!(fixture.read(move |tx| tx.consent_find(&[1; 32], at)).await, Some(consent(1)));
        assert_eq!(fixture.read(move |tx| tx.consent_find(&[1; 32], later)).await, None);
        assert_eq!(fixture.read(move |tx| tx.consent_find(&[2; 32], at)).await, None);
        // A new one takes the place of one that was begun before.
        fixture.write(move |tx| tx.consent_insert(&consent(2), at)).await;
        assert!(!fixture.write(move |tx| tx.consent_delete(&[1; 32])).await);
        assert!(fixture.write(move |tx| tx.consent_delete(&[2; 32])).await);
        fixture.write(move |tx| tx.consent_insert(&consent(3), at)).await;
        fixture.write(move |tx| tx.credential_delete(id)).await;
        assert_eq!(fixture.read(move |tx| tx.consent_find(&[3; 32], at)).await, None);
    }

    async fn a_member_has_personal_credentials_beside_the_organization_s(fixture) {
        let (me, other) = (member(fixture.organization), member(fixture.organization));
        let shared = credential(fixture.organization, "key");
        let mine = Credential { member_id: Some(me.id), ..credential(fixture.organization, "key") };
        let again = credential(fixture.organization, "key");
        let (me_id, other_id, s, m) = (me.id, other.id, shared.clone(), mine.clone());
        fixture.write(move |tx| {
            tx.member_insert(&me)?;
            tx.member_insert(&other)?;
            tx.credential_insert(&s, b"")?;
            tx.credential_insert(&m, b"")
        }).await;
        let refused = fixture.store.write(fixture.organization, move |tx| tx.credential_insert(&again, b"")).await;
        assert!(refused.unwrap_err().is_duplicate("credentials_name_key"));
        assert_eq!(fixture.read(|tx| tx.credential_by_name("key")).await, Some(shared.clone()));
        let page = Page::first(9);
        for (member, seen) in [(None, vec![&shared]), (Some(other_id), vec![&shared]), (Some(me_id), vec![&shared, &mine])] {
            let owners = CredentialOwners::SharedAnd(member);
            let listed = fixture.read(move |tx| tx.credential_list(owners, &page)).await;
            assert_eq!(listed.iter().map(|(credential, _)| credential).collect::<Vec<_>>(), seen);
        }
    }

    async fn a_caller_is_found_by_the_hash_of_the_secret_until_it_is_revoked(fixture) {
        let organization = fixture.organization;
        let key = ApiKey {
            id: ApiKeyId::from_uuid(uuid()),
            organization_id: organization,
            label: "ci".to_owned(),
            prefix: "sk_...wxyz".to_owned(),
            permission_set: PermissionSet::SubmitObserve,
            created_at: now(),
        };
        let mut member = member(organization);
        let token = PersonalToken {
            id: TokenId::from_uuid(uuid()),
            member_id: member.id,
            label: "laptop".to_owned(),
            prefix: "pt_...abcd".to_owned(),
            created_at: now(),
        };
        let (k, m, t) = (key.clone(), member.clone(), token.clone());
        fixture.write(move |tx| {
            tx.api_key_insert(&k, &[1; 32])?;
            tx.member_insert(&m)?;
            tx.personal_token_insert(&t, &[2; 32])
        }).await;
        member.role = MemberRole::Member;
        let m = member.clone();
        fixture.write(move |tx| tx.member_update(&m)).await;
        let find = |hash| fixture.store.system_read(move |tx| tx.caller_by_secret_hash(&[hash; 32]));
        let found = find(1).await.unwrap().unwrap();
        assert_eq!((found.organization_id(), &found), (organization, &Caller::ApiKey(key.clone())));
        let caller = Caller::Member { token: token.clone(), member: member.clone() };
        assert_eq!(find(2).await.unwrap(), Some(caller));
        assert_eq!(find(3).await.unwrap(), None::<Caller>);
        assert_eq!(fixture.read(|tx| tx.api_key_list(&Page::first(5))).await, std::slice::from_ref(&key));
        let (id, page) = (member.id, Page::first(5));
        assert_eq!(fixture.read(move |tx| tx.personal_token_list(Some(id), &page)).await, std::slice::from_ref(&token));
        assert_eq!(fixture.read(|tx| tx.member_list(&Page::first(5))).await, [member.clone()]);
        let email = member.email.clone();
        assert_eq!(fixture.read(move |tx| tx.member_by_email(&email)).await, Some(member));

        let (key_id, token_id) = (key.id, token.id);
        fixture.write(move |tx| {
            tx.api_key_revoke(key_id, now())?;
            tx.personal_token_revoke(token_id, now())
        }).await;
        assert_eq!((find(1).await.unwrap(), find(2).await.unwrap()), (None, None));
        let again = fixture.store.write(organization, move |tx| tx.api_key_revoke(key_id, now())).await;
        assert!(matches!(again, Err(Error::Missing { .. })));
        assert_eq!(fixture.read(|tx| tx.api_key_list(&Page::first(5))).await, []);
    }

    async fn uploads_go_with_their_task_and_a_task_with_its_workspace(fixture) {
        let (workspace, session) = fixture.workspace().await;
        let task = task(&workspace, "read it");
        let id = UploadId::from_uuid(uuid());
        let upload = Upload { id, task_id: task.id, name: "ä.csv".to_owned(), size: 1 << 33 };
        let (t, u, task_id) = (task.clone(), upload.clone(), task.id);
        fixture.write(move |tx| { tx.task_insert(&t)?; tx.upload_insert(&u) }).await;
        assert_eq!(fixture.read(move |tx| tx.upload_list(task_id)).await, [upload]);
        let (id, s) = (workspace.id, session.id);
        fixture.write(move |tx| {
            tx.session_events_append(s, &[fixture::event(s, "hello")])?;
            tx.workspace_delete(id)
        }).await;
        assert_eq!(fixture.read(move |tx| tx.upload_list(task_id)).await, []);
        assert_eq!(fixture.read(move |tx| tx.task_view(task_id)).await, None);
        assert_eq!(fixture.read(move |tx| tx.session_events_after(s, 0, 9)).await, []);
    }

    async fn an_answer_is_kept_under_its_key_until_it_expires(fixture) {
        let then = now();
        let later = then + std::time::Duration::from_secs(60);
        let record = IdempotencyRecord {
            actor: "user_1".to_owned(),
            key: "k".to_owned(),
            request_hash: [9; 32],
            response: b"{}".to_vec(),
            expires_at: later,
        };
        let r = record.clone();
        fixture.write(move |tx| tx.idempotency_insert(&r, then)).await;
        let find = |actor: &'static str, at| fixture.read(move |tx| tx.idempotency_find(actor, "k", at));
        assert_eq!(find("user_1", then).await, Some(record.clone()));
        assert_eq!(find("user_2", then).await, None);
        assert_eq!(find("user_1", later).await, None);
        let r = record.clone();
        let again = fixture.store.write(fixture.organization, move |tx| tx.idempotency_insert(&r, then)).await;
        assert!(again.unwrap_err().is_duplicate("idempotency_keys_organization_id_actor_key_key"));
        let renewed = IdempotencyRecord { expires_at: later + std::time::Duration::from_secs(1), ..record };
        fixture.write(move |tx| tx.idempotency_insert(&renewed, later)).await;
        assert_eq!(fixture.store.system_write(move |tx| tx.idempotency_sweep(later, 10)).await.unwrap(), 0);
        let end = later + std::time::Duration::from_secs(1);
        assert_eq!(fixture.store.system_write(move |tx| tx.idempotency_sweep(end, 10)).await.unwrap(), 1);
    }
}
