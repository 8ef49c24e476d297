"""YAML that others may have written: plain values alone, and bounds on size, depth, aliases and merges; no key twice."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

LARGEST = 1 << 20  # characters
DEEPEST = 64  # levels of lists and mappings in one another
MOST_VALUES = 100_000  # an alias counts each time


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which takes a key twice, and time without bound for merges of merges."""

    depth = merged = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        if self.depth > DEEPEST:
            raise ValueError("it is nested too deeply")
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        own: set[Any] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if (key.tag, key.value) in own:
                    raise ValueError(f"'{key.value}' stands twice, again on line {key.start_mark.line + 1}; remove one")
                own.add((key.tag, key.value))
        has_merge = len(own) < len(node.value)
        super().flatten_mapping(node)
        self.merged += len(node.value) if has_merge else 0
        if self.merged > MOST_VALUES:
            raise ValueError(f"it merges more than {MOST_VALUES:,} values")
        node.value = list({_identity(key): (key, value) for key, value in node.value}.values())


# A word means what it says: `no`, `on`, 007 and 1_000 are text, and what is to be a truth or a number is read as one later.
_PLAIN = {
    "tag:yaml.org,2002:bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "tag:yaml.org,2002:int": (r"-?(?:0|[1-9][0-9]*)", "-0123456789"),
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in forms if tag not in _PLAIN]
    for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, (_form, _first) in _PLAIN.items():
    _Loader.add_implicit_resolver(_tag, re.compile(f"^(?:{_form})$"), list(_first))


def _identity(key: yaml.Node) -> Hashable:
    return (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)


def parse_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        ValueError: not YAML of plain values, or beyond a bound; in words that end a line on the file.
    """
    if len(text) > LARGEST:
        raise ValueError(f"it is larger than {LARGEST >> 20} MB")
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    waiting, seen = [value], 0
    while waiting:  # a few lines of aliases of aliases stand for billions of values
        found = waiting.pop()
        seen += 1
        if seen > MOST_VALUES:
            raise ValueError(f"it holds more than {MOST_VALUES:,} values")
        if isinstance(found, (dict, list, tuple, set)):
            waiting += [*found, *found.values()] if isinstance(found, dict) else found
    return value


def read_text(path: Path) -> str:
    """The text of a file of settings, of which no more is read than one may hold.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not UTF-8.
    """
    with open(path, encoding="utf-8") as handle:
        return handle.read(LARGEST + 1)
