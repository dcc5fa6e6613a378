//! An unmodified curl, as far as there is one.

use std::process::Output;

use tokio::process::Command;

use crate::{
    harness::{PATIENCE, Proxy},
    upstream::{Speaks, Upstream},
};

async fn curl(proxy: &Proxy, arguments: &[&str]) -> Option<Output> {
    let ca = proxy.state_dir.path().join("egress/ca.pem");
    let connect = format!("::127.0.0.1:{}", proxy.listener.port());
    let mut command = Command::new("curl");
    command
        .args(["--silent", "--show-error", "--noproxy", "*", "--connect-to", &connect, "--cacert"])
        .arg(ca);
    let output =
        tokio::time::timeout(PATIENCE, command.args(arguments).kill_on_drop(true).output()).await.unwrap();
    match output {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn curl_gets_what_is_allowed_over_both_versions_and_is_told_what_is_not() {
    let upstream = Upstream::start(Speaks::Http2).await;
    let proxy = Proxy::start(&upstream).await;
    let mut to = proxy.resolve("api.test").await;
    to.set_port(443);
    proxy.default_destination.send_replace(Some(to));
    for version in ["--http1.1", "--http2"] {
        let form = ["--data", "hello", "--write-out", " %{http_code}", "https://api.test/open/a"];
        let Some(output) = curl(&proxy, &[&[version][..], &form].concat()).await else { return };
        assert_eq!(String::from_utf8_lossy(&output.stdout), "hello 200", "{output:?}");
        let output = curl(&proxy, &[version, "https://api.test/closed"]).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(body["error"]["reason"], "path_not_allowed");
    }
}
