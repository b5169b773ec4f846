"""Templates give what Go's text/template gives, for the part of it that `--format` is used with."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.cli import template
from wherry.cli.template import TemplateError

VALUE: dict[str, Any] = {
    "Name": "web",
    "Count": 3,
    "Ratio": 1.5,
    "Whole": 2.0,
    "On": True,
    "Off": False,
    "Nothing": None,
    "Empty": "",
    "List": ["a", "b", "c"],
    "None": [],
    "Map": {"k2": "v2", "k1": "v1"},
    "Deep": {"Er": {"Est": "x"}},
    "Items": [{"ID": 1}, {"ID": 2}],
    "Label": lambda name: f"label {name}",
}


def text(source: str) -> str:
    return template.parse(source).execute(VALUE)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("plain", "plain"),
        ("{{.Name}}", "web"),
        ("{{ .Name }}-{{.Count}}", "web-3"),
        ("{{.Deep.Er.Est}}", "x"),
        ("{{(.Deep).Er.Est}}", "x"),
        ("{{.Ratio}} {{.Whole}} {{.On}} {{.Nothing}}", "1.5 2 true <no value>"),
        ("{{.List}} {{.Map}} {{.None}}", "[a b c] map[k1:v1 k2:v2] []"),
        ("{{json .Map}} {{json .Name}} {{json .Nothing}}", '{"k2":"v2","k1":"v1"} "web" null'),
        ("{{.Map | json}}", '{"k2":"v2","k1":"v1"}'),
        ('{{.Name | upper | printf "%s!"}}', "WEB!"),
        ('{{"quoted\\t\\"x\\""}}{{`raw\\n`}}', 'quoted\t"x"raw\\n'),
        ("{{1}} {{-2}} {{0x10}} {{1.5}} {{true}} {{nil | json}}", "1 -2 16 1.5 true null"),
        ("{{if .On}}yes{{end}}{{if .Off}}no{{end}}", "yes"),
        ("{{if .Empty}}a{{else if .None}}b{{else if .Name}}c{{else}}d{{end}}", "c"),
        ("{{with .Deep}}{{.Er.Est}}{{else}}none{{end}}", "x"),
        ("{{with .Nothing}}some{{else}}{{.Name}}{{end}}", "web"),
        ("{{with $x := .Name}}{{$x}}{{.}}{{end}}", "webweb"),
        ("{{range .List}}{{.}},{{end}}", "a,b,c,"),
        ("{{range .None}}x{{else}}none{{end}}", "none"),
        ("{{range $i, $e := .List}}{{$i}}{{$e}}{{end}}", "0a1b2c"),
        ("{{range $e := .List}}{{$e}}{{end}}", "abc"),
        ("{{range $k, $v := .Map}}{{$k}}={{$v};{{end}}".replace("{{$v}", "{{$v}}"), "k1=v1;k2=v2;"),
        ("{{range .Items}}{{.ID}}{{$.Name}}{{end}}", "1web2web"),
        ('{{range .List}}{{if eq . "b"}}{{break}}{{end}}{{.}}{{end}}', "a"),
        ('{{range .List}}{{if eq . "b"}}{{continue}}{{end}}{{.}}{{end}}', "ac"),
        ("{{range 3}}{{.}}{{end}}", "012"),
        ("{{$x := 1}}{{range .List}}{{$x = .}}{{end}}{{$x}}", "c"),
        ("{{$x := 1}}{{if true}}{{$x := 2}}{{$x}}{{end}}{{$x}}", "21"),
        ("a {{- .Name -}} b", "awebb"),
        ("a{{/* a comment */}}b", "ab"),
        ('{{.Label "x"}} {{"y" | .Label}}', "label x label y"),
        ('{{index .List 1}} {{index .Map "k1"}} {{index .Items 0 "ID"}}', "b v1 1"),
        ('{{index .Map "absent"}}', "<no value>"),
        ("{{slice .Name 1}} {{slice .List 0 1}}", "eb [a]"),
        ("{{len .List}} {{len .Name}} {{len .Map}}", "3 3 2"),
        ('{{join .List "-"}} {{split "a.b" "."}}', "a-b-c [a b]"),
        ('{{upper .Name}} {{title "the end"}} {{lower "X"}}', "WEB The End x"),
        ("{{truncate .Name 2}} {{pad .Name 1 2}}|{{pad .Empty 1 1}}|", "we  web  ||"),
        ('{{println .Name 1}}{{print 1 2 "x" 3}}', "web 1\n1 2x3"),
        (
            '{{printf "%s %d %v %q %5s|%-5s|%05d %t %x %%" .Name 5 .List .Name "a" "b" 7 true 255}}',
            'web 5 [a b c] "web"     a|b    |00007 true ff %',
        ),
        ('{{eq .Count 3}} {{ne .Name "x"}} {{eq .Name "x" "web"}}', "true true true"),
        ('{{lt 1 2}} {{ge "b" "a"}} {{le 2 1}} {{gt 2 1}}', "true true false true"),
        ('{{and 1 0}} {{and 1 2}} {{or 0 "x"}} {{or 0 ""}} {{not 0}}', "0 2 x  true"),
        ("{{if and .On (or .Off (eq .Count 3))}}deep{{end}}", "deep"),
        ("{{if and .Nothing .Nothing.Missing}}x{{end}}ok", "ok"),
        ("{{.State}}".replace("State", "Health"), "<no value>"),
        ("é {{.Name}} 中", "é web 中"),
        ('{{"}}"}}', "}}"),
    ],
)
def test_a_template_gives_what_go_gives(source: str, expected: str) -> None:
    assert text(source) == expected


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{", "template: :1: unclosed action"),
        ("a\n{{.Name", "template: :2: unclosed action"),
        ("{{if .On}}", "template: :1: unexpected EOF"),
        ("{{end}}", "template: :1: unexpected {{end}}"),
        ("{{}}", "template: :1: missing value for command"),
        ("{{if}}x{{end}}", "template: :1: missing value for if"),
        ("{{nope .Name}}", 'template: :1: function "nope" not defined'),
        ('{{"open}}', "template: :1: unclosed action"),
        ("{{.Name |}}", "template: :1: missing value for command"),
        ("{{(.Name}}", "template: :1: unclosed left paren"),
        ('{{define "x"}}{{end}}', "template: :1: {{define}} is not supported by wherry"),
        ("{{html .Name}}", "template: :1: function 'html' is not supported by wherry"),
    ],
)
def test_what_is_no_template_or_not_supported_is_refused_by_name(source: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        template.parse(source)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{.Nope}}", 'template: :1:2: executing "" at <.Nope>: map has no entry for key "Nope"'),
        ("{{.Deep.Nope}}", 'template: :1:7: executing "" at <.Deep.Nope>: map has no entry for key "Nope"'),
        (
            "xy{{ .Name.Nope }}",
            'template: :1:10: executing "" at <.Name.Nope>: can\'t evaluate field Nope in type string',
        ),
        ("a\n{{.Nope}}", 'template: :2:2: executing "" at <.Nope>: map has no entry for key "Nope"'),
        ("{{.Nothing.X}}", 'template: :1:10: executing "" at <.Nothing.X>: nil pointer evaluating interface {}.X'),
        ("{{index .List 5}}", 'template: :1: executing "" at <index>: error calling index: index out of range: 5'),
        ("{{eq .Name 1}}", 'template: :1: executing "" at <eq>: error calling eq: incompatible types for comparison'),
        ("{{.Name .Count}}", 'template: :1: executing "" at <.Name>: can\'t give argument to non-function .Name'),
        ("{{json}}", 'template: :1: executing "" at <json>: wrong number of args for json: want 1 got 0'),
        ("{{.Name | lower 1}}", 'template: :1: executing "" at <lower>: wrong number of args for lower: want 1 got 2'),
        ("{{index}}", 'template: :1: executing "" at <index>: wrong number of args for index: want at least 1 got 0'),
        ("{{$x}}", 'template: :1: undefined variable "$x"'),
        ("{{range .Name}}{{end}}", "range can't iterate over web"),
    ],
)
def test_what_cannot_be_carried_out_says_where(source: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        text(source)
    assert str(caught.value) == message


@given(st.text(alphabet='{}.$|"`()-/*:= \nNameifrangewthlspdo0123456789', max_size=40))
def test_any_source_gives_text_or_a_template_error(source: str) -> None:
    try:
        assert isinstance(text(source), str)
    except TemplateError as error:
        assert str(error)
