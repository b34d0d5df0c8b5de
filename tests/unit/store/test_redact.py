"""Connection strings never show their password."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gca_core.errors import ConfigurationError
from gca_core.store.models import ServerInfo
from gca_core.store.redact import describe, make_dsn, parse_dsn, redact


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://me:hush@db.example.org:5432/gca",
        "postgresql://me:hush@/gca?host=/run/x",
        "postgresql://db.example.org/gca?user=me&password=hush",
        "host=db.example.org user=me password=hush dbname=gca",
        "host=db.example.org user=me password = 'hu sh\\' x' dbname=gca",
        "postgres://me:hush%40x@db.example.org/gca?sslpassword=hush",
    ],
)
def test_no_password_is_shown(dsn: str) -> None:
    for shown in (redact(f"can't connect to {dsn} now"), describe(dsn)):
        assert "hu" not in shown
        assert "me" in shown
    assert redact(dsn).startswith(dsn[:8])


def test_text_without_a_password_stays() -> None:
    text = "see postgresql://db.example.org/gca, user=me"
    assert redact(text) == text


@given(st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_any_password_survives_writing_and_reading(password: str) -> None:
    assert parse_dsn(make_dsn(host="/run/x", password=password))["password"] == password


def test_what_is_no_connection_string_is_refused_without_being_repeated() -> None:
    with pytest.raises(ConfigurationError, match="not a PostgreSQL connection string") as failed:
        describe("mysql:hush")
    assert "hush" not in str(failed.value)


def test_a_server_info_carries_no_password() -> None:
    assert not {name for name in ServerInfo.model_fields if "pass" in name}
