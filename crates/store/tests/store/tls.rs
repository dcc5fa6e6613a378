//! PostgreSQL over a network: under TLS or not at all.

use freehold_store::{Database, Options, Store};
use freehold_testkit::{
    postgresql::{Database as Server, Network},
    tls::Authority,
};

/// Opens a store at this address; answers what went wrong, with every cause.
fn open(url: &str) -> Result<Store, String> {
    Store::open(&Options::new(Database::Postgres { url: url.to_owned() })).map_err(|error| {
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    })
}

/// How many of this program's connections to the database are under TLS, and how many are not.
fn connections(server: &Network) -> (String, String) {
    let count = |tls: bool| {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
             WHERE application_name = 'freehold' AND datname = current_database() AND ssl = {tls}"
        );
        server.database.psql(&sql).unwrap()
    };
    (count(true), count(false))
}

#[tokio::test]
async fn a_connection_over_the_network_is_under_tls_with_the_server_verified() {
    let (authority, stranger) = (Authority::new().unwrap(), Authority::new().unwrap());
    let (certificate, key) = authority.pair(&["localhost"]).unwrap();
    let server = Server::create_on_network(Some((&certificate, &key))).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let roots = |name: &str, authority: &Authority| {
        let path = folder.path().join(name);
        std::fs::write(&path, authority.pem()).unwrap();
        path.display().to_string()
    };
    let (ours, other) = (roots("ours.pem", &authority), roots("other.pem", &stranger));
    for mode in ["require", "verify-full"] {
        let store = open(&server.url("localhost", &format!("?sslmode={mode}&sslrootcert={ours}"))).unwrap();
        store.system_read(|tx| tx.organization_list(&freehold_store::Page::first(1))).await.unwrap();
        let (encrypted, plain) = connections(&server);
        assert_ne!(encrypted, "0");
        assert_eq!(plain, "0");
        store.close().await;
    }
    for (host, roots, says) in [
        ("localhost", other.as_str(), "invalid peer certificate"),
        ("localhost", "system", "invalid peer certificate"),
        ("127.0.0.1", ours.as_str(), "invalid peer certificate: certificate not valid for name"),
    ] {
        let error = open(&server.url(host, &format!("?sslmode=require&sslrootcert={roots}"))).err().unwrap();
        assert!(error.contains(says), "{host} {roots}: {error}");
    }
}

#[tokio::test]
async fn where_tls_is_asked_for_and_not_to_be_had_nothing_is_said_in_plain() {
    let server = Server::create_on_network(None).unwrap();
    let error = open(&server.url("localhost", "?sslmode=require")).err().unwrap();
    assert!(error.contains("server does not support TLS"), "{error}");
    let error = open(&server.url("localhost", "?sslmode=prefer")).err().unwrap();
    assert!(error.contains("falls back"), "{error}");
    assert_eq!(
        server.database.psql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").unwrap(),
        "0"
    );
    // On a socket there is nobody between, and no name to verify.
    let socket = Server::create().unwrap();
    let error = open(&format!("{}?sslmode=require", socket.url())).err().unwrap();
    assert!(error.contains("TLS"), "{error}");
    open(&server.url("localhost", "?sslmode=disable")).unwrap().close().await;
    open(&server.url("127.0.0.1", "")).unwrap().close().await;
}
