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
