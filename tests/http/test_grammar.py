# SPDX-License-Identifier: MIT
"""Grammars against independent judges: Python's re and jsonschema. What random walks through allowed tokens make must be valid, valid
texts must be accepted and invalid ones refused; for two kinds of tokenizers."""
import json
import os
import re
import subprocess
import unittest

try:
    import jsonschema
except ImportError:
    jsonschema = None

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DRIVER = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(os.environ["ADAPTERD"]))), "tests", "http", "grammar_driver")
OBJECT, SCHEMA, REGEX, GBNF, CHOICES, STRUCTURE = range(6)


class Driver(unittest.TestCase):
    tokenizers = ("smollm", "spm")  # bytes; characters with a fallback to bytes

    @classmethod
    def setUpClass(cls):
        cls.drivers = [subprocess.Popen([DRIVER, os.path.join(ROOT, "tests/golden/tiny/tokenizers", t)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) for t in cls.tokenizers]

    @classmethod
    def tearDownClass(cls):
        for d in cls.drivers:
            d.communicate()
            if d.returncode:
                raise AssertionError(f"the driver ended with {d.returncode}")

    def ask(self, driver, **request):
        driver.stdin.write(json.dumps(request).encode() + b"\n")
        driver.stdin.flush()
        line = driver.stdout.readline()
        self.assertTrue(line, f"the driver died of {request}")
        return json.loads(line)

    def run_all(self, kind, text, walks=6, yes=(), no=(), valid=None):
        """Random texts are valid; yes and no are accepted and refused."""
        check = list(yes) + list(no)
        for i, d in enumerate(self.drivers):
            got = self.ask(d, kind=kind, text=text, walks=walks, seed=i + 1, check=check)
            self.assertNotIn("error", got, text)
            self.assertEqual(got["stuck"], 0, text)
            self.assertEqual(len(got["texts"]), walks)
            for t in got["texts"]:
                if valid:
                    self.assertTrue(valid(t), f"{text}: made {t!r}")
            for t, good in zip(check, got["accepted"]):
                self.assertEqual(good, t in yes, f"{text}: {t!r}")

    def refused(self, kind, text, code, words):
        got = self.ask(self.drivers[0], kind=kind, text=text, walks=0)
        self.assertEqual(got.get("code"), code, f"{text}: {got}")
        self.assertIn(words, got["error"])


class Regex(Driver):
    PATTERNS = {
        "a{2,4}(b|c)*\\d{3}": ["aa123", "aaaabcb000", "a123", "aaaaa123", "aa12", ""],
        "^(?:foo|bar)?baz$": ["baz", "foobaz", "barbaz", "foobarbaz", "ba"],
        "[^a-y\\d\\s]+": ["zzz", "é", "a", "Z9", "", "日本", "z\n"],
        "\\w+@\\w+\\.(com|org)": ["a@b.com", "a@b.net", "@b.org", "a_1@c.org"],
        ".*": ["", "hello", "a\nb", "ü🙂"],
        "(a|b)*abb": ["abb", "aabb", "babb", "ab", "abba"],
        "(?P<y>\\d{4})-(?P<m>0[1-9]|1[0-2])": ["2024-12", "2024-13", "24-01"],
        "x*?y+?z??": ["y", "xxyyz", "xz", "yzz"],
        "[\\u00e0-\\u017f]{2,}": ["éé", "é", "ée", "àſ", "ĀĀĀ"],
        "\\x41\\t\\.\\\\[\\]\\-x]": ["A\t.\\]", "A\t.\\-", "A\t.\\y"],
        "(?:a?){3}b": ["b", "ab", "aaab", "aaaab"],
        "(?:a*b*)*c": ["c", "abababc", "ab"],
        "(?:ab|a)(?:bc|c)?": ["ab", "abc", "abbc", "ac", "a", "abcc"],
        "-?(?:0|[1-9]\\d*)(?:\\.\\d+)?": ["0", "-12.50", "01", "1.", "-"],
        "[a-z]{0,3}|": ["", "abc", "abcd"],
        "a{,b}": None,
        "(?:(?:\\d{1,3}\\.){3})\\d{1,3}": ["1.2.3.4", "192.168.0.255", "1.2.3", "1234.1.1.1"],
        "[^\\W_]\\S\\D": ["ab!", "_ab", "a b", "ab1"],
        "🙂[🙁-🙄]{1,2}": ["🙂🙃", "🙂", "🙂🙁🙄", "🙂🙅"],
        "(?:)": ["", "a"],
    }

    def test_a_text_is_made_and_accepted_exactly_when_re_matches_the_whole_of_it(self):
        for pattern, texts in self.PATTERNS.items():
            r = re.compile(pattern, re.ASCII)
            texts = texts or []
            yes = [t for t in texts if r.fullmatch(t)]
            self.run_all(REGEX, pattern, yes=yes, no=[t for t in texts if t not in yes], valid=r.fullmatch)

    def test_short_texts_over_a_small_alphabet_are_all_judged_as_re_does(self):
        from itertools import product
        texts = ["".join(t) for n in range(6) for t in product("ab1", repeat=n)]
        for pattern in ["(a|ab)(1|b1)*", "(?:a{1,2}b?){2}1*", "((a|b)*1){1,2}", "(?:a|b1|ab){2,3}", "(?:a*){2,3}b", "a{0}b+|1{2,}", "(?:(?:a?b){1,2}1?){2}", "[^a]?.{2,3}[^1b]", "(?:a{2}|b){1,}1{0,2}"]:
            yes = [t for t in texts if re.fullmatch(pattern, t)]
            self.run_all(REGEX, pattern, walks=2, yes=yes, no=[t for t in texts if t not in set(yes)])

    def test_random_expressions_judge_every_short_text_as_re_does(self):
        from itertools import product
        from random import Random
        rnd = Random(7)
        texts = ["".join(t) for n in range(7) for t in product("ab", repeat=n)]

        def expression(depth):
            kind = rnd.randrange(8) if depth else 0
            if kind < 2:
                return rnd.choice(["a", "b", ".", "[ab]", "[^a]", "ab", ""])
            if kind < 4:
                return expression(depth - 1) + expression(depth - 1)
            if kind == 4:
                return f"(?:{expression(depth - 1)}|{expression(depth - 1)})"
            low = rnd.randrange(3)
            return f"(?:{expression(depth - 1)})" + rnd.choice(["*", "+", "?", f"{{{low}}}", f"{{{low},}}", f"{{{low},{low + rnd.randrange(3)}}}"])

        for _ in range(200):
            pattern = expression(4)
            r = re.compile(pattern)
            yes = {t for t in texts if r.fullmatch(t)}
            got = self.ask(self.drivers[0], kind=REGEX, text=pattern, check=texts)
            self.assertEqual({t for t, good in zip(texts, got["accepted"]) if good}, yes, pattern)

    def test_what_is_not_regular_or_means_two_things_is_refused_by_name(self):
        for pattern, code, words in [("(?=a)", "unsupported", "lookaround"), ("(?<!a)b", "unsupported", "lookaround"), ("(a)\\1", "unsupported", "backreferences"), ("\\bword", "unsupported", "word boundaries"),
                                     ("(?i)a", "unsupported", "flags"), ("\\p{L}", "unsupported", "Unicode properties"), ("a++", "unsupported", "possessive"), ("[]a]", "unsupported", "empty class"),
                                     ("a{,3}", "unsupported", "{0,n}"), ("a^b", "unsupported", "anchors"), ("(", "invalid", "not closed"), ("a)", "invalid", "parenthesis"), ("[b-a]", "invalid", "goes nowhere"),
                                     ("*a", "invalid", "nothing"), ("a{3,2}", "invalid", "more than its maximum"), ("\\xg1", "invalid", "hexadecimal"), ("a**", "invalid", "quantifier after"),
                                     ("[^\\s\\S]", "invalid", "no text"), ("(" * 300 + ")" * 300, "limit", "nested")]:
            self.refused(REGEX, pattern, code, words if words != "nothing" else "without anything")


class Gbnf(Driver):
    ARITHMETIC = r'''
# sums and products
root ::= expr
expr ::= term ([-+] term)*
term ::= factor ([*/] factor)*
factor ::= number | "(" expr ")"
number ::= [0-9]{1,3}
'''

    def test_rules_classes_repetitions_and_escapes_mean_what_they_say(self):
        fits = re.compile(r"[-+*/()0-9]+").fullmatch
        self.run_all(GBNF, self.ARITHMETIC, yes=["1", "(1+2)*3", "((12))-4/5"], no=["", "1+", "(1", "1234", "1 + 2"], valid=lambda t: fits(t) and compile(re.sub(r"\d+", "7", t), "", "eval"))
        self.run_all(GBNF, 'root ::= "\\x41\\u00e9\\n\\"\\\\" [\\]x^-]? end\n end ::= "!" |\n "?"', yes=['Aé\n"\\!', 'Aé\n"\\]?', 'Aé\n"\\^!'], no=['Aé\n"\\y!', "A"])
        self.run_all(GBNF, 'root ::= ("a" |\n  "b"\n)+ . "c"{2} "d"{1,} "e"{0,2}', yes=["abxccd", "b\nccddde", "a🙂ccdee"], no=["xccd", "abcc", "abxccdeee"])
        self.run_all(GBNF, "root ::= item\n  | item \",\" root\nitem ::= [^,\\n]+", yes=["a", "a,b,é"], no=["", "a,", "a\n"], valid=lambda t: all(t.split(",")) and "\n" not in t)

    def test_balanced_brackets_nest(self):
        def balanced(t):
            while "()" in t or "[]" in t:
                t = t.replace("()", "").replace("[]", "")
            return not t
        self.run_all(GBNF, 'root ::= ("(" root ")" | "[" root "]")*', walks=10, yes=["", "()", "[([])]()", "(" * 500 + ")" * 500], no=["(", "(]", "[)", "())"], valid=balanced)

    def test_a_wrong_grammar_is_refused_with_its_line(self):
        for text, code, words in [("root ::= a", "invalid", '"a" is missing'), ("a ::= \"x\"", "invalid", '"root" is missing'), ("root ::= root \"a\" | \"b\"", "invalid", "left recursion"),
                                  ("root ::= a\na ::= b\nb ::= \"x\"? a", "invalid", "left recursion"), ("root ::= \"x\" root", "invalid", "no text"), ("root ::= \"a", "invalid", "line 1"),
                                  ("root ::= \"a\"\nroot ::= \"b\"", "invalid", "twice"), ("root = \"a\"", "invalid", "::="), ("root ::= \"a\"\n\n)", "invalid", "line 3"), ("root ::= [a", "invalid", "not closed"),
                                  ("root ::= \"\\q\"", "invalid", "means nothing"), ("root ::= <tool>", "unsupported", "tokens"), ("", "invalid", "root")]:
            self.refused(GBNF, text, code, words)


class Choices(Driver):
    def test_exactly_the_listed_texts_are_made(self):
        texts = ["yes", "no", "yesterday", "", "é", "日本語", "no\n", "a\"b\\"]
        self.run_all(CHOICES, json.dumps(texts), walks=20, yes=texts, no=["ye", "yes ", "n", "è"], valid=lambda t: t in texts)
        self.run_all(CHOICES, json.dumps([f"choice {i}" for i in range(5000)]), walks=5, yes=["choice 0", "choice 4999"], no=["choice 5000", "choice "], valid=lambda t: re.fullmatch(r"choice \d{1,4}", t))
        self.refused(CHOICES, "[]", "invalid", "list of strings")
        self.refused(CHOICES, "[\"a\", 1]", "invalid", "entry 1")


class Structures(Driver):
    CALL = {"begin": "<call>", "content": {"type": "json_schema", "json_schema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}}, "end": "</call>"}
    NOTE = {"begin": "<ca:note>", "content": {"type": "any_text"}, "end": "</ca>"}

    def test_parts_follow_one_another(self):
        parts = {"type": "sequence", "elements": [{"type": "const_string", "value": "A: "}, {"type": "or", "elements": [{"type": "regex", "pattern": "\\d+"}, {"type": "grammar", "grammar": "root ::= \"x\"+"}]}, {"type": "tag", **self.CALL}]}
        fits = re.compile(r"A: (\d+|x+)<call>\{\"n\": ?-?\d+\}</call>").fullmatch
        for p in (parts, {"type": "structural_tag", "format": parts}):
            self.run_all(STRUCTURE, json.dumps(p), yes=['A: 12<call>{"n": 1}</call>', 'A: x<call>{"n":-5}</call>'], no=["A: ", 'A: 1x<call>{"n": 1}</call>', 'A: 1<call>{}</call>'], valid=fits)

    def test_free_text_turns_into_a_tag_once_a_trigger_is_written(self):
        tags = {"type": "triggered_tags", "triggers": ["<ca"], "tags": [self.CALL, self.NOTE]}
        one, note = '<call>{"n": 1}</call>', "<ca:note>any < </c text</ca>"
        self.run_all(STRUCTURE, json.dumps(tags), walks=0, yes=["", "hi <c <b", one, "so " + one, one + "and" + note + one, "<<c" + note], no=["<ca", "<call>", "<call>{}</call>", one + "<cat", note + "<ca:no"])
        self.run_all(STRUCTURE, json.dumps({**tags, "at_least_one": True}), walks=0, yes=[one, "x" + note + "y"], no=["", "x", "<c"])
        self.run_all(STRUCTURE, json.dumps({**tags, "stop_after_first": True}), walks=0, yes=["", "x", "x" + one], no=[one + "x", one + one])
        self.run_all(STRUCTURE, json.dumps({**tags, "stop_after_first": True, "at_least_one": True}), walks=0, yes=["x" + one, note], no=["", one + "x"])
        old = {"structures": [{"begin": "<f>", "schema": {"enum": [1, 2]}, "end": "</f>"}], "triggers": ["<f"]}
        self.run_all(STRUCTURE, json.dumps(old), walks=0, yes=["", "a<f>1</f>b<f>2</f>"], no=["<f>3</f>", "<f"])

    def test_every_short_text_is_judged_as_a_search_would(self):
        from itertools import product
        tag = {"begin": "aab", "content": {"type": "const_string", "value": "b"}, "end": "a"}
        text = {"type": "triggered_tags", "triggers": ["aa"], "tags": [tag]}
        texts = ["".join(t) for n in range(10) for t in product("ab", repeat=n)]

        def good(t):
            at = t.find("aa")
            return at < 0 or (t.startswith("aabba", at) and good(t[at + 5:]))

        yes = {t for t in texts if good(t)}
        self.run_all(STRUCTURE, json.dumps(text), walks=0, yes=yes, no=[t for t in texts if t not in yes])

    def test_tags_with_a_separator(self):
        tags = {"type": "tags_with_separator", "tags": [{"begin": "<", "content": {"type": "regex", "pattern": "[ab]"}, "end": ">"}], "separator": ", "}
        self.run_all(STRUCTURE, json.dumps(tags), yes=["", "<a>", "<a>, <b>, <a>"], no=["<a>,<b>", "<a>, ", "<c>"], valid=re.compile("(<[ab]>(, <[ab]>)*)?").fullmatch)
        self.run_all(STRUCTURE, json.dumps({**tags, "at_least_one": True, "stop_after_first": True}), yes=["<a>"], no=["", "<a>, <b>"])

    def test_a_wrong_structure_is_refused(self):
        for part, code, words in [({}, "invalid", "type"), ({"type": "qwen"}, "unsupported", "qwen"), ({"type": "sequence"}, "invalid", "`elements`"), ({"type": "tag", "begin": "x"}, "invalid", "`end`"),
                                  ({"type": "triggered_tags", "triggers": ["<x"], "tags": [self.CALL]}, "invalid", "no trigger"), ({"type": "triggered_tags", "triggers": ["<c", "<x"], "tags": [self.CALL]}, "invalid", "no tag"),
                                  ({"type": "triggered_tags", "triggers": [""], "tags": [self.CALL]}, "invalid", "empty"), ({"type": "triggered_tags", "triggers": ["<" * 2000], "tags": [{**self.CALL, "begin": "<" * 2000}]}, "limit", "1024"),
                                  ({"type": "regex", "pattern": "("}, "invalid", "not closed"), ({"structures": [], "triggers": ["a"]}, "invalid", "`structures`")]:
            self.refused(STRUCTURE, json.dumps(part), code, words)


@unittest.skipIf(jsonschema is None, "the Python package jsonschema is not installed")
class Schemas(Driver):
    def judge(self, schema, yes=(), no=(), walks=6):
        """yes and no are values; what a schema names must be written without needless escapes."""
        v = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
        for x in yes:
            self.assertTrue(v.is_valid(x), f"the test is wrong about {x} in {schema}")
        for x in no:
            self.assertFalse(v.is_valid(x), f"the test is wrong about {x} in {schema}")
        dumped = [json.dumps(x, ensure_ascii=False, separators=((",", ":"), (", ", ": "))[i % 2]) for i, x in enumerate(yes)]

        self.run_all(SCHEMA, json.dumps(schema), walks=walks, yes=dumped, no=[json.dumps(x, ensure_ascii=False) for x in no], valid=lambda t: v.is_valid(json.loads(t)))

    def test_types_and_their_unions(self):
        self.judge({"type": "null"}, [None], [0, "", False])
        self.judge({"type": "boolean"}, [True, False], [None, 1])
        self.judge({"type": "string"}, ["", "héllo \"q\" \\ \n \u0001 🙂"], [1])
        self.judge({"type": ["string", "null"]}, ["a", None], [1, []])
        self.judge({"type": "integer"}, [0, -1, 10**17], [1.5, "1"])
        self.judge({"type": "number"}, [0, -0.5, 1e10, 2.5e-7, 123456789], ["1"])
        self.judge({"type": "array"}, [[], [1, "a", [None]], [{"a": 1}]], [{}, 1])
        self.judge({"type": "object"}, [{}, {"a": {"b": [1]}}], [[], None])
        self.judge(True, [1, "a", {}, []])
        self.judge({}, [1, "a", {}, []])

    def test_objects(self):
        person = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "mail": {"type": ["string", "null"]}}, "required": ["name"], "additionalProperties": False}
        self.judge(person, [{"name": "a"}, {"name": "a", "age": 1}, {"name": "a", "mail": None}, {"name": "b", "age": 2, "mail": "x"}], [{}, {"age": 1}, {"name": 1}, {"name": "a", "b": 1}], walks=12)
        self.judge({"type": "object", "properties": {"a": {"type": "integer"}, "ab": {"type": "integer"}}, "additionalProperties": {"type": "boolean"}},
                   [{}, {"a": 1}, {"ab": 2, "b": True}, {"a": 1, "abc": False}, {"x": True, "y": False}], [{"a": True}, {"b": 1}, {"ab": False}], walks=12)
        self.judge({"type": "object", "additionalProperties": {"type": "integer"}}, [{}, {"a": 1, "b": 2}], [{"a": "x"}])
        self.judge({"type": "object", "required": ["x", "y"]}, [{"x": 1, "y": None}], [{}, {"x": 1}])
        self.judge({"type": "object", "additionalProperties": {"type": "null"}, "minProperties": 1, "maxProperties": 2}, [{"a": None}, {"a": None, "b": None}], [{}, {"a": None, "b": None, "c": None}])
        self.judge({"properties": {"é\"\\": {"const": 1}}, "required": ["é\"\\"]}, [{"é\"\\": 1}], [{"é": 1}, {}])
        many = {f"p{i}": {"type": "integer"} for i in range(1000)}
        self.judge({"type": "object", "properties": many}, [{}, {"p0": 1}, {"p999": 1}, {"p3": 1, "p30": 2}, {p: 0 for p in many}], [{"p3": "x"}], walks=2)

    def test_arrays(self):
        self.judge({"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 4}, [[1, 2], [1, 2, 3, 4]], [[], [1], [1, 2, 3, 4, 5], [1, "a"]])
        self.judge({"type": "array", "items": {"type": "boolean"}, "maxItems": 0}, [[]], [[True]])
        self.judge({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False}, [[], [1], [1, "a"]], [["a"], [1, "a", 2]])
        self.judge({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": {"type": "null"}, "minItems": 2}, [[1, "a"], [1, "a", None, None]], [[1], [1, "a", 1]])
        self.judge({"type": "array", "items": {"type": "array", "items": {"enum": [1, 2]}, "minItems": 1}}, [[], [[1], [2, 1]]], [[[]], [[3]]])
        self.judge({"type": "array", "minItems": 3}, [[1, "a", None]], [[1, 2]])

    def test_enums_constants_and_combinations(self):
        self.judge({"enum": ["a", 1, None, {"x": [1, 2]}, "aé\n", 2.5]}, ["a", 1, None, {"x": [1, 2]}, "aé\n", 2.5], ["b", 2, {}], walks=12)
        self.judge({"type": "string", "enum": ["a", 1, "b"]}, ["a", "b"], [1])
        self.judge({"const": {"a": [1, "x"], "b": None}}, [{"a": [1, "x"], "b": None}], [{}])
        self.judge({"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 2}]}, [1, "ab"], ["abc", None])
        self.judge({"oneOf": [{"type": "object", "properties": {"kind": {"const": "a"}, "x": {"type": "integer"}}, "required": ["kind", "x"]},
                              {"type": "object", "properties": {"kind": {"const": "b"}}, "required": ["kind"]}]}, [{"kind": "a", "x": 1}, {"kind": "b"}], [{"kind": "a"}, {"kind": "c"}])
        self.judge({"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"], "anyOf": [{"required": ["a"]}, {"properties": {"b": {"type": "null"}}, "required": ["b"]}]},
                   [{"id": 1, "a": 2}, {"id": 1, "b": None}], [{"id": 1}, {"a": 1}])
        self.judge({"allOf": [{"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]}, {"properties": {"a": {"minimum": 3, "type": "integer"}, "b": {"type": "string"}}}]},
                   [{"a": 3}, {"a": 4, "b": "x"}], [{"a": 2}, {"a": 3.5}, {}])
        self.judge({"allOf": [{"type": ["integer", "string"]}, {"type": ["number", "null"]}, {"maximum": 5}]}, [5, -3], [6, None, "a", 1.5])
        self.judge({"allOf": [{"type": "array", "prefixItems": [{"type": "integer"}], "items": {"type": "string"}}, {"minItems": 2}]}, [[1, "a"]], [[1], ["a", "b"], [1, 2]])
        self.judge({"properties": {"a": {"format": "date"}}, "required": ["a"]}, [{"a": "2024-01-01"}], [{"a": "x"}])
        self.judge({"allOf": [{"enum": [1, 2, 3]}, {"enum": [2, 3, 4]}]}, [2, 3], [1, 4])
        self.judge({"allOf": [{"anyOf": [{"type": "integer"}, {"type": "null"}]}, {"anyOf": [{"type": "integer"}, {"type": "string"}]}]}, [1], [None, "a"])

    def test_references(self):
        tree = {"$ref": "#/$defs/node", "$defs": {"node": {"type": "object", "properties": {"v": {"type": "integer"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/node"}}}, "required": ["v"], "additionalProperties": False}}}
        self.judge(tree, [{"v": 1}, {"v": 1, "kids": [{"v": 2}, {"v": 3, "kids": []}]}], [{}, {"v": 1, "kids": [1]}])
        self.judge({"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["next"]}, [{"next": None}, {"next": {"next": {"next": None}}}], [{}, {"next": 1}])
        self.judge({"$defs": {"a/b~c d": {"type": "integer"}}, "properties": {"x": {"$ref": "#/$defs/a~1b~0c%20d"}}, "required": ["x"]}, [{"x": 1}], [{"x": "a"}])
        self.judge({"$defs": {"s": {"type": "string"}}, "$ref": "#/$defs/s", "maxLength": 2, "description": "short"}, ["ab"], ["abc"])

    def test_strings(self):
        self.judge({"type": "string", "minLength": 2, "maxLength": 4}, ["ab", "éé🙂x", "\n\"\\"], ["a", "abcde"], walks=20)
        self.judge({"type": "string", "maxLength": 0}, [""], ["a"])
        self.judge({"type": "string", "pattern": "^[a-z]{2,5}[0-9]?$"}, ["ab", "abcde1"], ["a", "abcdef", "ab12"])
        self.judge({"type": "string", "pattern": "b+\\d"}, ["b1", "xxbb9yy", "\nb0\""], ["b", "1b"], walks=0)
        self.judge({"type": "string", "pattern": "^a|z$"}, ["a", "abc", "xyz"], ["ba", "zb"], walks=0)
        self.judge({"type": "string", "pattern": "^[\"\\\\/\\n]+$"}, ["\"\\/\n"], ["a", ""])
        self.judge({"type": "string", "pattern": "^[a-z]+$", "maxLength": 5, "minLength": 2}, ["ab", "abcde"], ["a", "abcdef", "AB"])

    def test_formats(self):
        self.judge({"type": "string", "format": "date"}, ["2024-02-29", "1999-12-31", "2000-02-29"], ["2023-02-29", "2024-13-01", "2024-1-1", "1900-02-29", "2024-04-31"], walks=15)
        self.judge({"type": "string", "format": "uuid"}, ["123e4567-e89b-12d3-a456-426614174000"], ["123e4567", "123e4567-e89b-12d3-a456-42661417400g"])
        self.judge({"type": "string", "format": "email"}, ["a.b+c@example.org"], ["a"])
        self.judge({"type": "string", "format": "ipv4"}, ["0.0.0.0", "255.10.99.1"], ["256.1.1.1", "1.2.3"], walks=15)
        self.judge({"type": "string", "format": "ipv6"}, ["::", "::1", "fe80::1", "1:2:3:4:5:6:7:8"], ["1:2"], walks=15)
        stamp = re.compile(r"\d{4}-\d\d-\d\dT([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?(Z|[+-]\d\d:\d\d)").fullmatch
        self.run_all(SCHEMA, '{"type":"string","format":"date-time"}', yes=['"2024-02-29T23:59:59.5Z"', '"1999-01-01T00:00:00+02:00"'], no=['"2024-02-30T00:00:00Z"', '"2024-01-01T24:00:00Z"', '"2024-01-01"'],
                     valid=lambda t: stamp(json.loads(t)))
        self.run_all(SCHEMA, '{"type":"string","format":"time"}', yes=['"23:59:59Z"', '"00:00:00.25-08:00"'], no=['"24:00:00Z"', '"1:00:00Z"', '"12:00Z"'])
        self.judge({"type": "integer", "format": "int32"}, [5], ["5"])

    def test_integers_between_bounds(self):
        for lo, hi in [(0, 9), (7, 7), (1, 100), (-5, 5), (99, 1001), (-120, -7), (0, 65535), (123, 45678), (-1, 10**12)]:
            s = {"type": "integer", "minimum": lo, "maximum": hi}
            around = sorted({x for b in (lo, hi, 0, lo // 10, hi // 10, (lo + hi) // 2) for x in (b - 1, b, b + 1)})
            self.judge(s, [x for x in around if lo <= x <= hi], [x for x in around if not lo <= x <= hi], walks=4)
        self.judge({"type": "integer", "exclusiveMinimum": 3}, [4, 10, 10**15], [3, 0, -4])
        self.judge({"type": "integer", "maximum": -3}, [-3, -10, -10**15], [-2, 0, 3])
        self.judge({"type": "integer", "exclusiveMaximum": 10.5, "minimum": 0.5}, [1, 10], [0, 11])
        self.run_all(SCHEMA, '{"type":"integer","minimum":0,"maximum":999}', walks=0, yes=[str(i) for i in range(1000)], no=["-0", "-1", "1000", "00", "01", "1.0"])

    def test_numbers_between_bounds(self):
        from random import Random
        rnd = Random(1)
        bounds = [(0, 1), (-1, 1), (0.25, 0.75), (-2.5, -1.25), (1.5, 1.5), (3, 100), (-0.125, 12.5), (0.1, 0.11), (99.99, 100.01)]
        for lo, hi in bounds:
            for kind in ("minimum maximum", "exclusiveMinimum exclusiveMaximum", "minimum exclusiveMaximum"):
                s = {"type": "number", kind.split()[0]: lo, kind.split()[1]: hi}
                v = jsonschema.Draft202012Validator(s)
                tries = [lo, hi, (lo + hi) / 2] + [round(rnd.uniform(lo - 1, hi + 1), d) for d in (0, 1, 2, 3, 5, 8) for _ in range(6)] + [lo + e for e in (0.001, -0.001)] + [hi + e for e in (0.001, -0.001)]
                texts = sorted({("%.9f" % x).rstrip("0").rstrip(".") for x in tries} - {"-0"})
                yes = [t for t in texts if v.is_valid(json.loads(t))]
                if not v.is_valid((lo + hi) / 2):
                    self.refused(SCHEMA, json.dumps(s), "invalid", "no text")
                    continue
                self.run_all(SCHEMA, json.dumps(s), walks=8, yes=yes, no=[t for t in texts if t not in yes], valid=lambda t: v.is_valid(json.loads(t)))
        self.judge({"type": "number", "minimum": 0}, [0, 0.5, 10**9], [-1, -0.001])
        self.judge({"type": "number", "exclusiveMaximum": 0}, [-0.001, -5], [0, 1])

    def test_a_keyword_that_would_restrict_and_is_not_served_is_refused_by_name(self):
        for schema, words in [({"not": {}}, "`not`"), ({"if": {}, "then": {}}, "`if`"), ({"type": "object", "patternProperties": {"a": {}}}, "`patternProperties`"), ({"type": "array", "uniqueItems": True}, "`uniqueItems`"),
                              ({"type": "array", "contains": {"const": 1}}, "`contains`"), ({"type": "integer", "multipleOf": 3}, "`multipleOf`"), ({"type": "object", "propertyNames": {"maxLength": 3}}, "`propertyNames`"),
                              ({"type": "object", "dependentRequired": {"a": ["b"]}}, "`dependentRequired`"), ({"$ref": "http://x/y"}, "`$ref`"), ({"type": "string", "format": "idn-email"}, "idn-email"),
                              ({"type": "string", "pattern": "(?=a)"}, "lookaround"), ({"type": "string", "pattern": "a.c|b", "maxLength": 2}, "`pattern`"), ({"enum": ["a"], "minLength": 3}, "`minLength`"), ({"allOf": [{"prefixItems": [{}], "type": "array"}, {"items": {"type": "null"}}]}, "`items`"),
                              ({"type": "object", "properties": {"a": {"type": "array", "items": {"not": {}}}}}, "`not`")]:
            self.refused(SCHEMA, json.dumps(schema), "unsupported", words)
        for schema in [{"type": "array", "uniqueItems": False}, {"type": "string", "multipleOf": 3, "contains": {"x": 1}}, {"type": "string", "title": "t", "x-order": 1, "whatever": [1], "format": "password", "default": 5, "examples": [1]}]:
            self.judge(schema, walks=2)

    def test_a_schema_that_is_wrong_or_that_nothing_satisfies_is_refused(self):
        for schema, code, words in [({"type": "strin"}, "invalid", "`type`"), ({"enum": 3}, "invalid", "`enum`"), (3, "invalid", "must be an object"), ({"$ref": "#/nope"}, "invalid", "#/nope"), ({"type": "string", "minLength": -1}, "invalid", "`minLength`"),
                                    ({"type": "integer", "minimum": 5, "maximum": 4}, "invalid", "no text"), (False, "invalid", "no text"), ({"enum": []}, "invalid", "no text"), ({"$ref": "#"}, "invalid", "itself"),
                                    ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "invalid", "no text"), ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "invalid", "no text"),
                                    ({"type": "string", "minLength": 3, "maxLength": 2}, "invalid", "no text"), ({"$ref": "#", "minLength": 1}, "limit", "never end")]:
            self.refused(SCHEMA, json.dumps(schema), code, words)
        self.refused(SCHEMA, "{", "invalid", "not valid JSON")
        deep = {"type": "integer"}
        for _ in range(300):
            deep = {"type": "array", "items": deep}
        self.refused(SCHEMA, json.dumps(deep), "limit", "nested")

    def test_json_objects(self):
        self.run_all(OBJECT, "", walks=12, yes=["{}", '{"a": [1, 2.5, "x", null, {"b": true}]}', '{"é": "\\u00e9\\ud83d\\ude42"}'], no=["", "[]", "{", '{"a"}', '{"a": 1,}', "{\n}", '{"a": 01}', '{"a": "\\ud83d"}'],
                     valid=lambda t: isinstance(json.loads(t), dict))


if __name__ == "__main__":
    unittest.main()
