//! Where values come from, and what is refused.

use std::path::Path;

use super::*;

fn home(dir: &Path) -> Home {
    Home { data_dir: dir.join("data"), config_files: vec![dir.join("server.toml")] }
}

#[test]
fn a_flag_beats_the_file_and_each_value_tells_its_source() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("server.toml"),
        "[server]\nlisten = \"127.0.0.1:1\"\n[egress.hosts]\n\"api.test\" = \"127.0.0.1:2\"\n",
    )
    .unwrap();
    let flags = Flags { listen: Some("127.0.0.1:3".parse().unwrap()), ..Flags::default() };
    let loaded = load(&flags, &home(dir.path())).unwrap();
    assert_eq!(loaded.config.server.listen, "127.0.0.1:3".parse().unwrap());
    assert_eq!(loaded.config.egress.hosts["api.test"], "127.0.0.1:2".parse().unwrap());
    let shown = loaded.show().unwrap();
    let line = |key: &str| shown.lines().find(|line| line.starts_with(key)).unwrap().to_owned();
    assert!(line("server.listen").ends_with("# command-line flag"), "{shown}");
    assert!(line("egress.hosts.\"api.test\"").contains("server.toml"), "{shown}");
    assert!(line("pod.memory_bytes").ends_with("# default"), "{shown}");
}

#[test]
fn name_servers_are_addresses_with_ports_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    let write = |list: &str| {
        let text = format!("[egress]\nname_servers = [{list}]\n");
        std::fs::write(dir.path().join("server.toml"), text).unwrap();
        load(&Flags::default(), &home(dir.path()))
    };
    let loaded = write("\"10.0.0.53:53\", \"[2001:db8::53]:5353\"").unwrap();
    let expected = ["10.0.0.53:53", "[2001:db8::53]:5353"].map(|at| at.parse::<SocketAddr>().unwrap());
    assert_eq!(loaded.config.egress.name_servers, expected);
    let shown = loaded.show().unwrap();
    assert!(shown.contains("egress.name_servers = [\"10.0.0.53:53\", \"[2001:db8::53]:5353\"]"), "{shown}");
    assert!(format!("{:#}", write("\"10.0.0.53\"").unwrap_err()).contains("egress.name_servers"));
}

#[test]
fn an_unknown_key_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("server.toml"), "[server]\nlisten_on = \"127.0.0.1:1\"\n").unwrap();
    let error = format!("{:#}", load(&Flags::default(), &home(dir.path())).unwrap_err());
    assert!(error.contains("listen_on") && error.contains("server.toml"), "{error}");
    assert!(error.contains("there is no setting `listen_on` here, only listen, data_dir"), "{error}");
}

#[test]
fn what_is_wrong_in_a_file_is_told_with_line_column_key_and_the_setting_that_was_meant() {
    let dir = tempfile::tempdir().unwrap();
    for (text, place, says) in [
        (
            "[server]\nlissten = \"127.0.0.1:1\"\n",
            ":2:1: ",
            "`server.lissten`: there is no setting `lissten` here; did you mean `listen`?",
        ),
        ("# ours\n[serve]\n", ":2:2: ", "did you mean `server`?"),
        (
            "[pod]\ntmp_bytes = 9\n  memory_bytes = \"1\"\n",
            ":3:3: ",
            "`pod.memory_bytes`: found string \"1\", expected a whole number",
        ),
        ("pod = { memory_bytes = 10 }\n", ":1:9: ", "`pod.memory_bytes`: 10 is below the least, 67108864"),
        (
            "[prices.\"gpt-4.1\"]\ninput = 1\noutput = 1\n[prices.\"gpt-4.2\"]\ninput = -1\noutput = 1\n",
            ":4:9: ",
            "`prices.gpt-4.2`: the price of `gpt-4.2` is not",
        ),
        (
            "[server]\nlisten = \"127.0.0.1:1\"\nother_urls = [\"https://a.test\", \"b.test\"]\n",
            ":3:1: ",
            "`server.other_urls`: `b.test` is no address",
        ),
        ("[server]\npublic_url = \"a.test\"\n", ":2:1: ", "`server.public_url`: `a.test` is no address"),
        ("[vault]\nmaster_key = \"c2hvcnQ=\"\n", ":2:1: ", "`vault.master_key`: "),
        ("[vault]\nformer_master_keys = [\"?\"]\n", ":2:1: ", "`vault.former_master_keys`: "),
        ("[egress]\nbusy_poll_microseconds = 70000\n", ":2:1: ", "expected a whole number up to 65535"),
        (
            "[egress.hosts]\n\"https://a.test\" = \"127.0.0.1:1\"\n",
            ":1:9: ",
            "`https://a.test` is neither a host name nor an address",
        ),
        ("[pod\n", "", "line 1, column 5"),
    ] {
        let file = dir.path().join("server.toml");
        std::fs::write(&file, text).unwrap();
        let error = format!("{:#}", load(&Flags::default(), &home(dir.path())).unwrap_err());
        assert!(error.contains(&format!("{}{place}", file.display())), "{text} {error}");
        assert!(error.contains(says), "{text} {error}");
    }
}

#[test]
fn no_error_shows_a_key_or_the_address_of_the_database() {
    let dir = tempfile::tempdir().unwrap();
    for text in [
        "vault.former_master_keys = \"c2VjcmV0\"",
        "vault.former_master_keys = [[\"c2VjcmV0\"]]",
        "vault.master_key = [\"c2VjcmV0\"]",
        "vault = \"c2VjcmV0\"",
        "server = [\"postgres://me:c2VjcmV0@db/x\"]",
        "vault.master_key = \"c2VjcmV0",
        "server.database_url = postgres://me:c2VjcmV0@db/x",
        "server.database_url = { c2VjcmV0 = 1 }",
    ] {
        std::fs::write(dir.path().join("server.toml"), format!("{text}\n")).unwrap();
        let error = format!("{:#}", load(&Flags::default(), &home(dir.path())).unwrap_err());
        assert!(error.contains("server.toml") && !error.contains("c2VjcmV0"), "{text}: {error}");
    }
}

#[test]
fn a_value_of_the_wrong_form_is_named_with_its_key_and_its_file() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("server.toml"), "[pod]\nprocesses = \"many\"\n").unwrap();
    let error = format!("{:#}", load(&Flags::default(), &home(dir.path())).unwrap_err());
    assert!(error.contains("`pod.processes`") && error.contains("server.toml"), "{error}");
    for (line, wanted) in [
        ("hosts = { \"a.test\" = \"10.0.0.7\" }", "expected an address and a port"),
        ("extra_roots = \"ca.pem\"", "expected a list"),
        ("approval_timeout_seconds = \"5m\"", "expected a whole number from 1"),
    ] {
        std::fs::write(dir.path().join("server.toml"), format!("[egress]\n{line}\n")).unwrap();
        let error = format!("{:#}", load(&Flags::default(), &home(dir.path())).unwrap_err());
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn a_limit_of_pods_that_no_pod_can_live_with_is_refused_with_the_least() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("server.toml"), "[pod]\nmemory_bytes = 10\n").unwrap();
    let error = format!("{:#}", load(&Flags::default(), &home(dir.path())).unwrap_err());
    assert!(error.contains("`pod.memory_bytes`: 10 is below the least, 67108864"), "{error}");
}

#[test]
fn what_is_shown_is_toml_that_can_be_pasted() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("server.toml"), "[egress.hosts]\n\"api.test\" = \"127.0.0.1:2\"\n")
        .unwrap();
    let loaded = load(&Flags::default(), &home(dir.path())).unwrap();
    assert_eq!(toml::from_str::<Config>(&loaded.show().unwrap()).unwrap(), loaded.config);
}

#[test]
fn paths_of_a_file_begin_at_its_folder_and_those_of_a_flag_at_the_present_one() {
    let dir = tempfile::tempdir().unwrap();
    let text = "[server]\ndata_dir = \"data\"\n[pod]\nroot = \"root\"\n[egress]\nextra_roots = [\"ca.pem\", \"/etc/own.pem\"]\n";
    std::fs::write(dir.path().join("server.toml"), text).unwrap();
    let config = load(&Flags::default(), &home(dir.path())).unwrap().config;
    assert_eq!(config.server.data_dir, dir.path().join("data"));
    assert_eq!(config.pod.root, Some(dir.path().join("root")));
    assert_eq!(config.egress.extra_roots, [dir.path().join("ca.pem"), "/etc/own.pem".into()]);
    let flags = Flags { data_dir: Some("data".into()), ..Flags::default() };
    assert_eq!(load(&flags, &home(dir.path())).unwrap().config.server.data_dir, Path::new("data"));
}

#[test]
fn a_missing_file_that_was_named_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let flags = Flags { config: Some(dir.path().join("nowhere.toml")), ..Flags::default() };
    assert!(load(&flags, &home(dir.path())).is_err());
}

#[test]
fn the_database_password_is_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let flags = Flags { database_url: Some("postgres://u:hunter2@h/d".to_owned()), ..Flags::default() };
    assert!(!load(&flags, &home(dir.path())).unwrap().show().unwrap().contains("hunter2"));
}

#[test]
fn every_key_is_described_in_the_document() {
    let document = include_str!("../../../../docs/configuration.md");
    for (section, keys) in toml::Table::try_from(Config::with_every_key()).unwrap() {
        for key in keys.as_table().unwrap().keys() {
            let row = format!("| `{section}.{key}` |");
            assert!(document.contains(&row), "docs/configuration.md has no line for `{section}.{key}`");
        }
    }
}
