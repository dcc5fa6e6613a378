use crate::common::{machine, spec};
use freehold_driver::PodDriver;
#[tokio::test(flavor = "multi_thread")]
#[ignore]
async fn bench() {
    let machine = machine().await;
    let (mut a, mut b, mut c) = (vec![], vec![], vec![]);
    for _ in 0..60 {
        let spec = spec();
        let t = std::time::Instant::now();
        machine.driver.ensure(&spec).await.unwrap();
        a.push(t.elapsed());
        machine.sh(&spec, "echo").await;
        b.push(t.elapsed());
        let t = std::time::Instant::now();
        machine.driver.delete(spec.pod_id).await.unwrap();
        c.push(t.elapsed());
    }
    for v in [&mut a, &mut b, &mut c] { v.sort(); println!("p50 {:?} p99 {:?}", v[30], v[59]); }
    let spec = spec();
    machine.driver.ensure(&spec).await.unwrap();
    let _a = machine.agent(spec.pod_id).await;
    let id = spec.pod_id.to_string();
    for (pid, cmd) in crate::common::processes() {
        if cmd.contains(&id) || cmd.starts_with("/opt/freehold/freehold agent") {
            let s = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", pid.as_raw_nonzero())).unwrap();
            println!("{cmd} {:?}", s.lines().filter(|l| l.starts_with("Pss") || l.starts_with("Private") || l.starts_with("Rss")).collect::<Vec<_>>());
        }
    }
    machine.driver.delete(spec.pod_id).await.unwrap();
}
