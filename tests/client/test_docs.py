"""docs/client.md names everything that there is."""

import inspect
from pathlib import Path

import cadenza.client
from cadenza.client import CadenzaError, Client, ClientOptions
from cadenza.client._settings import Environment

TEXT = (Path(__file__).parents[2] / "docs" / "client.md").read_text(encoding="utf-8")


def test_every_setting_and_its_variable_are_in_the_docs() -> None:
    variables = [str(field.alias) for field in Environment.model_fields.values()]
    assert len(variables) > 10
    assert [name for name in (*ClientOptions.__annotations__, *variables) if f"`{name}`" not in TEXT] == []


def test_every_error_is_in_the_docs() -> None:
    errors = [
        one for one in vars(cadenza.client).values() if inspect.isclass(one) and issubclass(one, CadenzaError)
    ]
    assert len(errors) > 10
    assert [error.__name__ for error in errors if f"`{error.__name__}`" not in TEXT] == []


def test_every_method_is_in_the_docs() -> None:
    methods = [name for name in vars(Client) if not name.startswith("_") and name != "close"]
    assert [name for name in methods if f"`{name}(" not in TEXT] == []
