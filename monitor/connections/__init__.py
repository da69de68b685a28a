"""How this process speaks to Kafka, Redis and Triton: addresses, credentials and TLS, from the settings.

Every client in `monitor` is made with what these modules return, so that a cluster that asks for credentials needs
settings and no code: `kafka` (`kafka_options`, `faust_credentials`), `redis` (`redis_client`), `triton`
(`triton_client`). `tls` makes their contexts, `tokens` fetches OAuth tokens. Certificates are always checked, with the
host's name. A credential that the server refuses is an `AccessDenied`, which ends the process with 3: waiting does not
make it right.
"""
