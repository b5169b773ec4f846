"""The registry client, in wherryd: OCI distribution-spec and Docker registry v2 over HTTP(S). What is fetched is verified here; storing is core's."""
