//! `ocne oci`: who speaks to Oracle Cloud.

use std::env;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use ocne_oracle::{AuthToken, Client, NewKey, NewProfile, Secret, SetupError, SigningKey, Whoami};
use tracing::info;

use crate::cli::{DataFormat, GlobalArguments};
use crate::failure::Failure;
use crate::oracle::ShowingArguments;
use crate::printer::Printer;
use crate::registry_oci::{self, ask as ask_service, retry_token};
use crate::settings::Settings;
use crate::terminal::{ask, ask_secretly, printable};

/// The verbs of `ocne oci`.
#[derive(Debug, Subcommand)]
pub enum OciCommand {
    /// Make an API key and a profile for it in ~/.oci/config
    Setup(Box<SetupArguments>),
    /// Show who the credentials belong to, and what they may do
    Whoami(Box<WhoamiArguments>),
    /// Auth tokens: the passwords of a user at Oracle's registry
    #[command(subcommand, arg_required_else_help = true)]
    AuthToken(Box<AuthTokenCommand>),
}

/// The verbs of `ocne oci auth-token`.
#[derive(Debug, Subcommand)]
pub enum AuthTokenCommand {
    /// Make a token, and print it: it is shown this once
    Create(CreateTokenArguments),
    /// List the tokens of the user; what they are is never shown
    List(ListTokenArguments),
    /// Remove a token: nobody logs in with it any more
    Delete(DeleteTokenArguments),
}

/// Arguments of `ocne oci auth-token create`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ocne oci auth-token create --description 'builds of ock' > token
  ocne registry login --oci --password-stdin < token

A user has two tokens at most. A new one may take a minute before the registry knows it.")]
pub struct CreateTokenArguments {
    /// What it is for
    #[arg(short, long, value_name = "TEXT", default_value = "ocne")]
    description: String,
    #[command(flatten)]
    common: TokenArguments,
}

/// Arguments of `ocne oci auth-token list`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ocne oci auth-token list -o json")]
pub struct ListTokenArguments {
    #[command(flatten)]
    common: TokenArguments,
}

/// Arguments of `ocne oci auth-token delete`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ocne oci auth-token delete ocid1.credential.oc1..aaaa")]
pub struct DeleteTokenArguments {
    /// OCID of the token, as `ocne oci auth-token list` shows it
    #[arg(value_name = "OCID")]
    id: String,
    #[command(flatten)]
    common: TokenArguments,
}

/// What all verbs of `ocne oci auth-token` have.
#[derive(Debug, Args)]
pub struct TokenArguments {
    /// OCID of the user [default: that of the profile]
    #[arg(long, value_name = "OCID", value_parser = user)]
    user: Option<String>,
    #[command(flatten)]
    showing: ShowingArguments,
}

impl TokenArguments {
    /// Whom to ask, and about which user.
    fn open(&self, global: &GlobalArguments) -> Result<(Client, String), Failure> {
        let settings = Settings::load(global, self.showing.config.as_deref())?;
        let client = self.showing.oracle.client(&settings)?;
        let user = self.user.clone().map_or_else(|| registry_oci::user(&client), Ok)?;
        Ok((client, user))
    }
}

/// Arguments of `ocne oci setup`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ocne oci setup
  ocne oci setup --user ocid1.user... --tenancy ocid1.tenancy... --region us-ashburn-1 --no-pass-phrase

What no flag says is asked on the terminal. A pass phrase is taken from OCI_CLI_PASSPHRASE, or asked
for. Nothing that is there already is overwritten.")]
pub struct SetupArguments {
    /// Name of the profile
    #[arg(short, long, value_name = "NAME", default_value = "DEFAULT", value_parser = profile_name)]
    profile: String,
    /// Configuration file [default: ~/.oci/config]
    #[arg(long, value_name = "PATH")]
    oci_config: Option<PathBuf>,
    /// OCID of the user
    #[arg(long, value_name = "OCID", value_parser = user)]
    user: Option<String>,
    /// OCID of the tenancy
    #[arg(long, value_name = "OCID", value_parser = tenancy)]
    tenancy: Option<String>,
    /// Region, such as us-ashburn-1
    #[arg(long, value_name = "REGION", value_parser = region)]
    region: Option<String>,
    /// Folder of the new key [default: that of the configuration file]
    #[arg(long, value_name = "PATH")]
    key_dir: Option<PathBuf>,
    /// Name of the new key's files, without .pem and _public.pem
    #[arg(long, value_name = "NAME", default_value = "oci_api_key", value_parser = key_name)]
    key_name: String,
    /// Use this private key, and make none
    #[arg(long, value_name = "PATH", conflicts_with_all = ["key_dir", "bits"])]
    key_file: Option<PathBuf>,
    /// Bits of the new key
    #[arg(long, value_name = "COUNT", default_value = "2048", value_parser = ["2048", "4096"])]
    bits: String,
    /// Do not encrypt the new key
    #[arg(long)]
    no_pass_phrase: bool,
    /// Write the pass phrase into the configuration file
    #[arg(long)]
    store_pass_phrase: bool,
}

/// Arguments of `ocne oci whoami`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ocne oci whoami
  ocne oci whoami --compartment sandbox/images -o json

Each right is tried by a call that changes nothing: a change of what has an etag that nothing has is
refused for that, or for want of the right. What cannot be tried so is `unknown`, with the reason.")]
pub struct WhoamiArguments {
    /// Compartment that an upload would go to: an OCID, or names from the root of the tenancy
    /// [default: providers.oci.compartment of the settings, the root]
    #[arg(short, long, value_name = "OCID|PATH")]
    compartment: Option<String>,
    /// Bucket that it would use [default: providers.oci.imageBucket of the settings, ocne-images]
    #[arg(short, long, value_name = "NAME")]
    bucket: Option<String>,
    #[command(flatten)]
    common: ShowingArguments,
}

fn profile_name(text: &str) -> Result<String, String> {
    let is_name = !text.is_empty() && text.trim() == text && !text.contains(['[', ']', '\n', '\r']);
    if is_name { Ok(text.to_owned()) } else { Err("a name on one line, without brackets".to_owned()) }
}

fn key_name(text: &str) -> Result<String, String> {
    let is_name = !text.is_empty() && !text.starts_with('.') && !text.contains(['/', '\n', '\r']);
    if is_name { Ok(text.to_owned()) } else { Err("the name of a file, without a folder".to_owned()) }
}

fn ocid(text: &str, kind: &str) -> Result<String, String> {
    let wanted = format!("ocid1.{kind}.");
    if text.starts_with(&wanted) && !text.contains(|c: char| c.is_whitespace() || c == '/') {
        return Ok(text.to_owned());
    }
    Err(format!("it begins with `{wanted}`; the console shows it"))
}

fn user(text: &str) -> Result<String, String> {
    ocid(text, "user")
}

fn tenancy(text: &str) -> Result<String, String> {
    ocid(text, "tenancy")
}

fn region(text: &str) -> Result<String, String> {
    let is_region = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b));
    if is_region { Ok(text.to_owned()) } else { Err("a region is a name such as us-ashburn-1".to_owned()) }
}

impl From<SetupError> for Failure {
    fn from(error: SetupError) -> Self {
        match error.hint() {
            Some(hint) => Self::new(&error).with_hint(hint),
            None => Self::new(&error),
        }
    }
}

/// Runs a verb.
pub fn run(command: &OciCommand, global: &GlobalArguments, printer: &Printer) -> Result<(), Failure> {
    match command {
        OciCommand::Setup(arguments) => setup(arguments, printer),
        OciCommand::Whoami(arguments) => whoami(arguments, global, printer),
        OciCommand::AuthToken(command) => match &**command {
            AuthTokenCommand::Create(arguments) => create_token(arguments, global, printer),
            AuthTokenCommand::List(arguments) => list_tokens(&arguments.common, global, printer),
            AuthTokenCommand::Delete(arguments) => delete_token(arguments, global),
        },
    }
}

/// What a flag says, or a person; asked again until it makes sense.
fn answer(
    given: Option<&String>,
    flag: &str,
    question: &str,
    check: fn(&str) -> Result<String, String>,
) -> Result<String, Failure> {
    if let Some(given) = given {
        return Ok(given.clone());
    }
    let mut asked = question.to_owned();
    loop {
        let Some(said) = ask(&format!("{asked}: ")) else {
            return Err(Failure::usage(format!("`{flag}` is missing, and nobody answers at a terminal")));
        };
        match check(said.trim()) {
            Ok(said) => return Ok(said),
            Err(reason) => asked = format!("{question} ({reason})"),
        }
    }
}

fn setup(arguments: &SetupArguments, printer: &Printer) -> Result<(), Failure> {
    let home = env::home_dir().filter(|home| home.is_absolute());
    let home = home.ok_or_else(|| Failure::usage("the home folder is not known").with_hint("set HOME"))?;
    let absolute = |path: PathBuf| std::path::absolute(path).map_err(|e| Failure::new(&e));
    let named = env::var_os("OCI_CLI_CONFIG_FILE").filter(|value| !value.is_empty()).map(PathBuf::from);
    let config = arguments.oci_config.clone().or(named).unwrap_or_else(|| home.join(".oci/config"));
    let config = absolute(config)?;
    // What cannot be done is said before anything is asked or made.
    ocne_oracle::check_profile(&config, &arguments.profile)?;
    let folder = match (&arguments.key_dir, config.parent()) {
        (Some(folder), _) => absolute(folder.clone())?,
        (None, Some(folder)) => folder.to_owned(),
        (None, None) => home.join(".oci"),
    };
    let new_files = [".pem", "_public.pem"].map(|end| folder.join(format!("{}{end}", arguments.key_name)));
    if arguments.key_file.is_none()
        && let Some(path) = new_files.iter().find(|path| path.exists())
    {
        return Err(SetupError::Exists { path: path.clone() }.into());
    }
    let user = answer(arguments.user.as_ref(), "--user", "OCID of the user", user)?;
    let tenancy = answer(arguments.tenancy.as_ref(), "--tenancy", "OCID of the tenancy", tenancy)?;
    let region = answer(arguments.region.as_ref(), "--region", "Region, such as us-ashburn-1", region)?;
    let given = env::var("OCI_CLI_PASSPHRASE").ok().filter(|text| !text.is_empty()).map(Secret::new);
    let oracle = |error: ocne_oracle::OracleError| Failure::new(&error);
    let (key, key_file, pass_phrase, public) = if let Some(path) = &arguments.key_file {
        let path = absolute(path.clone())?;
        let content = fs_err::read(&path).map_err(|e| Failure::new(&e))?;
        let (key, pass_phrase) = open(&path, &content, given)?;
        (key, path, pass_phrase, None)
    } else {
        let pass_phrase = if arguments.no_pass_phrase { None } else { new_pass_phrase(given)? };
        let bits = if arguments.bits == "4096" { 4096 } else { 2048 };
        let new = NewKey::generate(bits).map_err(oracle)?;
        let [private_file, public_file] = &new_files;
        ocne_oracle::write_key(private_file, &new.private_pem(pass_phrase.as_ref()).map_err(oracle)?)?;
        let public = new.public_pem();
        ocne_oracle::write_key(public_file, &Secret::new(public.as_str()))?;
        info!("Private key: {}", private_file.display());
        info!("Public key: {}", public_file.display());
        (new.signing_key().clone(), private_file.clone(), pass_phrase, Some(public))
    };
    let profile = NewProfile {
        name: arguments.profile.clone(),
        user,
        tenancy,
        region,
        fingerprint: key.fingerprint().to_owned(),
        key_file,
        pass_phrase: pass_phrase.filter(|_| arguments.store_pass_phrase),
    };
    ocne_oracle::write_profile(&config, &profile)?;
    info!("Profile `{}` in {}", profile.name, config.display());
    printer.line(&format!("Fingerprint: {}", profile.fingerprint))?;
    if let Some(public) = public {
        printer.data(public.as_bytes())?;
        info!(
            "Add this public key in the console, under the user's API keys; then `ocne oci whoami` says whether it works"
        );
    }
    Ok(())
}

/// Opens a key that is there, by the pass phrase that is known or asked for.
fn open(
    path: &std::path::Path,
    content: &[u8],
    given: Option<Secret>,
) -> Result<(SigningKey, Option<Secret>), Failure> {
    let refused = |problem| Failure::message(format!("cannot use the key `{}`", path.display()), &problem);
    match SigningKey::from_pem(content, given.as_ref()) {
        Err(ocne_oracle::KeyProblem::NoPassPhrase) => {
            let question = format!("Pass phrase of the key `{}`: ", path.display());
            let said = ask_secretly(&question).map(Secret::new);
            let key = SigningKey::from_pem(content, said.as_ref()).map_err(refused)?;
            Ok((key, said))
        }
        other => Ok((other.map_err(refused)?, given)),
    }
}

fn new_pass_phrase(given: Option<Secret>) -> Result<Option<Secret>, Failure> {
    if given.is_some() {
        return Ok(given);
    }
    if fs_err::File::open("/dev/tty").is_err() {
        return Err(Failure::usage("there is no pass phrase for the new key, and nobody to ask for one")
            .with_hint("set OCI_CLI_PASSPHRASE, or give `--no-pass-phrase`"));
    }
    loop {
        let Some(first) = ask_secretly("Pass phrase of the new key (empty for none): ") else {
            return Ok(None);
        };
        if ask_secretly("The same again: ").as_ref() == Some(&first) {
            return Ok(Some(Secret::new(first)));
        }
        info!("They differ; once more");
    }
}

fn create_token(
    arguments: &CreateTokenArguments,
    global: &GlobalArguments,
    printer: &Printer,
) -> Result<(), Failure> {
    let (client, user) = arguments.common.open(global)?;
    let description = &arguments.description;
    let (about, token) =
        ask_service(client.create_auth_token(&user, description, &retry_token(description)))?;
    info!("Made the auth token {}; it is shown this once, and nobody can show it again", about.id);
    let record =
        || serde_json::json!({ "id": about.id, "description": about.description, "token": token.reveal() });
    match arguments.common.showing.output {
        DataFormat::Json => printer.json(&record()),
        DataFormat::Yaml => printer.yaml(&record()),
        DataFormat::Text => printer.line(token.reveal()),
    }
}

fn list_tokens(
    arguments: &TokenArguments,
    global: &GlobalArguments,
    printer: &Printer,
) -> Result<(), Failure> {
    let (client, user) = arguments.open(global)?;
    let found = ask_service(client.auth_tokens(&user))?;
    let line = |t: &AuthToken| {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        let AuthToken { id, lifecycle_state, time_created, .. } = t;
        format!("{id}  {lifecycle_state}  {time_created}  {}", text(&t.description))
    };
    match arguments.showing.output {
        DataFormat::Json => printer.json(&found),
        DataFormat::Yaml => printer.yaml(&found),
        DataFormat::Text => found.iter().try_for_each(|t| printer.line(&printable(&line(t)))),
    }
}

fn delete_token(arguments: &DeleteTokenArguments, global: &GlobalArguments) -> Result<(), Failure> {
    let (client, user) = arguments.common.open(global)?;
    ask_service(client.delete_auth_token(&user, &arguments.id))?;
    info!("Removed the auth token {}", arguments.id);
    Ok(())
}

fn whoami(arguments: &WhoamiArguments, global: &GlobalArguments, printer: &Printer) -> Result<(), Failure> {
    let settings = Settings::load(global, arguments.common.config.as_deref())?;
    let client = arguments.common.oracle.client(&settings)?;
    let root = client.settings().tenancy.clone();
    let compartment = settings.compartment(arguments.compartment.as_deref()).unwrap_or(root);
    let bucket = arguments.bucket.clone().unwrap_or_else(|| settings.image_bucket());
    let cancel = crate::interrupt::cancel_on_signals()?;
    let found = ocne_upload::whoami(&client, &compartment, &bucket, &cancel)?;
    match arguments.common.output {
        DataFormat::Json => printer.json(&found),
        DataFormat::Yaml => printer.yaml(&found),
        DataFormat::Text => table(&found).iter().try_for_each(|line| printer.line(&printable(line))),
    }
}

fn table(found: &Whoami) -> Vec<String> {
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
    let named = |name: &Option<String>, id: &str| match name {
        Some(name) => format!("{name} ({id})"),
        None => id.to_owned(),
    };
    let user = found.user.as_ref().map_or_else(|| "-".to_owned(), |id| named(&found.user_name, id));
    let mut lines: Vec<String> = [
        ("Profile", found.profile.clone()),
        ("User", user),
        ("Tenancy", named(&found.tenancy_name, &found.tenancy)),
        ("Region", found.region.clone()),
        ("Home region", text(&found.home_region)),
        ("Namespace", text(&found.namespace)),
        ("Fingerprint", found.fingerprint.clone()),
    ]
    .into_iter()
    .map(|(name, value)| format!("{name:<12} {value}"))
    .collect();
    for right in &found.rights {
        let word = match right.allowed {
            Some(true) => "yes",
            Some(false) => "no",
            None => "unknown",
        };
        let reason = right.reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"));
        lines.push(format!("{word:<12} {}{reason}", right.statement));
    }
    lines
}
