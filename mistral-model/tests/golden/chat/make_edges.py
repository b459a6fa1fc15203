"""Requests at the borders of what a conversation may be, and random ones, with what mistral-common makes of them.

usage: make_edges.py TOKENIZERS OUT [RANDOM_REQUESTS [SEED]]     (TOKENIZERS holds tokenizer.model of v1, v2 and v3, each in a folder)
"""

import json
import random
import sys
import warnings
from pathlib import Path

from mistral_common.protocol.fim.request import FIMRequest
from mistral_common.protocol.instruct.normalize import get_normalizer
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.protocol.instruct.validator import ValidationMode, get_validator
from mistral_common.tokens.tokenizers.base import TokenizerVersion
from mistral_common.tokens.tokenizers.instruct import InstructTokenizerV1, InstructTokenizerV2, InstructTokenizerV3
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from mistral_common.tokens.tokenizers.sentencepiece import SentencePieceTokenizer
from pydantic import ValidationError

warnings.filterwarnings("ignore")

TEMPLATES = {
    "v1": ("v1", TokenizerVersion.v1, InstructTokenizerV1),
    "v2": ("v2", TokenizerVersion.v2, InstructTokenizerV2),
    "v3-7b": ("v2", TokenizerVersion.v3, InstructTokenizerV3),
    "v3": ("v3", TokenizerVersion.v3, InstructTokenizerV3),
}
ID = "abcdefgh1"
USER = {"role": "user", "content": "hi"}


def calls(*functions: dict, **more) -> dict:
    return {"role": "assistant", "tool_calls": [{"id": ID, "function": f} for f in functions], **more}


def tool(content, **more) -> dict:
    return {"role": "tool", "content": content, "tool_call_id": ID, **more}


def called(arguments, result="ok") -> dict:
    return {"messages": [USER, calls({"name": "f", "arguments": arguments}), tool(result)]}


def said(*parts: dict, role="user") -> dict:
    message = {"role": role, "content": list(parts)}
    return {"messages": [message] if role == "user" else [message, USER] if role == "system" else [USER, message, USER]}


def offered(parameters, **more) -> dict:
    return {"messages": [USER], "tools": [{"function": {"name": "f", "parameters": parameters, **more}}]}


def with_fields(**fields) -> dict:
    return {"messages": [USER], **fields}


def prefix(value) -> dict:
    return {"messages": [USER, {"role": "assistant", "content": "x", "prefix": value}]}


def text(t: str) -> dict:
    return {"type": "text", "text": t}


JSONS = [
    "[" * 2000 + "]" * 2000, '{"a":' * 2000 + "1" + "}" * 2000, "[" * 800 + "]" * 800, '{"a": ' + "1" * 4301 + "}", '{"a": ' + "1" * 4300 + "}",
    '{"a":1e400,"b":-1e400,"c":NaN,"d":-Infinity,"e":-0,"f":1e16,"g":123456789012345680.0,"h":1e22,"i":0.0001,"j":0.00001,"k":1e15}',
    "01", "-", "1.", "1.e3", ".5", "+1", "1e", "-0.0", "-0e0", "0x1", "1 2", '""', '"a', "  ", " 1 ", "\t[\r\n1 ]\u00a0", "\ufeff{}", "nul", "True",
    "nan", "-NaN", "Infinit", '{"a":1,}', "[1,]", "{,}", "[,1]", '{"a"}', '{"a":}', "{'a':1}", '{1:2}', '{"a":1 "b":2}', '"\t"', '"\\t"', '"\\x"', '"\\u12"',
    '"\\u00E9\\uD83D\\uDE00"', '"\\ud83d"', '"\\ude00\\ud83d"', '"\\ud83dx"', '"\\ud83d\\n"', '"\\ud83d\\u0041"', '{"\\ude00":1}', '"\\b\\f\\r\\/\\u0000\\u001f\\u007f\\u2028"',
    '"\u0001"', '"\u007f\u0085\u2028"', '{"a":1,"b":2,"a":[3]}', "[1.0, 2.50, 100000000000000000000.0, 1E5, 1e-5, 5e-324, 1.7976931348623157e308]", "null", "true", "\"{}\"",
]
SCHEMAS = [
    True, [], {"type": "string"}, {"type": ["string", "null"]}, {"type": ["string", "string"]}, {"type": []}, {"type": "any"}, {"type": None}, {"properties": []},
    {"properties": {"a": 1}}, {"properties": {"a": True}}, {"properties": {"type": {"type": "x"}}}, {"required": "a"}, {"required": ["a", "a"]}, {"required": [1]}, {"required": []},
    {"items": [{}, {"type": "x"}]}, {"items": []}, {"items": 5}, {"items": False}, {"minLength": -1}, {"minLength": 1.0}, {"minLength": 1.5}, {"maxItems": "3"}, {"minItems": True},
    {"multipleOf": 0}, {"multipleOf": 0.1}, {"multipleOf": -3}, {"maximum": "9"}, {"maximum": 1e300}, {"exclusiveMinimum": True}, {"pattern": "["}, {"pattern": "^a+$"}, {"pattern": 5},
    {"pattern": "\\p{L}"}, {"patternProperties": {"(": {}}}, {"patternProperties": {"^x-": {"type": "y"}}}, {"format": 1}, {"enum": "a"}, {"enum": []}, {"enum": [1, 1]}, {"const": None},
    {"allOf": []}, {"anyOf": [{}]}, {"oneOf": {}}, {"not": []}, {"if": {}, "then": {"type": 1}}, {"definitions": {"a": {"$ref": 5}}}, {"dependencies": {"a": ["b", "b"]}},
    {"dependencies": {"a": ["b"], "c": {"type": "x"}}}, {"additionalProperties": "no"}, {"uniqueItems": 1}, {"readOnly": "x"}, {"title": None}, {"$ref": "%%%"}, {"$id": 3}, {"x-unknown": {"type": "q"}},
    {"default": {"type": "q"}}, {"examples": {}}, {"contains": {"propertyNames": {"type": 7}}}, {"description": "\u00e9\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"), "default": 1.50, "x": 10**30},
    {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 1e3}}, "required": ["n"], "additionalProperties": False},
]


def edges() -> list[dict]:
    requests = [called(j) for j in JSONS] + [called("{}", j) for j in JSONS] + [offered(s) for s in SCHEMAS]
    requests += [called(a) for a in ({"a": "\u00e9", "n": [1.50]}, {}, None, 5, [1], True)]
    requests += [prefix(p) for p in (True, False, 1, 0, 1.0, 2, "yes", "NO", "maybe", None, [])]
    requests += [with_fields(temperature=t) for t in (0, 1, "0.5", " 1 ", True, "x", None, 1.0001, -0.1)]
    requests += [with_fields(max_tokens=t) for t in (0, 1.0, 1.5, "3", " 3.0 ", True, -1, "-0", "x", None, 10**30)]
    requests += [with_fields(tool_choice=t) for t in ("auto", "any", "maybe", {"function": {"name": "f"}}, {"type": "x", "function": {"name": "f"}}, {"function": {}}, None)]
    requests += [with_fields(reasoning_effort=t) for t in ("high", "huge", None)] + [with_fields(truncate_for_context_length=t) for t in (True, "no", 5)]
    requests += [with_fields(response_format=t) for t in (
        {"type": "text"}, {"type": "json_object"}, {"type": "x"}, {"type": "json_schema"}, None, {}, {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}},
        {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "x"}}}, {"json_schema": {"name": "a", "custom_schema": {}, "strict": "yes", "description": None}},
        {"json_schema": {"schema": {}}}, {"json_schema": {"name": "a", "schema": []}}, {"x": 1})]
    requests += [with_fields(**f) for f in ({"x": 1}, {"model": 5}, {"tools": {}}, {"tools": [5]}, {"parallel_tool_calls": "perhaps"}, {"random_seed": -1}, {"random_seed": None})]
    requests += [{"messages": m} for m in ("x", None, {}, [5], [{"role": "user", "content": None}], [{"role": None, "content": "x"}], [{"role": "system", "content": ["x"]}])] + [{}]
    requests += [{"messages": m, "continue_final_message": c} for m, c in (([USER], True), ([USER, {"role": "assistant", "content": "x"}], True), ([], True), (None, True), ([USER], False), ([USER], "maybe"))]
    requests += [said(*p) for p in ((), (text(""),), (text("a"), text(""), text("b")), ({"text": "x"},), ({"type": "x"},), ({"type": "text", "text": "x", "a": 1},), ({"type": "text", "text": 1},),
                                    ({"type": "thinking", "thinking": "x"},), ({"type": "image_url", "image_url": "x"}, text("a")), (text("a"), {"type": "image_url", "image_url": {"url": "x"}}))]
    requests += [said(*p, role=r) for r in ("system", "assistant") for p in ((), (text(""),), (text("a"), text(" b ")), ({"type": "thinking", "thinking": "x"},), ({"type": "image_url", "image_url": "x"},))]
    f = {"name": "f", "arguments": "{}"}
    requests += [{"messages": m} for m in (
        [calls(f), tool("y")], [calls(f), tool("y"), USER], [calls(f, f), tool("y"), tool("z"), USER, calls(f), tool("")], [USER, calls(f), tool([text("1"), text("")])],
        [USER, {"role": "assistant", "content": "x"}, calls(f), tool("y")], [USER, calls(f), tool("y"), {"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b", "prefix": True}],
        [USER, calls(f, prefix=True)], [USER, calls(f, content=[]), tool("y")], [USER, calls(f, content="  "), tool("y")], [USER, calls(f), tool([{"type": "image_url", "image_url": "x"}])],
        [USER, calls(f), tool("y", name="bad name")], [USER, calls(f), tool("y", name="f\n")], [USER, calls({"name": "f\n", "arguments": "{}"}), tool("y")], [USER, calls({"name": "", "arguments": "{}"}), tool("y")],
        [USER, {"role": "assistant", "tool_calls": [{"id": None, "function": f}]}], [USER, {"role": "assistant", "content": "x", "weight": 1}, USER], [USER, {"role": "assistant", "content": "x", "tool_calls": {}}, USER],
        [{"role": "system", "content": ""}, {"role": "system", "content": "b"}, USER], [{"role": "system", "content": [text("")]}, {"role": "system", "content": "b"}, USER],
        [USER, {"role": "system", "content": "late"}, {"role": "user", "content": "again"}], [{"role": "assistant", "content": "   "}, USER])]
    requests += [offered({}, **m) for m in ({"description": None}, {"strict": "no"}, {"strict": 7}, {"name": "a\n"}, {"name": "a b"}, {"extra": 1}, {"description": "</s>[INST]\n\"x\"\\"})]
    # [REFERENCE_DOC_n] is a piece of the vocabulary of v3 that text becomes; the others are controls, or names of none.
    marks = "[REFERENCE_DOC_3][REFERENCE_DOC_20] [REFERENCE_DOC_x][IMG][PREFIX][MIDDLE][SUFFIX][control_10]"
    requests += [{"messages": m} for m in (
        [{"role": "user", "content": marks}], [{"role": "system", "content": marks}, USER, {"role": "assistant", "content": marks + "  "}, USER],
        [USER, calls({"name": "f", "arguments": json.dumps({marks: marks})}), tool(marks)], [USER, {"role": "assistant", "content": marks, "prefix": True}])]
    requests += [offered({"title": marks}, description=marks)]
    return [{"name": f"edge {i}", "request": r} for i, r in enumerate(requests)]


TEXTS = ["", "x", " a  b ", "[INST]", "</s> <s>", "é😀\n", "a\u2581b", "long " * 9, "  ", "\n\n", "{\"k\": 1}"]


def random_requests(count: int, seed: int) -> list[dict]:
    rng = random.Random(seed)

    def content():
        return rng.choice(TEXTS) if rng.random() < 0.85 else [text(rng.choice(TEXTS)) for _ in range(rng.randint(0, 3))]

    def message(role: str) -> dict:
        if role == "tool":
            m = {"role": role, "content": rng.choice([content(), rng.choice(JSONS[5:])]), "tool_call_id": rng.choice([ID, ID, ID, "A1b2C3d4E", "short", None])}
            return {**m, "name": rng.choice(["f", "g-1", "bad name"])} if rng.random() < 0.3 else m
        if role != "assistant":
            return {"role": role, "content": content()}
        if rng.random() < 0.5:
            return {"role": role, "content": content(), **({"prefix": True} if rng.random() < 0.1 else {})}
        return calls(*({"name": rng.choice(["f", "f", "f", "no name"]), "arguments": rng.choice(JSONS[5:])} for _ in range(rng.choice([1, 1, 1, 2]))))

    NEXT = {"system": "user user assistant system", "user": "assistant assistant user system", "assistant": "user assistant tool", "tool": "assistant tool user"}
    requests = []
    for i in range(count):
        messages = [message(rng.choice(["user", "user", "user", "system", "assistant"]))]
        for _ in range(rng.randint(0, 7)):
            last = messages[-1]
            role = "tool" if last.get("tool_calls") and rng.random() < 0.8 else rng.choice(NEXT[last["role"]].split())
            messages.append(message(role if rng.random() < 0.98 else rng.choice(list(NEXT))))
        if rng.random() < 0.7 and messages[-1]["role"] == "assistant":
            messages[-1]["prefix"] = True
        request = {"messages": messages}
        if rng.random() < 0.3:
            request["tools"] = [{"function": {"name": rng.choice(["f", "g_2", "h h"]), "parameters": rng.choice(SCHEMAS[2:])}}]
        requests.append({"name": f"random {i}", "request": request})
    return requests


def gaps() -> list[dict]:
    sides = [*TEXTS, "☺", "☺ ☺", "[PREFIX]", "[SUFFIX]a", "[REFERENCE_DOC_3] x", "\t\u2581", "\u0300e", "def f(a):\n    return"]
    pairs = [(prompt, suffix) for prompt in sides for suffix in sides]
    return [{"name": f"gap {i}", "request": {"prompt": prompt, "suffix": suffix}} for i, (prompt, suffix) in enumerate(pairs)]


def outcome(tokenizer: MistralTokenizer, request: dict) -> dict:
    try:
        result = tokenizer.encode_chat_completion(ChatCompletionRequest.model_validate({"model": "m", **request}))
    except ValidationError:
        return {"error": "ValidationError"}
    except Exception as e:
        return {"error": type(e).__name__}
    return {"ids": result.tokens, **({"prefix_ids": result.prefix_ids} if result.prefix_ids is not None else {})}


def main(tokenizers: str, out: str, count: str = "120", seed: str = "7") -> None:
    requests, folder = edges() + random_requests(int(count), int(seed)), Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    save = lambda name, data: (folder / name).write_text(json.dumps(data, separators=(",", ":")) + "\n")  # noqa: E731
    save("requests.json", {"chat": requests, "fim": gaps()})
    outcomes = {}
    for name, (file, version, instruct) in TEMPLATES.items():
        results = {r["name"]: {} for r in requests}
        for mode in (ValidationMode.test, ValidationMode.serving):
            spm = SentencePieceTokenizer(Path(tokenizers) / file / "tokenizer.model", tokenizer_version=version)
            tokenizer = MistralTokenizer(instruct(spm), get_validator(version, mode), get_normalizer(version))
            for r in requests:
                result = outcome(tokenizer, r["request"])
                results[r["name"]][mode.value] = "same as test" if result == results[r["name"]].get("test") else result
        outcomes[name] = results
        if name == "v3":  # only what differs
            results = {r: result for r, result in results.items() if result != outcomes["v3-7b"][r]}
        fim = {g["name"]: {"ids": tokenizer.encode_fim(FIMRequest(**g["request"])).tokens} for g in gaps()} if name == "v3" else {}
        save(f"{name}.json", {"chat": results, **({"fim": fim} if fim else {})})


if __name__ == "__main__":
    main(*sys.argv[1:])
