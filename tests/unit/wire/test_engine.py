from __future__ import annotations

import pytest

from wherry.errors import InvalidArgument
from wherry.wire.engine import ContainerCreate, parse


def test_a_body_that_is_not_utf8_is_bad_input() -> None:
    with pytest.raises(InvalidArgument):
        parse(b'{"Image":"\xff"}', ContainerCreate)


def test_an_unsupported_field_below_a_mapping_is_named() -> None:
    body = b'{"NetworkingConfig":{"EndpointsConfig":{"bridge":{"IPAMConfig":{"IPv4Address":"10.0.0.9"}}}}}'
    assert parse(body, ContainerCreate)[1] == ["NetworkingConfig.EndpointsConfig.IPAMConfig"]


def test_empty_fields_below_a_mapping_are_no_wish() -> None:
    body = b'{"NetworkingConfig":{"EndpointsConfig":{"default":{"IPAMConfig":null,"GwPriority":0},"bridge":null}}}'
    assert parse(body, ContainerCreate)[1] == []


def test_null_is_absent_wherever_it_stands() -> None:
    body = b'{"Image":null,"Tty":null,"HostConfig":{"Mounts":[{"Type":"tmpfs","Source":null,"Target":"/t"}],"Memory":null}}'
    parsed, unknown = parse(body, ContainerCreate)
    assert parsed.host_config and parsed.host_config.mounts
    assert (parsed.image, parsed.tty, parsed.host_config.mounts[0].target, unknown) == ("", False, "/t", [])


def test_null_for_an_element_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        parse(b'{"Cmd":[null]}', ContainerCreate)
