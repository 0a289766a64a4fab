"""TLS as the settings want it."""

from __future__ import annotations

import ssl

from angiovault.config import Config


class CannotUseCertificate(Exception):
    """Certificate, key or client CA cannot be used; the text says why."""


def tls_context(config: Config) -> ssl.SSLContext:
    """Return the TLS settings of BCP 195 (PS3.15 B.9, B.10): version 1.2 or later, forward secrecy, AEAD ciphers.

    Raises
    ------
    CannotUseCertificate
        When certificate or key cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM")
    assert config.tls_certificate is not None
    try:
        context.load_cert_chain(config.tls_certificate, config.tls_key, password=lambda: "")
        if config.tls_client_ca:
            context.load_verify_locations(config.tls_client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise CannotUseCertificate(f"TLS certificate, key or client CA cannot be used: {error}") from error
    return context
