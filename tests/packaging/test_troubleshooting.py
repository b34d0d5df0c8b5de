"""The messages of the guide's tables are those of the code."""

import ast
import re

import pytest

from tests.conftest import REPOSITORY

PAGE = REPOSITORY / "docs" / "guides" / "troubleshooting.md"
OTHERS = "### Messages of the system and of other packages"
# letters of a message that have to be fixed ones, beside values
LEAST = 12


def shown_messages() -> list[str]:
    """What the rows of the tables of messages begin with, without those of others."""
    found, of_messages = [], False
    for line in PAGE.read_text("utf-8").partition(OTHERS)[0].splitlines():
        if not line.startswith("|"):
            of_messages = False
        elif line.startswith("| message "):
            of_messages = True
        elif of_messages and (code := re.match(r"\| `([^`]+)` \|", line)):
            found.append(code[1])
    return found


def texts_of_the_code() -> set[tuple[str, ...]]:
    """Every text of some length as its fixed parts, between which values stand."""
    files = [path for package in ("gca_core", "airflow_provider_gca") for path in (REPOSITORY / package).rglob("*.py")]
    texts = {fixed_parts(node) for path in files for node in ast.walk(ast.parse(path.read_text("utf-8")))}
    return {parts for parts in texts if sum(map(len, parts)) >= LEAST}


def fixed_parts(node: ast.AST) -> tuple[str, ...]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return tuple(re.split(r"%[.\d]*[sdf]", node.value))
    if not isinstance(node, ast.JoinedStr):
        return ()
    parts = [""]
    for value in node.values:
        if isinstance(value, ast.Constant):
            parts[-1] += str(value.value)
        else:
            parts.append("")
    return tuple(parts)


def is_part_of(shown: str, parts: tuple[str, ...]) -> bool:
    """Whether a text, from somewhere within a fixed part on, is made of fixed parts with values between them."""
    return any(
        _goes_on(shown, part[start:], parts[place + 1 :])
        for place, part in enumerate(parts)
        for start in range(len(part) + 1)
    )


def _goes_on(shown: str, first: str, rest: tuple[str, ...]) -> bool:
    if first.startswith(shown):
        return True
    if not shown.startswith(first):
        return False
    found, left = len(first), shown[len(first) :]
    for part in rest:
        place = left.find(part)
        if place < 0 or not part:
            # the text may end within this part, or within the value before it
            found += next((n for n in range(len(part), 0, -1) if left.endswith(part[:n])), 0)
            break
        found, left = found + len(part), left[place + len(part) :]
    else:
        if left and (not rest or rest[-1]):
            return False
    return found >= LEAST


def in_the_code(message: str, texts: set[tuple[str, ...]]) -> bool:
    pieces = [piece for part in message.split("...") if (piece := part.strip(" ,;:()"))]
    words = pieces[0].split()
    runs = [" ".join(words[i : i + 2]) for i in range(max(1, len(words) - 1))]
    alike = [parts for parts in texts if any(run in "\0".join(parts) for run in runs)]
    return any(all(is_part_of(piece, parts) for piece in pieces) for parts in alike)


@pytest.fixture(scope="module")
def texts() -> set[tuple[str, ...]]:
    return texts_of_the_code()


def test_every_message_of_the_guide_is_in_the_code(texts: set[tuple[str, ...]]) -> None:
    messages = shown_messages()
    assert len(messages) > 80
    assert [message for message in messages if not in_the_code(message, texts)] == []


def test_a_message_that_is_not_in_the_code_is_seen(texts: set[tuple[str, ...]]) -> None:
    assert in_the_code("the AnnData file 'nope.h5ad' does not exist", texts)
    assert not in_the_code("the AnnData file 'nope.h5ad' is not there", texts)
    assert not in_the_code("the atlas holds no cells at any time", texts)
