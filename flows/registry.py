"""The model registry: versions without pickle, and who is champion. The only place that knows MLflow's registry.

A version's files are the candidate's weights, its record and its evidence. MLflow loads it through `_load_pyfunc`
below, which verifies the evidence first: there is no second, unsigned copy of the weights.
"""

from __future__ import annotations

import os
import shutil
from importlib.metadata import version as package_version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import numpy as np

from flows.tracking import connect
from tasks.errors import GatehouseError
from tasks.files import writing
from tasks.models.checkpoints import RECORD, WEIGHTS
from tasks.params import load_params
from tasks.promotion.evidence import EVIDENCE_FOLDER, load_proven
from tasks.promotion.keys import read_public_key
from tasks.promotion.trust import load_trust, only

CHAMPION = "champion"
CHALLENGER = "challenger"
DIGEST_TAG = "gatehouse.sha256"
RULING_TAG = "gatehouse.ruling"
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # MLflow's words for a name that nothing has
# Named one by one: a bare "gatehouse" would have pip fetch whatever somebody else publishes under that name.
LOADS_WITH = ("torch", "numpy", "safetensors", "pydantic", "cryptography", "pyyaml")
DATA = "data/model"  # where a version's own files lie among what MLflow adds
DOWNLOADS = Path(".gatehouse/registry")


class RegistryAwayError(GatehouseError):
    """MLflow does not answer: nothing is known of what it holds, good or bad."""


def has_champion(model_name: str) -> bool:
    return _alias(model_name, CHAMPION) is not None


def champion_folder(model_name: str) -> tuple[Path, str]:
    """Folder (model.safetensors, model.json, evidence/) and version behind the alias `champion`.

    The alias proves nothing: whoever uses the folder verifies it with `tasks.promotion.evidence`.

    Raises:
        GatehouseError: nothing has the alias, or its files are gone.
    """
    version = _alias(model_name, CHAMPION)
    if version is None:
        raise GatehouseError(f"Model {model_name!r} has no champion; `make run` promotes one if its gates pass.")
    return version_folder(model_name, version), version


def version_folder(model_name: str, version: str) -> Path:
    """Where this version's files are; those on a remote server are fetched to .gatehouse/registry, once.

    Whoever uses them verifies them each time, and calls `forget` where they are not what they should be.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    uri = _client().get_model_version_download_uri(model_name, version)
    parsed = urlparse(uri)
    if parsed.scheme in ("", "file"):
        folder = Path(url2pathname(parsed.path))
    else:
        folder = DOWNLOADS / model_name / version
        if not (folder / DATA).is_dir():
            DOWNLOADS.mkdir(parents=True, exist_ok=True)
            try:
                with TemporaryDirectory(dir=DOWNLOADS) as fresh, writing(folder) as whole:
                    os.replace(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=fresh), whole)
            except MlflowException as error:
                raise RegistryAwayError(f"Cannot fetch {model_name!r} version {version} ({error.message}).") from error
    if not (folder / DATA).is_dir():
        raise GatehouseError(f"The files of {model_name!r} version {version} are gone ({folder}); promote again.")
    return folder / DATA


def forget(folder: Path) -> None:
    """Remove a fetched copy (one of `version_folder`'s), so that it is fetched anew; files of a local store stay."""
    if folder.is_relative_to(DOWNLOADS):
        shutil.rmtree(folder.parents[1], ignore_errors=True)


def versions_of(model_name: str, sha256: str) -> list[str]:
    """Versions that claim these weights (a tag, which proves nothing), newest first."""
    found = _client().search_model_versions(f"name = '{model_name}'")
    versions = [str(v.version) for v in found if v.tags.get(DIGEST_TAG) == sha256]
    return sorted(versions, key=int, reverse=True)


def all_versions(model_name: str) -> dict[str, str]:
    """Every registered version, oldest first, and the weights that it claims (a tag, which proves nothing)."""
    from mlflow.exceptions import MlflowException

    try:
        found = _client().search_model_versions(f"name = '{model_name}'")
    except MlflowException as error:
        raise _silent(error) from error
    return {str(v.version): v.tags.get(DIGEST_TAG, "") for v in sorted(found, key=lambda v: int(v.version))}


def register(model_name: str, model_folder: Path, evidence: Path, *, sha256: str, tags: dict[str, str]) -> str:
    """Register weights, record and evidence as a new version under the alias `challenger`; returns the version."""
    connect()
    import mlflow

    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / Path(DATA).name
        shutil.copytree(evidence, folder / EVIDENCE_FOLDER)
        for name in (WEIGHTS, RECORD):
            shutil.copyfile(model_folder / name, folder / name)
        info = mlflow.pyfunc.log_model(
            name="candidate",
            loader_module=__name__,
            data_path=str(folder),
            pip_requirements=[f"{p}=={package_version(p)}" for p in LOADS_WITH],
            registered_model_name=model_name,
            await_registration_for=0,
        )
    version = str(info.registered_model_version)
    client = _client()
    for key, value in {DIGEST_TAG: sha256, **tags}.items():
        client.set_model_version_tag(model_name, version, key, value)
    client.set_registered_model_alias(model_name, CHALLENGER, version)
    return version


def crown(model_name: str, version: str) -> None:
    """Set the alias `champion`. It proves nothing: see flows/rulings.py."""
    _client().set_registered_model_alias(model_name, CHAMPION, version)


def publish_ruling(model_name: str, line: str) -> None:
    """Keep the newest signed ruling with the registered model, for hosts without the chain of decisions.

    A registry that was made anew has no such model, so nothing that a host could serve: the next promotion tells it.
    """
    from mlflow.exceptions import MlflowException

    try:
        _client().set_registered_model_tag(model_name, RULING_TAG, line)
    except MlflowException as error:
        if error.error_code not in ABSENT:
            raise


def published_ruling(model_name: str) -> str | None:
    """What `publish_ruling` has kept; it proves nothing before its signature is verified."""
    from mlflow.exceptions import MlflowException

    try:
        kept: str | None = _client().get_registered_model(model_name).tags.get(RULING_TAG)
    except MlflowException as error:
        if error.error_code in ABSENT:
            return None
        raise _silent(error) from error
    return kept


def _alias(model_name: str, alias: str) -> str | None:
    from mlflow.exceptions import MlflowException

    try:
        return str(_client().get_model_version_by_alias(model_name, alias).version)
    except MlflowException as error:
        if error.error_code in ABSENT:
            return None
        raise _silent(error) from error


def _silent(error: Any) -> RegistryAwayError:
    return RegistryAwayError(f"MLflow does not answer ({error.message}); check MLFLOW_TRACKING_URI.")


def _client() -> Any:
    connect()
    import mlflow

    return mlflow.MlflowClient()


class _Verified:
    """MLflow's view of a version: softmax scores of images in [0, 1]."""

    def __init__(self, folder: Path) -> None:
        own = os.environ.get("GATEHOUSE_PUBLIC_KEY")
        trust = only(read_public_key(Path(own))) if own else load_trust(load_params().promotion.signing_key)
        self.model, self.proven = load_proven(folder, trust=trust)

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> np.ndarray:  # noqa: ARG002  MLflow's signature
        """Images (n, channels, side, side) in [0, 1] to scores (n, classes)."""
        import torch

        from tasks.models.inference import probabilities

        return probabilities(self.model, torch.from_numpy(np.asarray(data, np.float32))).numpy()


def _load_pyfunc(path: str) -> _Verified:
    """MLflow's entry point for `mlflow.pyfunc.load_model`; an unproven version is not loaded."""
    return _Verified(Path(path))
