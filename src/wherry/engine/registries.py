"""What the engine asks of registries for its users' sake, without fetching images: whether a login is right, what a name stands for, which
repositories there are. Implements `api.backend.RegistryBackend`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.parse import urlencode, urlsplit

from wherry.core.pull import in_dockers_words
from wherry.distribution.client import Repository
from wherry.distribution.connection import Connection, bounded, new_session
from wherry.distribution.errors import RegistryError
from wherry.distribution.hosts import RegistryHosts
from wherry.errors import InvalidArgument, PermissionDenied, Unavailable, WherryError
from wherry.spec.calls import Filters, Json, JsonList, RegistryAuth
from wherry.spec.image import (
    DOCKER_CONFIG,
    MAX_CONFIG,
    OCI_CONFIG,
    Descriptor,
    Index,
    decode,
    parse_config,
    parse_document,
    platform_of,
    platform_to_json,
)
from wherry.spec.reference import DEFAULT_DOMAIN, LEGACY_DOMAIN, parse, split_domain

DEFAULT_RESULTS = 25
MAX_RESULTS = 100
MAX_ANSWER = 4 << 20


class Registries:
    def __init__(self, hosts: RegistryHosts) -> None:
        self._hosts = hosts

    async def authenticate(self, auth: RegistryAuth) -> Json:
        """The body of POST /auth. PermissionDenied when the registry refuses, Unavailable when it is not there."""
        domain = domain_of(auth.server_address)
        failure: Exception | None = None
        async with new_session() as session:
            for endpoint in self._hosts.endpoints(domain):
                if endpoint.mirror:
                    continue
                try:
                    identity = await Connection(session, endpoint, auth).log_in()
                except Unavailable as error:
                    failure = error
                    continue
                except RegistryError as error:
                    if error.status in (401, 403):
                        raise PermissionDenied(f'Get "{endpoint.base}{endpoint.prefix}/": {error}') from None
                    raise Unavailable(str(error)) from None
                return {"Status": "Login Succeeded", "IdentityToken": identity}
        assert failure is not None  # the registry itself is always among the endpoints
        raise failure

    async def distribution(self, name: str, auth: RegistryAuth) -> Json:
        """The body of GET /distribution/{name}/json. The descriptor is that of what the registry sent, the platforms those of an index, or that of
        the image's config. Errors as those of a pull."""
        reference = parse(name)
        wanted = reference.with_digest(reference.digest) if reference.digest else reference.tagged()
        with in_dockers_words(wanted):
            async with new_session() as session:
                repository = await Repository.open(session, self._hosts, wanted, auth)
                fetched = await repository.manifest(wanted.digest or wanted.tag or "")
                document = parse_document(fetched.data, fetched.media_type)
                if isinstance(document, Index):
                    platforms = [entry.platform for entry in document.manifests if entry.platform is not None]
                elif document.config.media_type in (OCI_CONFIG, DOCKER_CONFIG):
                    config = parse_config(await repository.blob(document.config, MAX_CONFIG))
                    platforms = [platform_of(config)]
                else:
                    platforms = []
        described = Descriptor(document.media_type, fetched.digest, len(fetched.data))
        return {
            "Descriptor": described.to_json(),
            "Platforms": [platform_to_json(platform) for platform in platforms],
        }

    async def search(self, term: str, *, limit: int | None, filters: Filters, auth: RegistryAuth) -> JsonList:
        """By the registry's own search (the first version of its API, which Docker Hub kept). A term may begin with a registry's host.

        Unavailable when the registry has none; InvalidArgument for a limit or a filter that cannot be.
        """
        if limit is None or limit == 0:
            limit = DEFAULT_RESULTS
        if not 1 <= limit <= MAX_RESULTS:
            raise InvalidArgument(f"limit {limit} is outside the range of [1, {MAX_RESULTS}]")
        fits = _result_filter(filters)
        domain, words = split_domain(term)
        if domain == DEFAULT_DOMAIN:
            domain, words = LEGACY_DOMAIN, term
        query = urlencode({"q": words, "n": limit})
        failure: WherryError | None = None
        async with new_session() as session:
            for endpoint in self._hosts.endpoints(domain):
                if endpoint.mirror:
                    continue
                connection = Connection(session, endpoint, auth)
                url = f"{endpoint.base}/v1/search?{query}"
                try:
                    async with connection.authorized("GET", url, "", {}) as answer:
                        found = decode(await bounded(answer, MAX_ANSWER, "search"), "the registry's answer")
                except RegistryError as error:
                    raise Unavailable(f"{domain} cannot be searched: unexpected status code {error.status}") from None
                except Unavailable as error:
                    failure = error
                    continue
                return [item for item in _results(found) if fits(item)][:limit]
        assert failure is not None  # the registry itself is always among the endpoints
        raise failure


def _results(answer: Mapping[str, object]) -> JsonList:
    listed = answer.get("results")
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        raise Unavailable("the registry's answer to a search is not a list of results")
    return [
        {
            "name": str(item.get("name") or ""),
            "description": str(item.get("description") or ""),
            "star_count": item["star_count"] if isinstance(item.get("star_count"), int) else 0,
            "is_official": item.get("is_official") is True,
            "is_automated": False,
        }
        for item in listed
    ]


def _result_filter(filters: Filters) -> Callable[[Json], bool]:
    for name in filters:
        if name not in ("is-automated", "is-official", "stars"):
            raise InvalidArgument(f"invalid filter '{name}'")
    stars = 0
    for text in filters.get("stars", []):
        if not (text.isascii() and text.isdigit()):
            raise InvalidArgument(f"invalid filter 'stars={text}'")
        stars = max(stars, int(text))
    official = _flag(filters, "is-official")
    automated = _flag(filters, "is-automated")

    def fits(item: Json) -> bool:
        return (
            item["star_count"] >= stars
            and official in (None, item["is_official"])
            and automated in (None, item["is_automated"])
        )

    return fits


def _flag(filters: Filters, name: str) -> bool | None:
    values = {text.lower() for text in filters.get(name, [])}
    if not values:
        return None
    if values <= {"1", "true"}:
        return True
    if values <= {"0", "false"}:
        return False
    raise InvalidArgument(f"invalid filter '{name}=[{' '.join(sorted(values))}]'")


def registry_config(hosts: RegistryHosts) -> Json:
    """`RegistryConfig` of GET /info."""
    names = {
        name: {"Name": name, "Mirrors": [], "Secure": False, "Official": False} for name in sorted(hosts.insecure_names)
    }
    hub = {"Name": DEFAULT_DOMAIN, "Mirrors": [f"{url}/" for url in hosts.mirrors], "Secure": True, "Official": True}
    return {
        "InsecureRegistryCIDRs": [str(network) for network in hosts.insecure_networks],
        "IndexConfigs": {DEFAULT_DOMAIN: hub, **names},
        "Mirrors": [f"{url}/" for url in hosts.mirrors],
    }


def domain_of(address: str) -> str:
    """The registry that a login's server address means: "" and Docker Hub's old URL are docker.io, a URL is its host."""
    host = urlsplit(address).netloc if "://" in address else address.partition("/")[0]
    if host in ("", DEFAULT_DOMAIN, LEGACY_DOMAIN, "registry-1.docker.io"):
        return DEFAULT_DOMAIN
    domain, _ = split_domain(f"{host}/x")
    if domain == DEFAULT_DOMAIN and host != DEFAULT_DOMAIN:
        raise InvalidArgument(f"invalid registry address: {address[:200]}")
    return host
