"""The page in a real browser: ask, watch, read, cancel, look around; on a desk and on a phone, light and dark."""


def test_sign_in(visit) -> None:
    someone = visit()
    someone.sign_in("editor")
    someone.page.goto("/")
    someone.page.wait_for_load_state("networkidle")
    someone.shot("airflow")
    assert someone.wrong == []
