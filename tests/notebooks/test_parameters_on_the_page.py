"""What the pages read of Python is what Python means: its own parser says so, of each case."""

from __future__ import annotations

import ast
import json

import pytest

from tests.support.page_scripts import bundle

FUNCTIONS = """
import { parseExact, readCell, readExpression, writeLiteral } from "./src/fields/python.ts";
const functions = { readCell, readExpression, rewrite: (text) => writeLiteral(parseExact(text)) };
"""

CELL = '''layers = [64, 32]
zip_code = "00501"
color = "#ff0000"  # not a comment
lr = 1/3
cfg = {"a": 1,
       "b": 2}
%matplotlib inline
!pip install x
rate: float = 0.5  # how much
text = """a
%b
"""; short = 'x'
pair = 1, 2
a, b = 1, 2
c = d = 3
lr2 = lr2 = 4
obj.x = 5
items[0] = 6
count += 1
twice = 1
twice = 2
def function():
    inner = 1
if True:
    conditional = 1
broken = [1,,2]
'''

VALUES = [
    *("1", "0", "1_000", "0x1F", "0b11", "0o17", "-5", "1.5", "-0.25", "1e-3", "True", "False", "None"),
    *("'x'", '"x"', "r'a\\b'", "u'x'", "'''a\nb'''", r"'\x41\u00e9\U0001F600\101\n\\\'\t'", "'a\\\nb'"),
    *(
        "[]",
        "[1, 'a', [None]]",
        "[1, # comment\n 2,\n]",
        "{}",
        '{"a": {"b": [1.5]}}',
        "(1)",
        "('x')",
        "{'a': 1, 'a': 2}",
    ),
    '"ünï 🎉"',
    "{'__proto__': 1}",
]
"""Literals that JSON can say."""

CODE = [
    *(
        "1/3",
        "2.0",
        "[1.0]",
        "1e400",
        "-0",
        "-0.0",
        "9007199254740993",
        "1j",
        "(1, 2)",
        "1, 2",
        "()",
        "{1, 2}",
    ),
    *(
        "b'x'",
        "f'{1}'",
        "'a' 'b'",
        "Path('x')",
        "lambda: 1",
        "[*a]",
        "{**a}",
        "{1: 2}",
        "[x for x in y]",
        "...",
    ),
    *(
        "not True",
        "~1",
        "+1",
        "a",
        "1 if x else 2",
        "dict(\n a=1,\n)",
        "'\\N{EM DASH}'",
        "x[1:2]",
    ),
    "'\\ud800'",
]
"""What is an expression of Python, and no value that JSON says exactly."""

NOTHING = [
    "",
    "#",
    "x = 1",
    "1\n2",
    "1 2",
    "1/3)(",
    "'open",
    "[1",
    "*a",
    "pass",
    "import os",
    "a b",
    "1;2",
    "def f(): pass",
]


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    return bundle(FUNCTIONS, tmp_path_factory.mktemp("page"))


def test_a_cell_is_read_as_python_does(ask):
    found = ask(("readCell", CELL))[0]["assignments"]
    assert {each["name"]: each["source"] for each in found} == {
        "layers": "[64, 32]",
        "zip_code": '"00501"',
        "color": '"#ff0000"',
        "lr": "1/3",
        "cfg": '{"a": 1,\n       "b": 2}',
        "rate": "0.5",
        "text": '"""a\n%b\n"""',
        "short": "'x'",
        "pair": "1, 2",
        "twice": "2",
    }
    assert {each["name"]: each["comment"] for each in found if each["comment"]} == {
        "color": "not a comment",
        "rate": "how much",
    }


REST = """
%matplotlib inline
!pip install x
a, b = 1, 2
c = d = 3
lr2 = lr2 = 4
obj.x = 5
items[0] = 6
count += 1
def function():
    inner = 1
if True:
    conditional = 1
broken = [1,,2]
""".strip()


def test_what_a_cell_has_beside_simple_assignments_is_shown_as_it_is(ask):
    assert ask(("readCell", CELL))[0]["rest"] == REST


@pytest.mark.parametrize(
    ("cell", "rest"),
    [
        ("x = 1\n\n# how much\ny = [\n  2,\n]  # two\nz = 1; z = 2;\n", ""),
        ("a, b = 1, 2  # sizes\n\nx = 1\n", "a, b = 1, 2  # sizes"),
        ("x = 1; a, b = 2, 3\ny = 4", "x = 1; a, b = 2, 3"),
        ("c = d = [\n\n  3,\n]\nx = 1", "c = d = [\n\n  3,\n]"),
        (
            "for i in n:\n    # twice\n    a = i\n\n\nx = 1\n",
            "for i in n:\n    # twice\n    a = i",
        ),
        ("files = !ls\nrate: float\nx = 1", "files = !ls\nrate: float"),
        ("x = 1\nopen(\n", "open("),
        ("a, b = 1, 2\r\nx = 1\r\n", "a, b = 1, 2\r"),
        ("(" * 5000, "(" * 5000),
    ],
)
def test_of_each_such_cell_no_line_is_lost(ask, cell, rest):
    assert ask(("readCell", cell))[0]["rest"] == rest


def test_what_json_can_say_is_a_value_of_the_same_type(ask):
    for text, read in zip(VALUES, ask(*(("readExpression", text) for text in VALUES)), strict=True):
        expected = ast.literal_eval(text)
        assert repr(read.get("value", read)) == repr(expected), text


def test_anything_else_that_is_one_expression_is_code(ask):
    for text, read in zip(CODE, ask(*(("readExpression", text) for text in CODE)), strict=True):
        ast.parse(text, mode="eval")
        assert read == {"code": text}, text


def test_what_is_no_expression_is_nothing(ask):
    for text, read in zip(NOTHING, ask(*(("readExpression", text) for text in NOTHING)), strict=True):
        with pytest.raises(SyntaxError):
            ast.parse(text.strip(), mode="eval")
        assert read is None, text


def test_what_an_earlier_job_had_is_written_as_python_with_its_types(ask):
    values = [
        1,
        2.0,
        -3.0,
        1e300,
        2**70,
        0.1,
        True,
        None,
        "a\"'\n\u2028ü🎉",
        [1.0, {"2.0": 2.0}],
        {},
        'a "1.0" b',
    ]
    texts = ask(*(("rewrite", json.dumps(value)) for value in values))
    for value, text in zip(values, texts, strict=True):
        assert repr(ast.literal_eval(text)) == repr(value)


def test_texts_that_are_long_or_deep_are_read_to_their_end(ask):
    cases = [
        "[" * 5000,
        "[" * 50_000 + "]" * 50_000,
        "(" * 5000,
        "'" + "\\" * 20_000,
        "1" + "_1" * 10_000,
        "a=" * 5000,
        "-" * 5000,
    ]
    asked = [(name, text) for text in cases for name in ("readExpression", "readCell")]
    assert len(ask(*asked)) == len(asked)
