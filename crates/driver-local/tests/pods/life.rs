//! How pods come, live on and go.

use freehold_driver::PodDriver;

use crate::common::{machine, sh, spec};

#[tokio::test]
async fn a_pod_is_made_and_runs_commands() {
    let machine = machine().await;
    println!("{:#?}", machine.driver.report());
    let spec = spec();
    machine.driver.ensure(&spec).await.unwrap();
    let (code, out) = sh(&machine.driver, spec.pod_id, "id; pwd; ls -la / /dev /etc /workspace; ps aux 2>&1; cat /proc/self/cgroup; cat /proc/mounts; cat /proc/self/status; echo $0; touch /workspace/x /usr/local/bin/x /usr/bin/y /etc/z; perl -e 'print 1+1'; awk 'BEGIN{print 3}'; exit 3").await;
    println!("{out}");
    assert_eq!(code, Some(3));
    let t = std::time::Instant::now();
    machine.driver.delete(spec.pod_id).await.unwrap();
    println!("delete {:?}", t.elapsed());
}
