//! A certified authorization server from npm, with clients of every kind, for tests of what speaks to issuers.

use std::{
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::Context;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256};
use serde_json::json;

use crate::{Folder, tls::Authority};

/// Its name, which it has a certificate for; whoever asks it has to find its address.
pub const ISSUER_HOST: &str = "issuer.freehold.test";
/// The secret of its clients `post`, `basic` and `web`.
pub const CLIENT_SECRET: &str = "client-secret: 4b1d&5a=0c9e+f%";
/// Whose assertions it takes at `/service/token`.
pub const SERVICE_ACCOUNT: &str = "robot@project.test";

/// The authorization server, which ends with this value.
pub struct Issuer {
    child: Child,
    folder: Folder,
    address: SocketAddr,
    keys: Vec<(&'static str, KeyPair, &'static str)>,
    service: KeyPair,
}

impl Issuer {
    /// Starts it; people come back to `redirect_uri`, and access tokens live so many seconds.
    ///
    /// # Errors
    /// When Node or the packages are not there, which `cargo xtask test` installs, or it does not start.
    pub fn start(authority: &Authority, redirect_uri: &str, lifetime: u32) -> anyhow::Result<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("issuer");
        anyhow::ensure!(
            folder.join("node_modules/oidc-provider/package.json").exists(),
            "the packages of the authorization server are not installed: run `cargo xtask test` once"
        );
        let own = Folder::new("freehold-issuer-")?;
        std::fs::write(own.path().join("ca.pem"), authority.pem())?;
        let mut child = Command::new("node")
            .arg("server.mjs")
            .current_dir(&folder)
            // Its notes on what is meant for development are no news here.
            .env("NODE_NO_WARNINGS", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start node")?;
        let keys = vec![
            ("rsa", KeyPair::generate_for(&PKCS_RSA_SHA256)?, "RS256"),
            ("p256", KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?, "ES256"),
            ("p384", KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?, "ES384"),
            ("ed25519", KeyPair::generate_for(&PKCS_ED25519)?, "EdDSA"),
        ];
        let service = KeyPair::generate_for(&PKCS_RSA_SHA256)?;
        let (certificate, key) = authority.pair(&[ISSUER_HOST])?;
        let public =
            |(name, key, algorithm): &(&str, KeyPair, &str)| json!([name, key.public_key_pem(), algorithm]);
        let config = json!({
            "issuer": format!("https://{ISSUER_HOST}"),
            "certificate": certificate,
            "key": key,
            "secret": CLIENT_SECRET,
            "redirect_uri": redirect_uri,
            "lifetime": lifetime,
            "keys": keys.iter().map(public).collect::<Vec<_>>(),
            "service": service.public_key_pem(),
        });
        let stdin = child.stdin.as_mut().context("no standard input")?;
        writeln!(stdin, "{config}")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no standard output")?).read_line(&mut line)?;
        let port: u16 = line.trim().parse().context("the authorization server did not start")?;
        Ok(Self { child, folder: own, address: SocketAddr::from(([127, 0, 0, 1], port)), keys, service })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Consents to everything as a person with a browser; answers where the browser is sent back to.
    ///
    /// # Errors
    /// When a page is another than it should be.
    pub fn consent(&self, auth_url: &str) -> anyhow::Result<String> {
        let jar = self.folder.path().join(format!("cookies-{:?}", std::thread::current().id()));
        let login = self.browse(&jar, auth_url, &["-L"], "%{url_effective}")?;
        anyhow::ensure!(login.contains("/interaction/"), "not sent to sign in: {login}");
        let sign_in = ["-L", "-d", "prompt=login&login=alice&password=x"];
        let page = self.browse(&jar, &login, &sign_in, "%{url_effective}")?;
        let next = self.browse(&jar, &page, &["-d", "prompt=consent"], "%{redirect_url}")?;
        self.browse(&jar, &next, &[], "%{redirect_url}")
    }

    /// How often a path was asked for.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn count(&self, path: &str) -> anyhow::Result<u64> {
        let url = format!("https://{ISSUER_HOST}/test/counts");
        let counts: serde_json::Value =
            serde_json::from_str(&self.browse(Path::new("/dev/null"), &url, &[], "")?)?;
        Ok(counts[path].as_u64().unwrap_or_default())
    }

    /// Fails the next requests for tokens with these statuses and headers: a JSON array of pairs.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn fail(&self, failures: &serde_json::Value) -> anyhow::Result<()> {
        let escaped: String = failures.to_string().bytes().map(|byte| format!("%{byte:02x}")).collect();
        let url = format!("https://{ISSUER_HOST}/test/fail?{escaped}");
        self.browse(Path::new("/dev/null"), &url, &[], "").map(drop)
    }

    /// Whether an access token is good, by the word of the server that gave it.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn is_active(&self, token: &str) -> anyhow::Result<bool> {
        let url = format!("https://{ISSUER_HOST}/token/introspection");
        let form = ["--data-urlencode", "client_id=post", "--data-urlencode"];
        let (secret, token) = (format!("client_secret={CLIENT_SECRET}"), format!("token={token}"));
        let arguments = [&form[..], &[&secret, "--data-urlencode", &token]].concat();
        let answer = self.browse(Path::new("/dev/null"), &url, &arguments, "")?;
        let answer: serde_json::Value = serde_json::from_str(&answer).context(answer)?;
        Ok(answer["active"] == true)
    }

    /// One request, by curl. Answers the body, or what `wanted` says.
    fn browse(&self, jar: &Path, url: &str, arguments: &[&str], wanted: &str) -> anyhow::Result<String> {
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "30", "--cacert"]).arg(self.folder.path().join("ca.pem"));
        command.args(["--connect-to", &format!("{ISSUER_HOST}:443:{}", self.address)]);
        command.arg("-b").arg(jar).arg("-c").arg(jar);
        if !wanted.is_empty() {
            command.args(["-o", "/dev/null", "-w", wanted]);
        }
        let output = command.args(arguments).arg(url).output().context("cannot start curl")?;
        anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The private keys (PEM) of its clients that sign, by the clients' ids.
    pub fn keys(&self) -> impl Iterator<Item = (&'static str, String)> {
        self.keys.iter().map(|(name, key, _)| (*name, key.serialize_pem()))
    }

    /// The key file of its service account.
    pub fn service_account_json(&self) -> String {
        json!({
            "type": "service_account",
            "client_email": SERVICE_ACCOUNT,
            "private_key": self.service.serialize_pem(),
            "private_key_id": "robot-key",
            "token_uri": format!("https://{ISSUER_HOST}/service/token"),
        })
        .to_string()
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}
