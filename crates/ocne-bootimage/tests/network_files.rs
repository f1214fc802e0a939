//! Runs the network files as NetworkManager's dispatcher does, under every shell there is, against a metadata
//! service, with programs of the system replaced by ones that take notes.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ocne_bootimage::network_files::NETWORK_FILES;

/// What the metadata service does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Metadata {
    /// Answers as Oracle Cloud's does.
    Name(&'static str),
    /// Answers as another cloud's does.
    NotFound,
    /// Takes the connection and says nothing.
    Silent,
    /// Nothing listens.
    Unreachable,
    /// There is no curl.
    NoCurl,
}

/// A metadata service on the loopback interface.
struct Server {
    port: u16,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(metadata: Metadata) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&requests);
        if metadata != Metadata::Unreachable {
            // It ends with the process.
            thread::spawn(move || {
                let mut kept = Vec::new();
                for stream in listener.incoming().map_while(Result::ok) {
                    if metadata == Metadata::Silent {
                        kept.push(stream);
                    } else {
                        answer(stream, metadata, &log);
                    }
                }
            });
        }
        Self { port, requests }
    }
}

fn answer(stream: TcpStream, metadata: Metadata, log: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while reader.read_line(&mut head).is_ok_and(|n| n > 2) {}
    let head = head.to_ascii_lowercase();
    let right = head.starts_with("get /opc/v2/instance/hostname http")
        && head.contains("\r\nauthorization: bearer oracle\r\n");
    log.lock().unwrap().push(head);
    let (status, body) = match metadata {
        Metadata::Name(name) if right => ("200 OK", name),
        Metadata::Name(_) => ("403 Forbidden", "forbidden"),
        _ => ("404 Not Found", "not-found"),
    };
    let response =
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    let _ = reader.get_mut().write_all(response.as_bytes());
}

/// A system in a folder: what the script reads there, and notes of the programs that it ran.
struct System {
    folder: tempfile::TempDir,
    server: Server,
    shell: Vec<String>,
}

impl System {
    fn new(shell: &[String], metadata: Metadata) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().to_owned();
        for dir in ["bin", "etc", "proc/sys/kernel", "sys/class/net/ens3/device", "sys/class/net/veth1"] {
            fs_err::create_dir_all(at.join(dir)).unwrap();
        }
        let server = Server::start(metadata);
        let system = Self { folder, server, shell: shell.to_vec() };
        system.set("proc/sys/kernel/hostname", "localhost\n");
        system.program("hostnamectl", "printf '%s\\n' \"$3\" >\"$SYSTEM/proc/sys/kernel/hostname\"");
        system.program("nmcli", "case $* in *ignore-auto-dns*) cat \"$SYSTEM/ignore-auto-dns\" ;; esac");
        system.set("ignore-auto-dns", "no\n");
        system.link("timeout")?;
        system.link("cat")?;
        if metadata != Metadata::NoCurl {
            let curl = find_program("curl")?;
            let redirect = format!(
                "n=$#; while [ $n -gt 0 ]; do a=$1; shift; case $a in http://169.254.169.254/*) \
                 a=http://127.0.0.1:{}/${{a#http://169.254.169.254/}} ;; esac; set -- \"$@\" \"$a\"; n=$((n-1)); done; \
                 exec {} \"$@\"",
                system.server.port,
                curl.display()
            );
            system.program("curl", &redirect);
        }
        // the same script, but for where the files of the system are
        let mut script = String::from_utf8(NETWORK_FILES[0].content.to_vec()).unwrap();
        for path in ["/etc/hostname", "/etc/resolv.conf", "/sys/class/net/", "/proc/sys/kernel/hostname"] {
            assert!(script.contains(path), "{path} is not in the script");
            script = script.replace(path, &format!("{}{path}", at.display()));
        }
        system.set("script", &script);
        Some(system)
    }

    fn set(&self, path: &str, content: &str) {
        fs_err::write(self.folder.path().join(path), content).unwrap();
    }

    fn program(&self, name: &str, body: &str) {
        let text = format!("#!/bin/sh\nprintf '%s %s\\n' {name} \"$*\" >>\"$SYSTEM/notes\"\n{body}\n");
        let path = self.folder.path().join("bin").join(name);
        fs_err::write(&path, text).unwrap();
        fs_err::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    }

    fn link(&self, name: &str) -> Option<()> {
        symlink(find_program(name)?, self.folder.path().join("bin").join(name)).ok()
    }

    /// Runs the script for an event. Returns the notes of this run.
    fn event(&self, interface: &str, event: &str, variables: &[(&str, &str)]) -> Vec<String> {
        let notes = self.folder.path().join("notes");
        fs_err::write(&notes, "").unwrap();
        let output = Command::new(&self.shell[0])
            .args(&self.shell[1..])
            .arg(self.folder.path().join("script"))
            .args([interface, event])
            .env_clear()
            .env("PATH", self.folder.path().join("bin"))
            .env("SYSTEM", self.folder.path())
            .env("CONNECTION_UUID", "3b4bd7d8-7a0c-4a5d-8a79-4a1b1f8a3a70")
            .env("DEVICE_IP_IFACE", interface)
            .envs(variables.iter().copied())
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{:?}: {output:?}", self.shell);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{:?}", self.shell);
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{:?}", self.shell);
        fs_err::read_to_string(notes).unwrap().lines().map(str::to_owned).collect()
    }

    fn name(&self) -> String {
        fs_err::read_to_string(self.folder.path().join("proc/sys/kernel/hostname")).unwrap().trim().to_owned()
    }
}

fn find_program(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|d| d.join(name)).find(|p| p.is_file())
}

fn skipped(test: &str, reason: &str) {
    let _ = std::io::Write::write_fmt(
        &mut std::io::stderr(),
        format_args!("SKIPPED network_files::{test}: {reason}\n"),
    );
}

/// Runs a test under every shell.
fn under_every_shell(test: &str, metadata: Metadata, run: impl Fn(&System)) {
    let shells: [&[&str]; 4] = [&["sh"], &["dash"], &["busybox", "sh"], &["bash", "--posix"]];
    for shell in shells {
        let Some(program) = find_program(shell[0]) else {
            skipped(test, &format!("{} is not installed", shell[0]));
            continue;
        };
        let shell: Vec<_> = std::iter::once(program.display().to_string())
            .chain(shell[1..].iter().map(|&s| s.to_owned()))
            .collect();
        match System::new(&shell, metadata) {
            Some(system) => run(&system),
            None => skipped(test, "curl, cat or timeout is not installed"),
        }
    }
}

const LEASE: [(&str, &str); 2] = [("DHCP4_IP_ADDRESS", "10.0.0.7"), ("DHCP4_HOST_NAME", "from-dhcp")];

fn names_set(notes: &[String]) -> Vec<&str> {
    notes.iter().filter(|n| n.starts_with("hostnamectl ")).map(String::as_str).collect()
}

#[test]
fn name_from_metadata() {
    under_every_shell("name_from_metadata", Metadata::Name("worker-7"), |system| {
        let notes = system.event("ens3", "up", &LEASE);
        assert_eq!(names_set(&notes), ["hostnamectl --transient set-hostname worker-7"]);
        assert_eq!(system.name(), "worker-7");
        assert_eq!(system.server.requests.lock().unwrap().len(), 1);
        // again: nothing to do
        assert!(names_set(&system.event("ens3", "dhcp4-change", &LEASE)).is_empty());
        // NetworkManager has set the name that DHCP gives
        system.set("proc/sys/kernel/hostname", "from-dhcp\n");
        system.event("", "hostname", &[]);
        assert_eq!(system.name(), "worker-7");
    });
}

#[test]
fn name_of_the_administrator_stays() {
    under_every_shell("name_of_the_administrator_stays", Metadata::Name("worker-7"), |system| {
        system.set("proc/sys/kernel/hostname", "mine\n");
        for file in ["mine\n", "mine", "# comment\n\n  mine.example.org \n"] {
            system.set("etc/hostname", file);
            assert!(system.event("ens3", "up", &LEASE).is_empty(), "{file:?}");
            assert_eq!(system.name(), "mine");
        }
        for file in ["", "\n", "# only a comment\n", "localhost\n", "localhost.localdomain"] {
            system.set("proc/sys/kernel/hostname", "localhost\n");
            system.set("etc/hostname", file);
            system.event("ens3", "up", &LEASE);
            assert_eq!(system.name(), "worker-7", "{file:?}");
        }
    });
}

#[test]
fn name_from_dhcp() {
    for metadata in [
        Metadata::NoCurl,
        Metadata::NotFound,
        Metadata::Unreachable,
        Metadata::Name("two words"),
        Metadata::Name("two\nlines"),
        Metadata::Name("$(touch hacked)"),
        Metadata::Name("localhost"),
        Metadata::Name(""),
        Metadata::Name("-x"),
        Metadata::Name("a234567890123456789012345678901234567890123456789012345678901234x"),
    ] {
        under_every_shell("name_from_dhcp", metadata, |system| {
            system.event("ens3", "up", &LEASE);
            assert_eq!(system.name(), "from-dhcp", "{metadata:?}");
            assert!(!system.folder.path().join("hacked").exists());
        });
    }
}

#[test]
fn no_name_anywhere() {
    under_every_shell("no_name_anywhere", Metadata::NotFound, |system| {
        for name in ["", "localhost", "bad name", "x;y", "*"] {
            let notes =
                system.event("ens3", "up", &[("DHCP4_IP_ADDRESS", "10.0.0.7"), ("DHCP4_HOST_NAME", name)]);
            assert!(names_set(&notes).is_empty(), "{name:?}: {notes:?}");
        }
        assert!(names_set(&system.event("ens3", "up", &[])).is_empty());
    });
}

#[test]
fn only_for_events_of_the_network() {
    under_every_shell("only_for_events_of_the_network", Metadata::Name("worker-7"), |system| {
        for event in ["down", "pre-up", "connectivity-change", "vpn-up", "dhcp6-change", ""] {
            assert!(system.event("ens3", event, &LEASE).is_empty(), "{event}");
        }
        assert!(system.event("veth1", "up", &[]).is_empty(), "a container's interface");
        assert!(!system.event("ens3", "up", &[]).is_empty(), "an interface with a device");
        assert!(!system.event("bond0", "up", &LEASE).is_empty(), "an interface with a lease");
    });
}

#[test]
fn without_hostnamed() {
    under_every_shell("without_hostnamed", Metadata::Name("worker-7"), |system| {
        system.program("hostnamectl", "exit 1");
        system.event("ens3", "up", &LEASE);
        assert_eq!(system.name(), "worker-7");
    });
}

#[test]
fn a_silent_service_does_not_hold_up_the_boot() {
    let shells = ["/bin/sh".to_owned()];
    let Some(system) = System::new(&shells, Metadata::Silent) else {
        return skipped(
            "a_silent_service_does_not_hold_up_the_boot",
            "curl, cat or timeout is not installed",
        );
    };
    let started = Instant::now();
    system.event("ens3", "up", &LEASE);
    assert!(started.elapsed() < Duration::from_secs(12), "{:?}", started.elapsed());
    assert_eq!(system.name(), "from-dhcp");
}

#[test]
fn search_domains() {
    let asked = "nmcli --wait 5 --get-values ipv4.ignore-auto-dns connection show 3b4bd7d8-7a0c-4a5d-8a79-4a1b1f8a3a70";
    under_every_shell("search_domains", Metadata::NoCurl, |system| {
        let run = |variables: &[(&str, &str)]| -> Vec<String> {
            let notes = system.event("ens3", "up", variables);
            notes.into_iter().filter(|n| n.starts_with("nmcli ")).collect()
        };
        let added = |domains: &str| {
            vec![asked.to_owned(), format!("nmcli --wait 5 device modify ens3 +ipv4.dns-search {domains}")]
        };
        let search = ("DHCP4_DOMAIN_SEARCH", "sub.vcn.oraclevcn.com vcn.oraclevcn.com.");
        let name = ("DHCP4_DOMAIN_NAME", "vcn.oraclevcn.com");
        assert_eq!(run(&[search, name]), added("sub.vcn.oraclevcn.com,vcn.oraclevcn.com"));
        assert_eq!(run(&[name]), added("vcn.oraclevcn.com"));
        // in use already
        assert_eq!(run(&[search, ("IP4_DOMAINS", "sub.vcn.oraclevcn.com")]), added("vcn.oraclevcn.com"));
        system.set(
            "etc/resolv.conf",
            "# x\nsearch example.org vcn.oraclevcn.com sub.vcn.oraclevcn.com\nnameserver 10.0.0.1\n",
        );
        assert!(run(&[search, name]).is_empty());
        // nothing to add, or nothing that is a domain
        assert!(run(&[]).is_empty());
        for bad in ["$(touch hacked)", "*", "a;b", "..", "x/y"] {
            assert!(run(&[("DHCP4_DOMAIN_NAME", bad), ("DHCP4_IP_ADDRESS", "10.0.0.7")]).is_empty(), "{bad}");
        }
        assert!(!system.folder.path().join("hacked").exists());
        // not wanted
        system.set("etc/resolv.conf", "");
        system.set("ignore-auto-dns", "yes\n");
        assert_eq!(run(&[name]), [asked]);
    });
}

#[test]
fn shellcheck_is_silent() {
    let Some(shellcheck) = find_program("shellcheck") else {
        skipped("shellcheck_is_silent", "shellcheck is not installed");
        return;
    };
    for file in NETWORK_FILES {
        let source =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("files").join(file.path.rsplit('/').next().unwrap());
        assert_eq!(fs_err::read(&source).unwrap(), file.content);
        let output = Command::new(&shellcheck).args(["--shell", "sh"]).arg(&source).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}
