"""What the pages read of Python is what Python means: its own parser says so, of each case."""

from __future__ import annotations

import ast
import json
import subprocess
from pathlib import Path

import pytest

UI = Path(__file__).parents[2] / "ui"

# reads cases from standard input: [function, argument]; prints what the functions return
DRIVER = """
import { findAssignments, parseExact, readExpression, writeLiteral } from "./src/fields/python.ts";
const functions = { findAssignments, readExpression, rewrite: (text) => writeLiteral(parseExact(text)) };
let text = "";
for await (const chunk of process.stdin) text += chunk;
console.log(JSON.stringify(JSON.parse(text).map(([name, argument]) => functions[name](argument))));
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
    script = tmp_path_factory.mktemp("page") / "driver.mjs"
    command = [
        "node_modules/.bin/esbuild",
        "--bundle",
        "--platform=node",
        "--format=esm",
        f"--outfile={script}",
    ]
    command += ["--loader=ts", "--log-level=error"]
    subprocess.run(command, input=DRIVER, cwd=UI, text=True, check=True)

    def ask(*cases):
        done = subprocess.run(
            ["node", script], input=json.dumps(cases), capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout)

    return ask


def test_a_cell_is_read_as_python_does(ask):
    [found] = ask(("findAssignments", CELL))
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
    asked = [(name, text) for text in cases for name in ("readExpression", "findAssignments")]
    assert len(ask(*asked)) == len(asked)
