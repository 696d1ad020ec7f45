"""Where a job's settings come from, and what is said of wrong ones."""

import pytest

from endcap.contracts.errors import InputError
from endcap.workspace.submission import load_submission


def told(file, options=None, environment=None):
    with pytest.raises(InputError) as found:
        load_submission(file, options or {}, environment or {})
    return str(found.value)


def test_options_count_before_the_file_and_the_file_before_the_environment(tmp_path):
    conf = tmp_path / "conf"
    conf.mkdir()
    (conf / "submit.yaml").write_text("region: us-east1\nbucket: gs://mine\nmachine: {machine_type: g2-standard-16}\n")
    environment = {"PROJECT_ID": "acme-shop", "REGION": "us-west1", "ARTIFACT_BUCKET": "theirs", "HOME": "x"}
    found = load_submission(None, {"bucket": "gs://asked/", "image_uri": None}, environment, conf)
    assert (found.project, found.region, found.bucket_name) == ("acme-shop", "us-east1", "asked")
    assert (found.machine.machine_type, found.image_uri) == ("g2-standard-16", None)
    assert load_submission(None, {}, environment, tmp_path).region == "us-west1"
    (conf / "submit.yaml").write_text("# nothing yet\n")
    assert load_submission(None, {}, {}, conf).region is None


def test_every_problem_names_where_it_stands(tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text("boot_disk_size_gb: 50\nmachin: {}\nmachine: {machine_typ: x1-a}\n")
    found = told(file, {"image_uri": "no-registry"}, {"REGION": "Mars"})
    assert f"{file}: boot_disk_size_gb: found 50, expected greater than or equal to 100." in found
    assert "machin: unknown key; expected one of accelerator_regions, " in found
    assert "Did you mean machine?" in found
    assert "Did you mean machine.machine_type?" in found
    assert "an option: image_uri: found 'no-registry', expected " in found
    assert "the environment variable REGION: region: found 'Mars', expected " in found


def test_a_secret_in_the_clear_is_refused_and_never_repeated(tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text("env: {WANDB_API_KEY: 0123456789abcdef, NUMBER: 1}\n")
    found = told(file)
    assert "0123456789abcdef" not in found
    assert "env.NUMBER: expected a valid string" in found
    file.write_text("env: {WANDB_API_KEY: hunter2hunter2}\n")
    assert "WANDB_API_KEY: secret://wandb-api-key" in told(file)
    assert "hunter2" not in told(file)


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "\udcff"])
def test_what_is_no_mapping_is_refused(tmp_path, text):
    file = tmp_path / "job.yaml"
    file.write_bytes(text.encode(errors="surrogateescape"))
    assert told(file).startswith(str(file))
    assert "can't be read as YAML" in told(tmp_path / "missing.yaml")
