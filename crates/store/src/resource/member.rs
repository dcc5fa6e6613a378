//! Members and their personal tokens.

use freehold_model::{
    MemberId, Timestamp, TokenId,
    member::{Member, PersonalToken},
};

use crate::{
    Error, OrgRead, OrgTx, Page, SecretHash, column, page::Conditions, record::record, scope::changed,
    signal::Topic, sql::Column,
};

record!(Member in "members" of organization_id; id, email, role, created_at);
record!(PersonalToken in "personal_tokens"; id, member_id, label, prefix, created_at);

impl OrgRead<'_> {
    /// The member with this id.
    pub fn member_view(&mut self, id: MemberId) -> Result<Option<Member>, Error> {
        self.find(" AND id = ?2", &[id.write()])
    }

    /// The member with this e-mail address, spelled exactly so.
    pub fn member_by_email(&mut self, email: &str) -> Result<Option<Member>, Error> {
        self.find(" AND email = ?2", &[column::text(email)])
    }

    /// Members, oldest first.
    pub fn member_list(&mut self, page: &Page<MemberId>) -> Result<Vec<Member>, Error> {
        let mut conditions = Conditions::scoped();
        conditions.maybe("id > ", page.after.as_ref()).page("id", page);
        self.select(&conditions.sql, &conditions.values)
    }

    /// The personal token with this id, if it is in force.
    pub fn personal_token_view(&mut self, id: TokenId) -> Result<Option<PersonalToken>, Error> {
        self.find(" AND id = ?2 AND revoked_at IS NULL", &[id.write()])
    }

    /// Personal tokens in force, oldest first, of one member or of all.
    pub fn personal_token_list(
        &mut self,
        member: Option<MemberId>,
        page: &Page<TokenId>,
    ) -> Result<Vec<PersonalToken>, Error> {
        let mut conditions = Conditions::scoped();
        conditions.that("revoked_at IS NULL").maybe("member_id = ", member.as_ref());
        conditions.maybe("id > ", page.after.as_ref()).page("id", page);
        self.select(&conditions.sql, &conditions.values)
    }
}

impl OrgTx<'_> {
    /// Inserts a member; an address that exists breaks `members_organization_id_email_key`.
    pub fn member_insert(&mut self, member: &Member) -> Result<(), Error> {
        self.insert(member)
    }

    /// Writes the member's row.
    pub fn member_update(&mut self, member: &Member) -> Result<(), Error> {
        self.touch(Topic::Callers);
        self.update(member)
    }

    /// Inserts a personal token with the hash of its secret.
    pub fn personal_token_insert(&mut self, token: &PersonalToken, secret: &SecretHash) -> Result<(), Error> {
        self.insert_with(token, &[("secret_hash", secret.write())])
    }

    /// Revokes a token for good. `Missing` when there is none in force.
    pub fn personal_token_revoke(&mut self, id: TokenId, at: Timestamp) -> Result<(), Error> {
        self.touch(Topic::Callers);
        let sql = "UPDATE personal_tokens SET revoked_at = ?3
            WHERE organization_id = ?1 AND id = ?2 AND revoked_at IS NULL";
        changed(self.execute(sql, &[id.write(), at.write()])?, "personal_tokens")
    }
}
