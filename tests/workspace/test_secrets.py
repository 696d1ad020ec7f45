"""A secret is looked for in the environment, then in a file, then in Secret Manager; no message holds its value."""

import pytest
from google.api_core import exceptions
from google.auth.exceptions import DefaultCredentialsError
from google.cloud.secretmanager import AccessSecretVersionResponse, SecretPayload
from google_crc32c import value as crc32c

from endcap.contracts.errors import InputError, TransientError
from endcap.workspace.redaction import redact
from endcap.workspace.secrets import resolve

NAME = "secret://wandb-api-key"


class Store:
    """Secret Manager with one secret, or with one way to fail."""

    def __init__(self, value=b"", *, error=None, damaged=False):
        self.asked = []
        self._value, self._error, self._damaged = value, error, damaged

    def access_secret_version(self, *, name, timeout):
        self.asked.append(name)
        assert timeout > 0
        if self._error is not None:
            raise self._error
        payload = SecretPayload(data=self._value, data_crc32c=crc32c(self._value) + self._damaged)
        return AccessSecretVersionResponse(name=name, payload=payload)


def never():
    raise AssertionError("Secret Manager must not be asked")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "wandb-api-key").write_text("value-from-a-file\n")
    return {"ENDCAP_SECRETS_DIR": str(tmp_path)}


def test_the_environment_comes_first_then_the_file_then_secret_manager(folder, tmp_path):
    store = Store(b"value-from-the-manager\n")
    environment = {"WANDB_API_KEY": "value-of-a-variable", "PROJECT_ID": "acme", **folder}
    assert resolve(NAME, environment, never) == "value-of-a-variable"
    del environment["WANDB_API_KEY"]
    assert resolve(NAME, environment, never) == "value-from-a-file"
    (tmp_path / "wandb-api-key").unlink()
    assert resolve(NAME, environment, lambda: store) == "value-from-the-manager"
    assert store.asked == ["projects/acme/secrets/wandb-api-key/versions/latest"]
    assert redact("a value-from-the-manager b") == f"a <{NAME}> b"


def test_a_variable_may_name_another_secret_but_not_in_a_circle(folder):
    assert resolve("secret://key", {"KEY": NAME, **folder}, never) == "value-from-a-file"
    assert resolve(NAME, {"WANDB_API_KEY": NAME, **folder}, never) == "value-from-a-file"
    with pytest.raises(InputError, match="leads back to itself"):
        resolve("secret://a", {"A": "secret://b", "B": "secret://a", **folder}, never)


def test_what_is_found_nowhere_says_where_it_was_looked_for(tmp_path):
    environment = {"ENDCAP_SECRETS_DIR": str(tmp_path)}
    with pytest.raises(InputError) as found:
        resolve(NAME, environment, never)
    assert "the variable WANDB_API_KEY is not set" in str(found.value)
    assert str(tmp_path / "wandb-api-key") in str(found.value)
    assert "PROJECT_ID is not set" in str(found.value)
    gone = Store(error=exceptions.NotFound("no such secret"))
    with pytest.raises(InputError, match="no enabled version of wandb-api-key in acme"):
        resolve(NAME, {**environment, "PROJECT_ID": "acme"}, lambda: gone)


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (exceptions.PermissionDenied("no"), InputError, "roles/secretmanager.secretAccessor"),
        (DefaultCredentialsError("no credentials"), InputError, "DefaultCredentialsError"),
        (exceptions.ServiceUnavailable("down"), TransientError, "Try again later"),
        (exceptions.DeadlineExceeded("slow"), TransientError, "Try again later"),
    ],
)
def test_secret_manager_that_refuses_or_is_down(error, kind, said, tmp_path):
    environment = {"ENDCAP_SECRETS_DIR": str(tmp_path), "PROJECT_ID": "acme"}
    with pytest.raises(kind, match=said):
        resolve(NAME, environment, lambda: Store(error=error))


@pytest.mark.parametrize(
    ("value", "said"), [("", "set but empty"), ("  \n", "set but empty"), ("short", "5 characters")]
)
def test_empty_and_short_values_are_errors(value, said, tmp_path):
    with pytest.raises(InputError, match=said):
        resolve(NAME, {"WANDB_API_KEY": value}, never)
    (tmp_path / "wandb-api-key").write_text(value)
    with pytest.raises(InputError, match=said):
        resolve(NAME, {"ENDCAP_SECRETS_DIR": str(tmp_path)}, never)


def test_a_damaged_payload_is_not_taken(tmp_path):
    environment = {"ENDCAP_SECRETS_DIR": str(tmp_path), "PROJECT_ID": "acme"}
    with pytest.raises(TransientError, match="checksum"):
        resolve(NAME, environment, lambda: Store(b"a-value-long-enough", damaged=True))


@pytest.mark.parametrize("reference", ["wandb-api-key", "secret://", "secret://../x", "secret://a/b", "secret://a b"])
def test_only_plain_names_are_references(reference):
    with pytest.raises(InputError, match="secret://NAME"):
        resolve(reference, {}, never)
