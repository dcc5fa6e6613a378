//! Secrets and data keys.

use freehold_model::{
    CredentialId, OrganizationId,
    secret::{Holder, Secret},
};
use freehold_store::{DataKey, Error, Page, SECRET_NAME_KEY, Sealed, Topic};
use freehold_testkit::model;

use crate::{
    fixture::{member, now, organization_insert},
    on_both_databases,
    resources::credential,
};

pub fn secret(organization_id: OrganizationId, name: &str) -> Secret {
    Secret { created_by: Some(member(organization_id).id), ..model::secret(organization_id, name) }
}

on_both_databases! {
    async fn a_secret_and_its_sealed_value_read_back_change_and_are_deleted_together(fixture) {
        let mut secret = secret(fixture.organization, "key");
        let s = secret.clone();
        fixture.write(move |tx| tx.secret_insert(&s, &[0, 1, 255])).await;
        assert_eq!(fixture.read(|tx| tx.secret_by_name("key")).await, Some((secret.clone(), vec![0, 1, 255])));
        secret.updated_by = secret.created_by;
        secret.updated_at = now();
        let s = secret.clone();
        fixture.write(move |tx| tx.secret_update(&s, &[2])).await;
        assert_eq!(fixture.read(|tx| tx.secret_by_name("key")).await, Some((secret.clone(), vec![2])));
        assert_eq!(fixture.read(|tx| tx.secret_list(&Page::first(9))).await, [secret.clone()]);
        fixture.write(move |tx| tx.secret_delete(secret.id)).await;
        assert_eq!(fixture.read(|tx| tx.secret_by_name("key")).await, None);
        let again = fixture.store.write(fixture.organization, move |tx| tx.secret_delete(secret.id)).await;
        assert!(matches!(again, Err(Error::Missing { table: "secrets" })), "{again:?}");
    }

    async fn a_secret_s_name_is_its_organization_s_own(fixture) {
        let other = organization_insert(&fixture.store, "other").await;
        let (mine, theirs) = (secret(fixture.organization, "key"), secret(other, "key"));
        let twice = secret(fixture.organization, "key");
        let m = mine.clone();
        fixture.write(move |tx| tx.secret_insert(&m, &[1])).await;
        let inserted = fixture.store.write(other, move |tx| tx.secret_insert(&theirs, &[2])).await;
        assert!(inserted.is_ok(), "{inserted:?}");
        let refused = fixture.store.write(fixture.organization, move |tx| tx.secret_insert(&twice, &[3])).await;
        assert!(refused.unwrap_err().is_duplicate(SECRET_NAME_KEY));
        assert_eq!(fixture.read(|tx| tx.secret_by_name("key")).await, Some((mine, vec![1])));
    }

    async fn whoever_waits_for_secrets_is_woken_by_each_change_of_one(fixture) {
        let mut changes = fixture.store.subscribe(Topic::Secrets);
        let secret = secret(fixture.organization, "key");
        let (one, two, id) = (secret.clone(), secret.clone(), secret.id);
        fixture.write(move |tx| tx.secret_insert(&one, &[1])).await;
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        fixture.write(move |tx| tx.secret_update(&two, &[1])).await;
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        fixture.write(move |tx| tx.secret_delete(id)).await;
        assert!(changes.has_changed().unwrap());
    }

    async fn the_first_data_key_of_a_version_stays_and_the_newest_is_found(fixture) {
        let organization_id = fixture.organization;
        let key = |version, sealed: &[u8]| DataKey { organization_id, version, sealed: sealed.to_vec() };
        assert_eq!(fixture.read(|tx| tx.data_key(None)).await, None);
        assert_eq!(fixture.write(|tx| tx.data_key_insert(1, &[1], now())).await, key(1, &[1]));
        assert_eq!(fixture.write(|tx| tx.data_key_insert(1, &[9], now())).await, key(1, &[1]));
        fixture.write(|tx| tx.data_key_insert(2, &[2], now())).await;
        assert_eq!(fixture.read(|tx| tx.data_key(None)).await, Some(key(2, &[2])));
        assert_eq!(fixture.read(|tx| tx.data_key(Some(1))).await, Some(key(1, &[1])));
        assert_eq!(fixture.read(|tx| tx.data_key(Some(3))).await, None);
    }

    async fn what_is_sealed_is_exchanged_only_while_it_is_what_was_read(fixture) {
        let secret = secret(fixture.organization, "key");
        let credential = credential(fixture.organization, "key");
        let holders = [Holder::Secret(secret.id), Holder::Credential(credential.id)];
        let (s, c) = (secret.clone(), credential.clone());
        fixture.write(move |tx| {
            tx.data_key_insert(1, &[1], now())?;
            tx.secret_insert(&s, &[1])?;
            tx.credential_insert(&c, &[1])
        }).await;
        for holder in holders {
            assert!(fixture.write(move |tx| tx.sealed_exchange(holder, &[1], &[2])).await);
            assert!(!fixture.write(move |tx| tx.sealed_exchange(holder, &[1], &[3])).await);
        }
        assert!(fixture.write(|tx| tx.data_key_exchange(1, &[1], &[2])).await);
        assert!(!fixture.write(|tx| tx.data_key_exchange(1, &[1], &[3])).await);
        assert_eq!(fixture.read(|tx| tx.secret_by_name("key")).await, Some((secret, vec![2])));
        assert_eq!(fixture.read(move |tx| tx.credential_sealed(credential.id)).await, Some(vec![2]));
        assert_eq!(fixture.read(|tx| tx.data_key(None)).await.unwrap().sealed, [2]);
    }

    async fn everything_sealed_of_every_organization_is_gone_through_by_page(fixture) {
        let organizations = [fixture.organization, organization_insert(&fixture.store, "other").await];
        let mut expected = Vec::new();
        for (n, organization_id) in (0_u8..).zip(organizations) {
            let (s, c) = (secret(organization_id, "key"), credential(organization_id, "key"));
            expected.push(Sealed { organization_id, holder: Holder::Secret(s.id), sealed: vec![n] });
            let written = fixture.store.write(organization_id, move |tx| {
                tx.data_key_insert(1, &[n], now())?;
                tx.data_key_insert(2, &[n], now())?;
                tx.credential_insert(&c, &[n])?;
                tx.secret_insert(&s, &[n])
            });
            written.await.unwrap();
        }
        let system = &fixture.store;
        let (mut after, mut keys) = (None, Vec::new());
        while let Some(key) = system.system_read(move |tx| tx.data_keys(after, 1)).await.unwrap().pop() {
            after = Some((key.organization_id, key.version));
            keys.push(after.unwrap());
        }
        let mut sorted: Vec<_> = organizations.iter().flat_map(|id| [(*id, 1), (*id, 2)]).collect();
        sorted.sort_unstable();
        assert_eq!(keys, sorted);
        let first = system.system_read(|tx| tx.sealed_secrets(None, 1)).await.unwrap();
        let Holder::Secret(id) = first[0].holder else { panic!("a secret's place holds a secret") };
        let rest = system.system_read(move |tx| tx.sealed_secrets(Some(id), 9)).await.unwrap();
        assert_eq!([first, rest].concat(), expected);
        let all = system.system_read(|tx| tx.sealed_credentials(None::<CredentialId>, 9)).await.unwrap();
        assert_eq!(all.iter().map(|one| one.organization_id).collect::<Vec<_>>(), organizations);
    }
}
