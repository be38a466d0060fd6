//! TLS as all clients of this program speak it: rustls, with the machine's root certificates.

use std::sync::{Arc, OnceLock};

use rustls::{ClientConfig, RootCertStore};

/// The configuration, made once in a process: reading the certificates takes milliseconds.
pub(crate) fn client_config() -> anyhow::Result<ClientConfig> {
    static MADE: OnceLock<ClientConfig> = OnceLock::new();
    if let Some(made) = MADE.get() {
        return Ok(made.clone());
    }
    let mut roots = RootCertStore::empty();
    // certificates that cannot be read are left out, as every client does; a peer that needs one of
    // them is then refused
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let made = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MADE.get_or_init(|| made).clone())
}
