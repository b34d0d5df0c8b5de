"""A bounded fuzz of one parser by Atheris: ``python -m tests.fuzz PARSER [libFuzzer's flags]``; see ``make fuzz``."""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["gca_core", "csv", "json"]):
    from gca_core.errors import GcaError
    from tests.fuzz import parsers

    # what is imported late is instrumented too
    name = sys.argv.pop(1)
    parse, seeds = parsers.PARSERS[name]
    for seed in seeds:
        try:
            parse(seed)
        except GcaError:
            continue


def once(data: bytes) -> None:
    try:
        parse(data)
    except GcaError as error:
        assert str(error).strip(), "an error without a word"


corpus = Path("build/fuzz") / name
corpus.mkdir(parents=True, exist_ok=True)
for number, seed in enumerate(seeds):
    (corpus / f"seed-{number}").write_bytes(seed)
words = corpus.with_suffix(".dict")
short = [token for token in parsers.TOKENS if len(token) < 60]
words.write_text("".join('"' + "".join(f"\\x{byte:02x}" for byte in token) + '"\n' for token in short))
flags = [f"-dict={words}", f"-artifact_prefix={corpus}-", "-timeout=10", "-rss_limit_mb=3000", "-max_len=8192"]
atheris.Setup([sys.argv[0], *flags, *sys.argv[1:], str(corpus)], once)
atheris.Fuzz()
