"""Images, as the Engine API has them."""

from __future__ import annotations

from .registries import encoded
from .session import segment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from .session import Session

    Json = dict[str, Any]
    JsonList = list[Json]  # the class has a method called list
    Filters = Mapping[str, Sequence[str]]


class Images:
    """`Client.images`. `ref` is an id, a unique beginning of one, name:tag or name@digest."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def list(
        self,
        *,
        all: bool = False,
        filters: Filters | None = None,
        digests: bool = False,
        shared_size: bool = False,
        manifests: bool = False,
    ) -> JsonList:
        from .containers import _filters

        query = {
            "all": all or None,
            "filters": _filters(filters),
            "digests": digests or None,
            "shared-size": shared_size or None,
            "manifests": manifests or None,
        }
        answer: JsonList = self._session.call("GET", "/images/json", query=query)
        return answer

    def inspect(self, ref: str, *, platform: str = "", manifests: bool = False) -> Json:
        query = {"platform": platform_json(platform), "manifests": manifests or None}
        answer: Json = self._session.call("GET", f"/images/{segment(ref)}/json", query=query)
        return answer

    def history(self, ref: str, *, platform: str = "") -> JsonList:
        query = {"platform": platform_json(platform)}
        answer: JsonList = self._session.call("GET", f"/images/{segment(ref)}/history", query=query)
        return answer

    def attestations(
        self, ref: str, *, platform: str = "", types: Sequence[str] = (), statement: bool = False
    ) -> JsonList:
        """The in-toto statements about an image: {"Descriptor", "PredicateType", "Statement"}."""
        query = {"platform": platform_json(platform), "type": list(types), "statement": statement or None}
        answer: JsonList = self._session.call("GET", f"/images/{segment(ref)}/attestations", query=query)
        return answer

    def trust(self, ref: str = "") -> Json:
        """The engine's trust policy: {"Path", "Rules"}; with `ref` also "Rule", the one that holds for that image."""
        answer: Json = self._session.call("GET", "/wherry/trust", query={"image": ref or None})
        return answer

    def distribution(self, ref: str, *, auth: Mapping[str, str] | None = None) -> Json:
        """What the registry has under that name: {"Descriptor", "Platforms"}."""
        path = f"/distribution/{segment(ref)}/json"
        answer: Json = self._session.call("GET", path, headers=_auth_header(auth))
        return answer

    def search(
        self,
        term: str,
        *,
        limit: int | None = None,
        filters: Filters | None = None,
        auth: Mapping[str, str] | None = None,
    ) -> JsonList:
        from .containers import _filters

        query = {"term": term, "limit": limit, "filters": _filters(filters)}
        answer: JsonList = self._session.call("GET", "/images/search", query=query, headers=_auth_header(auth))
        return answer or []

    def tag(self, ref: str, repository: str, tag: str) -> None:
        self._session.call("POST", f"/images/{segment(ref)}/tag", query={"repo": repository, "tag": tag})

    def remove(
        self, ref: str, *, force: bool = False, no_prune: bool = False, platforms: Sequence[str] = ()
    ) -> JsonList:
        """[{"Untagged": …}, {"Deleted": …}]. `platforms`: only what is there for these."""
        wanted = [platform_json(platform) for platform in platforms]
        query = {"force": force or None, "noprune": no_prune or None, "platforms": wanted}
        answer: JsonList = self._session.call("DELETE", f"/images/{segment(ref)}", query=query)
        return answer or []

    def prune(self, filters: Filters | None = None) -> Json:
        from .containers import _filters

        answer: Json = self._session.call("POST", "/images/prune", query={"filters": _filters(filters)})
        return answer

    def pull(
        self,
        ref: str,
        *,
        platform: str | None = None,
        auth: Mapping[str, str] | None = None,
        all_tags: bool = False,
    ) -> Iterator[Json]:
        """Pulls while it is iterated; yields Docker's progress objects. WherryError with the engine's words if it fails half-way.

        A name without tag or digest means `latest`, unless `all_tags`.
        """
        from .reference import split

        name, tag = split(ref)
        query = {
            "fromImage": name,
            "tag": None if all_tags else tag or "latest",
            "platform": platform or None,
        }
        return self._progress("/images/create", query, _auth_header(auth), None)

    def push(
        self,
        ref: str,
        *,
        platform: str | None = None,
        auth: Mapping[str, str] | None = None,
        all_tags: bool = False,
        referrers: bool = False,
    ) -> Iterator[Json]:
        """Pushes while it is iterated, as `pull`. `platform` ("os/architecture/variant"): the manifest of that one alone. `referrers`: what refers to
        the image (signatures) goes along, as far as the engine has it."""
        from .reference import split

        name, tag = split(ref)
        query = {
            "tag": None if all_tags else tag or "latest",
            "platform": platform_json(platform or ""),
            "referrers": referrers or None,
        }
        return self._progress(f"/images/{segment(name)}/push", query, _auth_header(auth or {"serveraddress": ""}), None)

    def save(self, refs: Sequence[str], *, platforms: Sequence[str] = ()) -> Iterator[bytes]:
        """The images as one archive, piece by piece."""
        query = {"names": list(refs), "platform": [platform_json(platform) for platform in platforms]}
        return self._session.open("GET", "/images/get", query=query).pieces()

    def load(self, tar: Iterable[bytes], *, quiet: bool = False, platforms: Sequence[str] = ()) -> Iterator[Json]:
        """Loads images from the pieces of a `save` archive; yields progress."""
        headers = {"Content-Type": "application/x-tar"}
        query = {"quiet": quiet, "platform": [platform_json(platform) for platform in platforms]}
        return self._progress("/images/load", query, headers, tar)

    def import_(
        self,
        source: str | Iterable[bytes],
        *,
        repository: str = "",
        message: str = "",
        changes: Sequence[str] = (),
        platform: str = "",
    ) -> Iterator[Json]:
        """A new image, called `repository` ("name" or "name:tag"), from the pieces of a root file system's archive
        or a URL that the engine fetches."""
        query = {
            "fromSrc": source if isinstance(source, str) else "-",
            "repo": repository or None,
            "message": message or None,
            "changes": list(changes),
            "platform": platform or None,
        }
        body = None if isinstance(source, str) else source
        return self._progress("/images/create", query, {"Content-Type": "application/x-tar"}, body)

    def _progress(
        self, path: str, query: Mapping[str, object], headers: Mapping[str, str], body: Iterable[bytes] | None
    ) -> Iterator[Json]:
        yield from self._session.progress(self._session.open("POST", path, query=query, headers=headers, body=body))


def platform_json(text: str) -> str | None:
    """ "linux/arm64/v8" or "arm64" as the API's platform parameter; None for "". InvalidArgument."""
    if not text:
        return None
    from wherry.spec.image import parse_platform, platform_to_json
    from wherry.wire.fastjson import dumps

    return dumps(platform_to_json(parse_platform(text))).decode("ascii")


def _auth_header(auth: Mapping[str, str] | None) -> dict[str, str]:
    return {"X-Registry-Auth": encoded(auth)} if auth else {}
