//! Every variant of the configuration.

use std::collections::HashMap;
use std::fs::Permissions;

use super::*;

const FINGERPRINT: &str = include_str!("../../tests/keys/fingerprint.txt");

struct Bench {
    dir: tempfile::TempDir,
    env: HashMap<String, String>,
}

impl Bench {
    fn new(config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(".oci")).unwrap();
        let config = config.replace("FP", FINGERPRINT.trim());
        write(&dir.path().join(".oci/config"), &config);
        for name in ["plain.pem", "pbes2.pem"] {
            let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys").join(name);
            write(&dir.path().join(name), &fs::read_to_string(from).unwrap());
        }
        let env = HashMap::from([("HOME".to_owned(), dir.path().display().to_string())]);
        Self { dir, env }
    }

    fn set(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    fn load(&self, request: &SettingsRequest) -> Result<Settings, SettingsError> {
        Settings::load(request, &|name| self.env.get(name).cloned(), &|_| None)
    }

    fn profile(&self, name: &str) -> Result<Settings, SettingsError> {
        self.load(&SettingsRequest { profile: Some(name.to_owned()), ..SettingsRequest::default() })
    }
}

fn write(path: &Path, content: &str) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

const CONFIG: &str = "[DEFAULT]\nuser=u\ntenancy=t\nfingerprint=FP\nkey_file=~/plain.pem\nregion=iad\n\
    [LOCKED]\nkey_file=~/pbes2.pem\n[GO]\nkey_file=~/pbes2.pem\npassphrase=open sesame\n\
    [SESSION]\nsecurity_token_file=~/token\n[OTHER]\nfingerprint=00:11\n[NOWHERE]\nregion=\n";

#[test]
fn the_default_profile() {
    let settings = Bench::new(CONFIG).load(&SettingsRequest::default()).unwrap();
    assert_eq!(settings.credentials.key_id.reveal(), format!("t/u/{}", FINGERPRINT.trim()));
    assert_eq!((settings.region.name.as_str(), settings.tenancy.as_str()), ("us-ashburn-1", "t"));
    assert!(settings.warnings.is_empty(), "{:?}", settings.warnings);
}

#[test]
fn the_environment_wins_over_the_file_and_flags_over_both() {
    let bench = Bench::new(CONFIG).set("OCI_CLI_REGION", "phx").set("OCI_CLI_USER", "me");
    let settings = bench.load(&SettingsRequest::default()).unwrap();
    assert_eq!((settings.region.name.as_str(), settings.user.as_deref()), ("us-phoenix-1", Some("me")));
    let request = SettingsRequest { region: Some("fra".to_owned()), ..SettingsRequest::default() };
    assert_eq!(bench.load(&request).unwrap().region.name, "eu-frankfurt-1");
    let bench = Bench::new(CONFIG).set("OCI_REGION", "phx");
    assert_eq!(bench.load(&SettingsRequest::default()).unwrap().region.name, "us-ashburn-1");
    assert_eq!(bench.profile("NOWHERE").unwrap().region.name, "us-phoenix-1");
    let bench = Bench::new(CONFIG).set("OCI_CLI_PROFILE", "GO");
    assert_eq!(bench.load(&SettingsRequest::default()).unwrap().profile, "GO");
}

#[test]
fn everything_may_be_in_the_environment() {
    let bench = Bench::new("")
        .set("OCI_CLI_USER", "u")
        .set("OCI_CLI_TENANCY", "t")
        .set("OCI_CLI_FINGERPRINT", FINGERPRINT.trim())
        .set("OCI_CLI_KEY_CONTENT", include_str!("../../tests/keys/pkcs1.pem"))
        .set("OCI_CLI_REGION", "us-ashburn-1");
    fs::remove_file(bench.dir.path().join(".oci/config")).unwrap();
    assert_eq!(bench.load(&SettingsRequest::default()).unwrap().user.as_deref(), Some("u"));
}

#[test]
fn pass_phrases() {
    assert!(matches!(
        Bench::new(CONFIG).profile("LOCKED"),
        Err(SettingsError::Key { problem: KeyProblem::NoPassPhrase, .. })
    ));
    Bench::new(CONFIG).profile("GO").unwrap();
    Bench::new(CONFIG).set("OCI_CLI_PASSPHRASE", "open sesame").profile("LOCKED").unwrap();
    let bench = Bench::new(CONFIG);
    let request = SettingsRequest { profile: Some("LOCKED".to_owned()), ..SettingsRequest::default() };
    let asked =
        Settings::load(&request, &|name| bench.env.get(name).cloned(), &|_| Some(Secret::new("open sesame")));
    asked.unwrap();
}

#[test]
fn sessions() {
    use base64::Engine as _;
    let token = |seconds: u64| {
        let claims = format!("{{\"exp\":{seconds}}}");
        format!("e30.{}.c2ln", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims))
    };
    let bench = Bench::new(CONFIG);
    write(&bench.dir.path().join("token"), &format!("{}\n", token(1 << 40)));
    let settings = bench.profile("SESSION").unwrap();
    assert_eq!(settings.credentials.key_id.reveal(), format!("ST${}", token(1 << 40)));
    assert!(!format!("{settings:?}").contains("e30"), "tokens are not shown");
    write(&bench.dir.path().join("token"), &token(1));
    let error = bench.profile("SESSION").unwrap_err();
    assert!(matches!(error, SettingsError::SessionExpired { .. }));
    assert!(error.hint().unwrap().contains("oci session authenticate --profile-name SESSION"));
}

#[tokio::test]
async fn a_session_that_somebody_renews_goes_on() {
    use base64::Engine as _;
    let token = |claims: &str| {
        format!("e30.{}.c2ln", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims))
    };
    let bench = Bench::new(CONFIG);
    let path = bench.dir.path().join("token");
    write(&path, &token(r#"{"exp":99999999999}"#));
    let credentials = bench.profile("SESSION").unwrap().credentials;
    assert!(credentials.renewed().await.is_none() && !credentials.is_about_to_end());
    write(&path, &token(r#"{"exp":99999999998}"#));
    assert_eq!(
        credentials.renewed().await.unwrap().key_id.reveal(),
        format!("ST${}", token(r#"{"exp":99999999998}"#))
    );
    let api_key = bench.load(&SettingsRequest::default()).unwrap().credentials;
    assert!(api_key.renewed().await.is_none());
}

#[tokio::test]
async fn resources_have_no_configuration_file() {
    use base64::Engine as _;
    let claims = r#"{"exp":99999999999,"res_tenant":"ocid1.tenancy.x"}"#;
    let token = format!("e30.{}.c2ln", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims));
    let bench = Bench::new("")
        .set("OCI_RESOURCE_PRINCIPAL_VERSION", "2.2")
        .set("OCI_RESOURCE_PRINCIPAL_RPST", &token)
        .set("OCI_RESOURCE_PRINCIPAL_PRIVATE_PEM", include_str!("../../tests/keys/aes256.pem"))
        .set("OCI_RESOURCE_PRINCIPAL_PRIVATE_PEM_PASSPHRASE", "open sesame")
        .set("OCI_RESOURCE_PRINCIPAL_REGION", "iad");
    fs::remove_file(bench.dir.path().join(".oci/config")).unwrap();
    let settings = bench.load(&SettingsRequest::default()).unwrap();
    assert_eq!(
        (settings.tenancy.as_str(), settings.region.name.as_str()),
        ("ocid1.tenancy.x", "us-ashburn-1")
    );
    assert_eq!(settings.credentials.key_id.reveal(), format!("ST${token}"));
    // As files, which are read again.
    write(&bench.dir.path().join("rpst"), &token);
    let path = bench.dir.path().join("rpst").display().to_string();
    let bench = bench.set("OCI_RESOURCE_PRINCIPAL_RPST", &path).set("OCI_CLI_AUTH", "resource_principal");
    let credentials = bench.load(&SettingsRequest::default()).unwrap().credentials;
    write(&bench.dir.path().join("rpst"), "a.b.c");
    assert_eq!(credentials.renewed().await.unwrap().key_id.reveal(), "ST$a.b.c");
    let bench = bench.set("OCI_RESOURCE_PRINCIPAL_VERSION", "4.0");
    assert!(matches!(bench.load(&SettingsRequest::default()), Err(SettingsError::Value { .. })));
}

#[test]
fn what_is_wrong_is_told() {
    let bench = Bench::new(CONFIG);
    assert_eq!(
        bench.profile("NONE").unwrap_err().to_string().split("; it has").nth(1).unwrap(),
        ": DEFAULT, GO, LOCKED, NOWHERE, OTHER, SESSION"
    );
    assert!(matches!(bench.profile("OTHER"), Err(SettingsError::Fingerprint { .. })));
    assert!(matches!(bench.profile("NOWHERE"), Err(SettingsError::Missing { key: "region", .. })));
    fs::set_permissions(bench.dir.path().join("plain.pem"), Permissions::from_mode(0o644)).unwrap();
    let warnings = bench.load(&SettingsRequest::default()).unwrap().warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("chmod 600"), "{warnings:?}");
    for (endpoint, good) in [
        ("http://127.0.0.1:8080", true),
        ("https://x.example", true),
        ("http://x.example", false),
        ("ftp://x", false),
        ("x", false),
    ] {
        let request = SettingsRequest { endpoint: Some(endpoint.to_owned()), ..SettingsRequest::default() };
        assert_eq!(bench.load(&request).is_ok(), good, "{endpoint}");
    }
    let bench = Bench::new(CONFIG).set("OCI_CLI_CONFIG_FILE", "/nowhere");
    assert!(matches!(bench.load(&SettingsRequest::default()), Err(SettingsError::NoConfig { .. })));
    let bench = Bench::new(CONFIG).set("OCI_CLI_AUTH", "magic");
    assert!(matches!(bench.load(&SettingsRequest::default()), Err(SettingsError::Value { .. })));
}
