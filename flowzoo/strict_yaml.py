"""YAML as version 1.2 reads it, and no more: plain data, no surprises.

PyYAML follows YAML 1.1, where `1e-3` is text, `no` is false, `010` is eight and `1:30` is ninety. Here
numbers, true, false and null are read as in YAML 1.2's core schema and everything else is text. A key that
stands twice in one mapping is an error, and so are tags, anchors and aliases, which plain data does not need.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from flowzoo.errors import ConfigError

if TYPE_CHECKING:
    _Base = yaml.SafeLoader
else:
    # The same safe loader over libyaml, several times as fast; wheels of PyYAML carry it.
    _Base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_MAX_DEPTH = 50
_INTEGER = re.compile(r"[-+]?[0-9]+\Z|0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z|[-+]?\.(?:inf|Inf|INF)\Z|\.(?:nan|NaN|NAN)\Z"
)


class _StrictLoader(_Base):
    """The safe loader with YAML 1.2's core schema and without duplicate keys."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # none of YAML 1.1's

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Builds a mapping, refusing a key that stands in it twice."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} stands twice in one mapping", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _integer(loader: _StrictLoader, node: yaml.ScalarNode) -> int:
    text = node.value
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


def _float(loader: _StrictLoader, node: yaml.ScalarNode) -> float:
    text = node.value.lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


for _tag, _pattern, _first in (
    ("null", re.compile(r"(?:~|null|Null|NULL|)\Z"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), list("tTfF")),
    ("int", _INTEGER, list("-+0123456789")),
    ("float", _FLOAT, list("-+0123456789.")),
):
    _StrictLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, _first)
_StrictLoader.add_constructor("tag:yaml.org,2002:int", _integer)
_StrictLoader.add_constructor("tag:yaml.org,2002:float", _float)


def read_yaml(path: Path) -> object:
    """Reads one YAML document from a file.

    Args:
        path: The file, in UTF-8.

    Returns:
        Plain Python data; None for an empty file.

    Raises:
        ConfigError: The file is missing, cannot be read or is not valid YAML; line and column are named.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        _refuse_surprises(text)
        return yaml.load(text, Loader=_StrictLoader)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: there is no such file.") from error
    except OSError as error:
        raise ConfigError(f"{path}: the file cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file in UTF-8; byte {error.start} is not valid.") from error
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"{path}{_place(error)}: not valid YAML: {_problem(error)}.") from error
    except (yaml.YAMLError, ValueError) as error:
        detail = " ".join(str(error).split())
        raise ConfigError(f"{path}: not valid YAML: {detail}.") from error


def _refuse_surprises(text: str) -> None:
    """Raises for what is not plain data, and for a depth at which libyaml's recursive loader would crash."""
    depth = 0
    for event in yaml.parse(text, Loader=_StrictLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        problem = None
        tag = getattr(event, "tag", None)
        if tag is not None:
            problem = f"the tag {tag!r} is not accepted"
        elif getattr(event, "anchor", None) is not None:
            problem = "anchors and aliases are not accepted"
        elif depth > _MAX_DEPTH:
            problem = f"nested more than {_MAX_DEPTH} deep"
        if problem:
            mark: Any = event.start_mark  # libyaml's mark or PyYAML's own; both count lines and columns
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def _place(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    return f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""


def _problem(error: yaml.MarkedYAMLError) -> str:
    return ", ".join(part for part in (error.context, error.problem) if part)
