"""The page in a real browser: ask, watch, read, cancel, look around; on a desk and on a phone, light and dark."""

from tests.live.page.conftest import Visitor


def test_sign_in(visit) -> None:
    someone = visit()
    someone.sign_in("editor")
    someone.page.goto("/")
    someone.page.wait_for_load_state("networkidle")
    someone.shot("airflow")
    print(someone.wrong, someone.context.cookies(), someone.page.evaluate("JSON.stringify(localStorage)"))
