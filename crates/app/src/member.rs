//! Organizations and members. These use cases have no caller: they are for the server's own machine, where whoever
//! reaches the data directory is the owner of everything in it.

use freehold_access::Actor;
use freehold_model::{
    MemberId, OrganizationId, TokenId,
    audit::EventType,
    member::{Member, MemberRole, PersonalToken},
};
use freehold_store::{OrgTx, Organization, Page};
use serde_json::json;

use crate::{
    App, Error, Secret, Thing,
    audit::{self, Cause},
    auth::TOKEN_PREFIX,
    new_uuid, now,
};

/// The organization of the first start.
pub const DEFAULT_ORGANIZATION: &str = "default";
/// Bytes of an e-mail address at most.
const EMAIL_BYTES_MAX: usize = 254;

impl App {
    /// Makes the organization `default` with its owner at the first start; answers whether this was it. `keep` gets the
    /// owner's token before anything is committed, so that no owner exists whose token nobody has.
    ///
    /// # Errors
    /// When the store fails, or `keep` does.
    pub async fn bootstrap(
        &self,
        owner_email: &str,
        keep: impl FnOnce(&Secret) -> std::io::Result<()> + Send + 'static,
    ) -> Result<bool, Error> {
        check_email(owner_email)?;
        let secret = Secret::generate(TOKEN_PREFIX)?;
        let email = owner_email.to_owned();
        self.store()
            .system_write(move |tx| {
                if tx.organization_by_name(DEFAULT_ORGANIZATION)?.is_some() {
                    return Ok::<_, Error>(false);
                }
                let organization = Organization {
                    id: OrganizationId::from_uuid(new_uuid()),
                    name: DEFAULT_ORGANIZATION.to_owned(),
                    created_at: now(),
                };
                tx.organization_insert(&organization)?;
                let mut tx = tx.organization(organization.id)?;
                let member = insert(&mut tx, email, MemberRole::Owner)?;
                insert_token(&mut tx, &member, "owner.key".to_owned(), &secret)?;
                keep(&secret).map_err(Error::OwnerToken)?;
                Ok(true)
            })
            .await
    }

    /// The organization of this name.
    ///
    /// # Errors
    /// When there is none.
    pub async fn organization_by_name(&self, name: &str) -> Result<OrganizationId, Error> {
        let name = name.to_owned();
        self.store()
            .system_read(move |tx| {
                let organization =
                    tx.organization_by_name(&name)?.ok_or(Error::NotFound(Thing::Organization))?;
                Ok(organization.id)
            })
            .await
    }

    /// Adds a member.
    ///
    /// # Errors
    /// When the address is not one, or is a member's already.
    pub async fn member_add(
        &self,
        organization: OrganizationId,
        email: &str,
        role: MemberRole,
    ) -> Result<Member, Error> {
        check_email(email)?;
        let email = email.to_owned();
        self.store()
            .write(organization, move |tx| {
                if tx.member_by_email(&email)?.is_some() {
                    return Err(Error::NameTaken { thing: Thing::Member, name: email });
                }
                insert(tx, email, role)
            })
            .await
    }

    /// Members, oldest first.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn member_list(
        &self,
        organization: OrganizationId,
        page: Page<MemberId>,
    ) -> Result<Vec<Member>, Error> {
        self.store().read(organization, move |tx| Ok(tx.member_list(&page)?)).await
    }

    /// Makes a personal token for the member with this address.
    ///
    /// # Errors
    /// When there is no such member.
    pub async fn token_create(
        &self,
        organization: OrganizationId,
        email: &str,
        label: &str,
    ) -> Result<Secret, Error> {
        let secret = Secret::generate(TOKEN_PREFIX)?;
        let (token, email, label) = (secret.clone(), email.to_owned(), label.to_owned());
        self.store()
            .write(organization, move |tx| {
                let member = tx.member_by_email(&email)?.ok_or(Error::NotFound(Thing::Member))?;
                insert_token(tx, &member, label, &token)
            })
            .await?;
        Ok(secret)
    }

    /// Personal tokens in force, oldest first, of the member with this address or of all; each with its member.
    ///
    /// # Errors
    /// When there is no such member.
    pub async fn token_list(
        &self,
        organization: OrganizationId,
        email: Option<&str>,
        page: Page<TokenId>,
    ) -> Result<Vec<(PersonalToken, Member)>, Error> {
        let email = email.map(str::to_owned);
        self.store()
            .read(organization, move |tx| {
                let member = match email {
                    Some(email) => {
                        Some(tx.member_by_email(&email)?.ok_or(Error::NotFound(Thing::Member))?.id)
                    }
                    None => None,
                };
                let mut listed = Vec::new();
                for token in tx.personal_token_list(member, &page)? {
                    let member = tx.member_view(token.member_id)?.ok_or(Error::Inconsistent {
                        organization,
                        what: "a personal token has no member",
                    })?;
                    listed.push((token, member));
                }
                Ok(listed)
            })
            .await
    }

    /// Revokes a personal token: once this has answered, no request with it is served, and its event streams end.
    ///
    /// # Errors
    /// When there is none in force.
    pub async fn token_revoke(
        &self,
        organization: OrganizationId,
        id: TokenId,
    ) -> Result<PersonalToken, Error> {
        let token = self
            .store()
            .write(organization, move |tx| {
                let token = tx.personal_token_view(id)?.ok_or(Error::NotFound(Thing::PersonalToken))?;
                let now = now();
                tx.personal_token_revoke(id, now)?;
                let detail = json!({ "token_id": id, "member_id": token.member_id, "label": token.label });
                audit::append(tx, &Cause::server(), EventType::PersonalTokenRevoked, detail, now)?;
                Ok::<_, Error>(token)
            })
            .await?;
        self.callers_forget();
        Ok(token)
    }

    /// The member behind the caller, with when it was added; none for an API key.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn me(&self, actor: &Actor) -> Result<Option<Member>, Error> {
        let Some(id) = actor.member_id() else { return Ok(None) };
        self.store().read(actor.organization(), move |tx| Ok(tx.member_view(id)?)).await
    }
}

fn check_email(email: &str) -> Result<(), Error> {
    let good = email.len() <= EMAIL_BYTES_MAX
        && !email.chars().any(|c| c.is_control() || c.is_whitespace())
        && email
            .split_once('@')
            .is_some_and(|(name, host)| !name.is_empty() && !host.is_empty() && !host.contains('@'));
    if good { Ok(()) } else { Err(Error::field("email", "is not an e-mail address")) }
}

fn insert(tx: &mut OrgTx<'_>, email: String, role: MemberRole) -> Result<Member, Error> {
    let (id, now) = (MemberId::from_uuid(new_uuid()), now());
    let member = Member { id, organization_id: tx.organization_id(), email, role, created_at: now };
    tx.member_insert(&member)?;
    let detail = json!({ "member_id": id, "email": member.email, "role": role });
    audit::append(tx, &Cause::server(), EventType::MemberAdded, detail, now)?;
    Ok(member)
}

fn insert_token(tx: &mut OrgTx<'_>, member: &Member, label: String, secret: &Secret) -> Result<(), Error> {
    let (id, now) = (TokenId::from_uuid(new_uuid()), now());
    let token =
        PersonalToken { id, member_id: member.id, label, prefix: secret.obfuscated(), created_at: now };
    tx.personal_token_insert(&token, &secret.hash())?;
    let detail = json!({ "token_id": id, "member_id": member.id, "label": token.label });
    audit::append(tx, &Cause::server(), EventType::PersonalTokenCreated, detail, now)
}
